/* The general dense product over a fixed grid of tiles. */
#include "tensor/operand.h"
#include "tensor/tile_gemm.h"

#include "base/banned.h"

typedef struct gemm_job {
    qni_operand a, b;
    qni_tile_gemm gemm;
    qni_work work;
} gemm_job;

static qn_status prepare(gemm_job *job, qn_ops *ops, const qni_gemm_args *args, int n_threads,
                         qn_error *err) {
    const qni_precision precision = qni_precision_of(ops->kernels, args->bf16, args->m, args->n, args->k);
    const qni_packing a = {
        .values = args->a, .ld = args->lda, .rows = args->m, .depth = args->k, .across = args->trans_a};
    const qni_packing b = {.values = args->b,
                           .ld = args->ldb,
                           .rows = args->n,
                           .depth = args->k,
                           .across = !args->trans_b,
                           .right = true};
    job->gemm = (qni_tile_gemm){.kernels = ops->kernels,
                                .parts = qni_precision_parts(precision),
                                .trans_a = args->trans_a,
                                .trans_b = args->trans_b,
                                .accumulate = args->accumulate,
                                .m = args->m,
                                .n = args->n,
                                .k = args->k,
                                .lda = args->lda,
                                .ldb = args->ldb,
                                .ldc = args->ldc};
    qni_tile_gemm_cut(&job->gemm);
    qni_operand_plan(&job->a, ops->kernels, precision, &a, &job->work);
    qni_operand_plan(&job->b, ops->kernels, precision, &b, &job->work);
    qni_work_reserve_slices(&job->work, n_threads, qni_tile_scratch_bytes(&job->gemm));
    return qni_work_take(ops, &job->work, err);
}

/* All of it by one thread of a parallel region. */
static int run_thread(gemm_job *job, float *c) {
    int failed = 0;
    qni_one_thread_each();
    qni_operand_load(&job->a, &job->work);
    qni_operand_load(&job->b, &job->work);
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < qni_tile_count(&job->gemm); t++) {
        const int error =
            qni_tile_gemm_task(&job->gemm, t, job->a.data, job->b.data, c, qni_work_slice(&job->work));
        if (error > failed) failed = error;
    }
    return failed;
}

qn_status qni_cpu_gemm(qn_ops *ops, const qni_gemm_args *args, int n_threads, qn_error *err) {
    gemm_job job = {0};
    int failed = 0;
    if (args->m == 0 || args->n == 0) return QN_OK;
    QN_TRY(prepare(&job, ops, args, n_threads, err));
#pragma omp parallel num_threads(qni_useful_threads(n_threads, args->m * args->n * args->k))                 \
    reduction(max                                                                                            \
              : failed)
    failed = run_thread(&job, args->c);
    return failed ? qni_fail_dnnl(err, failed, "a matrix product") : QN_OK;
}
