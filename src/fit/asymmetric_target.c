/* W + blend W (C - H)(H + r I)^-1, 64 rows at a time: with H + r I = U D U^T, X U D U^T = W (C - H) is solved for Y = X U D from the
 * last input to the first, then for X from the first to the last. */
#include "base/alloc.h"
#include "base/clones.h"
#include "base/smaller.h"
#include "fit/metric.h"
#include "quern/fit/hessian_fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

typedef struct target {
    const float *w;
    int64_t rows, cols;
    qni_metric metric;
    qni_factor factor;
    qni_strips difference;   /* unit * (C - H) */
    qni_strips upper, lower; /* U and its transpose, without the diagonal */
    float blend;
    float *out;
} target;

/* Arrays of one thread. */
typedef struct target_tile {
    float *w, *x; /* [C][64] */
    float *block; /* [48][64] */
} target_tile;

static bool tile_init(target_tile *tile, int64_t cols) {
    *tile = (target_tile){.w = qni_alloc_aligned(cols * QNI_LANES, sizeof *tile->w),
                          .x = qni_alloc_aligned(cols * QNI_LANES, sizeof *tile->x),
                          .block = qni_alloc_aligned(QNI_BLOCK * QNI_LANES, sizeof *tile->block)};
    return tile->w && tile->x && tile->block;
}

static void tile_release(target_tile *tile) {
    free(tile->w);
    free(tile->x);
    free(tile->block);
}

/* Rows [row, row + n) of W, the rest zero. */
static void load_rows(const target *t, int64_t row, int64_t n, float *w) {
    memset(w, 0, (size_t)(t->cols * QNI_LANES) * sizeof *w);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < t->cols; c++) w[c * QNI_LANES + r] = t->w[(row + r) * t->cols + c];
    }
}

/* block = rows [k0, k1) of x times the strips of the block at FIRST. */
static void multiply_block(const qni_strips *m, int64_t first, int64_t k0, int64_t k1, const float *x,
                           float *block) {
    const int64_t strip = first / QNI_STRIP, n = qni_min(QNI_BLOCK_STRIPS, m->n_strips - strip);
    memset(block, 0, QNI_BLOCK * QNI_LANES * sizeof *block);
    qni_panel_add(m, strip, n, k0, k1, x + k0 * QNI_LANES, block);
}

QNI_CLONES
static void subtract_scaled_lanes(float *x, const float *sum, float factor) {
    for (int t = 0; t < QNI_LANES; t++) x[t] -= factor * sum[t];
}

/* x = W (C - H). */
static void multiply_rows(const target *t, const target_tile *tile) {
    for (int64_t first = 0; first < t->cols; first += QNI_BLOCK) {
        multiply_block(&t->difference, first, 0, t->cols, tile->w, tile->block);
        memcpy(tile->x + first * QNI_LANES, tile->block,
               (size_t)(qni_min(QNI_BLOCK, t->cols - first) * QNI_LANES) * sizeof *tile->x);
    }
}

/* x_j -= sum of the x_k behind j times U_jk. */
static void solve_backwards(const target *t, const target_tile *tile) {
    const int64_t n_blocks = (t->cols + QNI_BLOCK - 1) / QNI_BLOCK;
    for (int64_t b = n_blocks - 1; b >= 0; b--) {
        const int64_t first = b * QNI_BLOCK, last = qni_min(t->cols, first + QNI_BLOCK);
        multiply_block(&t->lower, first, last, t->cols, tile->x, tile->block);
        for (int64_t j = last - 1; j >= first; j--) {
            float *x = tile->x + j * QNI_LANES;
            subtract_scaled_lanes(x, tile->block + (j - first) * QNI_LANES, 1);
            for (int64_t k = j + 1; k < last; k++)
                subtract_scaled_lanes(x, tile->x + k * QNI_LANES, *qni_strips_at(&t->lower, k, j));
        }
    }
}

QNI_CLONES
static void scale_lanes(float *x, float factor) {
    for (int t = 0; t < QNI_LANES; t++) x[t] *= factor;
}

/* x_j = x_j / D_j - sum of the x_k before j times U_kj. */
static void solve_forwards(const target *t, const target_tile *tile) {
    for (int64_t first = 0; first < t->cols; first += QNI_BLOCK) {
        const int64_t last = qni_min(t->cols, first + QNI_BLOCK);
        multiply_block(&t->upper, first, 0, first, tile->x, tile->block);
        for (int64_t j = first; j < last; j++) {
            float *x = tile->x + j * QNI_LANES;
            scale_lanes(x, (float)(1 / t->factor.pivot[j]));
            subtract_scaled_lanes(x, tile->block + (j - first) * QNI_LANES, 1);
            for (int64_t k = first; k < j; k++)
                subtract_scaled_lanes(x, tile->x + k * QNI_LANES, *qni_strips_at(&t->upper, k, j));
        }
    }
}

