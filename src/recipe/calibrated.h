/* The calibrated path of the main job: calibration text in, a plan of bands, and every matrix compressed in the store. */
#ifndef QUERN_SRC_RECIPE_CALIBRATED_H
#define QUERN_SRC_RECIPE_CALIBRATED_H

#include "quern/artifact/artifact.h"
#include "quern/fit/calibrate.h"
#include "quern/fit/hessian_fit.h"
#include "quern/recipe/compress.h"
#include "recipe/block_tuning.h"
#include "recipe/dev_trace.h"
#include "recipe/loss_model.h"
#include "recipe/matrix_store.h"
#include "recipe/planner.h"

typedef struct qni_calibrated {
    const qn_compress_options *options; /* borrowed, as are model and layout */
    const qn_model *model;
    const qn_layout *layout;
    qn_calibration_text text;
    qni_loss_model loss;
    bool loss_is_measured;                 /* by this run, not taken from a file */
    char statistics_sha256[QN_SHA256_HEX]; /* of the file the loss model is from; "" where it was measured */
    char weights_sha256[QN_SHA256_HEX];    /* of the model, where a key has asked for it */
    int64_t file_bytes;                    /* by qni_calibrated_plan: of the whole file */
    qni_plan_choice *choices;              /* owned [layout.n], matrices only */
    double *relative_errors;         /* owned [layout.n], by qni_calibrated_run: as qni_prefix_run says */
    qn_encoded *shapes;              /* owned [layout.n]: of the choices, for the artifact's plan */
    qn_calibration_text tuning_text; /* of the whole-model stage; empty without it */
    qni_block_report
        *block_reports; /* owned [layers], by qni_calibrated_run; NULL where blocks are not trained */
    qn_tune_report model_report; /* by qni_calibrated_run; zero without that stage */
    qni_dev_trace *dev;          /* owned, by qni_calibrated_run; NULL where it is not wanted */
} qni_calibrated;

/* Reads the calibration text, refuses one that holds the evaluation documents, and measures the loss model. */
QN_NODISCARD qn_status qni_calibrated_open(const qn_compress_options *options, const qn_model *model,
                                           const qn_context *ctx, qni_calibrated *out, qn_error *err);
void qni_calibrated_close(qni_calibrated *c);

/* c->loss, from the options' statistics, or what an earlier run left in the work folder, or else from the text (calibrated_loss.c). */
QN_NODISCARD qn_status qni_calibrated_make_loss(qni_calibrated *c, const qn_context *ctx, qn_error *err);

/* Leaves a loss model that was measured in the work folder, if the run has one. */
QN_NODISCARD qn_status qni_calibrated_keep_loss(qni_calibrated *c, const qn_context *ctx, qn_error *err);

/* Chooses bands so that the whole file fits BUDGET_BYTES with at most MAX_Q4_WEIGHTS rescued. QN_E_BUDGET: it cannot,
 * *minimum_bytes says what it takes. */
QN_NODISCARD qn_status qni_calibrated_plan(qni_calibrated *c, const qn_artifact_plan *plan,
                                           int64_t budget_bytes, int64_t max_q4_weights,
                                           int64_t *minimum_bytes, qn_error *err);

/* How the recipe fits, and what it lets bands be made of. */
qni_band_codecs qni_band_codecs_of(const qn_recipe *recipe, qn_track track);
qn_hessian_fit_options qni_fit_options_of(const qn_recipe *recipe);

/* The last stage that the recipe runs for matrices and vectors of LAYER (-1: embedding, head, final norm). */
qni_run_stage qni_last_stage(const qn_recipe *recipe, int64_t layer);

/* Compresses every matrix into STORE (prefix.h), then trains what the recipe trains (calibrated_run.c). */
QN_NODISCARD qn_status qni_calibrated_run(qni_calibrated *c, const qni_matrix_store *store,
                                          const qn_context *ctx, qn_error *err);

#endif
