/* Pieces of the attention mixer that its forward and its backward share. */
#ifndef QUERN_SRC_MODEL_ATTENTION_H
#define QUERN_SRC_MODEL_ATTENTION_H

#include "model/block.h"

/* y [n, heads * D] = the queries (or keys): projection, head norm where there is one, rotation. RAW receives
 * the projection where it is normed; it may be y. */
QN_NODISCARD qn_status qni_attention_heads(const qni_pass *pass, const qni_layer *layer,
                                           const qni_chunk *chunk, bool is_query, const float *u, float *raw,
                                           float *y, qn_error *err);

qni_attention_args qni_attention_args_of(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                                         const float *q, const float *k, const float *v, float *out);

/* The mixer's backward half (block.h says what they do). */
int64_t qni_attention_inside_floats(const qn_model *model, int64_t n_tokens);
int64_t qni_attention_backward_floats(const qn_model *model, int64_t n_tokens);
QN_NODISCARD qn_status qni_attention_forward_inside(const qni_pass *pass, const qni_layer *layer,
                                                    const qni_chunk *chunk, const float *u, float *inside,
                                                    float *y, qn_error *err);
QN_NODISCARD qn_status qni_attention_backward(const struct qni_backward *backward, const qni_layer *layer,
                                              const qni_chunk *chunk, const float *u, float *inside,
                                              const float *dy, float *work, float *du, qn_error *err);

#endif
