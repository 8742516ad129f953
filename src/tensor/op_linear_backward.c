/* The backward of a linear layer: dx = dy W, dw += dy^T x, dbias += column sums of dy. Both products run as
 * one grid of tiles. The sum over tokens of a tile of dw is one product, in one order. */
#include "tensor/operand.h"
#include "tensor/tile_gemm.h"

#include <string.h>

#include "base/banned.h"

enum {
    TILES_WANTED = 8, /* of each product */
    BIAS_COLUMNS = 64
};

static int64_t count_tiles(const qni_tile_shape *s) {
    return qni_ceil_div(s->m, s->tile_m) * qni_ceil_div(s->n, s->tile_n);
}

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
    int64_t value_bytes;
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

static qn_status prepare_dx(backward_job *job, qn_error *err) {
    const qni_linear_backward_args *a = job->args;
    qni_tile_shape shape = {.bf16 = job->precision == QNI_BF16,
                            .accumulate = a->add_dx,
                            .m = a->m,
                            .n = a->k,
                            .k = a->n,
                            .lda = a->n,
                            .ldb = a->k,
                            .ldc = a->k};
    if (!a->dx) return QN_OK;
    qni_tile_sides(shape.m, shape.n, TILES_WANTED, &shape.tile_m, &shape.tile_n);
    plan_operand(job, &job->w, a->w, a->n * a->k);
    job->dx_tasks = count_tiles(&shape);
    return qni_tile_gemm_init(&job->dx_gemm, job->kernels, &shape, err);
}

static qn_status prepare_dw(backward_job *job, qn_error *err) {
    const qni_linear_backward_args *a = job->args;
    qni_tile_shape shape = {.bf16 = job->precision == QNI_BF16,
                            .trans_a = true,
                            .accumulate = true,
                            .m = a->n,
                            .n = a->k,
                            .k = a->m,
                            .lda = a->n,
                            .ldb = a->k,
                            .ldc = a->k};
    if (!a->dw) return QN_OK;
    qni_tile_sides(shape.m, shape.n, TILES_WANTED, &shape.tile_m, &shape.tile_n);
    plan_operand(job, &job->x, a->x, a->m * a->k);
    job->dw_tasks = count_tiles(&shape);
    return qni_tile_gemm_init(&job->dw_gemm, job->kernels, &shape, err);
}

static qn_status prepare(backward_job *job, qn_ops *ops, int n_threads, qn_error *err) {
    const qni_linear_backward_args *a = job->args;
    job->value_bytes = (int64_t)qni_precision_bytes(job->precision);
    plan_operand(job, &job->dy, a->dy, a->m * a->n);
    QN_TRY(prepare_dx(job, err));
    QN_TRY(prepare_dw(job, err));
    if (a->dbias) job->bias_tasks = qni_ceil_div(a->n, BIAS_COLUMNS);
    const size_t scratch = job->dx_gemm.scratch_bytes > job->dw_gemm.scratch_bytes
                               ? job->dx_gemm.scratch_bytes
                               : job->dw_gemm.scratch_bytes;
    qni_work_reserve_slices(&job->work, n_threads, scratch);
    return qni_work_take(ops, &job->work, err);
}

static int run_dx(const backward_job *job, int64_t task) {
    const qni_linear_backward_args *a = job->args;
    const qni_tile_shape *s = &job->dx_gemm.shape;
    const int64_t cols = qni_ceil_div(s->n, s->tile_n);
    const int64_t token0 = task / cols * s->tile_m, col0 = task % cols * s->tile_n;
    return qni_tile_gemm_run(&job->dx_gemm, qni_min(s->tile_m, s->m - token0),
                             qni_min(s->tile_n, s->n - col0), job->dy.data + token0 * a->n * job->value_bytes,
                             job->w.data + col0 * job->value_bytes, a->dx + token0 * a->k + col0,
                             qni_work_slice(&job->work));
}

static int run_dw(const backward_job *job, int64_t task) {
    const qni_linear_backward_args *a = job->args;
    const qni_tile_shape *s = &job->dw_gemm.shape;
    const int64_t cols = qni_ceil_div(s->n, s->tile_n);
    const int64_t row0 = task / cols * s->tile_m, col0 = task % cols * s->tile_n;
    return qni_tile_gemm_run(&job->dw_gemm, qni_min(s->tile_m, s->m - row0), qni_min(s->tile_n, s->n - col0),
                             job->dy.data + row0 * job->value_bytes, job->x.data + col0 * job->value_bytes,
                             a->dw + row0 * a->k + col0, qni_work_slice(&job->work));
}

static void sum_columns(const backward_job *job, int64_t task) {
    const qni_linear_backward_args *a = job->args;
    const int64_t first = task * BIAS_COLUMNS, count = qni_min(BIAS_COLUMNS, a->n - first);
    for (int64_t t = 0; t < a->m; t++) job->kernels->add(a->dbias + first, a->dy + t * a->n + first, count);
}

static int run_task(const backward_job *job, int64_t task) {
    if (task < job->dx_tasks) return run_dx(job, task);
    if (task < job->dx_tasks + job->dw_tasks) return run_dw(job, task - job->dx_tasks);
    sum_columns(job, task - job->dx_tasks - job->dw_tasks);
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
