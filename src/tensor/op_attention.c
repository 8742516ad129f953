/* Causal attention in tiles of queries: a task holds the scores of a few queries against all the keys they
 * see, never T x T scores. The query heads that share a key head are stacked, so that one product serves them
 * all. */
#include "tensor/ops_cpu.h"

#include "tensor/serial_gemm.h"
#include "tensor/tile_gemm.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

enum { STACKED_ROWS = 128 }; /* query rows of a task, all heads of the group together */

typedef struct query_tile {
    int64_t span, first, n; /* queries [first, + n) of the span */
} query_tile;

typedef struct attention_job {
    const qni_kernels *kernels;
    const qni_attention_args *args;
    query_tile *tiles; /* in the work space */
    int64_t n_tiles, group, tile_queries, max_keys, n_operations;
    size_t q_bytes, score_bytes, sum_bytes;
} attention_job;

/* Counts the tiles and what they cost at most, and finds the longest run of keys. */
static void count_tiles(attention_job *job) {
    const qni_attention_args *args = job->args;
    for (int64_t s = 0; s < args->n_spans; s++) {
        job->n_tiles += qni_ceil_div(args->spans[s].n_queries, job->tile_queries);
        job->n_operations +=
            2 * args->spans[s].n_queries * args->spans[s].n_keys * args->n_heads * args->head_dim;
        if (args->spans[s].n_keys > job->max_keys) job->max_keys = args->spans[s].n_keys;
    }
}

static void list_tiles(const attention_job *job) {
    const qni_attention_args *args = job->args;
    query_tile *tile = job->tiles;
    for (int64_t s = 0; s < args->n_spans; s++) {
        const int64_t n_queries = args->spans[s].n_queries;
        for (int64_t first = 0; first < n_queries; first += job->tile_queries)
            *tile++ =
                (query_tile){.span = s, .first = first, .n = qni_min(job->tile_queries, n_queries - first)};
    }
}

/* Queries and results of one tile: stacked [group][n][D] beside rows of [M, n_heads * D]. */
static const float *tile_row(const attention_job *job, const float *rows, const query_tile *tile,
                             int64_t kv_head, int64_t g, int64_t i) {
    const qni_attention_args *args = job->args;
    const int64_t query = args->spans[tile->span].first_query + tile->first + i;
    return rows + (query * args->n_heads + kv_head * job->group + g) * args->head_dim;
}

/* Softmax of one score row over the keys [low, high) it sees; the others become 0. Returns the sum of
 * exponentials. */
static float softmax_row(const attention_job *job, float *row, int64_t low, int64_t high, int64_t n_keys) {
    memset(row, 0, (size_t)low * sizeof *row);
    memset(row + high, 0, (size_t)(n_keys - high) * sizeof *row);
    return job->kernels->softmax(row + low, high - low, (float)(1.0 / sqrt((double)job->args->head_dim)));
}

static int run_tile(const attention_job *job, const query_tile *tile, int64_t kv_head, char *scratch) {
    const qni_attention_args *args = job->args;
    const qni_span *span = &args->spans[tile->span];
    const int64_t d = args->head_dim, ld = args->n_kv_heads * d, rows = job->group * tile->n;
    const int64_t position0 = span->n_keys - span->n_queries + tile->first; /* of the tile's first query */
    const int64_t key0 = args->window && position0 + 1 > args->window ? position0 + 1 - args->window : 0;
    const int64_t n_keys = position0 + tile->n - key0;
    const float *k = args->k + (span->first_key + key0) * ld + kv_head * d;
    const float *v = args->v + (span->first_key + key0) * ld + kv_head * d;
    float *stacked = (float *)(void *)scratch;
    float *scores = (float *)(void *)(scratch + job->q_bytes);
    float *sums = (float *)(void *)(scratch + job->q_bytes + job->score_bytes);
    void *product_scratch = scratch + job->q_bytes + job->score_bytes + job->sum_bytes;
    const qni_gemm_args make_scores = {.bf16 = args->bf16,
                                       .trans_b = true,
                                       .m = rows,
                                       .n = n_keys,
                                       .k = d,
                                       .a = stacked,
                                       .lda = d,
                                       .b = k,
                                       .ldb = ld,
                                       .c = scores,
                                       .ldc = n_keys};
    const qni_gemm_args mix_values = {.bf16 = args->bf16,
                                      .m = rows,
                                      .n = d,
                                      .k = n_keys,
                                      .a = scores,
                                      .lda = n_keys,
                                      .b = v,
                                      .ldb = ld,
                                      .c = stacked,
                                      .ldc = d};
    for (int64_t r = 0; r < rows; r++)
        memcpy(stacked + r * d, tile_row(job, args->q, tile, kv_head, r / tile->n, r % tile->n),
               (size_t)d * sizeof *k);
    int error = qni_serial_gemm(job->kernels, &make_scores, product_scratch);
    if (error) return error;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t high = position0 + r % tile->n - key0 + 1;
        const int64_t low = args->window && high > args->window ? high - args->window : 0;
        sums[r] = softmax_row(job, scores + r * n_keys, low, high, n_keys);
    }
    error = qni_serial_gemm(job->kernels, &mix_values, product_scratch);
    for (int64_t r = 0; r < rows; r++) {
        const float *q = tile_row(job, args->q, tile, kv_head, r / tile->n, r % tile->n);
        job->kernels->scale(stacked + r * d, 1.0f / sums[r], d, args->out + (q - args->q));
    }
    return error;
}

qn_status qni_cpu_attention(qn_ops *ops, const qni_attention_args *args, int n_threads, qn_error *err) {
    const int64_t group = args->n_heads / args->n_kv_heads;
    const int64_t tile_queries = group < STACKED_ROWS ? STACKED_ROWS / group : 1;
    attention_job job = {.kernels = ops->kernels, .args = args, .group = group, .tile_queries = tile_queries};
    qni_work work = {0};
    int failed = 0;
    count_tiles(&job);
    job.q_bytes = qni_aligned_bytes(group * tile_queries * args->head_dim, sizeof(float));
    job.score_bytes = qni_aligned_bytes(group * tile_queries * job.max_keys, sizeof(float));
    job.sum_bytes = qni_aligned_bytes(group * tile_queries, sizeof(float));
    const size_t product_bytes = qni_serial_gemm_bytes(ops->kernels, job.max_keys, args->head_dim);
    const size_t tiles = qni_work_reserve(&work, job.n_tiles, sizeof *job.tiles);
    qni_work_reserve_slices(&work, n_threads, job.q_bytes + job.score_bytes + job.sum_bytes + product_bytes);
    QN_TRY(qni_work_take(ops, &work, err));
    job.tiles = (query_tile *)(void *)(work.base + tiles);
    list_tiles(&job);
#pragma omp parallel num_threads(qni_useful_threads(n_threads, job.n_operations)) reduction(max : failed)
    {
        qni_one_thread_each();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < job.n_tiles * args->n_kv_heads; t++) {
            const int error =
                run_tile(&job, &job.tiles[t / args->n_kv_heads], t % args->n_kv_heads, qni_work_slice(&work));
            if (error > failed) failed = error;
        }
    }
    return failed ? qni_fail_dnnl(err, failed, "attention") : QN_OK;
}
