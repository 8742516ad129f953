/* H = U D U^T from the Cholesky factor of H with its order reversed: H^r = L L^T gives U_kj = L^r_{n-1-k, n-1-j} / L^r_jj.
 *
 * L is stored in strips of six rows, strip s as [6 (s + 1)][6] (k, then the row), which is what the panel product reads. Blocks
 * of 60 columns, left-looking: a block of columns first receives all products with the columns before it, so that the
 * matrix is read, not written, n / 60 times. */
#include "fit/metric.h"

#include "base/alloc.h"
#include "base/clones.h"
#include "base/smaller.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { WIDTH = 60, WIDTH_STRIPS = WIDTH / QNI_STRIP };

/* Raising the damping this often has reached 1000 times the mean diagonal from 1e-4 of it. */
enum { MAX_ATTEMPTS = 8 };
static const double first_raise = 1e-4;

/* A pivot of unit * H, whose mean diagonal is about 1, that is smaller than this is rounding. */
static const double smallest_pivot = 1e-10;

static double *strip_of(const qni_factor *f, int64_t s) {
    return f->lower + QNI_STRIP * QNI_STRIP * s * (s + 1) / 2;
}

static double *element(const qni_factor *f, int64_t i, int64_t k) {
    return strip_of(f, i / QNI_STRIP) + k * QNI_STRIP + i % QNI_STRIP;
}

static void load_metric(qni_factor *f, const qni_metric *metric, double damping, int n_threads) {
    const int64_t n = f->n;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t i = 0; i < n; i++) {
        const float *row = metric->h + metric->order[n - 1 - i] * n;
        for (int64_t k = 0; k <= i; k++)
            *element(f, i, k) = (double)metric->unit * (double)row[metric->order[n - 1 - k]];
        *element(f, i, i) += damping;
    }
}

/* Columns [first, first + width) of the factor, being computed. */
typedef struct block {
    const qni_factor *f;
    int64_t first, width;
    double *x;                     /* [first][64] minus the finished rows of these columns, transposed */
    double diagonal[WIDTH][WIDTH]; /* the triangle at the top, once it is factored */
} block;

static void take_rows(block *b) {
    for (int64_t t = 0; t < QNI_LANES; t++) {
        const bool inside = t < b->width;
        const double *row = inside ? element(b->f, b->first + t, 0) : NULL;
        for (int64_t k = 0; k < b->first; k++) b->x[k * QNI_LANES + t] = inside ? -row[k * QNI_STRIP] : 0;
    }
}

/* The columns that strip S holds of the block: the diagonal strips end inside it. */
static int64_t width_of(const block *b, int64_t s) {
    return qni_min(b->width, (s + 1) * QNI_STRIP - b->first);
}

/* out[60][64] = strips [s, s + n_strips) of the block after all products with the columns before it. */
static void update(const block *b, int64_t s, int64_t n_strips, double *out) {
    const double *strips[WIDTH_STRIPS];
    memset(out, 0, sizeof(double) * WIDTH * QNI_LANES);
    for (int64_t i = 0; i < n_strips; i++) {
        strips[i] = strip_of(b->f, s + i);
        for (int64_t t = 0; t < width_of(b, s + i); t++) {
            for (int64_t r = 0; r < QNI_STRIP; r++)
                out[(i * QNI_STRIP + r) * QNI_LANES + t] = strips[i][(b->first + t) * QNI_STRIP + r];
        }
    }
    qni_panel_add_f64(strips, n_strips, 0, b->first, b->x, out);
}

/* Cholesky of the top triangle; false where a pivot is below THRESHOLD. */
static bool factor_diagonal(block *b, const double *out, double threshold) {
    for (int64_t i = 0; i < b->width; i++) {
        double *row = b->diagonal[i];
        for (int64_t j = 0; j <= i; j++) {
            const double *other = b->diagonal[j];
            double sum = out[i * QNI_LANES + j];
            for (int64_t k = 0; k < j; k++) sum -= row[k] * other[k];
            if (j < i) {
                row[j] = sum / other[j];
            } else {
                if (!(sum >= threshold)) return false;
                row[i] = sqrt(sum);
            }
            *element(b->f, b->first + i, b->first + j) = row[j];
        }
    }
    return true;
}

/* column[t][60]: X of X L^T = A, a column after the other, for 60 rows at once. */
QNI_CLONES
static void solve_strip_rows(const double (*diagonal)[WIDTH], int64_t width, double (*column)[WIDTH]) {
    for (int64_t t = 0; t < width; t++) {
        for (int64_t k = 0; k < t; k++) {
            const double factor = diagonal[t][k];
            for (int64_t r = 0; r < WIDTH; r++) column[t][r] -= factor * column[k][r];
        }
        const double pivot = diagonal[t][t];
        for (int64_t r = 0; r < WIDTH; r++) column[t][r] /= pivot;
    }
}

static void finish_rows(const block *b, int64_t s, int64_t n_strips) {
    double out[WIDTH * QNI_LANES], column[WIDTH][WIDTH];
    update(b, s, n_strips, out);
    for (int64_t r = 0; r < WIDTH; r++) {
        for (int64_t t = 0; t < b->width; t++) column[t][r] = out[r * QNI_LANES + t];
    }
    solve_strip_rows(b->diagonal, b->width, column);
    for (int64_t i = 0; i < n_strips; i++) {
        for (int64_t t = 0; t < b->width; t++) {
            memcpy(strip_of(b->f, s + i) + (b->first + t) * QNI_STRIP, &column[t][i * QNI_STRIP],
                   QNI_STRIP * sizeof(double));
        }
    }
}

