/* The blocks of a walk backwards: there, keeping what the way back reads, and back. Between the two its owner turns the stream
 * behind the last block into the gradient there: the head's loss (gradient.c), or a distance to another stream
 * (window_gradient.c). */
#ifndef QUERN_SRC_MODEL_GRADIENT_WALK_H
#define QUERN_SRC_MODEL_GRADIENT_WALK_H

#include "model/backward.h"
#include "model/walk_plan.h"

/* Its steps are pairs of a layer and a chunk, layer by layer. */
typedef struct qni_gradient_walk {
    qni_pass pass;
    qni_walk_plan plan;
    qni_backward backward;
    qn_gradient_memory *memory, own_memory; /* that of the gradients, or its own */
    int64_t first_layer, n_layers, n_steps, stream_floats;
    bool with_gradient, without_input_gradient;
    int64_t n_streams; /* that blocks' inputs take turns in: one each, or two where they wait in a file */
    int spill;         /* owned: that file, or -1 */
    float *streams;    /* in memory: [n_streams][T, h], and the gradient's. Without gradient: one stream */
} qni_gradient_walk;

typedef struct qni_gradient_walk_options {
    int64_t first_layer, n_layers;
    qn_compute compute;
    bool with_gradient;
    bool without_input_gradient; /* nobody asks for the gradient in front of the first block */
    int64_t keep_bytes;
    bool spill; /* blocks' inputs wait in a file for the way back */
    const qn_gradient_observer *observer;
} qni_gradient_walk_options;

/* The walk is zeroed, and released in every case. GRADIENTS may be NULL. The caller fills walk->streams [T, h], the stream in front of the first block. */
QN_NODISCARD qn_status qni_gradient_walk_open(qni_gradient_walk *walk, const qn_model *model,
                                              const qn_sequences *sequences,
                                              const qni_gradient_walk_options *options,
                                              qn_gradients *gradients, const qn_context *ctx, qn_error *err);
void qni_gradient_walk_release(qni_gradient_walk *walk);

/* *last [T, h]: the stream behind the last block; *d [T, h]: room for its gradient, NULL without one. */
QN_NODISCARD qn_status qni_gradient_walk_there(qni_gradient_walk *walk, float **last, float **d,
                                               qn_error *err);

/* Reads d, which holds the gradient in front of the first block afterwards, if that was wanted. */
QN_NODISCARD qn_status qni_gradient_walk_back(qni_gradient_walk *walk, float *d, qn_error *err);

#endif
