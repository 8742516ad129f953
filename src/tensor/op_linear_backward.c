/* The backward of a linear layer: dx = dy W, dw += dy^T x, dbias += column sums of dy. Both products run as
 * one grid of tiles. The sum over tokens of a tile of dw is one product, in one order. */
#include "tensor/operand.h"
#include "tensor/tile_gemm.h"

#include <string.h>

#include "base/banned.h"

enum { BIAS_COLUMNS = 64 };

/* A whole matrix as the products want it: in place, or rounded into the work space. */
typedef struct operand {
    const float *values;
    int64_t n;
    size_t copy;
    const char *data;
} operand;

typedef struct backward_job {
    const qni_kernels *kernels;
    const qni_linear_backward_args *args;
    qni_precision precision;
    operand dy, x, w;
    qni_tile_gemm dx_gemm, dw_gemm;
    int64_t dx_tasks, dw_tasks, bias_tasks;
    qni_work work;
} backward_job;

static void plan_operand(backward_job *job, operand *o, const float *values, int64_t n) {
    *o = (operand){.values = values, .n = n, .data = (const char *)values};
    if (job->precision != QNI_F32)
        o->copy = qni_work_reserve(&job->work, n, qni_precision_bytes(job->precision));
}

static void round_operand(const backward_job *job, operand *o) {
    if (job->precision == QNI_F32 || !o->values) return;
    qni_round_values(job->kernels, o->values, o->n, job->precision, job->work.base + o->copy);
#pragma omp single
    o->data = job->work.base + o->copy;
}

static qn_status prepare_product(const backward_job *job, qni_tile_shape shape, qni_tile_gemm *gemm,
                                 int64_t *n_tasks, qn_error *err) {
    shape.bf16 = job->precision == QNI_BF16;
    qni_tile_shape_cut(&shape);
    *n_tasks = qni_tile_count(&shape);
    return qni_tile_gemm_init(gemm, job->kernels, &shape, err);
}

static qn_status prepare_products(backward_job *job, qn_error *err) {
    const qni_linear_backward_args *a = job->args;
    const qni_tile_shape dx = {
        .accumulate = a->add_dx, .m = a->m, .n = a->k, .k = a->n, .lda = a->n, .ldb = a->k, .ldc = a->k};
    const qni_tile_shape dw = {.trans_a = true,
                               .accumulate = true,
                               .m = a->n,
                               .n = a->k,
                               .k = a->m,
                               .lda = a->n,
                               .ldb = a->k,
                               .ldc = a->k};
    if (a->dx) QN_TRY(prepare_product(job, dx, &job->dx_gemm, &job->dx_tasks, err));
    if (a->dw) QN_TRY(prepare_product(job, dw, &job->dw_gemm, &job->dw_tasks, err));
    return QN_OK;
}

static qn_status prepare(backward_job *job, qn_ops *ops, int n_threads, qn_error *err) {
    const qni_linear_backward_args *a = job->args;
    plan_operand(job, &job->dy, a->dy, a->m * a->n);
    if (a->dx) plan_operand(job, &job->w, a->w, a->n * a->k);
    if (a->dw) plan_operand(job, &job->x, a->x, a->m * a->k);
    QN_TRY(prepare_products(job, err));
    if (a->dbias) job->bias_tasks = qni_ceil_div(a->n, BIAS_COLUMNS);
    const size_t scratch = job->dx_gemm.scratch_bytes > job->dw_gemm.scratch_bytes
                               ? job->dx_gemm.scratch_bytes
                               : job->dw_gemm.scratch_bytes;
    qni_work_reserve_slices(&job->work, n_threads, scratch);
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
    if (task < job->dx_tasks)
        return qni_tile_gemm_task(&job->dx_gemm, task, job->dy.data, job->w.data, job->args->dx, scratch);
    if (dw_task < job->dw_tasks)
        return qni_tile_gemm_task(&job->dw_gemm, dw_task, job->dy.data, job->x.data, job->args->dw, scratch);
    sum_columns(job, dw_task - job->dw_tasks);
    return 0;
}

qn_status qni_cpu_linear_backward(qn_ops *ops, const qni_linear_backward_args *args, int n_threads,
                                  qn_error *err) {
    backward_job job = {
        .kernels = ops->kernels, .args = args, .precision = qni_precision_of(ops->kernels, args->bf16)};
    int failed = 0;
    qn_status status = prepare(&job, ops, n_threads, err);
    if (status != QN_OK) goto done;
#pragma omp parallel num_threads(n_threads) reduction(max : failed)
    {
        qni_one_thread_each();
        round_operand(&job, &job.dy);
        round_operand(&job, &job.x);
        round_operand(&job, &job.w);
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < job.dx_tasks + job.dw_tasks + job.bias_tasks; t++) {
            const int error = run_task(&job, t);
            if (error > failed) failed = error;
        }
    }
    if (failed) status = qni_fail_dnnl(err, failed, "the gradients of a linear layer");
done:
    qni_tile_gemm_release(&job.dx_gemm);
    qni_tile_gemm_release(&job.dw_gemm);
    return status;
}
