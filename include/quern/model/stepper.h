/* A walk that its owner drives, block by block: what two walks side by side are made of.
 *
 * The owner holds the residual stream x [T, h] and may lend the model other weights between two calls
 * (qn_model_set_weight): that is how a student passes through blocks that are compressed on the way. The inputs of a
 * linear layer are computed for one chunk of tokens at a time, from the stream in front of its block, and no further
 * than that layer; they cost a part of a block's forward pass each time they are asked for and no memory beyond
 * a chunk.
 *
 * Same arithmetic and same bytes as qn_walk. A stepper serves one thread at a time. */
#ifndef QUERN_MODEL_STEPPER_H
#define QUERN_MODEL_STEPPER_H

#include "quern/model/walk.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_stepper qn_stepper;

/* MODEL and SEQUENCES are borrowed. */
QN_NODISCARD QN_API qn_status qn_stepper_open(qn_model *model, const qn_sequences *sequences,
                                              qn_compute compute, const qn_context *ctx, qn_stepper **out,
                                              qn_error *err);
QN_API void qn_stepper_close(qn_stepper *stepper);

/* Chunks of whole sequences, and the most tokens that one of them has. */
QN_API int64_t qn_stepper_chunks(const qn_stepper *stepper);
QN_API int64_t qn_stepper_longest_chunk(const qn_stepper *stepper);

/* x [T, h] = the stream in front of block 0. */
QN_NODISCARD QN_API qn_status qn_stepper_embed(qn_stepper *stepper, float *x, qn_error *err);

/* x [T, h]: the stream in front of block LAYER on entry, behind it on return. */
QN_NODISCARD QN_API qn_status qn_stepper_block(qn_stepper *stepper, int64_t layer, float *x, qn_error *err);

/* x [T, h] in place: the final norm. */
QN_NODISCARD QN_API qn_status qn_stepper_norm(qn_stepper *stepper, float *x, qn_error *err);

/* in [n, cols] = what the linear layer at layout INDEX of block LAYER takes in for the tokens of chunk CHUNK; x [T, h] is the
 * stream in front of the block and is not changed. *n_tokens: n, at most qn_stepper_longest_chunk. */
QN_NODISCARD QN_API qn_status qn_stepper_input(qn_stepper *stepper, int64_t layer, int64_t index,
                                               int64_t chunk, const float *x, float *in, int64_t *n_tokens,
                                               qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