static bool factor_block(block *b, double threshold, int n_threads) {
    const int64_t n_strips = (b->f->n + QNI_STRIP - 1) / QNI_STRIP, s0 = b->first / QNI_STRIP;
    const int64_t below = s0 + WIDTH_STRIPS;
    double out[WIDTH * QNI_LANES];
    take_rows(b);
    update(b, s0, qni_min(WIDTH_STRIPS, n_strips - s0), out);
    if (!factor_diagonal(b, out, threshold)) return false;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
    for (int64_t s = below; s < n_strips; s += WIDTH_STRIPS)
        finish_rows(b, s, qni_min(WIDTH_STRIPS, n_strips - s));
    return true;
}

static qn_status attempt(qni_factor *f, const qni_metric *metric, double damping, block *b,
                         const qn_context *ctx, bool *stable, qn_error *err) {
    const int n_threads = qn_context_threads(ctx);
    load_metric(f, metric, damping, n_threads);
    *stable = true;
    for (b->first = 0; b->first < f->n && *stable; b->first += WIDTH) {
        QN_TRY(qn_check_cancelled(ctx, err));
        b->width = qni_min(WIDTH, f->n - b->first);
        *stable = factor_block(b, fmax(damping / 2, smallest_pivot), n_threads);
    }
    return QN_OK;
}

/* Raises the damping until the factor is stable. */
static qn_status factor_damped(qni_factor *f, const qni_metric *metric, double damping, block *b,
                               const qn_context *ctx, qn_error *err) {
    const double mean = metric->mean_diagonal > 0 ? metric->mean_diagonal * (double)metric->unit : 1;
    bool stable = false;
    if (metric->mean_diagonal == 0) damping = 1; /* nothing but dead inputs */
    for (int i = 0; i < MAX_ATTEMPTS; i++) {
        QN_TRY(attempt(f, metric, damping * mean, b, ctx, &stable, err));
        if (stable) {
            f->damping = damping * mean / (double)metric->unit;
            return QN_OK;
        }
        damping = damping * 10 > first_raise ? damping * 10 : first_raise;
    }
    return qn_fail(
        err, QN_E_VALUE,
        "H cannot be factored even with %g added to its diagonal (mean %g): it is far from positive "
        "semi-definite; calibrate again",
        damping * mean / 10 / (double)metric->unit, metric->mean_diagonal);
}

qn_status qni_factor_init(qni_factor *factor, const qni_metric *metric, double damping, const qn_context *ctx,
                          qn_error *err) {
    const int64_t n = metric->n, n_strips = (n + QNI_STRIP - 1) / QNI_STRIP;
    qni_factor f = {.n = n};
    block *b = qni_alloc_array(1, sizeof *b);
    qn_status status = b ? QN_OK : qni_fail_nomem(err, "a factorisation");
    if (status == QN_OK)
        status = QNI_ALLOC(f.lower, QNI_STRIP * QNI_STRIP * n_strips * (n_strips + 1) / 2, "a factor", err);
    if (status == QN_OK) status = QNI_ALLOC(f.pivot, n, "a factor", err);
    if (status == QN_OK) status = QNI_ALLOC(b->x, n * QNI_LANES, "a factorisation", err);
    if (status == QN_OK) {
        memset(f.lower, 0, sizeof(double) * QNI_STRIP * QNI_STRIP * (size_t)(n_strips * (n_strips + 1) / 2));
        b->f = &f;
        status = factor_damped(&f, metric, damping, b, ctx, err);
    }
    if (status == QN_OK) {
        for (int64_t p = 0; p < n; p++) {
            const double root = *element(&f, n - 1 - p, n - 1 - p);
            f.pivot[p] = root * root;
        }
        *factor = f;
        f = (qni_factor){0};
    }
    qni_factor_release(&f);
    if (b) free(b->x);
    free(b);
    return status;
}

void qni_factor_keep_pivots(qni_factor *factor) {
    free(factor->lower);
    factor->lower = NULL;
}

void qni_factor_release(qni_factor *factor) {
    free(factor->lower);
    free(factor->pivot);
    *factor = (qni_factor){0};
}

double qni_factor_upper(const qni_factor *factor, int64_t k, int64_t j) {
    const int64_t last = factor->n - 1;
    return *element(factor, last - k, last - j) / *element(factor, last - j, last - j);
}

/* Column J of U needs the rows above it; strips end with their last column. */
static int64_t depth_above(const void *user, int64_t col) {
    (void)user;
    return col + 1;
}

static int64_t depth_whole(const void *user, int64_t col) {
    (void)col;
    return *(const int64_t *)user;
}

qn_status qni_factor_upper_strips(const qni_factor *factor, int n_threads, qni_strips *out, qn_error *err) {
    QN_TRY(qni_strips_alloc(out, factor->n, depth_above, NULL, err));
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t k = 0; k < factor->n; k++) {
        for (int64_t j = k + 1; j < factor->n; j++)
            *qni_strips_at(out, k, j) = (float)qni_factor_upper(factor, k, j);
    }
    return QN_OK;
}

qn_status qni_factor_lower_strips(const qni_factor *factor, int n_threads, qni_strips *out, qn_error *err) {
    QN_TRY(qni_strips_alloc(out, factor->n, depth_whole, &factor->n, err));
#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 16)
    for (int64_t k = 0; k < factor->n; k++) {
        for (int64_t j = 0; j < k; j++) *qni_strips_at(out, k, j) = (float)qni_factor_upper(factor, j, k);
    }
    return QN_OK;
}
