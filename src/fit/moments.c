#include "quern/fit/moments.h"

#include "base/alloc.h"
#include "base/clones.h"
#include "base/smaller.h"
#include "tensor/ops.h"

#include <stdlib.h>

#include "base/banned.h"

/* The sums of a matrix are kept as panels of PANEL_ROWS rows one behind the other. A panel of the symmetric kind begins at the
 * column its first row has, so that it holds the diagonal and all to the right of it. */
enum {
    PANEL_ROWS = 256,
    DIAGONAL_LANES = 64 /* columns that one task of the diagonal kind sums */
};

typedef struct panel {
    int64_t row0, n_rows, col0, n_cols;
    int64_t first; /* of its sums */
} panel;

/* The panel whose first row is ROW0, a multiple of PANEL_ROWS. */
static panel panel_at(qn_moment_kind kind, int64_t cols, int64_t row0) {
    panel p = {
        .row0 = row0, .n_rows = qni_min(PANEL_ROWS, cols - row0), .n_cols = cols, .first = row0 * cols};
    if (kind == QN_MOMENT_SYMMETRIC) {
        const int64_t before = row0 / PANEL_ROWS;
        p.col0 = row0;
        p.n_cols = cols - row0;
        p.first -= PANEL_ROWS * PANEL_ROWS * (before * (before - 1) / 2);
    }
    return p;
}

/* Number of sums; false when it cannot be counted. */
static bool count_sums(qn_moment_kind kind, int64_t cols, int64_t *out) {
    if (!qni_multiply_i64(cols, kind == QN_MOMENT_DIAGONAL ? 1 : cols, out)) return false;
    if (kind == QN_MOMENT_SYMMETRIC && cols > 0) {
        const panel last = panel_at(kind, cols, (cols - 1) / PANEL_ROWS * PANEL_ROWS);
        *out = last.first + last.n_rows * last.n_cols;
    }
    return true;
}

qn_status qn_moment_init(qn_moment *out, qn_moment_kind kind, int64_t cols, qn_error *err) {
    qn_moment moment = {.kind = kind, .cols = cols};
    if (cols < 1) return qn_fail(err, QN_E_ARGUMENT, "a moment of %lld columns", (long long)cols);
    if (count_sums(kind, cols, &moment.n_sums))
        moment.sums = qni_alloc_array(moment.n_sums, sizeof *moment.sums);
    if (!moment.sums)
        return qn_fail(err, QN_E_NOMEM, "out of memory: second moments of %lld columns", (long long)cols);
    *out = moment;
    return QN_OK;
}

void qn_moment_release(qn_moment *moment) {
    free(moment->sums);
    *moment = (qn_moment){0};
}

QNI_CLONES static void add_chunk_sums(const float *products, int64_t n, double *sums) {
    for (int64_t i = 0; i < n; i++) sums[i] += (double)products[i];
}

/* One panel of up to QN_MOMENT_CHUNK tokens; products [PANEL_ROWS, C] is room. */
static qn_status add_panel(qn_moment *moment, const panel *p, const float *a, const float *b, int64_t n,
                           qn_ops *ops, int n_threads, float *products, qn_error *err) {
    const qni_gemm_args args = {.trans_a = true,
                                .m = p->n_rows,
                                .n = p->n_cols,
                                .k = n,
                                .a = a + p->row0,
                                .lda = moment->cols,
                                .b = b + p->col0,
                                .ldb = moment->cols,
                                .c = products,
                                .ldc = p->n_cols};
    QN_TRY(ops->gemm(ops, &args, n_threads, err));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t r = 0; r < p->n_rows; r++)
        add_chunk_sums(products + r * p->n_cols, p->n_cols, moment->sums + p->first + r * p->n_cols);
    return QN_OK;
}

static qn_status add_matrix(qn_moment *moment, const float *a, const float *b, int64_t n,
                            const qn_context *ctx, qn_error *err) {
    const int64_t cols = moment->cols;
    qn_ops *ops = NULL;
    float *products = NULL;
    qn_status status = qni_ops_open(&ops, err);
    if (status == QN_OK)
        status = QNI_ALLOC(products, qni_min(PANEL_ROWS, cols) * cols, "products of second moments", err);
    for (int64_t t = 0; t < n && status == QN_OK; t += QN_MOMENT_CHUNK) {
        status = qn_check_cancelled(ctx, err);
        for (int64_t row0 = 0; row0 < cols && status == QN_OK; row0 += PANEL_ROWS) {
            const panel p = panel_at(moment->kind, cols, row0);
            status = add_panel(moment, &p, a + t * cols, b + t * cols, qni_min(QN_MOMENT_CHUNK, n - t), ops,
                               qn_context_threads(ctx), products, err);
        }
    }
    free(products);
    qni_ops_close(ops);
    return status;
}

