#include "fit/fit_reference.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

static double nearest_code(qn_code code, double x) {
    if (code == QN_CODE_SIGN) return x < 0 ? -1 : 1;
    double limit = qn_code_max(code);
    return fmin(fmax(rint(x), -limit), limit);
}

double qni_reference_error(qn_code code, const float *w, const float *h, int64_t n, double scale) {
    double error = 0;
    for (int64_t i = 0; i < n; i++) {
        double q = scale > 0 ? nearest_code(code, (double)w[i] / scale) : 0;
        double d = (double)w[i] - scale * q;
        error += (h ? (double)h[i] : 1) * d * d;
    }
    return error;
}

qn_status qni_reference_sign(const float *w, const float *h, int64_t n, double *scale, double *error) {
    double s = 0, h_sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double hi = h ? (double)h[i] : 1;
        s += hi * fabs((double)w[i]);
        h_sum += hi;
    }
    if (h && !(s > 0)) return qni_reference_sign(w, NULL, n, scale, error);
    *scale = s / h_sum;
    if (error) *error = qni_reference_error(QN_CODE_SIGN, w, h, n, *scale);
    return QN_OK;
}

typedef struct column {
    double magnitude, h;
} column;

static int by_magnitude_descending(const void *a, const void *b) {
    const column *x = a, *y = b;
    return (x->magnitude < y->magnitude) - (x->magnitude > y->magnitude);
}

/* The best scale over all prefixes of sorted columns. */
static double best_prefix(const column *columns, int64_t n) {
    double s = 0, h = 0, best = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        s += columns[i].h * columns[i].magnitude;
        h += columns[i].h;
        if (!(h > 0) || s * s / h <= best) continue;
        best = s * s / h;
        scale = s / h;
    }
    return scale;
}

qn_status qni_reference_ternary(const float *w, const float *h, int64_t n, double *scale, double *error) {
    column *columns = qni_alloc_array(n, sizeof *columns);
    if (!columns) return QN_E_NOMEM;
    for (int64_t i = 0; i < n; i++) columns[i] = (column){fabs((double)w[i]), h ? (double)h[i] : 1};
    qsort(columns, (size_t)n, sizeof *columns, by_magnitude_descending);
    double s = best_prefix(columns, n);
    free(columns);
    if (h && !(s > 0)) return qni_reference_ternary(w, NULL, n, scale, error);
    *scale = s;
    if (error) *error = qni_reference_error(QN_CODE_TERNARY, w, h, n, s);
    return QN_OK;
}
