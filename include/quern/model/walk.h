/* The walk: hidden states through the model, layer by layer, all sequences through one block before the next is touched.
 *
 * Letters: T tokens of all sequences together, h hidden_size, V vocab_size, L layers.
 * Memory: T*h*4 bytes for the stream, plus one block's activations for a fixed number of tokens, plus a few decoded
 * weight tiles; independent of L. Arithmetic: f32 (or bf16 matrix products with f32 sums), loss in double.
 * Deterministic: the same bytes for any number of threads, given one ISA. */
#ifndef QUERN_MODEL_WALK_H
#define QUERN_MODEL_WALK_H

#include "quern/base/context.h"
#include "quern/model/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_compute { QN_COMPUTE_F32, QN_COMPUTE_BF16 } qn_compute;

/* Sequence i is ids[starts[i] .. starts[i+1]); each starts at position 0 with an empty context. */
typedef struct qn_sequences {
    const int32_t *ids;    /* [T] */
    const int64_t *starts; /* [n + 1] */
    int64_t n;
} qn_sequences;

/* Guests of the walk. Any callback may be NULL. Called on the calling thread, in walk order; a status other than QN_OK
 * stops the walk and is returned. Pointers are valid during the call only. */
typedef struct qn_walk_observer {
    /* The residual stream: depth 0 after the embedding, k after block k-1, L+1 after the final norm. x [T, h]. */
    qn_status (*on_hidden)(void *user, int64_t depth, const float *x, int64_t n_tokens, qn_error *err);
    /* The input of a linear layer (before its matrix): layout entry INDEX, rows first_token .. first_token + n_tokens of
     * x [n_tokens, cols]. All tokens are covered, in order, possibly in several calls. */
    qn_status (*on_linear_input)(void *user, int64_t index, const float *x, int64_t first_token,
                                 int64_t n_tokens, int64_t cols, qn_error *err);
    /* What a block's attention and its MLP add to the stream (before the sum): [n_tokens, h], rows as above. */
    qn_status (*on_branch)(void *user, int64_t layer, bool is_mlp, const float *y, int64_t first_token,
                           int64_t n_tokens, qn_error *err);
    void *user;
} qn_walk_observer;

typedef struct qn_walk_options {
    qn_compute compute;
    const qn_walk_observer *observer; /* borrowed, or NULL */
} qn_walk_options;

typedef struct qn_walk_stats {
    double
        largest_activation; /* largest |value| of any linear output, branch product or residual seen; logits too once scored */
    char largest_where[96]; /* "layer 3 mlp.down_proj output" */
} qn_walk_stats;

/* hidden [T, h] receives the stream after the final norm; it is the walk's working space, undefined after a failure. An
 * id outside the vocabulary is QN_E_VALUE; a non-finite value is QN_E_VALUE naming layer and place. stats may be NULL
 * (else it is updated, not reset). */
QN_NODISCARD QN_API qn_status qn_walk(const qn_model *model, const qn_sequences *sequences,
                                      const qn_walk_options *options, const qn_context *ctx, float *hidden,
                                      qn_walk_stats *stats, qn_error *err);

/* logits [n, V] = head(hidden [n, h]). */
QN_NODISCARD QN_API qn_status qn_head_logits(const qn_model *model, const float *hidden, int64_t n,
                                             qn_compute compute, const qn_context *ctx, float *logits,
                                             qn_walk_stats *stats, qn_error *err);

/* nll[i] = logsumexp(logits_i) - logits_i[targets[i]] in nats, without ever holding all logits: the vocabulary is walked
 * in blocks with a running maximum and a double sum. */
QN_NODISCARD QN_API qn_status qn_head_nll(const qn_model *model, const float *hidden, const int32_t *targets,
                                          int64_t n, qn_compute compute, const qn_context *ctx, double *nll,
                                          qn_walk_stats *stats, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
