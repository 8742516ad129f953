/* The backward of causal attention. With p the probabilities, computed again for a tile of queries:
 *
 *   dv += p^T do      dp = do v^T      ds = p (dp - sum p dp) / sqrt D      dq = ds k      dk += ds^T q
 *
 * A task owns one key head of one span and goes through its queries in order, so that dk and dv are sums in a
 * fixed order; the query heads that share the key head are stacked, as in the forward. */
#include "tensor/ops_cpu.h"

#include "tensor/serial_gemm.h"
#include "tensor/tile_gemm.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

enum {
    STACKED_ROWS = 128,   /* query rows of a tile, all heads of the group together */
    TILE_SCORES = 1 << 18 /* fewer rows where keys are many: scores of a tile, 1 MiB */
};

typedef struct attention_job {
    const qni_kernels *kernels;
    const qni_attention_backward_args *args;
    int64_t group, tile_queries;
    float scale;
    /* Of a slice's parts: q, do [rows, D]; p, dp [rows, keys]; sums [rows]. */
    size_t rows_bytes, score_bytes, sum_bytes;
} attention_job;

/* Rows of one tile against the keys [key0, + n_keys) of its span. */
typedef struct query_tile {
    int64_t row0, n_queries; /* rows of q */
    int64_t position0;       /* of its first query, in the span */
    int64_t kv_head, key_row, key0, n_keys;
    float *q, *dout, *p, *dp, *sums;
    void *scratch; /* of products */
} query_tile;

static int64_t head_offset(const attention_job *job, const query_tile *tile, int64_t r) {
    const qni_attention_args *f = &job->args->forward;
    const int64_t row = tile->row0 + r % tile->n_queries;
    return (row * f->n_heads + tile->kv_head * job->group + r / tile->n_queries) * f->head_dim;
}

/* Scores of the tile's rows, or their gradients: C [rows, keys] = rows [rows, D] x keys^T. */
static int multiply_keys(const attention_job *job, const query_tile *tile, int64_t n_rows, const float *rows,
                         const float *keys, float *c) {
    const qni_attention_args *f = &job->args->forward;
    const qni_gemm_args args = {.bf16 = f->bf16,
                                .trans_b = true,
                                .m = n_rows,
                                .n = tile->n_keys,
                                .k = f->head_dim,
                                .a = rows,
                                .lda = f->head_dim,
                                .b = keys,
                                .ldb = f->n_kv_heads * f->head_dim,
                                .c = c,
                                .ldc = tile->n_keys};
    return qni_serial_gemm(job->kernels, &args, tile->scratch);
}

/* What keys or values get from the tile's rows: C [keys, D] += p^T rows. */
static int add_to_keys(const attention_job *job, const query_tile *tile, int64_t n_rows, const float *p,
                       const float *rows, float *c) {
    const qni_attention_args *f = &job->args->forward;
    const qni_gemm_args args = {.bf16 = f->bf16,
                                .trans_a = true,
                                .accumulate = true,
                                .m = tile->n_keys,
                                .n = f->head_dim,
                                .k = n_rows,
                                .a = p,
                                .lda = tile->n_keys,
                                .b = rows,
                                .ldb = f->head_dim,
                                .c = c,
                                .ldc = f->n_kv_heads * f->head_dim};
    return qni_serial_gemm(job->kernels, &args, tile->scratch);
}

/* What the tile's rows get from the keys: q [rows, D] = dp k. */
static int gather_keys(const attention_job *job, const query_tile *tile, int64_t n_rows, const float *k) {
    const qni_attention_args *f = &job->args->forward;
    const qni_gemm_args args = {.bf16 = f->bf16,
                                .m = n_rows,
                                .n = f->head_dim,
                                .k = tile->n_keys,
                                .a = tile->dp,
                                .lda = tile->n_keys,
                                .b = k,
                                .ldb = f->n_kv_heads * f->head_dim,
                                .c = tile->q,
                                .ldc = f->head_dim};
    return qni_serial_gemm(job->kernels, &args, tile->scratch);
}

/* p = exponentials and their sums, as the forward made them. */
static int make_exponentials(const attention_job *job, const query_tile *tile, const float *k, int64_t rows) {
    const qni_attention_args *f = &job->args->forward;
    const int64_t n = tile->n_keys;
    const int error = multiply_keys(job, tile, rows, tile->q, k, tile->p);
    for (int64_t r = 0; r < rows && !error; r++) {
        const int64_t high = tile->position0 + r % tile->n_queries - tile->key0 + 1;
        const int64_t low = f->window && high > f->window ? high - f->window : 0;
        float *p = tile->p + r * n;
        memset(p, 0, (size_t)low * sizeof *p);
        memset(p + high, 0, (size_t)(n - high) * sizeof *p);
        tile->sums[r] = job->kernels->softmax(p + low, high - low, job->scale);
    }
    return error;
}

