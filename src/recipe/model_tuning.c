#include "recipe/model_tuning.h"

#include "base/alloc.h"
#include "fit/tuning.h"
#include "quern/fit/teacher_cache.h"
#include "recipe/block_tuning.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/banned.h"

typedef struct model_run {
    const qni_model_job *job;
    const qn_context *ctx;
    const qn_layout *layout;
    qn_trainable t;
} model_run;

/* ---- the student so far ---- */

/* The stage that holds matrices and vectors of LAYER. */
static qni_run_stage stage_of(const model_run *r, int64_t layer) {
    return r->job->blocks_are_trained && layer >= 0 ? QNI_STAGE_TRAINED : QNI_STAGE_FITTED;
}

/* What the set of a layer is made of. */
typedef struct layer_parts {
    qn_encoded *encoded;       /* owned [layout.n] */
    const qn_encoded **fitted; /* owned [layout.n] */
    float **targets;           /* owned [layout.n], each owned */
} layer_parts;

static void parts_release(const model_run *r, layer_parts *p) {
    for (int64_t i = 0; i < r->layout->n; i++) {
        if (p->encoded) qn_encoded_release(&p->encoded[i]);
        if (p->targets) free(p->targets[i]);
    }
    free(p->encoded);
    free(p->fitted);
    free(p->targets);
}

static qn_status parts_alloc(const model_run *r, layer_parts *p, qn_error *err) {
    p->encoded = qni_alloc_array(r->layout->n, sizeof *p->encoded);
    p->fitted = qni_alloc_array(r->layout->n, sizeof *p->fitted);
    p->targets = qni_alloc_array(r->layout->n, sizeof *p->targets);
    return p->encoded && p->fitted && p->targets ? QN_OK : qni_fail_nomem(err, "the matrices of a block");
}

/* Latents go on from the fit's targets; codes that are not to move begin and stay at their levels. */
static qn_status load_layer(const model_run *r, int64_t layer, layer_parts *p, qn_error *err) {
    const qni_model_job *job = r->job;
    const bool moves = job->tuning->trained_codes;
    for (int64_t i = 0; i < r->layout->n; i++) {
        const qn_layout_entry *e = &r->layout->entries[i];
        bool found = false;
        if (!e->is_matrix || e->layer != layer) continue;
        QN_TRY(qni_matrix_store_load(job->store, moves ? QNI_STAGE_FITTED : stage_of(r, layer), i, e->name,
                                     &job->shapes[i], &found, &p->encoded[i], moves ? &p->targets[i] : NULL,
                                     err));
        if (!found) return qn_fail(err, QN_E_IO, "%s: %s has gone", job->store->folder, e->name);
        p->fitted[i] = &p->encoded[i];
    }
    return QN_OK;
}

static qn_status fill_layer(const model_run *r, int64_t layer, qn_trainable *t, qn_error *err) {
    const bool is_trained = stage_of(r, layer) == QNI_STAGE_TRAINED;
    qn_trainable_mark mark;
    bool found = true;
    if (is_trained && r->job->tuning->trained_codes)
        QN_TRY(qni_trained_block_load(r->job->store, layer, t, &mark, &found, err));
    else
        QN_TRY(qni_take_vectors(r->job->store, stage_of(r, layer), t, err));
    if (found) return QN_OK;
    return qn_fail(err, QN_E_IO, "%s: the trained block %lld has gone", r->job->store->folder,
                   (long long)layer);
}

static qn_status add_layer(model_run *r, int64_t layer, qn_error *err) {
    const qni_model_job *job = r->job;
    layer_parts parts = {0};
    qn_trainable t = {0};
    qn_status status = parts_alloc(r, &parts, err);
    if (status == QN_OK) status = load_layer(r, layer, &parts, err);
    if (status == QN_OK)
        status = qni_layer_trainable(job->teacher, layer, parts.fitted, parts.targets, &job->tuning->rates,
                                     r->ctx, &t, err);
    if (status == QN_OK) status = fill_layer(r, layer, &t, err);
    if (status == QN_OK) status = qn_trainable_take(&r->t, &t, err);
    qn_trainable_release(&t);
    parts_release(r, &parts);
    return status;
}

