/* Linear layers: a panel of weights is decoded once and meets all tokens, tile by tile. */
#include "tensor/operand.h"
#include "tensor/tile_gemm.h"

#include "base/banned.h"

enum {
    /* Of the tiles where large ones would be too few. */
    SMALL_TOKENS = 512,
    SMALL_ROWS = 256,
    FEW_TOKENS = 4 /* up to here reading the weights is the cost: dot products, no packing */
};

typedef struct linear_job {
    const qni_kernels *kernels;
    const qni_linear_args *args;
    qni_precision precision;
    bool few;
    const void *x; /* as the precision wants it */
    size_t x_copy; /* offset in the work space */
    int64_t tile_tokens, tile_rows;
    qni_panel panel;
    qni_tile_gemm gemm;
    qni_work work;
} linear_job;

/* Adds the bias to a tile of y and measures it. */
static uint32_t finish_tile(const linear_job *job, int64_t token0, int64_t n_tokens, int64_t row0,
                            int64_t n_rows) {
    const qni_linear_args *args = job->args;
    uint32_t largest = 0;
    for (int64_t t = token0; t < token0 + n_tokens; t++) {
        float *y = args->y + t * args->w->rows + row0;
        const uint32_t bits =
            args->bias ? job->kernels->add(y, args->bias + row0, n_rows) : job->kernels->absmax(y, n_rows);
        if (bits > largest) largest = bits;
    }
    return largest;
}

static int multiply_tile(const linear_job *job, int64_t token0, int64_t n_tokens, int64_t row0,
                         int64_t n_rows) {
    const qni_matrix *w = job->args->w;
    const char *x = (const char *)job->x + (size_t)(token0 * w->cols) * qni_precision_bytes(job->precision);
    return qni_tile_gemm_run(&job->gemm, n_tokens, n_rows, x, qni_panel_row(&job->panel, &job->work, row0),
                             job->args->y + token0 * w->rows + row0, qni_work_slice(&job->work));
}

/* A handful of tokens: each row of W is read once and multiplied with all of them. */
static void multiply_few(const linear_job *job, int64_t row0, int64_t n_rows) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const int64_t k = w->cols;
    const float *x = job->x;
    for (int64_t r = row0; r < row0 + n_rows; r++) {
        for (int64_t t = 0; t < args->m; t++) {
            args->y[t * w->rows + r] =
                w->bf16 ? job->kernels->dot_bf16(x + t * k, w->bf16 + r * k, k)
                        : job->kernels->dot_f32(x + t * k, qni_panel_row(&job->panel, &job->work, r), k);
        }
    }
}

/* Tile TASK of the panel that starts at row PANEL0. */
static int run_tile(const linear_job *job, int64_t panel0, int64_t task, uint32_t *largest) {
    const qni_linear_args *args = job->args;
    const int64_t n_chunks = qni_ceil_div(args->m, job->tile_tokens);
    const int64_t token0 = task % n_chunks * job->tile_tokens,
                  row0 = panel0 + task / n_chunks * job->tile_rows;
    const int64_t n_tokens = qni_min(job->tile_tokens, args->m - token0);
    const int64_t n_rows =
        qni_min(job->tile_rows, qni_min(panel0 + job->panel.max_rows, args->w->rows) - row0);
    int error = 0;
    if (job->few) {
        multiply_few(job, row0, n_rows);
    } else {
        error = multiply_tile(job, token0, n_tokens, row0, n_rows);
    }
    const uint32_t bits = finish_tile(job, token0, n_tokens, row0, n_rows);
    if (bits > *largest) *largest = bits;
    return error;
}

/* All of it by one thread of a parallel region. */
static int run_thread(linear_job *job, uint32_t *largest) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const bool direct = job->few && w->bf16; /* rows are read where they lie */
    const int64_t n_chunks = qni_ceil_div(args->m, job->tile_tokens);
    int failed = 0;
    qni_one_thread_each();
    if (job->precision != QNI_F32)
        qni_round_values(job->kernels, args->x, args->m * w->cols, job->precision,
                         job->work.base + job->x_copy);
    for (int64_t row0 = 0; row0 < w->rows; row0 += job->panel.max_rows) {
        if (!direct) qni_panel_load(&job->panel, &job->work, row0);
        const int64_t n_rows = qni_min(job->panel.max_rows, w->rows - row0);
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < qni_ceil_div(n_rows, job->tile_rows) * n_chunks; t++) {
            const int error = run_tile(job, row0, t, largest);
            if (error > failed) failed = error;
        }
    }
    return failed;
}

static qni_tile_shape choose_tiles(const linear_job *job) {
    const qni_matrix *w = job->args->w;
    qni_tile_shape shape = {.bf16 = job->precision == QNI_BF16,
                            .trans_b = true,
                            .m = job->args->m,
                            .n = w->rows,
                            .k = w->cols,
                            .lda = w->cols,
                            .ldb = w->cols,
                            .ldc = w->rows};
    qni_tile_shape_cut(&shape);
    if (job->few || (!shape.bf16 && qni_tile_count(&shape) < QNI_TILES_WANTED)) {
        shape.tile_m = SMALL_TOKENS;
        shape.tile_n = SMALL_ROWS;
    }
    return shape;
}

static qn_status prepare(linear_job *job, qn_ops *ops, int n_threads, qn_error *err) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const qni_tile_shape shape = choose_tiles(job);
    job->tile_tokens = shape.tile_m;
    job->tile_rows = shape.tile_n;
    if (!job->few) QN_TRY(qni_tile_gemm_init(&job->gemm, job->kernels, &shape, err));
    if (job->precision != QNI_F32)
        job->x_copy = qni_work_reserve(&job->work, args->m * w->cols, qni_precision_bytes(job->precision));
    qni_panel_plan(&job->panel, job->kernels, w, job->precision, job->tile_rows, &job->work);
    const size_t load_bytes = qni_panel_slice_bytes(&job->panel);
    qni_work_reserve_slices(&job->work, n_threads,
                            load_bytes > job->gemm.scratch_bytes ? load_bytes : job->gemm.scratch_bytes);
    QN_TRY(qni_work_take(ops, &job->work, err));
    job->x = job->precision == QNI_F32 ? (const void *)args->x : job->work.base + job->x_copy;
    return QN_OK;
}

qn_status qni_cpu_linear(qn_ops *ops, const qni_linear_args *args, int n_threads, float *largest,
                         qn_error *err) {
    linear_job job = {.kernels = ops->kernels, .args = args, .few = args->m <= FEW_TOKENS};
    uint32_t bits = 0;
    int failed = 0;
    job.precision = job.few && args->bf16 ? QNI_ROUNDED : qni_precision_of(ops->kernels, args->bf16);
    qn_status status = prepare(&job, ops, n_threads, err);
    if (status != QN_OK) goto done;
#pragma omp parallel num_threads(qni_useful_threads(n_threads, args->m * args->w->rows * args->w->cols))     \
    reduction(max                                                                                            \
              : failed, bits)
    failed = run_thread(&job, &bits);
    if (failed) {
        status = qni_fail_dnnl(err, failed, "a linear layer");
    } else {
        *largest = qni_float_of_bits(bits);
    }
done:
    qni_tile_gemm_release(&job.gemm);
    return status;
}
