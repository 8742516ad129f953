#include "recipe/block_tuning.h"

#include "base/alloc.h"
#include "fit/tuning.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/banned.h"

static const char k_trained_block[] = "block";

static qn_status add_matrix(qn_trainable *t, int64_t entry, const qn_encoded *fitted, const float *target,
                            const qn_context *ctx, qn_error *err) {
    qn_banded banded = {0};
    qn_latents latents = {0};
    QN_TRY(qn_banded_unpack(fitted, &banded, err));
    QN_TRY(qn_latents_init(&banded, fitted->hadamard, target, ctx, &latents, err));
    const qn_status status = qn_trainable_add_matrix(t, entry, &latents, err);
    qn_latents_release(&latents);
    return status;
}

static qn_status fill(qn_trainable *t, const qn_model *teacher, int64_t layer,
                      const qn_encoded *const *fitted, float *const *targets, const qn_context *ctx,
                      qn_error *err) {
    for (int64_t i = 0; i < t->layout->n; i++) {
        const qn_layout_entry *e = &t->layout->entries[i];
        if (e->layer != layer) continue;
        if (e->is_matrix)
            QN_TRY(add_matrix(t, i, fitted[i], targets[i], ctx, err));
        else
            QN_TRY(qn_trainable_add_vector(t, i, qn_model_weight(teacher, i), err));
    }
    return QN_OK;
}

qn_status qni_layer_trainable(const qn_model *teacher, int64_t layer, const qn_encoded *const *fitted,
                              float *const *targets, const qn_trainable_rates *rates, const qn_context *ctx,
                              qn_trainable *out, qn_error *err) {
    qn_trainable t = {0};
    qn_status status = qn_trainable_init(qn_checkpoint_layout(qn_model_checkpoint(teacher)), &t, err);
    if (status == QN_OK) status = fill(&t, teacher, layer, fitted, targets, ctx, err);
    if (status == QN_OK) status = qn_trainable_seal(&t, rates, err);
    if (status == QN_OK)
        *out = t;
    else
        qn_trainable_release(&t);
    return status;
}

qn_status qni_take_vectors(const qni_matrix_store *store, qni_run_stage stage, qn_trainable *t,
                           qn_error *err) {
    for (int64_t i = 0; i < t->n_parts; i++) {
        qn_trainable_part *part = &t->parts[i];
        const qn_layout_entry *e = &t->layout->entries[part->entry];
        bool found = false;
        if (!part->has_latents)
            QN_TRY(qni_vector_store_load(store, stage, part->entry, e->name, e->cols, &found, part->masters,
                                         err));
    }
    return QN_OK;
}

qn_status qni_trained_block_load(const qni_matrix_store *store, int64_t layer, qn_trainable *t,
                                 qn_trainable_mark *mark, bool *found, qn_error *err) {
    char *path = NULL;
    *mark = (qn_trainable_mark){.key = store->keys[QNI_STAGE_TRAINED]};
    QN_TRY(qni_stage_path(store, QNI_STAGE_TRAINED, k_trained_block, layer, &path, err));
    const qn_status status = qn_trainable_load(t, path, mark, false, found, err);
    free(path);
    return status;
}

bool qni_trained_block_is_stored(const qni_matrix_store *store, int64_t layer) {
    return qni_stage_has(store, QNI_STAGE_TRAINED, k_trained_block, layer);
}

static qn_status train(const qni_block_job *job, qn_trainable *t, const qn_context *ctx,
                       qn_tune_report *report, qn_error *err) {
    const qn_distill_window window = {.compute = job->tuning->compute,
                                      .first_layer = job->layer,
                                      .n_layers = job->tuning->window,
                                      .stream = job->stream,
                                      .target = job->target,
                                      .channel_weights = job->channel_weights,
                                      .huber = job->tuning->huber};
    const int64_t n_layers = qn_model_config(job->student)->n_layers;
    qn_distill_window fitting = window;
    qn_tune_options options = job->tuning->tune;
    char *path = NULL;
    if (job->layer + fitting.n_layers > n_layers) fitting.n_layers = n_layers - job->layer;
    QN_TRY(qni_stage_path(job->store, QNI_STAGE_TRAINED, "training", job->layer, &path, err));
    options.state_path = path;
    options.key = job->store->keys[QNI_STAGE_TRAINED];
    options.seed += (uint64_t)job->layer;
    const qn_status status =
        qn_distill(t, job->student, job->sequences, &fitting, &options, ctx, report, err);
    if (status == QN_OK) (void)unlink(path);
    free(path);
    return status;
}

/* The proxy improved and what it stands for did not. */
static bool is_trap(const qni_block_report *r) {
    return r->tune.best_loss < r->tune.first_loss && r->trained_kl > r->fitted_kl;
}