/* Columns [c0, + count) of n rows of x; their squares summed in double, as those of the chunks are too. */
QNI_CLONES static void add_column_squares(const float *x, int64_t n, int64_t cols, int64_t count,
                                          double *sums) {
    for (int64_t t = 0; t < n; t++)
        for (int64_t c = 0; c < count; c++) sums[c] += (double)x[t * cols + c] * (double)x[t * cols + c];
}

static void add_diagonal(qn_moment *moment, const float *x, int64_t n, const qn_context *ctx) {
    const int64_t cols = moment->cols;
#pragma omp parallel for schedule(static) num_threads(qn_context_threads(ctx))
    for (int64_t c = 0; c < cols; c += DIAGONAL_LANES)
        add_column_squares(x + c, n, cols, qni_min(DIAGONAL_LANES, cols - c), moment->sums + c);
}

qn_status qn_moment_add(qn_moment *moment, const float *a, const float *b, int64_t n, const qn_context *ctx,
                        qn_error *err) {
    if (moment->kind != QN_MOMENT_CROSS && a != b)
        return qn_fail(err, QN_E_ARGUMENT, "a moment of one vector is given two; initialise a cross moment");
    if (moment->kind == QN_MOMENT_DIAGONAL) {
        add_diagonal(moment, a, n, ctx);
    } else {
        QN_TRY(add_matrix(moment, a, b, n, ctx, err));
    }
    moment->n_tokens += n;
    return QN_OK;
}

qn_status qn_moment_merge(qn_moment *moment, const qn_moment *from, qn_error *err) {
    if (moment->kind != from->kind || moment->cols != from->cols) {
        return qn_fail(err, QN_E_ARGUMENT,
                       "moments of %lld and %lld columns, or of two kinds, cannot be merged",
                       (long long)moment->cols, (long long)from->cols);
    }
    for (int64_t i = 0; i < moment->n_sums; i++) moment->sums[i] += from->sums[i];
    moment->n_tokens += from->n_tokens;
    return QN_OK;
}

/* Writes a panel, and for the symmetric kind what lies below the diagonal under it, a row of the result at a time. */
static void write_panel(const qn_moment *moment, const panel *p, double factor, float *out) {
    const int64_t cols = moment->cols;
    for (int64_t r = 0; r < p->n_rows; r++) {
        const double *sums = moment->sums + p->first + r * p->n_cols;
        float *row = out + (p->row0 + r) * cols + p->col0;
        for (int64_t c = 0; c < p->n_cols; c++) row[c] = (float)(sums[c] * factor);
    }
    if (moment->kind != QN_MOMENT_SYMMETRIC) return;
    for (int64_t j = p->row0 + 1; j < cols; j++)
        for (int64_t i = p->row0; i < qni_min(j, p->row0 + p->n_rows); i++)
            out[j * cols + i] = out[i * cols + j];
}

void qn_moment_mean(const qn_moment *moment, float *out) {
    const double factor = moment->n_tokens > 0 ? 1.0 / (double)moment->n_tokens : 0.0;
    if (moment->kind == QN_MOMENT_DIAGONAL) {
        for (int64_t c = 0; c < moment->cols; c++) out[c] = (float)(moment->sums[c] * factor);
        return;
    }
    for (int64_t row0 = 0; row0 < moment->cols; row0 += PANEL_ROWS) {
        const panel p = panel_at(moment->kind, moment->cols, row0);
        write_panel(moment, &p, factor, out);
    }
}

void qn_moments_shrink(float *hessian, float *cross, int64_t cols, int64_t n_tokens, double shrinkage) {
    const double weight = n_tokens > 0 ? shrinkage * (double)cols / (double)n_tokens : 0.0;
    for (int64_t j = 0; j < cols; j++) {
        const int64_t at = j * cols + j;
        const double more = weight * (double)hessian[at];
        hessian[at] = (float)((double)hessian[at] + more);
        if (cross) cross[at] = (float)((double)cross[at] + more);
    }
}