static void move_tile(const target *t, const target_tile *tile, int64_t row) {
    const int64_t n = qni_min(QNI_LANES, t->rows - row);
    load_rows(t, row, n, tile->w);
    multiply_rows(t, tile);
    solve_backwards(t, tile);
    solve_forwards(t, tile);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t c = 0; c < t->cols; c++) {
            const int64_t at = c * QNI_LANES + r;
            t->out[(row + r) * t->cols + c] = tile->w[at] + t->blend * tile->x[at];
        }
    }
}

/* Nothing is written unless every thread has its memory. */
static qn_status move_rows(const target *t, int n_threads, qn_error *err) {
    bool out_of_memory = false;
#pragma omp parallel num_threads(n_threads)
    {
        target_tile tile;
        if (!tile_init(&tile, t->cols)) {
#pragma omp atomic write
            out_of_memory = true;
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int64_t row = 0; row < t->rows; row += QNI_LANES) {
            if (!out_of_memory) move_tile(t, &tile, row);
        }
        tile_release(&tile);
    }
    return out_of_memory ? qni_fail_nomem(err, "an asymmetric target") : QN_OK;
}

static int64_t depth_whole(const void *user, int64_t col) {
    (void)col;
    return *(const int64_t *)user;
}

static qn_status prepare(target *t, const float *hessian, const float *cross, double ridge,
                         const qn_context *ctx, qn_error *err) {
    const int n_threads = qn_context_threads(ctx);
    QN_TRY(qni_metric_init(&t->metric, hessian, t->cols, false, n_threads, err));
    QN_TRY(qni_factor_init(&t->factor, &t->metric, ridge, ctx, err));
    QN_TRY(qni_factor_upper_strips(&t->factor, n_threads, &t->upper, err));
    QN_TRY(qni_factor_lower_strips(&t->factor, n_threads, &t->lower, err));
    qni_factor_keep_pivots(&t->factor);
    QN_TRY(qni_strips_alloc(&t->difference, t->cols, depth_whole, &t->cols, err));
    qni_strips_fill(&t->difference, cross, hessian, NULL, t->metric.unit, n_threads);
    return qn_check_cancelled(ctx, err);
}

static qn_status check_finite(const float *values, int64_t rows, int64_t cols, const char *what,
                              qn_error *err) {
    const qn_view view = {values, QN_DTYPE_F32, 1, {rows * cols}};
    const int64_t bad = qn_view_find_nonfinite(&view, 0, rows * cols);
    if (bad < 0) return QN_OK;
    return qn_fail(err, QN_E_VALUE, "%s [%lld, %lld] is %g; expected finite values", what,
                   (long long)(bad / cols), (long long)(bad % cols), (double)values[bad]);
}

qn_status qn_asymmetric_target(const float *w, const float *hessian, const float *cross, int64_t rows,
                               int64_t cols, double blend, double ridge, const qn_context *ctx, float *out,
                               qn_error *err) {
    target t = {.w = w, .rows = rows, .cols = cols, .blend = (float)blend, .out = out};
    int64_t weights;
    if (rows <= 0 || cols <= 0 || !qni_multiply_i64(rows, cols, &weights))
        return qn_fail(err, QN_E_ARGUMENT, "a target of %lld x %lld", (long long)rows, (long long)cols);
    if (!isfinite(blend) || !(ridge >= 0 && isfinite(ridge)))
        return qn_fail(err, QN_E_ARGUMENT, "blend %g, ridge %g; expected finite ones, the ridge not negative",
                       blend, ridge);
    QN_TRY(check_finite(w, rows, cols, "weight", err));
    QN_TRY(check_finite(cross, cols, cols, "C", err));
    qn_status status = prepare(&t, hessian, cross, ridge, ctx, err);
    if (status == QN_OK) status = move_rows(&t, qn_context_threads(ctx), err);
    qni_strips_release(&t.difference);
    qni_strips_release(&t.upper);
    qni_strips_release(&t.lower);
    qni_factor_release(&t.factor);
    qni_metric_release(&t.metric);
    return status;
}
