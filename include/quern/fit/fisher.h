/* The diagonal of the Fisher matrix at the outputs of a model's layers.
 *
 * At every token a label is drawn from the model's own softmax, and the loss of a sequence is the sum of -log p(label) over
 * its tokens, not divided by their number. With g_t = d loss / d y_t at the output y of a linear layer,
 *
 *   F_i = E_t[g_ti^2]
 *
 * so that 1/2 sum_t sum_i F_i dy_ti^2 estimates what small changes dy of the outputs cost, in nats over all tokens. For the
 * head it is exact, without drawing: F_v = E_t[p_v (1 - p_v)].
 *
 * Source: Martens, "New insights and perspectives on the natural gradient method", 2020, section 5 (why the labels are the
 * model's). Deterministic: the same bytes for any number of threads, given one ISA; a token's label depends on the seed,
 * the token's place and the model only. Time: a walk and a walk backwards without gradients of weights. Memory: that of the
 * walk backwards (gradient.h) for some 2048 tokens, whose blocks' inputs wait in a file, and 128 MiB of logits; independent of the
 * number of layers. */
#ifndef QUERN_FIT_FISHER_H
#define QUERN_FIT_FISHER_H

#include "quern/model/walk.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_fisher_options {
    qn_compute compute;
    uint64_t seed; /* of the labels */
} qn_fisher_options;

/* Zeroed: nothing measured. */
typedef struct qn_fisher {
    int64_t n; /* layout entries */
    float **
        output; /* owned [n]: F of the entry's outputs, owned [rows]; NULL for what is no linear layer. Of a tied
                               model the embedding's is the head's */
    float *lookup_gradient; /* owned [h]: E[g^2] of the vectors that the embedding looks up */
    int64_t n_tokens;
} qn_fisher;

/* Any weights. QN_E_ARGUMENT without tokens, or with more than 2^32. */
QN_NODISCARD QN_API qn_status qn_fisher_measure(const qn_model *model, const qn_sequences *sequences,
                                                const qn_fisher_options *options, const qn_context *ctx,
                                                qn_fisher *out, qn_error *err);
QN_API void qn_fisher_release(qn_fisher *fisher);

#ifdef __cplusplus
}
#endif
#endif