static void tell(const qni_block_report *r, int64_t layer, const qn_context *ctx) {
    const char *outcome = r->was_trap ? "a trap: nearer to its target, farther at the head; back to its fit"
                          : r->tune.diverged ? "diverged; the best state before is kept"
                                             : "kept";
    qn_log(ctx, r->was_trap || r->tune.diverged ? QN_LOG_WARNING : QN_LOG_INFO,
           "block %lld: distance %.4g -> %.4g (%lld of %lld steps), divergence at the head %.5f -> %.5f: %s",
           (long long)layer, r->tune.first_loss, r->tune.best_loss, (long long)r->tune.best_step,
           (long long)r->tune.steps, r->fitted_kl, r->trained_kl, outcome);
}

/* A copy of the parameters as fitted, so that a trap can be left. */
static qn_status copy_parameters(const qn_trainable *t, float **out, qn_error *err) {
    QN_TRY(QNI_ALLOC(*out, t->n_floats, "a block as fitted", err));
    qn_trainable_copy(t, *out);
    return QN_OK;
}

static qn_status train_and_judge(const qni_block_job *job, qn_trainable *t, const float *fitted,
                                 const qn_context *ctx, qni_block_report *report, qn_error *err) {
    qn_trainable_evaluate(t, 0.0, ctx);
    QN_TRY(qni_probe_kl(job->probe, job->layer, &report->fitted_kl, err));
    QN_TRY(train(job, t, ctx, &report->tune, err));
    QN_TRY(qni_probe_kl(job->probe, job->layer, &report->trained_kl, err));
    report->was_trap = is_trap(report);
    if (report->was_trap) {
        qn_trainable_set(t, fitted);
        qn_trainable_evaluate(t, 0.0, ctx);
    }
    tell(report, job->layer, ctx);
    return QN_OK;
}

static qn_status save_block(const qni_block_job *job, const qn_trainable *t, const qni_block_report *report,
                            qn_error *err) {
    qn_trainable_mark mark = {.key = job->store->keys[QNI_STAGE_TRAINED],
                              .first_kl = report->fitted_kl,
                              .best_kl = report->trained_kl,
                              .was_trap = report->was_trap};
    char *path = NULL;
    qni_mark_report(&report->tune, &mark);
    QN_TRY(qni_stage_path(job->store, QNI_STAGE_TRAINED, k_trained_block, job->layer, &path, err));
    qn_status status = qni_save_trained(job->store, QNI_STAGE_TRAINED, t, err);
    if (status == QN_OK) status = qn_trainable_save(t, path, &mark, false, err);
    free(path);
    return status;
}

static qn_status tune(const qni_block_job *job, qn_trainable *t, const qn_context *ctx,
                      qni_block_report *report, qn_error *err) {
    float *fitted = NULL;
    QN_TRY(copy_parameters(t, &fitted, err));
    qn_status status = qn_trainable_lend(t, job->student, err);
    if (status == QN_OK) status = train_and_judge(job, t, fitted, ctx, report, err);
    qn_trainable_give_back(t, job->student);
    if (status == QN_OK) status = save_block(job, t, report, err);
    free(fitted);
    return status;
}

/* What was said of the block when it was trained. */
static qni_block_report stored_report(const qn_trainable_mark *mark) {
    return (qni_block_report){.tune = qni_marked_report(mark),
                              .fitted_kl = mark->first_kl,
                              .trained_kl = mark->best_kl,
                              .was_trap = mark->was_trap,
                              .was_stored = true};
}

qn_status qni_tune_block(const qni_block_job *job, qn_trainable *t, const qn_context *ctx,
                         qni_block_report *report, qn_error *err) {
    qni_block_report r = {0};
    qn_trainable_mark mark;
    bool is_stored = false;
    QN_TRY(qni_trained_block_load(job->store, job->layer, t, &mark, &is_stored, err));
    if (is_stored) {
        r = stored_report(&mark);
        qn_trainable_evaluate(t, 0.0, ctx);
        QN_TRY(qni_save_trained(job->store, QNI_STAGE_TRAINED, t, err)); /* some may have been removed */
    } else if (!job->stream) {
        return qn_fail(err, QN_E_IO, "%s: the trained block %lld has gone", job->store->folder,
                       (long long)job->layer);
    } else {
        QN_TRY(tune(job, t, ctx, &r, err));
    }
    *report = r;
    return QN_OK;
}

qn_status qni_save_trained(const qni_matrix_store *store, qni_run_stage stage, const qn_trainable *t,
                           qn_error *err) {
    for (int64_t i = 0; i < t->n_parts; i++) {
        const qn_trainable_part *part = &t->parts[i];
        const qn_layout_entry *e = &t->layout->entries[part->entry];
        qn_encoded encoded = {0};
        if (!part->has_latents) {
            QN_TRY(qni_vector_store_save(store, stage, part->entry, e->name, part->dense, e->cols, err));
            continue;
        }
        QN_TRY(qn_banded_encode(&part->latents.codes, part->latents.hadamard, e->name, &encoded, err));
        const qn_status status =
            qni_matrix_store_save(store, stage, part->entry, e->name, &encoded, NULL, -1.0, err);
        qn_encoded_release(&encoded);
        QN_TRY(status);
    }
    return QN_OK;
}
