#include "base/alloc.h"
#include "quern/fit/hessian_fit.h"
#include "tensor/ops.h"

#include <stdlib.h>

#include "base/banned.h"

enum { PANEL_ROWS = 256 };

/* moved [n, C] holds (W - Q) H. */
static void add_rows(const float *w, const float *q, const float *hessian, const float *moved, int64_t n,
                     int64_t cols, float *out) {
    for (int64_t i = 0; i < n * cols; i++) {
        const float h = hessian[(i % cols) * (cols + 1)];
        out[i] = h > 0 ? q[i] + moved[i] / h : w[i];
    }
}

qn_status qn_descent_values(const float *w, const float *q, const float *hessian, int64_t rows, int64_t cols,
                            const qn_context *ctx, float *out, qn_error *err) {
    qn_ops *ops = NULL;
    float *rest = NULL, *moved = NULL;
    qn_status status = qni_ops_open(&ops, err);
    if (status == QN_OK) status = QNI_ALLOC(rest, PANEL_ROWS * cols, "the rest of a fit", err);
    if (status == QN_OK) status = QNI_ALLOC(moved, PANEL_ROWS * cols, "the rest of a fit", err);
    for (int64_t row = 0; row < rows && status == QN_OK; row += PANEL_ROWS) {
        const int64_t n = rows - row < PANEL_ROWS ? rows - row : PANEL_ROWS, at = row * cols;
        for (int64_t i = 0; i < n * cols; i++) rest[i] = w[at + i] - q[at + i];
        const qni_gemm_args args = {.m = n,
                                    .n = cols,
                                    .k = cols,
                                    .a = rest,
                                    .lda = cols,
                                    .b = hessian,
                                    .ldb = cols,
                                    .c = moved,
                                    .ldc = cols};
        status = ops->gemm(ops, &args, qn_context_threads(ctx), err);
        if (status == QN_OK) add_rows(w + at, q + at, hessian, moved, n, cols, out + at);
    }
    free(rest);
    free(moved);
    qni_ops_close(ops);
    return status;
}