static int run_tile(const attention_job *job, const query_tile *tile) {
    const qni_attention_backward_args *a = job->args;
    const qni_attention_args *f = &a->forward;
    const int64_t d = f->head_dim, n = tile->n_keys, rows = job->group * tile->n_queries,
                  ld = f->n_kv_heads * d;
    const int64_t at = (tile->key_row + tile->key0) * ld + tile->kv_head * d;
    for (int64_t r = 0; r < rows; r++) {
        memcpy(tile->q + r * d, f->q + head_offset(job, tile, r), (size_t)d * sizeof(float));
        memcpy(tile->dout + r * d, a->dout + head_offset(job, tile, r), (size_t)d * sizeof(float));
    }
    int error = make_exponentials(job, tile, f->k + at, rows);
    if (!error) error = multiply_keys(job, tile, rows, tile->dout, f->v + at, tile->dp);
    if (error) return error;
    for (int64_t r = 0; r < rows; r++)
        job->kernels->softmax_backward(tile->p + r * n, tile->dp + r * n, n, 1.0f / tile->sums[r],
                                       job->scale);
    error = add_to_keys(job, tile, rows, tile->p, tile->dout, a->dv + at);
    if (!error) error = add_to_keys(job, tile, rows, tile->dp, tile->q, a->dk + at);
    if (!error) error = gather_keys(job, tile, rows, f->k + at);
    for (int64_t r = 0; r < rows; r++)
        memcpy(a->dq + head_offset(job, tile, r), tile->q + r * d, (size_t)d * sizeof(float));
    return error;
}

static void clear_keys(const attention_job *job, const qni_span *span, int64_t kv_head) {
    const qni_attention_args *f = &job->args->forward;
    for (int64_t r = span->first_key; r < span->first_key + span->n_keys; r++) {
        const int64_t at = (r * f->n_kv_heads + kv_head) * f->head_dim;
        memset(job->args->dk + at, 0, (size_t)f->head_dim * sizeof(float));
        memset(job->args->dv + at, 0, (size_t)f->head_dim * sizeof(float));
    }
}

static int run_task(const attention_job *job, const qni_span *span, int64_t kv_head, char *slice) {
    const int64_t window = job->args->forward.window;
    query_tile tile = {.kv_head = kv_head, .key_row = span->first_key};
    float **const parts[] = {&tile.q, &tile.dout, &tile.p, &tile.dp, &tile.sums};
    for (int i = 0; i < 5; i++) {
        *parts[i] = (float *)(void *)slice;
        slice += i < 2 ? job->rows_bytes : i < 4 ? job->score_bytes : job->sum_bytes;
    }
    tile.scratch = slice;
    int error = 0;
    clear_keys(job, span, kv_head);
    for (int64_t first = 0; first < span->n_queries && !error; first += job->tile_queries) {
        tile.row0 = span->first_query + first;
        tile.n_queries = qni_min(job->tile_queries, span->n_queries - first);
        tile.position0 = first;
        tile.key0 = window && first + 1 > window ? first + 1 - window : 0;
        tile.n_keys = first + tile.n_queries - tile.key0;
        error = run_tile(job, &tile);
    }
    return error;
}

qn_status qni_cpu_attention_backward(qn_ops *ops, const qni_attention_backward_args *args, int n_threads,
                                     qn_error *err) {
    const qni_attention_args *f = &args->forward;
    const int64_t group = f->n_heads / f->n_kv_heads;
    attention_job job = {.kernels = ops->kernels, .args = args, .group = group};
    qni_work work = {0};
    int64_t max_keys = 1;
    int failed = 0;
    for (int64_t s = 0; s < f->n_spans; s++)
        if (f->spans[s].n_keys > max_keys) max_keys = f->spans[s].n_keys;
    const int64_t rows = qni_min(STACKED_ROWS, TILE_SCORES / max_keys);
    job.tile_queries = rows > group ? rows / group : 1;
    job.scale = (float)(1.0 / sqrt((double)f->head_dim));
    job.rows_bytes = qni_aligned_bytes(group * job.tile_queries * f->head_dim, sizeof(float));
    job.score_bytes = qni_aligned_bytes(group * job.tile_queries * max_keys, sizeof(float));
    job.sum_bytes = qni_aligned_bytes(group * job.tile_queries, sizeof(float));
    const int64_t tile_rows = group * job.tile_queries, longest = max_keys > tile_rows ? max_keys : tile_rows;
    const size_t product_bytes = qni_serial_gemm_bytes(ops->kernels, longest, f->head_dim);
    qni_work_reserve_slices(&work, n_threads,
                            2 * (job.rows_bytes + job.score_bytes) + job.sum_bytes + product_bytes);
    QN_TRY(qni_work_take(ops, &work, err));
#pragma omp parallel num_threads(n_threads) reduction(max : failed)
    {
        qni_one_thread_each();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < f->n_spans * f->n_kv_heads; t++) {
            const int error =
                run_task(&job, &f->spans[t / f->n_kv_heads], t % f->n_kv_heads, qni_work_slice(&work));
            if (error > failed) failed = error;
        }
    }
    return failed ? qni_fail_dnnl(err, failed, "the gradients of attention") : QN_OK;
}
