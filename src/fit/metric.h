/* The metric H = E[x x^T] of a fit: checked, scaled, in processing order, and factored. */
#ifndef QUERN_SRC_FIT_METRIC_H
#define QUERN_SRC_FIT_METRIC_H

#include "fit/panel.h"
#include "quern/base/context.h"

typedef struct qni_metric {
    int64_t n;
    const float *h;       /* [n, n], borrowed */
    float unit;           /* power of two; unit * H has a mean diagonal in [1, 2): no sum overflows */
    double mean_diagonal; /* of H */
    int64_t n_dead;       /* inputs with H_jj = 0 */
    int64_t *order;       /* [n] position -> input */
} qni_metric;

/* Refuses entries that are not finite (QN_E_VALUE with their place), a negative diagonal and an asymmetric matrix. The order is
 * that of decreasing H_jj, equal ones by index, or the inputs' own. */
QN_NODISCARD qn_status qni_metric_init(qni_metric *metric, const float *h, int64_t n, bool activation_order,
                                       int n_threads, qn_error *err);
void qni_metric_release(qni_metric *metric);

/* unit * H + damping = U D U^T with U unit upper triangular in processing order. */
typedef struct qni_factor {
    int64_t n;
    double *lower;  /* Cholesky factor in reverse processing order: strips of six rows, see factor.c */
    double *pivot;  /* [n] D, by position */
    double damping; /* what was added to the diagonal of H (not of unit * H) */
} qni_factor;

/* Adds DAMPING times the mean diagonal, and ten times as much as before wherever a pivot shows H to be indefinite (smaller
 * than half of what was added). QN_E_VALUE when even 1000 times the mean diagonal is not enough. Cost n^3 / 3 multiply-adds
 * in double, 4 n^2 bytes. */
QN_NODISCARD qn_status qni_factor_init(qni_factor *factor, const qni_metric *metric, double damping,
                                       const qn_context *ctx, qn_error *err);
void qni_factor_release(qni_factor *factor);

/* Frees all but the pivots and the damping: 4 n^2 bytes. */
void qni_factor_keep_pivots(qni_factor *factor);

/* U_kj (k < j), 0 elsewhere. */
double qni_factor_upper(const qni_factor *factor, int64_t k, int64_t j);

/* Strips of U and of its transpose, without the unit diagonal. */
QN_NODISCARD qn_status qni_factor_upper_strips(const qni_factor *factor, int n_threads, qni_strips *out,
                                               qn_error *err);
QN_NODISCARD qn_status qni_factor_lower_strips(const qni_factor *factor, int n_threads, qni_strips *out,
                                               qn_error *err);

#endif
