#include "quern/fit/closed_form.h"

#include "base/alloc.h"
#include "fit/group_fit.h"
#include "fit/lanes.h"

#include <stdlib.h>

#include "base/banned.h"

static qni_group_fit *const fit_table[QN_CODE_COUNT][2] = {
    [QN_CODE_SIGN] = {[QN_FIT_OPTIMAL] = qni_fit_sign, [QN_FIT_PUBLISHED] = qni_fit_sign_published},
    [QN_CODE_TERNARY] = {[QN_FIT_OPTIMAL] = qni_fit_ternary, [QN_FIT_PUBLISHED] = qni_fit_ternary_published},
    [QN_CODE_Q4] = {[QN_FIT_OPTIMAL] = qni_fit_q4, [QN_FIT_PUBLISHED] = qni_fit_q4_published},
};

/* The block of a scratch: values, pairs, two rows of codes, each for this many columns. */
static int64_t padded(int64_t cols) {
    return (cols / QNI_LANES8 + 1) * QNI_LANES8;
}

qn_status qn_fit_scratch_init(qn_fit_scratch *scratch, int64_t cols, qn_error *err) {
    if (cols <= 0 || cols > INT64_MAX / 64) {
        return qn_fail(err, QN_E_ARGUMENT, "a fit of rows of %lld columns", (long long)cols);
    }
    void *block = qni_alloc_aligned(padded(cols), 3 * sizeof(float) + 2 * sizeof(int8_t));
    if (!block) return qni_fail_nomem(err, "the scratch of a closed-form fit");
    *scratch = (qn_fit_scratch){block, cols};
    return QN_OK;
}

void qn_fit_scratch_release(qn_fit_scratch *scratch) {
    free(scratch->block);
    *scratch = (qn_fit_scratch){0};
}

/* *spare_q is where codes go when the caller wants none. */
static qni_group_work divide_scratch(const qn_fit_scratch *scratch, int8_t **spare_q) {
    int64_t n = padded(scratch->cols);
    qni_group_work work = {.values = scratch->block};
    work.pairs = work.values + n;
    work.q = (int8_t *)(work.pairs + 2 * n);
    *spare_q = work.q + n;
    return work;
}

double qn_fit_row(qn_codec codec, qn_fit_rule rule, const float *w, const float *h, int64_t cols,
                  qn_fit_scratch *scratch, int8_t *q, uint16_t *scales) {
    int8_t *spare;
    qni_group_work work = divide_scratch(scratch, &spare);
    qni_group_fit *fit = fit_table[codec.code][rule];
    int64_t group_size = codec.group_size > 0 ? codec.group_size : cols;
    double error = 0;
    for (int64_t first = 0, g = 0; first < cols; first += group_size, g++) {
        int64_t n = cols - first < group_size ? cols - first : group_size;
        const float *group_h = h ? h + first : NULL;
        int8_t *group_q = q ? q + first : spare;
        uint16_t bits = fit(w + first, group_h, n, &work, group_q);
        error += qni_group_error(w + first, group_h, n, group_q, bits, &work);
        if (scales) scales[g] = bits;
    }
    return error;
}
