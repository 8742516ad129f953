/* The calibrated path's loss model: measured on its text, or read from a file of statistics. */
#include "recipe/calibrated.h"

#include "quern/base/sha256.h"
#include "recipe/loss_store.h"
#include "recipe/run_keys.h"

#include <string.h>

#include "base/banned.h"

enum { Q4_GROUP_SIZE = 128 };

qni_band_codecs qni_band_codecs_of(const qn_recipe *recipe, qn_track track) {
    const qn_code code = track == QN_TRACK_BINARY ? QN_CODE_SIGN : QN_CODE_TERNARY;
    const qn_codec native = {code, (int32_t)recipe->group_size, recipe->scales};
    const qn_codec q4 = {QN_CODE_Q4, Q4_GROUP_SIZE, recipe->scales}, none = {0};
    return (qni_band_codecs){{[QNI_BAND_SINGLE] = native,
                              [QNI_BAND_DOUBLE] = recipe->planes > 1 ? native : none,
                              [QNI_BAND_Q4] = recipe->max_rescue_fraction > 0 ? q4 : none}};
}

qn_hessian_fit_options qni_fit_options_of(const qn_recipe *recipe) {
    static const qn_hessian_method methods[] = {[QN_RECIPE_WEIGHTED] = QN_HESSIAN_WEIGHTED,
                                                [QN_RECIPE_FEEDBACK] = QN_HESSIAN_FEEDBACK,
                                                [QN_RECIPE_DESCENT] = QN_HESSIAN_DESCENT};
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    options.method = methods[recipe->fit];
    options.damping = recipe->damping;
    options.activation_order = recipe->activation_order;
    options.error_decay = recipe->error_decay;
    options.rate = recipe->rate;
    options.sweeps = (int)recipe->sweeps;
    return options;
}

static qn_status measure_on_text(qni_calibrated *c, const qni_loss_model_options *options,
                                 const qn_context *ctx, qn_error *err) {
    qn_calibration_text part = {0};
    QN_TRY(qn_calibration_text_part(&c->text, c->options->recipe->fisher_tokens, &part, err));
    const qn_sequences sequences = qn_calibration_sequences(&c->text),
                       fisher = qn_calibration_sequences(&part);
    const qn_status status =
        qni_loss_model_measure(c->model, &sequences, &fisher, options, ctx, &c->loss, err);
    qn_calibration_text_release(&part);
    c->loss_is_measured = status == QN_OK;
    return status;
}

/* Files of several texts are fine, but whoever gives one that does not hold the run's own text may have mixed them up. */
static void note_other_text(const qni_calibrated *c, const qn_statistics *statistics, const qn_context *ctx) {
    const char *text = qn_statistics_info_of(statistics).text_sha256;
    if (c->text.n > 0 && text && !strstr(text, c->text.sha256))
        qn_log(ctx, QN_LOG_WARNING, "%s was measured on other text than %s", c->options->statistics,
               c->options->text);
}

static qn_status read_statistics(qni_calibrated *c, const qni_loss_model_options *options,
                                 const qn_context *ctx, qn_error *err) {
    const char *path = c->options->statistics;
    qn_statistics *statistics = NULL;
    QN_TRY(qn_statistics_open(path, c->layout, &statistics, err));
    qn_status status = qn_statistics_check_model(statistics, qn_model_checkpoint(c->model), ctx, err);
    if (status == QN_OK) {
        note_other_text(c, statistics, ctx);
        status = qni_loss_model_read(c->model, statistics, path, options, ctx, &c->loss, err);
    }
    qn_statistics_close(statistics);
    return status == QN_OK ? qn_sha256_of_file(path, c->statistics_sha256, NULL, err) : status;
}

static qn_status make_loss(qni_calibrated *c, const qni_loss_model_options *options, const qn_context *ctx,
                           qn_error *err) {
    return c->options->statistics ? read_statistics(c, options, ctx, err)
                                  : measure_on_text(c, options, ctx, err);
}

/* With a model that can be lent changed matrices, and the text to walk it through. */
static qn_status make_probed_loss(qni_calibrated *c, qni_loss_model_options *options, const qn_context *ctx,
                                  qn_error *err) {
    qn_calibration_text part = {0};
    qn_model *probed = NULL;
    if (c->text.n == 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "recipe '%s': plan.sensitivity 'measured' walks through text: give --text FILE",
                       c->options->recipe->name);
    QN_TRY(qn_calibration_text_part(&c->text, c->options->recipe->probe_tokens, &part, err));
    const qn_sequences sequences = qn_calibration_sequences(&part);
    qn_status status = qn_model_open(c->options->model, &probed, err);
    options->probed = probed;
    options->probe_sequences = &sequences;
    if (status == QN_OK) status = make_loss(c, options, ctx, err);
    options->probed = NULL; /* they end here */
    options->probe_sequences = NULL;
    qn_model_close(probed);
    qn_calibration_text_release(&part);
    return status;
}

/* What an earlier run in the same work folder measured. */
static qn_status take_kept(qni_calibrated *c, const qn_context *ctx, bool *found, qn_error *err) {
    char key[QN_SHA256_HEX];
    *found = false;
    if (!c->options->work || c->options->statistics || c->text.n == 0) return QN_OK;
    QN_TRY(qni_loss_key(c, ctx, key, err));
    return qni_loss_store_load(c->options->work, key, c->layout, found, &c->loss, err);
}

qn_status qni_calibrated_keep_loss(qni_calibrated *c, const qn_context *ctx, qn_error *err) {
    char key[QN_SHA256_HEX];
    if (!c->options->work || !c->loss_is_measured) return QN_OK;
    QN_TRY(qni_loss_key(c, ctx, key, err));
    return qni_loss_store_save(c->options->work, key, &c->loss, err);
}

qn_status qni_calibrated_make_loss(qni_calibrated *c, const qn_context *ctx, qn_error *err) {
    const qn_recipe *recipe = c->options->recipe;
    qni_loss_model_options options = {.compute = QN_COMPUTE_F32,
                                      .axis = recipe->lines,
                                      .codecs = qni_band_codecs_of(recipe, c->options->profile->track),
                                      .fit = qni_fit_options_of(recipe),
                                      .shrinkage = recipe->shrinkage,
                                      .hadamard = recipe->hadamard,
                                      .rotation_is_open = recipe->measured_rotation,
                                      .measures_errors = recipe->measured_errors || recipe->measured_rotation,
                                      .seed = c->options->seed};
    bool found;
    QN_TRY(take_kept(c, ctx, &found, err));
    if (found) return QN_OK;
    return recipe->measured_sensitivity ? make_probed_loss(c, &options, ctx, err)
                                        : make_loss(c, &options, ctx, err);
}
