/* The general dense product over a fixed grid of tiles. */
#include "tensor/operand.h"
#include "tensor/tile_gemm.h"

#include "base/banned.h"

/* An operand as stored: rows of ld values. Where rounding makes a copy, the copy keeps that layout. */
typedef struct stored {
    const float *values;
    int64_t n;        /* from the first value to the last */
    size_t copy;      /* offset in the work space */
    const char *data; /* what the tiles read */
} stored;

typedef struct gemm_job {
    const qni_gemm_args *args;
    const qni_kernels *kernels;
    qni_precision precision;
    stored a, b;
    qni_tile_gemm gemm;
    qni_work work;
} gemm_job;

static stored store(gemm_job *job, const float *values, int64_t rows, int64_t cols, int64_t ld) {
    stored s = {.values = values, .n = rows ? (rows - 1) * ld + cols : 0, .data = (const char *)values};
    if (job->precision != QNI_F32)
        s.copy = qni_work_reserve(&job->work, s.n, qni_precision_bytes(job->precision));
    return s;
}

static qn_status prepare(gemm_job *job, qn_ops *ops, int n_threads, qn_error *err) {
    const qni_gemm_args *args = job->args;
    const int64_t m = args->m, n = args->n, k = args->k;
    qni_tile_shape shape = {.bf16 = job->precision == QNI_BF16,
                            .trans_a = args->trans_a,
                            .trans_b = args->trans_b,
                            .accumulate = args->accumulate,
                            .m = m,
                            .n = n,
                            .k = k,
                            .lda = args->lda,
                            .ldb = args->ldb,
                            .ldc = args->ldc};
    qni_tile_shape_cut(&shape);
    job->a = store(job, args->a, args->trans_a ? k : m, args->trans_a ? m : k, args->lda);
    job->b = store(job, args->b, args->trans_b ? n : k, args->trans_b ? k : n, args->ldb);
    QN_TRY(qni_tile_gemm_init(&job->gemm, job->kernels, &shape, err));
    qni_work_reserve_slices(&job->work, n_threads, job->gemm.scratch_bytes);
    QN_TRY(qni_work_take(ops, &job->work, err));
    if (job->precision == QNI_F32) return QN_OK;
    job->a.data = job->work.base + job->a.copy;
    job->b.data = job->work.base + job->b.copy;
    return QN_OK;
}

/* All of it by one thread of a parallel region. */
static int run_thread(const gemm_job *job) {
    int failed = 0;
    qni_one_thread_each();
    if (job->precision != QNI_F32) {
        char *base = job->work.base;
        qni_round_values(job->kernels, job->a.values, job->a.n, job->precision, base + job->a.copy);
        qni_round_values(job->kernels, job->b.values, job->b.n, job->precision, base + job->b.copy);
    }
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < qni_tile_count(&job->gemm.shape); t++) {
        const int error = qni_tile_gemm_task(&job->gemm, t, job->a.data, job->b.data, job->args->c,
                                             qni_work_slice(&job->work));
        if (error > failed) failed = error;
    }
    return failed;
}

qn_status qni_cpu_gemm(qn_ops *ops, const qni_gemm_args *args, int n_threads, qn_error *err) {
    gemm_job job = {
        .args = args, .kernels = ops->kernels, .precision = qni_precision_of(ops->kernels, args->bf16)};
    int failed = 0;
    if (args->m == 0 || args->n == 0) return QN_OK;
    qn_status status = prepare(&job, ops, n_threads, err);
    if (status != QN_OK) goto done;
#pragma omp parallel num_threads(qni_useful_threads(n_threads, args->m * args->n * args->k))                 \
    reduction(max                                                                                            \
              : failed)
    failed = run_thread(&job);
    if (failed) status = qni_fail_dnnl(err, failed, "a matrix product");
done:
    qni_tile_gemm_release(&job.gemm);
    return status;
}
