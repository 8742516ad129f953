/* The backward of a linear layer: dx = dy W, dw (+)= dy^T x, dbias += column sums of dy. Both products run as
 * one grid of tiles. The sum over tokens of a tile of dw is one product, in one order. */
#include "tensor/operand.h"
#include "tensor/sign_product.h"
#include "tensor/tile_gemm.h"

#include "base/banned.h"

enum { BIAS_COLUMNS = 64 };

typedef struct backward_job {
    const qni_kernels *kernels;
    const qni_linear_backward_args *args;
    qni_precision precision;
    qni_operand dy, x, w;
    qni_sign_product signs; /* for dx, in place of w; kernels NULL: not used */
    qni_tile_gemm dx_gemm, dw_gemm;
    int64_t dx_tasks, dw_tasks, bias_tasks;
    qni_work work;
} backward_job;

static void prepare_dx(backward_job *job) {
    const qni_linear_backward_args *a = job->args;
    const qni_packing w = {
        .values = a->w, .ld = a->k, .rows = a->k, .depth = a->n, .across = true, .right = true};
    qni_operand_plan(&job->w, job->kernels, job->precision, &w, &job->work);
    job->dx_gemm = (qni_tile_gemm){.kernels = job->kernels,
                                   .parts = qni_precision_parts(job->precision),
                                   .accumulate = a->add_dx,
                                   .m = a->m,
                                   .n = a->k,
                                   .k = a->n,
                                   .lda = a->n,
                                   .ldb = a->k,
                                   .ldc = a->k};
    qni_tile_gemm_cut(&job->dx_gemm);
    job->dx_tasks = qni_tile_count(&job->dx_gemm);
}

static void prepare_signs(backward_job *job) {
    const qni_linear_backward_args *a = job->args;
    job->signs = (qni_sign_product){.kernels = job->kernels->signs,
                                    .signs = a->signs,
                                    .backward = true,
                                    .add = a->add_dx,
                                    .m = a->m,
                                    .x = a->dy,
                                    .y = a->dx};
    job->dx_tasks = qni_sign_tiles(&job->signs);
}

static void prepare_dw(backward_job *job) {
    const qni_linear_backward_args *a = job->args;
    const qni_packing x = {
        .values = a->x, .ld = a->k, .rows = a->k, .depth = a->m, .across = true, .right = true};
    qni_operand_plan(&job->x, job->kernels, job->precision, &x, &job->work);
    job->dw_gemm = (qni_tile_gemm){.kernels = job->kernels,
                                   .parts = qni_precision_parts(job->precision),
                                   .trans_a = true,
                                   .accumulate = !a->set_dw,
                                   .m = a->n,
                                   .n = a->k,
                                   .k = a->m,
                                   .lda = a->n,
                                   .ldb = a->k,
                                   .ldc = a->k};
    qni_tile_gemm_cut(&job->dw_gemm);
    job->dw_tasks = qni_tile_count(&job->dw_gemm);
}

static qn_status prepare(backward_job *job, qn_ops *ops, int n_threads, qn_error *err) {
    const qni_linear_backward_args *a = job->args;
    const qni_packing dy = {.values = a->dy, .ld = a->n, .rows = a->m, .depth = a->n};
    qni_operand_plan(&job->dy, job->kernels, job->precision, &dy, &job->work);
    if (a->dx && qni_sign_product_pays(job->kernels, a->signs, a->bf16, a->m))
        prepare_signs(job);
    else if (a->dx)
        prepare_dx(job);
    if (a->dw) prepare_dw(job);
    if (a->dbias) job->bias_tasks = qni_ceil_div(a->n, BIAS_COLUMNS);
    const size_t dx_bytes = job->signs.kernels ? qni_sign_slice_bytes(&job->signs)
                                               : qni_tile_scratch_bytes(&job->dx_gemm),
                 dw_bytes = qni_tile_scratch_bytes(&job->dw_gemm);
    qni_work_reserve_slices(&job->work, n_threads, dx_bytes > dw_bytes ? dx_bytes : dw_bytes);
    return qni_work_take(ops, &job->work, err);
}

static void sum_columns(const backward_job *job, int64_t task) {
    const qni_linear_backward_args *a = job->args;
    const int64_t first = task * BIAS_COLUMNS, count = qni_min(BIAS_COLUMNS, a->n - first);
    for (int64_t t = 0; t < a->m; t++) job->kernels->add(a->dbias + first, a->dy + t * a->n + first, count);
}

static int run_task(const backward_job *job, int64_t task) {
    const int64_t dw_task = task - job->dx_tasks;
    void *scratch = qni_work_slice(&job->work);
    if (task < job->dx_tasks && job->signs.kernels) {
        qni_sign_tile(&job->signs, task, scratch);
        return 0;
    }
    if (task < job->dx_tasks)
        return qni_tile_gemm_task(&job->dx_gemm, task, job->dy.data, job->w.data, job->args->dx, scratch);
    if (dw_task < job->dw_tasks)
        return qni_tile_gemm_task(&job->dw_gemm, dw_task, job->dy.data, job->x.data, job->args->dw, scratch);
    sum_columns(job, dw_task - job->dw_tasks);
    return 0;
}

/* All of it by one thread of a parallel region. */
static int run_thread(backward_job *job) {
    int failed = 0;
    qni_one_thread_each();
    qni_operand_load(&job->dy, &job->work);
    qni_operand_load(&job->x, &job->work);
    qni_operand_load(&job->w, &job->work);
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < job->dx_tasks + job->dw_tasks + job->bias_tasks; t++) {
        const int error = run_task(job, t);
        if (error > failed) failed = error;
    }
    return failed;
}

qn_status qni_cpu_linear_backward(qn_ops *ops, const qni_linear_backward_args *args, int n_threads,
                                  qn_error *err) {
    backward_job job = {.kernels = ops->kernels,
                        .args = args,
                        .precision = qni_precision_of(ops->kernels, args->bf16, args->m, args->n, args->k)};
    int failed = 0;
    QN_TRY(prepare(&job, ops, n_threads, err));
#pragma omp parallel num_threads(n_threads) reduction(max : failed)
    failed = run_thread(&job);
    return failed ? qni_fail_dnnl(err, failed, "the gradients of a linear layer") : QN_OK;
}
