/* The walk backwards: loss and exact gradients of all parameters.
 *
 * Forward keeps the input of each block only ([T, h] per layer); backward recomputes a block's inside, a group of whole
 * sequences at a time. Memory: (L + 2)*T*h*4 bytes, one block's activations, and the gradients. With keep_bytes the
 * insides of the last blocks are kept instead, as many as fit, which saves up to a quarter of the time and changes no
 * number. The head's loss and its gradient are computed for a fixed number of tokens at a time, so T x V logits never
 * exist at once.
 *
 *   loss = ce_weight * sum_t -log p(target_t)  +  kl_weight * sum_t KL(teacher_t || student_t)       in nats, summed in double
 *   gradients += scale * d loss / d parameter
 *
 * Formulas: the backward of each operation stands beside its forward (src/tensor, src/model). With bf16 compute the
 * operands of all three products of a linear layer are rounded to bf16 and the sums are f32; all else is f32. A tied
 * embedding has one gradient, the sum of both uses. Deterministic: the same bytes for any number of threads, given one ISA. */
#ifndef QUERN_MODEL_GRADIENT_H
#define QUERN_MODEL_GRADIENT_H

#include "quern/model/walk.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One f32 array per layout entry, of the entry's shape. */
typedef struct qn_gradients {
    float **per_entry; /* [n] owned */
    int64_t n;
} qn_gradients;

/* Zeroed gradients. */
QN_NODISCARD QN_API qn_status qn_gradients_alloc(const qn_layout *layout, qn_gradients *out, qn_error *err);
QN_API void qn_gradients_clear(qn_gradients *gradients, const qn_layout *layout);
QN_API void qn_gradients_release(qn_gradients *gradients);

typedef struct qn_loss_options {
    qn_compute compute;
    double ce_weight;            /* 1 for plain training */
    double kl_weight;            /* 0: no teacher */
    const qn_model *teacher;     /* kl only; borrowed; same vocabulary */
    const float *teacher_hidden; /* kl only; [T, h of the teacher] after the teacher's final norm; borrowed */
    double scale;                /* multiplies the gradients, for example 1 / number of targets of the step */
    int64_t keep_bytes;          /* activations kept from forward to backward; 0: recompute all that can be */
} qn_loss_options;

typedef struct qn_loss {
    double ce_nats, kl_nats; /* sums over the targets, unweighted */
    int64_t n_targets;
} qn_loss;

/* targets [T]: the id to be predicted at each position, or -1 where nothing is. gradients may be NULL: the loss only. All
 * weights of MODEL must be dense F32 when gradients are wanted (QN_E_UNSUPPORTED otherwise). A non-finite loss is QN_E_VALUE.
 * On failure the gradients hold part of a sum: clear them. */
QN_NODISCARD QN_API qn_status qn_loss_gradient(const qn_model *model, const qn_sequences *sequences,
                                               const int32_t *targets, const qn_loss_options *options,
                                               const qn_context *ctx, qn_gradients *gradients, qn_loss *out,
                                               qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
