/* The general dense product over a fixed grid of tiles, and operands made of matrix rows. */
#include "tensor/ops_cpu.h"

#include "base/alloc.h"
#include "tensor/tile_gemm.h"

#include <stdlib.h>

enum { TILE_M = 256, TILE_N = 256 };

qn_status qni_cpu_gemm(const qn_ops *ops, const qni_gemm_args *args, int n_threads, qn_error *err) {
    const qni_tile_shape shape = {.bf16 = args->bf16,
                                  .trans_a = args->trans_a,
                                  .trans_b = args->trans_b,
                                  .accumulate = args->accumulate,
                                  .m = args->m,
                                  .n = args->n,
                                  .k = args->k,
                                  .tile_m = TILE_M,
                                  .tile_n = TILE_N,
                                  .lda = args->lda,
                                  .ldb = args->ldb,
                                  .ldc = args->ldc};
    const int64_t n_rows = qni_ceil_div(args->m, TILE_M), n_cols = qni_ceil_div(args->n, TILE_N);
    const int64_t a_step = args->trans_a ? 1 : args->lda, b_step = args->trans_b ? args->ldb : 1;
    const int64_t bytes = args->bf16 ? 2 : 4;
    qni_tile_gemm gemm = {0};
    qni_scratch scratch = {0};
    qn_status status = QN_OK;
    int failed = 0;
    if (args->m == 0 || args->n == 0) return QN_OK;
    QN_TRY(qni_tile_gemm_init(&gemm, ops->kernels, &shape, err));
    if ((status = qni_scratch_make(&scratch, n_threads, gemm.scratch_bytes, err)) != QN_OK) goto done;
#pragma omp parallel num_threads(n_threads) reduction(max : failed)
    {
        qni_one_thread_each();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < n_rows * n_cols; t++) {
            const int64_t i = t / n_cols * TILE_M, j = t % n_cols * TILE_N;
            const int error = qni_tile_gemm_run(
                &gemm, qni_min(TILE_M, args->m - i), qni_min(TILE_N, args->n - j),
                (const char *)args->a + i * a_step * bytes, (const char *)args->b + j * b_step * bytes,
                args->c + i * args->ldc + j, qni_scratch_slice(&scratch));
            if (error > failed) failed = error;
        }
    }
    if (failed) status = qni_fail_dnnl(err, failed, "a matrix product");
done:
    qni_scratch_release(&scratch);
    qni_tile_gemm_release(&gemm);
    return status;
}

size_t qni_rows_scratch_bytes(const qni_matrix *w, int64_t n_rows, bool bf16) {
    const size_t wide = qni_slice_bytes(n_rows * w->cols, sizeof(float));
    if (!bf16) return w->f32 ? 0 : wide;
    return w->bf16 ? 0 : wide + qni_slice_bytes(n_rows * w->cols, sizeof(uint16_t));
}

const void *qni_rows_operand(const qni_kernels *kernels, const qni_matrix *w, int64_t row0, int64_t n_rows,
                             bool bf16, void *scratch) {
    const int64_t first = row0 * w->cols, n = n_rows * w->cols;
    const float *rows = scratch;
    if (bf16 && w->bf16) return w->bf16 + first;
    if (w->f32) {
        rows = w->f32 + first;
    } else if (w->bf16) {
        kernels->widen_bf16(w->bf16 + first, n, scratch);
    } else {
        w->decode(w->source, row0, n_rows, scratch);
    }
    if (!bf16) return rows;
    uint16_t *narrow = (uint16_t *)(void *)((char *)scratch + qni_slice_bytes(n, sizeof(float)));
    kernels->narrow_bf16(rows, n, narrow);
    return narrow;
}

qn_status qni_narrow_copy(const qni_kernels *kernels, const float *x, int64_t n, int n_threads,
                          uint16_t **out, qn_error *err) {
    enum { CHUNK = 1 << 16 };
    uint16_t *copy = NULL;
    QN_TRY(QNI_ALLOC(copy, n, "bf16 activations", err));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t c = 0; c < qni_ceil_div(n, CHUNK); c++)
        kernels->narrow_bf16(x + c * CHUNK, qni_min(CHUNK, n - c * CHUNK), copy + c * CHUNK);
    *out = copy;
    return QN_OK;
}
