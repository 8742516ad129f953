/* Token by token with a key-value cache, and sampling. */
#ifndef QUERN_MODEL_GENERATE_H
#define QUERN_MODEL_GENERATE_H

#include "quern/base/rng.h"
#include "quern/model/walk.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_session qn_session;

/* One mutable sequence over an immutable model. The cache holds post-norm, post-rope keys and raw values:
 * 2 * L * Hkv * D * 4 bytes a token, grown as needed up to max_tokens. Encoded weights are decoded once, here. */
QN_NODISCARD QN_API qn_status qn_session_new(const qn_model *model, int64_t max_tokens, qn_compute compute,
                                             const qn_context *ctx, qn_session **out, qn_error *err);
QN_API void qn_session_free(qn_session *session);

/* Appends ids and computes the logits [V] after the last one. Equal to the walk's logits up to rounding. */
QN_NODISCARD QN_API qn_status qn_session_feed(qn_session *session, const int32_t *ids, int64_t n,
                                              float *logits, qn_error *err);

typedef struct qn_sampling {
    double temperature; /* 0: the largest logit, ties to the lowest id */
    int64_t top_k;      /* 0: all */
    double top_p;       /* 1: all */
} qn_sampling;

/* Draws an id from logits [V]. Order of filters as in transformers: temperature, top-k, top-p. */
QN_NODISCARD QN_API qn_status qn_sample(const float *logits, int64_t vocab_size, const qn_sampling *sampling,
                                        qn_rng *rng, int32_t *id, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
