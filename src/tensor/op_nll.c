/* Negative log-likelihoods straight from hidden states: the vocabulary is walked in ranges, each task keeping
 * a running maximum and a double sum for its tokens; the ranges are put together in order. Logits live in one
 * tile a thread. */
#include "tensor/ops_cpu.h"

#include "base/alloc.h"
#include "tensor/tile_gemm.h"

#include <math.h>
#include <stdlib.h>

enum {
    TILE_TOKENS = 512,
    TILE_ROWS = 256,    /* logits of a tile: 512 KiB */
    RANGE_ROWS = 2048,  /* vocabulary of one task; what its tokens leave behind is one partial each */
    ROUND_TOKENS = 8192 /* bounds the partials: V / RANGE_ROWS * ROUND_TOKENS */
};

/* logsumexp of a range is shift + log(sum). */
typedef struct partial {
    double sum;
    float shift;
} partial;

typedef struct nll_job {
    const qni_kernels *kernels;
    const qni_nll_args *args;
    const void *x; /* f32, or bf16 */
    qni_tile_gemm gemm;
    size_t operand_bytes, logit_bytes;
    partial *partials;    /* owned [ranges, ROUND_TOKENS] */
    float *target_logits; /* owned [ROUND_TOKENS] */
} nll_job;

static void add_logits(const nll_job *job, partial *p, const float *logits, int64_t n) {
    const float shift = job->kernels->max(logits, n);
    if (shift > p->shift) {
        p->sum = p->sum > 0.0 ? p->sum * exp((double)p->shift - (double)shift) : 0.0;
        p->shift = shift;
    }
    p->sum += job->kernels->exp_sum(logits, n, p->shift);
}

/* Tokens [round0 + token0, + n_tokens) against the vocabulary range [row0, row_end). */
static int run_task(const nll_job *job, int64_t round0, int64_t token0, int64_t n_tokens, int64_t range,
                    char *scratch, uint32_t *largest) {
    const qni_nll_args *args = job->args;
    const qni_matrix *w = args->w;
    const int64_t row_end = qni_min((range + 1) * RANGE_ROWS, w->rows);
    const int32_t *targets = args->targets + round0;
    partial *partials = job->partials + range * ROUND_TOKENS;
    float *logits = (float *)(void *)(scratch + job->operand_bytes);
    const char *x = (const char *)job->x + (round0 + token0) * w->cols * (args->bf16 ? 2 : 4);
    for (int64_t t = token0; t < token0 + n_tokens; t++) partials[t] = (partial){.shift = -INFINITY};
    for (int64_t row0 = range * RANGE_ROWS; row0 < row_end; row0 += TILE_ROWS) {
        const int64_t n_rows = qni_min(TILE_ROWS, row_end - row0);
        const void *operand = qni_rows_operand(job->kernels, w, row0, n_rows, args->bf16, scratch);
        const int error = qni_tile_gemm_run(&job->gemm, n_tokens, n_rows, x, operand, logits,
                                            scratch + job->operand_bytes + job->logit_bytes);
        if (error) return error;
        for (int64_t t = token0; t < token0 + n_tokens; t++) {
            const float *row = logits + (t - token0) * TILE_ROWS;
            const uint32_t bits = job->kernels->absmax(row, n_rows);
            if (bits > *largest) *largest = bits;
            add_logits(job, &partials[t], row, n_rows);
            if (targets[t] >= row0 && targets[t] < row0 + n_rows)
                job->target_logits[t] = row[targets[t] - row0];
        }
    }
    return 0;
}

/* Puts the ranges of one token together. */
static double combine(const nll_job *job, int64_t token, int64_t n_ranges) {
    double shift = -INFINITY, sum = 0.0;
    for (int64_t r = 0; r < n_ranges; r++) {
        const double s = (double)job->partials[r * ROUND_TOKENS + token].shift;
        if (s > shift) shift = s;
    }
    for (int64_t r = 0; r < n_ranges; r++) {
        const partial *p = &job->partials[r * ROUND_TOKENS + token];
        sum += p->sum * exp((double)p->shift - shift);
    }
    return shift + log(sum) - (double)job->target_logits[token];
}

static int run_round(nll_job *job, int64_t round0, const qni_scratch *scratch, int n_threads,
                     uint32_t *largest) {
    const qni_nll_args *args = job->args;
    const int64_t n_tokens = qni_min(ROUND_TOKENS, args->m - round0);
    const int64_t n_chunks = qni_ceil_div(n_tokens, TILE_TOKENS),
                  n_ranges = qni_ceil_div(args->w->rows, RANGE_ROWS);
    uint32_t bits = *largest;
    int failed = 0;
#pragma omp parallel num_threads(n_threads) reduction(max : failed, bits)
    {
        qni_one_thread_each();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < n_chunks * n_ranges; t++) {
            const int64_t token0 = t % n_chunks * TILE_TOKENS;
            const int error = run_task(job, round0, token0, qni_min(TILE_TOKENS, n_tokens - token0),
                                       t / n_chunks, qni_scratch_slice(scratch), &bits);
            if (error > failed) failed = error;
        }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < n_tokens; t++) args->nll[round0 + t] = combine(job, t, n_ranges);
    }
    *largest = bits;
    return failed;
}

static qn_status prepare(nll_job *job, qni_scratch *scratch, int n_threads, qn_error *err) {
    const qni_nll_args *args = job->args;
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
                                  .ldc = TILE_ROWS};
    QN_TRY(QNI_ALLOC(job->partials, qni_ceil_div(w->rows, RANGE_ROWS) * ROUND_TOKENS, "loss partials", err));
    QN_TRY(QNI_ALLOC(job->target_logits, ROUND_TOKENS, "target logits", err));
    QN_TRY(qni_tile_gemm_init(&job->gemm, job->kernels, &shape, err));
    job->operand_bytes = qni_rows_scratch_bytes(w, TILE_ROWS, args->bf16);
    job->logit_bytes = qni_slice_bytes(TILE_TOKENS * TILE_ROWS, sizeof(float));
    return qni_scratch_make(scratch, n_threads,
                            job->operand_bytes + job->logit_bytes + job->gemm.scratch_bytes, err);
}

qn_status qni_cpu_nll(const qn_ops *ops, const qni_nll_args *args, int n_threads, float *largest,
                      qn_error *err) {
    nll_job job = {.kernels = ops->kernels, .args = args, .x = args->x};
    qni_scratch scratch = {0};
    uint16_t *narrow_x = NULL;
    uint32_t bits = 0;
    qn_status status = QN_OK;
    if (args->bf16) {
        QN_TRY(qni_narrow_copy(ops->kernels, args->x, args->m * args->w->cols, n_threads, &narrow_x, err));
        job.x = narrow_x;
    }
    if ((status = prepare(&job, &scratch, n_threads, err)) != QN_OK) goto done;
    for (int64_t round0 = 0; round0 < args->m; round0 += ROUND_TOKENS) {
        const int failed = run_round(&job, round0, &scratch, n_threads, &bits);
        if (failed) {
            status = qni_fail_dnnl(err, failed, "the head");
            goto done;
        }
    }
    *largest = qni_float_of_bits(bits);
done:
    qni_scratch_release(&scratch);
    qni_tile_gemm_release(&job.gemm);
    free(job.partials);
    free(job.target_logits);
    free(narrow_x);
    return status;
}
