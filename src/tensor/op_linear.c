/* Linear layers: a panel of weights is decoded once and meets all tokens, tile by tile. */
#include "tensor/operand.h"
#include "tensor/sign_product.h"
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
    qni_operand x;
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
    const float *x = job->x.data;
    return qni_tile_gemm_run(&job->gemm, n_tokens, n_rows, x + token0 * w->cols,
                             qni_panel_row(&job->panel, &job->work, row0),
                             job->args->y + token0 * w->rows + row0, qni_work_slice(&job->work));
}

/* A handful of tokens: each row of W is read once and multiplied with all of them. */
static void multiply_few(const linear_job *job, int64_t row0, int64_t n_rows) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const int64_t k = w->cols;
    const float *x = job->x.data;
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
    const int64_t n_chunks = qni_ceil_div(args->m, job->gemm.tile_m);
    const int64_t token0 = task % n_chunks * job->gemm.tile_m,
                  row0 = panel0 + task / n_chunks * job->gemm.tile_n;
    const int64_t n_tokens = qni_min(job->gemm.tile_m, args->m - token0);
    const int64_t n_rows =
        qni_min(job->gemm.tile_n, qni_min(panel0 + job->panel.max_rows, args->w->rows) - row0);
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
    const int64_t n_chunks = qni_ceil_div(args->m, job->gemm.tile_m);
    int failed = 0;
    qni_one_thread_each();
    qni_operand_load(&job->x, &job->work);
    for (int64_t row0 = 0; row0 < w->rows; row0 += job->panel.max_rows) {
        if (!direct) qni_panel_load(&job->panel, &job->work, row0);
        const int64_t n_rows = qni_min(job->panel.max_rows, w->rows - row0);
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < qni_ceil_div(n_rows, job->gemm.tile_n) * n_chunks; t++) {
            const int error = run_tile(job, row0, t, largest);
            if (error > failed) failed = error;
        }
    }
    return failed;
}

static qni_tile_gemm choose_tiles(const linear_job *job) {
    const qni_matrix *w = job->args->w;
    qni_tile_gemm gemm = {.kernels = job->kernels,
                          .parts = qni_precision_parts(job->precision),
                          .trans_b = true,
                          .m = job->args->m,
                          .n = w->rows,
                          .k = w->cols,
                          .lda = w->cols,
                          .ldb = w->cols,
                          .ldc = w->rows};
    qni_tile_gemm_cut(&gemm);
    if (job->few || (gemm.parts == 0 && qni_tile_count(&gemm) < QNI_TILES_WANTED)) {
        gemm.tile_m = SMALL_TOKENS;
        gemm.tile_n = SMALL_ROWS;
    }
    return gemm;
}

static qn_status prepare(linear_job *job, qn_ops *ops, int n_threads, qn_error *err) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const qni_packing x = {.values = args->x, .ld = w->cols, .rows = args->m, .depth = w->cols};
    job->gemm = choose_tiles(job);
    qni_operand_plan(&job->x, job->kernels, job->precision, &x, &job->work);
    qni_panel_plan(&job->panel, job->kernels, w, job->precision, job->gemm.tile_n, &job->work);
    const size_t load_bytes = qni_panel_slice_bytes(&job->panel),
                 tile_bytes = qni_tile_scratch_bytes(&job->gemm);
    qni_work_reserve_slices(&job->work, n_threads, load_bytes > tile_bytes ? load_bytes : tile_bytes);
    return qni_work_take(ops, &job->work, err);
}

/* ---- with signs ---- */

static void run_sign_tiles(const linear_job *job, const qni_sign_product *product, uint32_t *largest) {
    const int64_t n_tokens = product->kernels->n_tokens;
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < qni_sign_tiles(product); t++) {
        qni_sign_tile(product, t, qni_work_slice(&job->work));
        const uint32_t bits = finish_tile(job, t * n_tokens, qni_min(n_tokens, product->m - t * n_tokens), 0,
                                          job->args->w->rows);
        if (bits > *largest) *largest = bits;
    }
}

static qn_status multiply_signs(qn_ops *ops, const qni_linear_args *args, int n_threads, float *largest,
                                qn_error *err) {
    linear_job job = {.kernels = ops->kernels, .args = args};
    const qni_sign_product product = {
        .kernels = ops->kernels->signs, .signs = args->w->signs, .m = args->m, .x = args->x, .y = args->y};
    uint32_t bits = 0;
    qni_work_reserve_slices(&job.work, n_threads, qni_sign_slice_bytes(&product));
    QN_TRY(qni_work_take(ops, &job.work, err));
#pragma omp parallel num_threads(n_threads) reduction(max : bits)
    run_sign_tiles(&job, &product, &bits);
    *largest = qni_float_of_bits(bits);
    return QN_OK;
}

qn_status qni_cpu_linear(qn_ops *ops, const qni_linear_args *args, int n_threads, float *largest,
                         qn_error *err) {
    linear_job job = {.kernels = ops->kernels, .args = args, .few = args->m <= FEW_TOKENS};
    if (qni_sign_product_pays(ops->kernels, args->w->signs, args->bf16, args->m))
        return multiply_signs(ops, args, n_threads, largest, err);
    uint32_t bits = 0;
    int failed = 0;
    job.precision = qni_precision_of(ops->kernels, args->bf16, args->m, args->w->rows, args->w->cols);
    QN_TRY(prepare(&job, ops, n_threads, err));
#pragma omp parallel num_threads(qni_useful_threads(n_threads, args->m * args->w->rows * args->w->cols))     \
    reduction(max                                                                                            \
              : failed, bits)
    failed = run_thread(&job, &bits);
    if (failed) return qni_fail_dnnl(err, failed, "a linear layer");
    *largest = qni_float_of_bits(bits);
    return QN_OK;
}
