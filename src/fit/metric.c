#include "fit/metric.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

/* Sums of products in f32 differ by their order; anything beyond this is no E[x x^T]. */
static const double asymmetry_limit = 1e-3;

/* Rows are checked this many at a time: of their mirror images whole cache lines are read. */
enum { ROWS_TOGETHER = 16 };

static bool contradict(const float *h, int64_t n, int64_t i, int64_t j) {
    const double a = (double)h[i * n + j], b = (double)h[j * n + i];
    return !(fabs(a - b) <= asymmetry_limit * (fabs((double)h[i * n + i]) + fabs((double)h[j * n + j])));
}

/* The first entry of row I that is not finite, negative on the diagonal, or not its mirror's equal; -1 when all is well. */
static int64_t find_fault(const float *h, int64_t n, int64_t i) {
    for (int64_t j = 0; j < n; j++) {
        if (!isfinite(h[i * n + j])) return j;
    }
    if (h[i * n + i] < 0) return i;
    for (int64_t j = 0; j < n; j++) {
        if (isfinite(h[j * n + i]) && contradict(h, n, i, j)) return j;
    }
    return -1;
}

/* Whether one of the rows [first, last) has a fault, as far as the columns up to its diagonal show. */
static bool any_fault(const float *h, int64_t n, int64_t first, int64_t last) {
    bool fault = false;
    for (int64_t j = 0; j < last; j++) {
        for (int64_t i = j > first ? j : first; i < last; i++) fault |= contradict(h, n, i, j);
    }
    for (int64_t i = first; i < last; i++) fault |= h[i * n + i] < 0;
    return fault;
}

static qn_status fail_fault(const float *h, int64_t n, int64_t i, int64_t j, qn_error *err) {
    const double a = (double)h[i * n + j], b = (double)h[j * n + i];
    const char *advice = "expected E[x x^T] of finite inputs; calibrate again";
    if (!isfinite(a)) {
        return qn_fail(err, QN_E_VALUE, "H[%lld, %lld] is %g; %s", (long long)i, (long long)j, a, advice);
    }
    if (i == j) {
        return qn_fail(err, QN_E_VALUE, "H[%lld, %lld] is %g, a negative second moment; %s", (long long)i,
                       (long long)j, a, advice);
    }
    return qn_fail(err, QN_E_VALUE, "H is not symmetric: H[%lld, %lld] is %g, its mirror %g; %s",
                   (long long)i, (long long)j, a, b, advice);
}

static qn_status check(const float *h, int64_t n, int n_threads, qn_error *err) {
    int64_t bad = 0;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic) reduction(+ : bad)
    for (int64_t i = 0; i < n; i += ROWS_TOGETHER)
        bad += any_fault(h, n, i, i + ROWS_TOGETHER < n ? i + ROWS_TOGETHER : n);
    for (int64_t i = 0; i < n && bad; i++) {
        const int64_t j = find_fault(h, n, i);
        if (j >= 0) return fail_fault(h, n, i, j, err);
    }
    return QN_OK;
}

typedef struct ranked {
    float diagonal;
    int64_t input;
} ranked;

static int by_activation(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->diagonal != y->diagonal) return x->diagonal > y->diagonal ? -1 : 1;
    return (x->input > y->input) - (x->input < y->input);
}

static qn_status take_order(qni_metric *metric, bool activation_order, qn_error *err) {
    const int64_t n = metric->n;
    ranked *inputs = NULL;
    QN_TRY(QNI_ALLOC(metric->order, n, "the order of inputs", err));
    QN_TRY(QNI_ALLOC(inputs, n, "the order of inputs", err));
    for (int64_t i = 0; i < n; i++) inputs[i] = (ranked){metric->h[i * n + i], i};
    if (activation_order) qsort(inputs, (size_t)n, sizeof *inputs, by_activation);
    for (int64_t i = 0; i < n; i++) metric->order[i] = inputs[i].input;
    free(inputs);
    return QN_OK;
}

qn_status qni_metric_init(qni_metric *metric, const float *h, int64_t n, bool activation_order, int n_threads,
                          qn_error *err) {
    qni_metric m = {.n = n, .h = h, .unit = 1};
    if (n <= 0) return qn_fail(err, QN_E_ARGUMENT, "a metric of %lld inputs", (long long)n);
    QN_TRY(check(h, n, n_threads, err));
    for (int64_t i = 0; i < n; i++) {
        m.mean_diagonal += (double)h[i * n + i];
        m.n_dead += h[i * n + i] == 0;
    }
    m.mean_diagonal /= (double)n;
    if (m.mean_diagonal > 0) m.unit = (float)ldexp(1, -ilogb(m.mean_diagonal));
    qn_status status = take_order(&m, activation_order, err);
    if (status != QN_OK) {
        qni_metric_release(&m);
        return status;
    }
    *metric = m;
    return QN_OK;
}

void qni_metric_release(qni_metric *metric) {
    free(metric->order);
    *metric = (qni_metric){0};
}
