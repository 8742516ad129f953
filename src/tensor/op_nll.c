/* Negative log-likelihoods straight from hidden states: the vocabulary is walked in ranges, each task keeping
 * a running maximum and a double sum for its tokens; the ranges are put together in order. Logits live in one
 * tile a thread. */
#include "tensor/operand.h"
#include "tensor/tile_gemm.h"

#include <math.h>

#include "base/banned.h"

enum {
    RANGE_ROWS = 1024,     /* vocabulary of one task, which leaves one partial a token */
    TILE_LOGITS = 1 << 17, /* of a tile: 512 KiB */
    TILE_ROWS = 256,       /* of the vocabulary, */
    PACKED_ROWS = 1024,    /* or more, by fewer tokens, where every tile packs its tokens again */
    ROUND_TOKENS = 8192    /* bounds the partials: V / RANGE_ROWS * ROUND_TOKENS */
};

/* logsumexp of a range is shift + log(sum). */
typedef struct partial {
    double sum;
    float shift;
} partial;

typedef struct nll_job {
    const qni_kernels *kernels;
    const qni_nll_args *args;
    qni_operand x; /* of one round */
    qni_panel panel;
    qni_tile_gemm gemm;
    qni_work work;
    size_t logit_bytes;
    size_t partials_at, target_logits_at; /* offsets */
    partial *partials;                    /* [ranges, ROUND_TOKENS] */
    float *target_logits;                 /* [ROUND_TOKENS] */
} nll_job;

static void add_logits(const nll_job *job, partial *p, const float *logits, int64_t n) {
    const float shift = job->kernels->max(logits, n);
    if (shift > p->shift) {
        p->sum = p->sum > 0.0 ? p->sum * exp((double)p->shift - (double)shift) : 0.0;
        p->shift = shift;
    }
    p->sum += job->kernels->exp_sum(logits, n, p->shift);
}

