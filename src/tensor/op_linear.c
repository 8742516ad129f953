/* Linear layers whose weights come in row blocks: decode a block once, multiply it with a long chunk of
 * tokens. */
#include "tensor/ops_cpu.h"

#include "tensor/tile_gemm.h"

#include <stdlib.h>

enum {
    TILE_TOKENS = 1024, /* long, so that decoding a weight is small beside the 2 * TILE_TOKENS operations it
                           takes part in */
    TILE_ROWS = 128,    /* decoded rows of 5120 inputs: 2.6 MB */
    FEW_TOKENS = 4      /* up to here reading the weights is the cost: dot products, no packing */
};

typedef struct linear_job {
    const qni_kernels *kernels;
    const qni_linear_args *args;
    const void *x; /* f32, or bf16 */
    qni_tile_gemm gemm;
    size_t operand_bytes;
} linear_job;

/* Adds the bias to a tile of y and measures it while it is in the cache. */
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

static int run_tile(const linear_job *job, int64_t token0, int64_t row0, char *scratch, uint32_t *largest) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const int64_t n_tokens = qni_min(TILE_TOKENS, args->m - token0);
    const int64_t n_rows = qni_min(TILE_ROWS, w->rows - row0);
    const void *operand = qni_rows_operand(job->kernels, w, row0, n_rows, args->bf16, scratch);
    const char *x = (const char *)job->x + token0 * w->cols * (args->bf16 ? 2 : 4);
    const int error = qni_tile_gemm_run(&job->gemm, n_tokens, n_rows, x, operand,
                                        args->y + token0 * w->rows + row0, scratch + job->operand_bytes);
    const uint32_t bits = finish_tile(job, token0, n_tokens, row0, n_rows);
    if (bits > *largest) *largest = bits;
    return error;
}

static qn_status run_tiles(linear_job *job, int n_threads, uint32_t *largest, qn_error *err) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const qni_tile_shape shape = {.bf16 = args->bf16,
                                  .trans_b = true,
                                  .m = args->m,
                                  .n = w->rows,
                                  .k = w->cols,
                                  .tile_m = TILE_TOKENS,
                                  .tile_n = TILE_ROWS,
                                  .lda = w->cols,
                                  .ldb = w->cols,
                                  .ldc = w->rows};
    const int64_t n_chunks = qni_ceil_div(args->m, TILE_TOKENS);
    const int64_t n_tasks = n_chunks * qni_ceil_div(w->rows, TILE_ROWS);
    qni_scratch scratch = {0};
    uint32_t bits = 0;
    int failed = 0;
    QN_TRY(qni_tile_gemm_init(&job->gemm, job->kernels, &shape, err));
    job->operand_bytes = qni_rows_scratch_bytes(w, qni_min(TILE_ROWS, w->rows), args->bf16);
    QN_TRY(qni_scratch_make(&scratch, n_threads, job->operand_bytes + job->gemm.scratch_bytes, err));
#pragma omp parallel num_threads(n_threads) reduction(max : failed, bits)
    {
        qni_one_thread_each();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < n_tasks; t++) {
            const int error = run_tile(job, t % n_chunks * TILE_TOKENS, t / n_chunks * TILE_ROWS,
                                       qni_scratch_slice(&scratch), &bits);
            if (error > failed) failed = error;
        }
    }
    qni_scratch_release(&scratch);
    *largest = bits;
    return failed ? qni_fail_dnnl(err, failed, "a linear layer") : QN_OK;
}

/* A handful of tokens: each row of W is read once and multiplied with all of them. */
static uint32_t few_tokens_block(const linear_job *job, const float *x, int64_t row0, char *scratch) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const int64_t k = w->cols, n_rows = qni_min(TILE_ROWS, w->rows - row0);
    const bool direct_bf16 = w->bf16 || args->bf16;
    const uint16_t *narrow = NULL;
    const float *wide = NULL;
    if (direct_bf16) {
        narrow = qni_rows_operand(job->kernels, w, row0, n_rows, true, scratch);
    } else {
        wide = qni_rows_operand(job->kernels, w, row0, n_rows, false, scratch);
    }
    for (int64_t r = 0; r < n_rows; r++) {
        for (int64_t t = 0; t < args->m; t++) {
            args->y[t * w->rows + row0 + r] = narrow ? job->kernels->dot_bf16(x + t * k, narrow + r * k, k)
                                                     : job->kernels->dot_f32(x + t * k, wide + r * k, k);
        }
    }
    return finish_tile(job, 0, args->m, row0, n_rows);
}

static qn_status run_few_tokens(linear_job *job, int n_threads, uint32_t *largest, qn_error *err) {
    const qni_linear_args *args = job->args;
    const qni_matrix *w = args->w;
    const int64_t n_blocks = qni_ceil_div(w->rows, TILE_ROWS);
    const size_t operand_bytes =
        qni_rows_scratch_bytes(w, qni_min(TILE_ROWS, w->rows), w->bf16 || args->bf16);
    const size_t x_bytes = qni_slice_bytes(args->m * w->cols, sizeof(float));
    qni_scratch scratch = {0};
    const float *x = args->x;
    uint32_t bits = 0;
    QN_TRY(qni_scratch_make(&scratch, n_threads, operand_bytes + x_bytes, err));
    if (args->bf16) { /* the activations as bf16 would hold them, in the first slice's tail; read by all */
        float *rounded = (float *)(void *)(scratch.block + operand_bytes);
        job->kernels->widen_bf16(job->x, args->m * w->cols, rounded);
        x = rounded;
    }
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) reduction(max : bits)
    for (int64_t b = 0; b < n_blocks; b++) {
        const uint32_t block_bits = few_tokens_block(job, x, b * TILE_ROWS, qni_scratch_slice(&scratch));
        if (block_bits > bits) bits = block_bits;
    }
    qni_scratch_release(&scratch);
    *largest = bits;
    return QN_OK;
}

qn_status qni_cpu_linear(const qn_ops *ops, const qni_linear_args *args, int n_threads, float *largest,
                         qn_error *err) {
    linear_job job = {.kernels = ops->kernels, .args = args, .x = args->x};
    uint16_t *narrow_x = NULL;
    uint32_t bits = 0;
    qn_status status = QN_OK;
    if (args->bf16) {
        QN_TRY(qni_narrow_copy(ops->kernels, args->x, args->m * args->w->cols, n_threads, &narrow_x, err));
        job.x = narrow_x;
    }
    status = args->m <= FEW_TOKENS ? run_few_tokens(&job, n_threads, &bits, err)
                                   : run_tiles(&job, n_threads, &bits, err);
    if (status == QN_OK) *largest = qni_float_of_bits(bits);
    qni_tile_gemm_release(&job.gemm);
    free(narrow_x);
    return status;
}