static qn_status make_set(model_run *r, qn_error *err) {
    const int64_t n_layers = qn_model_config(r->job->student)->n_layers;
    QN_TRY(qn_trainable_init(r->layout, &r->t, err));
    for (int64_t layer = -1; layer < n_layers; layer++) QN_TRY(add_layer(r, layer, err));
    return qn_trainable_seal(&r->t, &r->job->tuning->rates, err);
}

/* ---- the run ---- */

/* More of a small vocabulary would make the cache larger than a fiftieth of the logits (measured: docs/quality.md). */
static int64_t kept_probabilities(const qni_model_job *job) {
    const int64_t vocab = qn_model_config(job->teacher)->vocab_size;
    int64_t k = job->tuning->top_k;
    if (k == 0) k = vocab / 32 < 64 ? 64 : vocab / 32 > 128 ? 128 : vocab / 32;
    return k < vocab ? k : vocab;
}

static qn_teacher_cache_options cache_options(const qni_model_job *job) {
    const int64_t vocab = qn_model_config(job->teacher)->vocab_size, k = kept_probabilities(job),
                  wanted = job->tuning->samples;
    return (qn_teacher_cache_options){
        .k = k, .n_samples = wanted < vocab - k ? wanted : vocab - k, .compute = job->compute};
}

/* Caches of other texts or sizes may stand beside it. */
static qn_status cache_path(const qni_model_job *job, const qn_teacher_cache_options *options, char **path,
                            qn_error *err) {
    char text[QN_SHA256_HEX], name[128];
    QN_TRY(qn_teacher_cache_text_sha256(job->sequences, text, err));
    (void)snprintf(name, sizeof name, "teacher-%.12s-top%lld-samples%lld.cache", text, (long long)options->k,
                   (long long)options->n_samples);
    return qni_store_path(job->store, name, path, err);
}

/* The teacher's predictions on the run's text; *cache NULL where none are wanted. */
static qn_status open_cache(const qni_model_job *job, const qn_context *ctx, qn_teacher_cache **cache,
                            qn_error *err) {
    const qn_teacher_cache_options options = cache_options(job);
    qn_teacher_cache_info info;
    char *path = NULL;
    if (job->tuning->kl_weight == 0.0) return QN_OK;
    QN_TRY(cache_path(job, &options, &path, err));
    qn_status status = qn_teacher_cache_make(job->teacher, job->sequences, &options, path, ctx, &info, err);
    if (status == QN_OK) {
        qn_log(
            ctx, QN_LOG_INFO, "the teacher's %lld largest probabilities and %lld samples: %.1f bytes a token",
            (long long)options.k, (long long)options.n_samples, (double)info.n_bytes / (double)info.n_tokens);
        status = qn_teacher_cache_open(path, info.teacher_sha256, info.text_sha256, cache, err);
    }
    free(path);
    return status;
}

static qn_status train(const qni_model_job *job, qn_trainable *t, qn_teacher_cache *cache,
                       const char *state_path, const qn_context *ctx, qn_tune_report *report, qn_error *err) {
    const qn_finetune_loss loss = {.compute = job->tuning->compute,
                                   .kl_weight = job->tuning->kl_weight,
                                   .ce_weight = job->tuning->ce_weight,
                                   .cache = cache};
    qn_tune_options options = job->tuning->tune;
    options.state_path = state_path;
    options.key = job->store->keys[QNI_STAGE_TUNED];
    qn_status status = qn_trainable_lend(t, job->student, err);
    if (status == QN_OK)
        status = qn_finetune(t, job->student, job->sequences, &loss, &options, ctx, report, err);
    qn_trainable_give_back(t, job->student);
    QN_TRY(status);
    qn_log(ctx, report->best_step > 0 ? QN_LOG_INFO : QN_LOG_WARNING,
           "whole model: loss on held-back text %.5f -> %.5f nats (step %lld of %lld)%s", report->first_loss,
           report->best_loss, (long long)report->best_step, (long long)report->steps,
           report->best_step > 0 ? "" : ": nothing was better than the start, which is kept");
    return QN_OK;
}

