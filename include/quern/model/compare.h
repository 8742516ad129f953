/* Two models on the same windows of text: how many nats the candidate loses, and how sure that is.
 *
 *   difference   mean over the scored ids of  nll_candidate - nll_base               (positive: the candidate is worse)
 *   std_error    of the difference, ids of one window (heldout: of one document) counted as dependent: with d_i the sum of
 *                differences of window i and n_i its ids,  sqrt(W / (W - 1) * sum_i (d_i - n_i * difference)^2) / sum_i n_i
 *   low, high    difference -+ t * std_error, t the 97.5 % point of Student's distribution of W - 1 degrees of freedom
 *   kl           mean of KL(base || candidate) over the whole vocabulary, at the same positions
 *   agreement    share of the positions at which both find the same id most likely
 *
 * Pairing removes what both models find hard alike: the interval is far narrower than the difference of two scores' would be.
 * It speaks of other texts of the same kind, not of other kinds of text. Cluster-robust error of a ratio: Cochran, Sampling
 * Techniques, 1977, section 9A.
 *
 * Logits are made for a bounded number of tokens at a time. Deterministic; independent of threads. */
#ifndef QUERN_MODEL_COMPARE_H
#define QUERN_MODEL_COMPARE_H

#include "quern/model/walk.h"
#include "quern/text/windows.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The band of the rules, in nats per token: a model is a new best when it is lower by more, or smaller within it. */
#define QN_BAND_NATS 0.02

typedef enum qn_verdict {
    QN_VERDICT_BETTER, /* better by more than the band */
    QN_VERDICT_WITHIN, /* both ends included */
    QN_VERDICT_WORSE
} qn_verdict;

typedef struct qn_comparison {
    double base_nats, candidate_nats; /* per scored id */
    double difference;
    double std_error, low, high; /* infinite with one window: nothing is known then */
    double kl_nats;
    double agreement; /* 0 .. 1 */
    int64_t n_targets, n_windows;
} qn_comparison;

/* Models of the same vocabulary size, else QN_E_SHAPE. Windows are walked in batches of a fixed token count (a function of
 * the models' widths only). window_differences (may be NULL) [n_windows] receives each window's sum. */
QN_NODISCARD QN_API qn_status qn_compare(const qn_model *base, const qn_model *candidate,
                                         const qn_windows *windows, qn_compute compute, const qn_context *ctx,
                                         double *window_differences, qn_comparison *out, qn_error *err);

/* *kl_nats = mean over N positions of KL(base || candidate) at the heads, from the hidden states [n, h of each] behind the final norms. */
QN_NODISCARD QN_API qn_status qn_head_kl(const qn_model *base, const float *base_hidden,
                                         const qn_model *candidate, const float *candidate_hidden, int64_t n,
                                         qn_compute compute, const qn_context *ctx, double *kl_nats,
                                         qn_error *err);

/* Where the difference lies. *certain (may be NULL): whether the whole interval lies there too. */
QN_API qn_verdict qn_comparison_verdict(const qn_comparison *comparison, bool *certain);

/* "better", "within", "worse". */
QN_API const char *qn_verdict_name(qn_verdict verdict);

#ifdef __cplusplus
}
#endif
#endif