/* Tokens [token0, + n_tokens) of the round that starts at ROUND0 against one range of the vocabulary. */
static int run_task(const nll_job *job, int64_t round0, int64_t token0, int64_t n_tokens, int64_t range,
                    uint32_t *largest) {
    const qni_nll_args *args = job->args;
    const qni_matrix *w = args->w;
    const int64_t row_end = qni_min((range + 1) * RANGE_ROWS, w->rows);
    const int32_t *targets = args->targets + round0;
    partial *partials = job->partials + range * ROUND_TOKENS;
    const qni_tile_gemm *gemm = &job->gemm;
    const float *x = job->x.data;
    char *slice = qni_work_slice(&job->work);
    float *logits = (float *)(void *)slice;
    for (int64_t t = token0; t < token0 + n_tokens; t++) partials[t] = (partial){.shift = -INFINITY};
    for (int64_t row0 = range * RANGE_ROWS; row0 < row_end; row0 += gemm->tile_n) {
        const int64_t n_rows = qni_min(gemm->tile_n, row_end - row0);
        const int error =
            qni_tile_gemm_run(gemm, n_tokens, n_rows, x + token0 * w->cols,
                              qni_panel_row(&job->panel, &job->work, row0), logits, slice + job->logit_bytes);
        if (error) return error;
        for (int64_t t = token0; t < token0 + n_tokens; t++) {
            const float *row = logits + (t - token0) * gemm->ldc;
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
    double shift = -(double)INFINITY, sum = 0.0;
    for (int64_t r = 0; r < n_ranges; r++)
        shift = fmax(shift, (double)job->partials[r * ROUND_TOKENS + token].shift);
    for (int64_t r = 0; r < n_ranges; r++) {
        const partial *p = &job->partials[r * ROUND_TOKENS + token];
        sum += p->sum * exp((double)p->shift - shift);
    }
    return shift + log(sum) - (double)job->target_logits[token];
}

/* By every thread of a parallel region. */
static void load_tokens(nll_job *job, int64_t round0, int64_t n_tokens) {
    qni_operand *x = &job->x;
#pragma omp single
    {
        x->stored.values = job->args->x + round0 * x->stored.ld;
        x->stored.rows = n_tokens;
        x->data = x->stored.values;
    }
    qni_operand_load(x, &job->work);
}

/* Tokens [round0, + ROUND_TOKENS), by one thread of a parallel region. */
static int run_round(nll_job *job, int64_t round0, uint32_t *largest) {
    const qni_nll_args *args = job->args;
    const qni_matrix *w = args->w;
    const int64_t n_tokens = qni_min(ROUND_TOKENS, args->m - round0);
    const int64_t tile_tokens = job->gemm.tile_m, n_chunks = qni_ceil_div(n_tokens, tile_tokens);
    int failed = 0;
    load_tokens(job, round0, n_tokens);
    for (int64_t row0 = 0; row0 < w->rows; row0 += job->panel.max_rows) {
        const int64_t n_rows = qni_min(job->panel.max_rows, w->rows - row0);
        qni_panel_load(&job->panel, &job->work, row0);
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < n_chunks * qni_ceil_div(n_rows, RANGE_ROWS); t++) {
            const int64_t token0 = t % n_chunks * tile_tokens;
            const int error = run_task(job, round0, token0, qni_min(tile_tokens, n_tokens - token0),
                                       row0 / RANGE_ROWS + t / n_chunks, largest);
            if (error > failed) failed = error;
        }
    }
#pragma omp for schedule(static)
    for (int64_t t = 0; t < n_tokens; t++)
        args->nll[round0 + t] = combine(job, t, qni_ceil_div(w->rows, RANGE_ROWS));
    return failed;
}

static qn_status prepare(nll_job *job, qn_ops *ops, int n_threads, qn_error *err) {
    const qni_nll_args *args = job->args;
    const qni_matrix *w = args->w;
    const qni_precision precision = qni_precision_of(ops->kernels, args->bf16, args->m, w->rows, w->cols);
    const int64_t rows = qni_precision_parts(precision) > 0 ? PACKED_ROWS : TILE_ROWS;
    const qni_packing x = {
        .values = args->x, .ld = w->cols, .rows = qni_min(ROUND_TOKENS, args->m), .depth = w->cols};
    job->gemm = (qni_tile_gemm){.kernels = ops->kernels,
                                .parts = qni_precision_parts(precision),
                                .trans_b = true,
                                .m = args->m,
                                .n = w->rows,
                                .k = w->cols,
                                .tile_m = TILE_LOGITS / rows,
                                .tile_n = rows,
                                .lda = w->cols,
                                .ldb = w->cols,
                                .ldc = rows};
    qni_operand_plan(&job->x, ops->kernels, precision, &x, &job->work);
    job->partials_at =
        qni_work_reserve(&job->work, qni_ceil_div(w->rows, RANGE_ROWS) * ROUND_TOKENS, sizeof(partial));
    job->target_logits_at = qni_work_reserve(&job->work, ROUND_TOKENS, sizeof(float));
    qni_panel_plan(&job->panel, ops->kernels, w, precision, RANGE_ROWS, &job->work);
    job->logit_bytes = qni_aligned_bytes(TILE_LOGITS, sizeof(float));
    const size_t run_bytes = job->logit_bytes + qni_tile_scratch_bytes(&job->gemm),
                 load_bytes = qni_panel_slice_bytes(&job->panel);
    qni_work_reserve_slices(&job->work, n_threads, load_bytes > run_bytes ? load_bytes : run_bytes);
    QN_TRY(qni_work_take(ops, &job->work, err));
    job->partials = (partial *)(void *)(job->work.base + job->partials_at);
    job->target_logits = (float *)(void *)(job->work.base + job->target_logits_at);
    return QN_OK;
}

qn_status qni_cpu_nll(qn_ops *ops, const qni_nll_args *args, int n_threads, float *largest, qn_error *err) {
    nll_job job = {.kernels = ops->kernels, .args = args};
    uint32_t bits = 0;
    int failed = 0;
    QN_TRY(prepare(&job, ops, n_threads, err));
#pragma omp parallel num_threads(qni_useful_threads(n_threads, args->m * args->w->rows * args->w->cols))     \
    reduction(max                                                                                            \
              : failed, bits)
    {
        qni_one_thread_each();
        for (int64_t round0 = 0; round0 < args->m; round0 += ROUND_TOKENS) {
            const int error = run_round(&job, round0, &bits);
            if (error > failed) failed = error;
        }
    }
    if (failed) return qni_fail_dnnl(err, failed, "the head");
    *largest = qni_float_of_bits(bits);
    return QN_OK;
}
