/* A little text on which a stage of a run is judged by what counts, not by its own proxy: the divergence at the head, or the next token.
 *
 * The student walks through the probe's text as far as it is compressed; the blocks behind are the teacher's. */
#ifndef QUERN_SRC_RECIPE_PROBE_H
#define QUERN_SRC_RECIPE_PROBE_H

#include "model/window_batch.h"
#include "quern/model/stepper.h"

typedef struct qni_probe {
    const qn_model *teacher; /* borrowed, as are student and sequences */
    qn_model *student;
    qn_sequences sequences;
    const qn_context *ctx;
    qn_stepper *stepper; /* of the student */
    qn_compute compute;
    float *stream, *scratch; /* owned [T, h] */
    float *teacher_hidden;   /* the same, from the first divergence on */
    int64_t n_tokens;
} qni_probe;

/* The student's embedding is compressed already. */
QN_NODISCARD qn_status qni_probe_open(const qn_model *teacher, qn_model *student,
                                      const qn_sequences *sequences, qn_compute compute,
                                      const qn_context *ctx, qni_probe *out, qn_error *err);
void qni_probe_close(qni_probe *probe);

/* KL(teacher || student) at the head, nats a token, with the student's blocks from LAYER on as they are now. */
QN_NODISCARD qn_status qni_probe_kl(qni_probe *probe, int64_t layer, double *kl_nats, qn_error *err);

/* Mean nats of the targets of BATCH, whose ids are the probe's sequences, at the teacher's head; the student's blocks as above. */
QN_NODISCARD qn_status qni_probe_nats(qni_probe *probe, const qni_window_batch *batch, int64_t layer,
                                      double *nats, qn_error *err);

/* Block LAYER is as it will be. */
QN_NODISCARD qn_status qni_probe_pass(qni_probe *probe, int64_t layer, qn_error *err);

#endif
