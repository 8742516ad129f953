#include "tensor/ops.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

qn_status qni_rope_table_make(const float *inv_freq, int64_t half, double scaling, int64_t n_positions,
                              int n_threads, qni_rope_table *out, qn_error *err) {
    int64_t n;
    float *block = NULL;
    if (!qni_multiply_i64(n_positions, 2 * half, &n)) return qni_fail_nomem(err, "rotary table");
    QN_TRY(QNI_ALLOC(block, n, "rotary table", err));
    float *sine = block + n_positions * half;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t p = 0; p < n_positions; p++) {
        for (int64_t i = 0; i < half; i++) {
            /* The angle is the f32 product, as in the reference: at large positions its rounding matters. */
            const float angle = (float)p * inv_freq[i];
            block[p * half + i] = (float)(cos((double)angle) * scaling);
            sine[p * half + i] = (float)(sin((double)angle) * scaling);
        }
    }
    *out = (qni_rope_table){.n_positions = n_positions, .half = half, .cosine = block, .sine = sine};
    return QN_OK;
}

void qni_rope_table_release(qni_rope_table *table) {
    free(table->cosine);
    *table = (qni_rope_table){0};
}
