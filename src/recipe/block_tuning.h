/* Training a block of the student right after its matrices were fitted (quern/fit/distill.h), on the walk of prefix.h.
 *
 * Whether it helped is not left to the loss it was trained on: with the block as fitted and as trained, the rest of the walk is done
 * on held-back text (probe.h), and a block whose distance fell while the divergence at the head rose goes back to its fit.
 *
 * The state of a run is kept every few steps, the trained parameters of each block when it is done; both are files of the run's store. */
#ifndef QUERN_SRC_RECIPE_BLOCK_TUNING_H
#define QUERN_SRC_RECIPE_BLOCK_TUNING_H

#include "quern/fit/distill.h"
#include "recipe/matrix_store.h"
#include "recipe/probe.h"

typedef struct qni_block_tuning {
    qn_tune_options tune; /* steps 0: no block is trained */
    qn_trainable_rates rates;
    int64_t window;      /* blocks through which the error is followed */
    bool student_inputs; /* else the teacher's */
    double huber;
    bool fisher_weights;
    qn_compute compute; /* of the steps; the probe has its own */
} qni_block_tuning;

/* What became of a block. */
typedef struct qni_block_report {
    qn_tune_report tune;
    double fitted_kl, trained_kl; /* at the head, on the probe, nats a token */
    bool was_trap;                /* the distance fell, the divergence rose: rolled back */
    /* It was there already; the rest is of the run that trained it, but for numbers of sequences. */
    bool was_stored;
} qni_block_report;

/* A block on its way: what the walk lends for one call. */
typedef struct qni_block_job {
    const qni_block_tuning *tuning;
    const qni_matrix_store *store;
    const qn_sequences *sequences;
    qn_model *teacher, *student;
    qni_probe *probe;
    /* [T, h] in front of the block, and behind the window; NULL: the block has to be stored. */
    const float *stream, *target;
    const float *channel_weights; /* [h] or NULL */
    int64_t layer;
} qni_block_job;

/* The trainable set of LAYER (-1: embedding, head and final norm): FITTED [layout.n] bound matrices, TARGETS [layout.n] where their latents
 * are to begin (entries may be NULL), vectors of the teacher. */
QN_NODISCARD qn_status qni_layer_trainable(const qn_model *teacher, int64_t layer,
                                           const qn_encoded *const *fitted, float *const *targets,
                                           const qn_trainable_rates *rates, const qn_context *ctx,
                                           qn_trainable *out, qn_error *err);

/* Norms and biases of T as STAGE left them in the store, where it did; a fit leaves none, an artifact that training goes on from does. */
QN_NODISCARD qn_status qni_take_vectors(const qni_matrix_store *store, qni_run_stage stage, qn_trainable *t,
                                        qn_error *err);

/* Parameters of a trained block from the store, and what its file says of the run that trained it. */
QN_NODISCARD qn_status qni_trained_block_load(const qni_matrix_store *store, int64_t layer, qn_trainable *t,
                                              qn_trainable_mark *mark, bool *found, qn_error *err);
bool qni_trained_block_is_stored(const qni_matrix_store *store, int64_t layer);

/* Trains the set T of the block, or takes it from the store; on return T holds the result and the student has its own weights back. */
QN_NODISCARD qn_status qni_tune_block(const qni_block_job *job, qn_trainable *t, const qn_context *ctx,
                                      qni_block_report *report, qn_error *err);

/* Saves the codes and vectors of T as what STAGE made. */
QN_NODISCARD qn_status qni_save_trained(const qni_matrix_store *store, qni_run_stage stage,
                                        const qn_trainable *t, qn_error *err);

#endif
