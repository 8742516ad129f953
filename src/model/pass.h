/* One pass over a model: what the layers need besides their input. A walk and a session each own one. */
#ifndef QUERN_SRC_MODEL_PASS_H
#define QUERN_SRC_MODEL_PASS_H

#include "model/binding.h"
#include "model/memory.h"
#include "quern/model/walk.h"

typedef struct qni_pass {
    const qn_model *model;
    const qn_context *ctx;
    qn_ops *ops; /* owned */
    int n_threads;
    bool bf16;
    qni_matrix *matrices;             /* owned [layout->n] */
    qni_rope_table rope;              /* owned */
    const qn_walk_observer *observer; /* or NULL */
    qn_walk_stats *stats;             /* or NULL */
    qn_gradient_memory *memory;       /* of the walk backwards only; borrowed */
} qni_pass;

QN_NODISCARD qn_status qni_pass_open(qni_pass *out, const qn_model *model, qn_compute compute,
                                     const qn_context *ctx, qn_error *err);
void qni_pass_release(qni_pass *pass);

/* Makes the rotary table cover positions [0, n_positions). */
QN_NODISCARD qn_status qni_pass_cover(qni_pass *pass, int64_t n_positions, qn_error *err);

/* x [n, h] = embedding of IDS. An id outside the vocabulary is QN_E_VALUE. */
QN_NODISCARD qn_status qni_embed(const qni_pass *pass, const int32_t *ids, int64_t n, float *x,
                                 qn_error *err);

/* Takes note of the largest magnitude met at a place of LAYER (-1: outside the layers); QN_E_VALUE naming the
 * place when it is not finite. */
QN_NODISCARD qn_status qni_note_largest(const qni_pass *pass, float largest, int64_t layer, const char *place,
                                        qn_error *err);

/* y [n, rows] = x W^T + bias for the matrix at layout INDEX (bias index -1: none), seen by the observer. */
QN_NODISCARD qn_status qni_linear(const qni_pass *pass, int64_t index, int64_t bias_index, const float *x,
                                  int64_t first_token, int64_t n_tokens, float *y, qn_error *err);

/* y [rows, n] = RMS norm of x with the vector at layout INDEX; y may be x. */
QN_NODISCARD qn_status qni_norm(const qni_pass *pass, int64_t index, const float *x, int64_t rows, int64_t n,
                                float *y, qn_error *err);

/* Tokens whose logits are made at a time where whole rows of them are needed. */
int64_t qni_head_chunk_tokens(int64_t vocab_size);

#endif
