/* The long part of a calibrated run: fits and block training on one walk, then the whole model. */
#include "recipe/calibrated.h"

#include "base/alloc.h"
#include "fit/tuning.h"
#include "recipe/model_tuning.h"
#include "recipe/prefix.h"
#include "recipe/run_text.h"

#include <stdlib.h>

#include "base/banned.h"

/* What no recipe has had a reason to change. */
static const double k_target_ridge = 0.03, k_huber = 3.0, k_soft_part = 0.5, k_held_back = 1.0 / 16,
                    k_block_last_rate = 0.03, k_model_last_rate = 0.02;
enum { BLOCK_VALIDATIONS = 8, MODEL_VALIDATIONS = 16, WARMUP_STEPS = 30, SAVE_EVERY = 50 };

qni_run_stage qni_last_stage(const qn_recipe *recipe, int64_t layer) {
    if (recipe->finetune.steps > 0) return QNI_STAGE_TUNED;
    return recipe->distill.steps > 0 && layer >= 0 ? QNI_STAGE_TRAINED : QNI_STAGE_FITTED;
}

static qni_block_tuning block_tuning(const qn_recipe *recipe, uint64_t seed) {
    const qn_recipe_distill *d = &recipe->distill;
    return (qni_block_tuning){.tune = {.steps = d->steps,
                                       .batch = d->batch,
                                       .lr = d->lr,
                                       .min_lr_ratio = k_block_last_rate,
                                       .temperature = d->temperature,
                                       .soft_part = k_soft_part,
                                       .validation_part = k_held_back,
                                       .validations = BLOCK_VALIDATIONS,
                                       .patience = d->patience,
                                       .seed = seed,
                                       .save_every = SAVE_EVERY,
                                       .label = "train a block"},
                              .rates = {1.0, d->scale_rate, d->threshold_rate, d->vector_rate},
                              .window = d->window,
                              .student_inputs = d->student_inputs,
                              .huber = d->loss == QN_RECIPE_LOSS_HUBER ? k_huber : 0.0,
                              .fisher_weights = d->loss == QN_RECIPE_LOSS_FISHER,
                              .compute = d->compute};
}

qni_model_tuning qni_model_tuning_of(const qn_recipe *recipe, uint64_t seed) {
    const qn_recipe_finetune *f = &recipe->finetune;
    return (qni_model_tuning){
        .tune = {.steps = f->steps,
                 .batch = f->batch,
                 .lr = f->lr,
                 .min_lr_ratio = k_model_last_rate,
                 .warmup_steps = f->steps > 4 * WARMUP_STEPS ? WARMUP_STEPS : f->steps / 4,
                 .validation_part = k_held_back,
                 .validations = MODEL_VALIDATIONS,
                 .seed = seed,
                 .save_every = SAVE_EVERY,
                 .label = "tune the model"},
        .rates = {f->trained_codes ? 1.0 : 0.0, f->scale_rate, 0.0, f->vector_rate},
        .trained_codes = f->trained_codes,
        .kl_weight = f->kl_weight,
        .ce_weight = f->ce_weight,
        .top_k = f->top_k,
        .samples = f->samples,
        .compute = f->compute};
}

/* ---- fits and blocks ---- */

/* The sequences that no block is trained on. */
static qn_status gather_probe(const qn_sequences *sequences, const qn_tune_options *tune, qni_batch *out,
                              qn_error *err) {
    qni_holdout holdout = {0};
    QN_TRY(qni_holdout_make(sequences, tune, &holdout, err));
    const qn_status status = qni_batch_gather(sequences, holdout.validation, holdout.n_validation, out, err);
    qni_holdout_release(&holdout);
    return status;
}

static qn_status run_blocks(qni_calibrated *c, qni_prefix_job *job, const qn_context *ctx, qn_error *err) {
    qni_batch probe = {0};
    if (job->options.tuning.tune.steps > 0) {
        c->block_reports = qni_alloc_array(qn_model_config(c->model)->n_layers, sizeof *c->block_reports);
        if (!c->block_reports) return qni_fail_nomem(err, "the reports of blocks");
        QN_TRY(gather_probe(job->sequences, &job->options.tuning.tune, &probe, err));
    }
    const qn_sequences probe_sequences = {.ids = probe.ids, .starts = probe.starts, .n = probe.n};
    job->probe = &probe_sequences;
    const qn_status status = qni_prefix_run(job, ctx, c->relative_errors, c->block_reports, err);
    qni_batch_release(&probe);
    return status;
}

