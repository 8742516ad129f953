/* The general dense product over a fixed grid of tiles. */
#include "tensor/operand.h"
#include "tensor/tile_gemm.h"

#include "base/banned.h"

enum { TILE_M = 256, TILE_N = 256 };

/* An operand as stored: rows of ld values. Where rounding makes a copy, the copy keeps that layout. */
typedef struct stored {
    const float *values;
    int64_t n;   /* from the first value to the last */
    size_t copy; /* offset in the work space */
    const char *data;
} stored;

static stored store(const float *values, int64_t rows, int64_t cols, int64_t ld, qni_precision precision,
                    qni_work *work) {
    stored s = {.values = values, .n = rows ? (rows - 1) * ld + cols : 0, .data = (const char *)values};
    if (precision != QNI_F32) s.copy = qni_work_reserve(work, s.n, qni_precision_bytes(precision));
    return s;
}

qn_status qni_cpu_gemm(qn_ops *ops, const qni_gemm_args *args, int n_threads, qn_error *err) {
    const qni_precision precision = qni_precision_of(ops->kernels, args->bf16);
    const int64_t m = args->m, n = args->n, k = args->k, bytes = (int64_t)qni_precision_bytes(precision);
    const int64_t n_rows = qni_ceil_div(m, TILE_M), n_cols = qni_ceil_div(n, TILE_N);
    const int64_t a_step = (args->trans_a ? 1 : args->lda) * bytes;
    const int64_t b_step = (args->trans_b ? args->ldb : 1) * bytes;
    qni_work work = {0};
    stored a = store(args->a, args->trans_a ? k : m, args->trans_a ? m : k, args->lda, precision, &work);
    stored b = store(args->b, args->trans_b ? n : k, args->trans_b ? k : n, args->ldb, precision, &work);
    const qni_tile_shape shape = {.bf16 = precision == QNI_BF16,
                                  .trans_a = args->trans_a,
                                  .trans_b = args->trans_b,
                                  .accumulate = args->accumulate,
                                  .m = m,
                                  .n = n,
                                  .k = k,
                                  .tile_m = TILE_M,
                                  .tile_n = TILE_N,
                                  .lda = args->lda,
                                  .ldb = args->ldb,
                                  .ldc = args->ldc};
    qni_tile_gemm gemm = {0};
    int failed = 0;
    if (m == 0 || n == 0) return QN_OK;
    QN_TRY(qni_tile_gemm_init(&gemm, ops->kernels, &shape, err));
    qni_work_reserve_slices(&work, n_threads, gemm.scratch_bytes);
    qn_status status = qni_work_take(ops, &work, err);
    if (status != QN_OK) goto done;
    if (precision != QNI_F32) {
        a.data = work.base + a.copy;
        b.data = work.base + b.copy;
    }
    const int n_useful = qni_useful_threads(n_threads, m * n * k);
#pragma omp parallel num_threads(n_useful) reduction(max : failed)
    {
        qni_one_thread_each();
        if (precision != QNI_F32) {
            qni_round_values(ops->kernels, a.values, a.n, precision, work.base + a.copy);
            qni_round_values(ops->kernels, b.values, b.n, precision, work.base + b.copy);
        }
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < n_rows * n_cols; t++) {
            const int64_t i = t / n_cols * TILE_M, j = t % n_cols * TILE_N;
            const int error =
                qni_tile_gemm_run(&gemm, qni_min(TILE_M, m - i), qni_min(TILE_N, n - j), a.data + i * a_step,
                                  b.data + j * b_step, args->c + i * args->ldc + j, qni_work_slice(&work));
            if (error > failed) failed = error;
        }
    }
    if (failed) status = qni_fail_dnnl(err, failed, "a matrix product");
done:
    qni_tile_gemm_release(&gemm);
    return status;
}
