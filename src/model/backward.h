/* One walk backwards: what the layers need besides their inputs and the gradient of their output. */
#ifndef QUERN_SRC_MODEL_BACKWARD_H
#define QUERN_SRC_MODEL_BACKWARD_H

#include "model/block.h"
#include "quern/model/gradient.h"

/* Work space for chunks of up to a number of tokens; one owned block. */
typedef struct qni_backward_work {
    float *mid;                    /* [n, h] the stream between mixer and MLP */
    float *normed_in, *normed_mid; /* [n, h] inputs of mixer and MLP */
    float *d_normed;               /* [n, h] */
    float *gate, *up, *product;    /* [MLP chunk, I] */
    float *mixer;                  /* what the mixers asked for */
} qni_backward_work;

typedef struct qni_backward {
    const qni_pass *pass;
    qni_rope_table unrotate; /* owned; rotation by the negative angles */
    float **gradients;       /* [layout->n] borrowed */
    qni_backward_work work;
} qni_backward;

QN_NODISCARD qn_status qni_backward_open(qni_backward *out, const qni_pass *pass, float **gradients,
                                         int64_t max_tokens, qn_error *err);
void qni_backward_release(qni_backward *backward);

/* Gradients of qni_linear: dx (added to where ADD_DX says so) unless NULL; those of the matrix and its bias
 * unless x is NULL. */
QN_NODISCARD qn_status qni_linear_backward(const qni_backward *backward, int64_t index, int64_t bias_index,
                                           const float *dy, const float *x, int64_t n_tokens, bool add_dx,
                                           float *dx, qn_error *err);

/* Gradients of qni_norm; dx may be dy. */
QN_NODISCARD qn_status qni_norm_backward(const qni_backward *backward, int64_t index, const float *x,
                                         const float *dy, int64_t rows, int64_t n, bool add_dx, float *dx,
                                         qn_error *err);

/* dx [n, h]: the gradient with respect to the block's output on entry, to its input x on return. */
QN_NODISCARD qn_status qni_block_backward(const qni_backward *backward, const qni_layer *layer,
                                          const qni_chunk *chunk, const float *x, float *dx, qn_error *err);

/* Losses of the stream x [T, h] after the last block, and with BACKWARD (else NULL) the gradient dx [T, h]
 * and those of the head and the final norm. TEACHER is the teacher's pass, or NULL without kl. */
QN_NODISCARD qn_status qni_head_loss(const qni_pass *pass, const qni_pass *teacher,
                                     const qni_backward *backward, const qn_loss_options *options,
                                     const float *x, const int32_t *targets, int64_t n_tokens, float *dx,
                                     qn_loss *out, qn_error *err);

#endif
