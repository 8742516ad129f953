#include "quern/model/generate.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

typedef struct candidate {
    double weight; /* logit / temperature, then probability */
    int32_t id;
} candidate;

/* Larger first; equal ones in the order of their ids. */
static int compare(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int32_t largest(const float *logits, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* How many of the sorted candidates top-k keeps: k, and those equal to the k-th, as transformers does. */
static int64_t keep_top_k(const candidate *sorted, int64_t n, int64_t k) {
    if (k == 0 || k >= n) return n;
    int64_t kept = k;
    while (kept < n && sorted[kept].weight == sorted[k - 1].weight) kept++;
    return kept;
}

/* The shortest prefix with at least P of the probability; at least one candidate. Turns weights into
 * probabilities relative to the largest. Returns the kept number, *mass their sum. */
static int64_t keep_top_p(candidate *sorted, int64_t n, double p, double *mass) {
    const double shift = sorted[0].weight;
    double total = 0.0, kept_mass = 0.0;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        sorted[i].weight = exp(sorted[i].weight - shift);
        total += sorted[i].weight;
    }
    while (kept < n && (kept == 0 || p >= 1.0 || kept_mass < p * total)) kept_mass += sorted[kept++].weight;
    *mass = kept_mass;
    return kept;
}

static qn_status check(const float *logits, int64_t n, const qn_sampling *sampling, qn_error *err) {
    if (n < 1) return qn_fail(err, QN_E_ARGUMENT, "no logits to draw from");
    if (!(sampling->temperature >= 0.0) || !isfinite(sampling->temperature))
        return qn_fail(err, QN_E_ARGUMENT, "temperature must be finite and not negative, got %g",
                       sampling->temperature);
    if (sampling->top_k < 0)
        return qn_fail(err, QN_E_ARGUMENT, "top-k must not be negative, got %lld",
                       (long long)sampling->top_k);
    if (!(sampling->top_p > 0.0 && sampling->top_p <= 1.0))
        return qn_fail(err, QN_E_ARGUMENT, "top-p must lie in (0, 1], got %g", sampling->top_p);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(logits[i])) return qn_fail(err, QN_E_VALUE, "logit %lld is not finite", (long long)i);
    return QN_OK;
}

qn_status qn_sample(const float *logits, int64_t vocab_size, const qn_sampling *sampling, qn_rng *rng,
                    int32_t *id, qn_error *err) {
    QN_TRY(check(logits, vocab_size, sampling, err));
    if (sampling->temperature == 0.0) {
        *id = largest(logits, vocab_size);
        return QN_OK;
    }
    candidate *sorted = NULL;
    double mass;
    QN_TRY(QNI_ALLOC(sorted, vocab_size, "candidates", err));
    for (int64_t i = 0; i < vocab_size; i++)
        sorted[i] = (candidate){.weight = (double)logits[i] / sampling->temperature, .id = (int32_t)i};
    qsort(sorted, (size_t)vocab_size, sizeof *sorted, compare);
    int64_t n = keep_top_k(sorted, vocab_size, sampling->top_k);
    n = keep_top_p(sorted, n, sampling->top_p, &mass);
    double left = qn_rng_uniform(rng) * mass;
    int64_t i = 0;
    while (i < n - 1 && left >= sorted[i].weight) left -= sorted[i++].weight;
    *id = sorted[i].id;
    free(sorted);
    return QN_OK;
}