static qn_status compress_blocks(qni_calibrated *c, const qni_matrix_store *store, qn_model *teacher,
                                 qn_model *student, const qn_context *ctx, qn_error *err) {
    const qn_recipe *recipe = c->options->recipe;
    const qn_config *config = qn_model_config(c->model);
    const qn_sequences sequences = qn_calibration_sequences(&c->text);
    float *metric = qni_alloc_array(config->hidden_size * config->hidden_size, sizeof *metric);
    if (!metric) return qni_fail_nomem(err, "second moments");
    if (c->loss.layout) qni_loss_model_embedding_metric(&c->loss, config->tied, metric);
    qni_prefix_job job = {.teacher = teacher,
                          .student = student,
                          .sequences = &sequences,
                          .choices = c->choices,
                          .embedding_metric = metric,
                          .store = store,
                          .fisher = &c->loss.fisher,
                          .dev = c->dev,
                          .options = {.compute = QN_COMPUTE_F32,
                                      .fit = qni_fit_options_of(recipe),
                                      .student_inputs = recipe->student_inputs,
                                      .target_blend = recipe->target_blend,
                                      .target_ridge = k_target_ridge,
                                      .shrinkage = recipe->shrinkage,
                                      .keep_targets = recipe->distill.steps > 0 || recipe->finetune.steps > 0,
                                      .tuning = block_tuning(recipe, c->options->seed)}};
    const qn_status status = run_blocks(c, &job, ctx, err);
    free(metric);
    return status;
}

/* ---- the whole model ---- */

static qn_status tune_model(qni_calibrated *c, const qni_matrix_store *store, qn_model *teacher,
                            qn_model *student, const qn_context *ctx, qn_error *err) {
    const qn_recipe *recipe = c->options->recipe;
    const qn_sequences sequences = qn_calibration_sequences(&c->tuning_text);
    const qni_model_tuning tuning = qni_model_tuning_of(recipe, c->options->seed);
    const qni_model_job job = {.tuning = &tuning,
                               .compute = QN_COMPUTE_F32,
                               .teacher = teacher,
                               .student = student,
                               .sequences = &sequences,
                               .shapes = c->shapes,
                               .store = store,
                               .dev = c->dev,
                               .blocks_are_trained = recipe->distill.steps > 0};
    if (recipe->finetune.steps == 0) return QN_OK;
    return qni_tune_model(&job, ctx, &c->model_report, err);
}

/* ---- the run ---- */

static qn_status open_dev(qni_calibrated *c, const qn_model *teacher, const qn_context *ctx, qn_error *err) {
    qn_windows windows = {0};
    if (!c->options->documents || c->options->dev_every <= 0) return QN_OK;
    QN_TRY(qni_run_windows(c->options, &windows, err));
    return qni_dev_trace_open(teacher, &windows, c->options->dev_every, ctx, &c->dev, err);
}

qn_status qni_calibrated_run(qni_calibrated *c, const qni_matrix_store *store, const qn_context *ctx,
                             qn_error *err) {
    qn_model *teacher = NULL, *student = NULL;
    c->relative_errors = qni_alloc_array(c->layout->n, sizeof *c->relative_errors);
    if (!c->relative_errors) return qni_fail_nomem(err, "the errors of fits");
    qn_status status = qn_model_open(c->options->model, &teacher, err);
    if (status == QN_OK) status = qn_model_open(c->options->model, &student, err);
    if (status == QN_OK) status = open_dev(c, teacher, ctx, err);
    if (status == QN_OK) status = compress_blocks(c, store, teacher, student, ctx, err);
    if (status == QN_OK) status = tune_model(c, store, teacher, student, ctx, err);
    qn_model_close(student);
    qn_model_close(teacher);
    return status;
}
