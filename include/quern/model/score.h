/* Perplexity of a model on windows of text, as the contract's validator computes it. */
#ifndef QUERN_MODEL_SCORE_H
#define QUERN_MODEL_SCORE_H

#include "quern/model/walk.h"
#include "quern/text/windows.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_score_result {
    double total_nats;
    double nats;          /* total_nats / n_targets: token-weighted mean */
    double perplexity;    /* exp(min(nats, 700)) */
    double bits_per_byte; /* total_nats / (ln 2 * target_bytes) */
    double std_error;     /* of nats: sd of per-window means weighted by targets, over sqrt(windows) */
    int64_t n_targets;
    qn_walk_stats stats;
} qn_score_result;

/* Scores every window. Windows are walked in batches of a fixed token count (a function of the model's width only), so
 * memory is bounded for any text. window_nats (may be NULL) [n_windows] receives each window's sum of nats. */
QN_NODISCARD QN_API qn_status qn_score(const qn_model *model, const qn_windows *windows, qn_compute compute,
                                       const qn_context *ctx, double *window_nats, qn_score_result *out,
                                       qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
