/* What the files of the trainer share: one run, its inputs, weights, saved states and metrics. */
#ifndef QUERN_SRC_FIT_TRAIN_RUN_H
#define QUERN_SRC_FIT_TRAIN_RUN_H

#include "quern/fit/train.h"

#include "quern/base/store.h"
#include "quern/model/gradient.h"
#include "quern/text/packing.h"

#include <jansson.h>
#include <stdio.h>

/* ---- train_inputs.c: what is trained, on what ---- */

typedef struct qni_train_inputs {
    qn_config config;
    qn_layout layout;
    qn_checkpoint *start; /* NULL: random weights */
    qn_tokenizer *tokenizer;
    qn_store *companions; /* where tokenizer files are copied from, or NULL */
    int32_t separator;
    qn_packing text, dev; /* dev: no contexts when there is none */
    char text_sha256[QN_SHA256_HEX];
} qni_train_inputs;

QN_NODISCARD qn_status qni_train_inputs_open(const qn_train_options *options, qni_train_inputs *out,
                                             qn_error *err);
void qni_train_inputs_release(qni_train_inputs *inputs);

/* ---- train_options.c ---- */

QN_NODISCARD qn_status qni_train_check(const qn_train_options *options, qn_error *err);

/* All that decides the result, as train.json holds it; *out is owned. */
QN_NODISCARD qn_status qni_train_identity(const qn_train_options *options, const qni_train_inputs *inputs,
                                          const qn_context *ctx, json_t **out, qn_error *err);

/* QN_E_ARGUMENT that lists what differs between the train.json SAVED and this run's IDENTITY. PATH is for messages. A run by
 * another version or instruction set is only warned of. */
QN_NODISCARD qn_status qni_train_compare(const json_t *saved, const json_t *identity, const char *path,
                                         const qn_context *ctx, qn_error *err);

/* ---- train_weights.c: masters and moments ---- */

typedef struct qni_train_weights {
    int64_t n;        /* entries of the layout */
    int64_t n_floats; /* parameters */
    float *masters, *first_moments,
        *second_moments;    /* [n_floats] owned; entries in layout order without gaps */
    qn_weight *weights;     /* [n] owned; dense F32 views of the masters */
    const qn_weight **list; /* [n] owned; pointers to them */
    qn_adamw_group *groups; /* [n] owned; one an entry, so that messages name it */
    qn_gradients gradients; /* owned */
} qni_train_weights;

QN_NODISCARD qn_status qni_train_weights_alloc(const qn_train_options *options, const qn_layout *layout,
                                               qni_train_weights *out, qn_error *err);
void qni_train_weights_release(qni_train_weights *weights);

/* Masters from CHECKPOINT, decoded; moments untouched. */
void qni_train_weights_decode(qni_train_weights *weights, const qn_checkpoint *checkpoint,
                              const qn_layout *layout, const qn_context *ctx);

/* Random masters as qn_train says; moments untouched. */
QN_NODISCARD qn_status qni_train_weights_draw(qni_train_weights *weights, const qni_train_inputs *inputs,
                                              uint64_t seed, const qn_context *ctx, qn_error *err);

/* ---- train_state.c: OUT/state ---- */

/* Writes the state after STEP steps, makes it the last one and removes those before. */
QN_NODISCARD qn_status qni_train_state_save(const char *folder, int64_t step, const qni_train_inputs *inputs,
                                            const qni_train_weights *weights, const qn_context *ctx,
                                            qn_error *err);

/* *step becomes that of the last state in FOLDER, or -1; what a killed run left half made is removed. */
QN_NODISCARD qn_status qni_train_state_find(const char *folder, int64_t *step, qn_error *err);

/* Fills masters and moments from the state of STEP. */
QN_NODISCARD qn_status qni_train_state_load(const char *folder, int64_t step, const qni_train_inputs *inputs,
                                            qni_train_weights *weights, const qn_context *ctx, qn_error *err);

/* The folder of a state, owned by the caller. */
QN_NODISCARD qn_status qni_train_state_path(const char *folder, int64_t step, char **path, qn_error *err);

/* Removes FOLDER; a kill in the middle leaves nothing under its name. */
void qni_train_state_remove(const char *folder);

/* ---- train_metrics.c ---- */

typedef struct qni_train_metrics {
    FILE *file;
    char *path; /* owned */
} qni_train_metrics;

QN_NODISCARD qn_status qni_train_metrics_open(const char *out, qni_train_metrics *metrics, qn_error *err);
/* Appends VALUE as a line and drops the reference; NULL means that memory was short. */
QN_NODISCARD qn_status qni_train_metrics_add(qni_train_metrics *metrics, json_t *value, qn_error *err);
void qni_train_metrics_close(qni_train_metrics *metrics);

#endif