qn_status qni_tune_set(const qni_model_job *job, qn_trainable *t, const qn_context *ctx,
                       qn_tune_report *report, qn_error *err) {
    qn_teacher_cache *cache = NULL;
    char *state_path = NULL;
    qn_status status = qni_stage_path(job->store, QNI_STAGE_TUNED, "training-model", 0, &state_path, err);
    if (status == QN_OK) status = open_cache(job, ctx, &cache, err);
    if (status == QN_OK) status = train(job, t, cache, state_path, ctx, report, err);
    qn_teacher_cache_close(cache);
    free(state_path);
    return status;
}

void qni_forget_training(const qni_matrix_store *store) {
    char *path = NULL;
    if (qni_stage_path(store, QNI_STAGE_TUNED, "training-model", 0, &path, NULL) != QN_OK) return;
    (void)unlink(path); /* in the way of nothing if it stays */
    free(path);
}

/* *perplexity on dev with the set as it stands. */
static qn_status watch(model_run *r, double *perplexity, qn_error *err) {
    qn_trainable_evaluate(&r->t, 0.0, r->ctx);
    qn_status status = qn_trainable_lend(&r->t, r->job->student, err);
    if (status == QN_OK) status = qni_dev_trace_model(r->job->dev, r->job->student, r->ctx, perplexity, err);
    qn_trainable_give_back(&r->t, r->job->student);
    return status;
}

static qn_status tune_or_load(model_run *r, const char *done_path, qn_tune_report *report, qn_error *err) {
    qn_trainable_mark mark = {.key = r->job->store->keys[QNI_STAGE_TUNED]};
    bool is_done = false;
    QN_TRY(qn_trainable_load(&r->t, done_path, &mark, false, &is_done, err));
    if (is_done) {
        *report = qni_marked_report(&mark);
        qn_trainable_evaluate(&r->t, 0.0, r->ctx);
        return qni_save_trained(r->job->store, QNI_STAGE_TUNED, &r->t, err); /* some may have been removed */
    }
    QN_TRY(qni_tune_set(r->job, &r->t, r->ctx, report, err));
    qni_mark_report(report, &mark);
    QN_TRY(qni_save_trained(r->job->store, QNI_STAGE_TUNED, &r->t, err));
    QN_TRY(qn_trainable_save(&r->t, done_path, &mark, false, err));
    qni_forget_training(r->job->store);
    return QN_OK;
}

static qn_status run(model_run *r, const char *done_path, qn_tune_report *report, qn_error *err) {
    qn_dev_report *dev = r->job->dev ? &r->job->dev->report : NULL;
    QN_TRY(make_set(r, err));
    if (dev) QN_TRY(watch(r, &dev->compressed, err));
    QN_TRY(tune_or_load(r, done_path, report, err));
    if (!dev) return QN_OK;
    QN_TRY(watch(r, &dev->tuned, err));
    qn_log(r->ctx, QN_LOG_INFO, "whole model: perplexity on dev %.4f -> %.4f (the teacher's %.4f)",
           dev->compressed, dev->tuned, dev->teacher);
    return QN_OK;
}

qn_status qni_tune_model(const qni_model_job *job, const qn_context *ctx, qn_tune_report *report,
                         qn_error *err) {
    model_run r = {.job = job, .ctx = ctx, .layout = qn_checkpoint_layout(qn_model_checkpoint(job->student))};
    qn_tune_report found = {0};
    char *done_path = NULL;
    qn_status status = qni_stage_path(job->store, QNI_STAGE_TUNED, "model", 0, &done_path, err);
    if (status == QN_OK) status = run(&r, done_path, &found, err);
    qn_trainable_release(&r.t);
    free(done_path);
    if (status == QN_OK) *report = found;
    return status;
}
