/* One walk backwards: what the layers need besides their inputs and the gradient of their output. */
#ifndef QUERN_SRC_MODEL_BACKWARD_H
#define QUERN_SRC_MODEL_BACKWARD_H

#include "model/block.h"
#include "quern/model/gradient.h"

/* What the backward of one block reads, for one chunk of n tokens. */
typedef struct qni_inside {
    float *normed_in, *mid, *normed_mid; /* [n, h] input of the mixer, stream after it, input of the MLP */
    float *gate, *up;                    /* [n, I]; become their gradients */
    float *mixer;                        /* the mixer's own */
} qni_inside;

/* Gradients of one chunk that live no longer than its block. */
typedef struct qni_backward_work {
    float *d_normed; /* [n, h] */
    float *product;  /* [MLP chunk, I] silu(gate) * up, or its gradient */
    float *mixer;    /* the mixer's own */
} qni_backward_work;

typedef struct qni_backward {
    const qni_pass *pass;
    qni_rope_table unrotate;              /* owned; rotation by the negative angles */
    qn_gradients *gradients;              /* borrowed; NULL: none wanted */
    const qn_gradient_observer *observer; /* borrowed, or NULL */
    float *decoded;                       /* owned; room for the largest matrix that is not dense f32 */
    qni_backward_work work;
    qni_inside *insides; /* owned [n_insides]; their numbers are in the pass's memory, like those of work */
    int64_t n_insides;
} qni_backward;

/* Makes one inside of up to MAX_TOKENS tokens, and more, up to MOST, as far as they fit into KEEP_BYTES. */
QN_NODISCARD qn_status qni_backward_open(qni_backward *out, const qni_pass *pass, qn_gradients *gradients,
                                         int64_t max_tokens, int64_t keep_bytes, int64_t most, qn_error *err);
void qni_backward_release(qni_backward *backward);

/* The gradient of layout entry INDEX (-1: no such entry), or NULL where none is wanted. */
float *qni_wanted_gradient(const qni_backward *backward, int64_t index);

/* The same to be added to: zeroed now where it was to be set. */
float *qni_gradient_to_add(const qni_backward *backward, int64_t index);

/* Zeroes the gradient of entry INDEX where it is still to be set. */
void qni_gradients_settle(qn_gradients *gradients, const qn_layout *layout, int64_t index);

/* Shows dy, the gradient at the output of layout entry INDEX, to the observer. */
QN_NODISCARD qn_status qni_show_gradient(const qni_backward *backward, int64_t index, const float *dy,
                                         int64_t first_token, int64_t n_tokens, qn_error *err);

/* Gradients of qni_linear: dx (added to where ADD_DX says so) unless NULL; those of the matrix and its bias
 * unless x is NULL. */
QN_NODISCARD qn_status qni_linear_backward(const qni_backward *backward, int64_t index, int64_t bias_index,
                                           const float *dy, const float *x, int64_t n_tokens, bool add_dx,
                                           float *dx, qn_error *err);

/* Gradients of qni_norm; dx may be dy. */
QN_NODISCARD qn_status qni_norm_backward(const qni_backward *backward, int64_t index, const float *x,
                                         const float *dy, int64_t rows, int64_t n, bool add_dx, float *dx,
                                         qn_error *err);

/* Computes the inside of a block from its input x [n, h]. */
QN_NODISCARD qn_status qni_block_inside(const qni_backward *backward, const qni_layer *layer,
                                        const qni_chunk *chunk, const float *x, const qni_inside *inside,
                                        qn_error *err);

/* y [n, h] = the block's output, from its inside. */
QN_NODISCARD qn_status qni_block_finish(const qni_backward *backward, const qni_layer *layer,
                                        const qni_chunk *chunk, const qni_inside *inside, float *y,
                                        qn_error *err);

/* dx [n, h]: the gradient with respect to the block's output on entry, to its input x on return. Without WANTS_DX it is undefined
 * then, and the input norm's gain receives no gradient (gain_gradient.h has it). Uses the inside up. */
QN_NODISCARD qn_status qni_block_backward(const qni_backward *backward, const qni_layer *layer,
                                          const qni_chunk *chunk, const float *x, const qni_inside *inside,
                                          bool wants_dx, float *dx, qn_error *err);

/* Losses of the stream x [T, h] after the last block, and with BACKWARD (else NULL) the gradient dx [T, h]
 * and those of the head and the final norm. TEACHER is the teacher's pass, or NULL: without kl, or with
 * options->teacher_top. */
QN_NODISCARD qn_status qni_head_loss(const qni_pass *pass, const qni_pass *teacher,
                                     const qni_backward *backward, const qn_loss_options *options,
                                     const float *x, const int32_t *targets, int64_t n_tokens, float *dx,
                                     qn_loss *out, qn_error *err);

#endif
