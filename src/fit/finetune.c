/* Whole-model tuning: cross entropy and the divergence from a cached teacher, on batches of sequences. */
#include "quern/fit/distill.h"

#include "base/alloc.h"
#include "base/memory.h"
#include "fit/tuning.h"
#include "quern/fit/teacher_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { KEPT_PART = 4 }; /* of the available memory, for activations */

typedef struct model_job {
    const qn_model *model;
    const qn_sequences *sequences;
    const qn_finetune_loss *loss;
    const qn_context *ctx;
    qn_teacher_rows teacher; /* owned; of the largest batch so far */
    int64_t keep_bytes;
} model_job;

static qn_status reserve(model_job *job, int64_t n_tokens, qn_error *err) {
    const qn_teacher_cache_info info = qn_teacher_cache_info_of(job->loss->cache);
    if (n_tokens <= job->teacher.n) return QN_OK;
    qn_teacher_rows_release(&job->teacher);
    return qn_teacher_rows_alloc(n_tokens, info.k, info.n_samples, &job->teacher, err);
}

static qn_status read_teacher(model_job *job, const int64_t *list, const qni_batch *batch, qn_error *err) {
    if (!job->loss->cache) return QN_OK;
    QN_TRY(reserve(job, batch->n_tokens, err));
    for (int64_t i = 0; i < batch->n; i++)
        QN_TRY(qn_teacher_cache_read(job->loss->cache, list[i], 1, &job->teacher, batch->starts[i], err));
    return QN_OK;
}

/* The next token of each position; none at the end of a sequence. Returns their number. */
static int64_t find_targets(const qni_batch *batch, int32_t *targets) {
    int64_t n = 0;
    for (int64_t i = 0; i < batch->n; i++) {
        const int64_t last = batch->starts[i + 1] - 1;
        for (int64_t t = batch->starts[i]; t < last; t++, n++) targets[t] = batch->ids[t + 1];
        if (last >= batch->starts[i]) targets[last] = -1;
    }
    return n;
}

static qn_status batch_loss(model_job *job, const int64_t *list, const qni_batch *batch, int32_t *targets,
                            qn_gradients *gradients, double *sum, double *units, qn_error *err) {
    const int64_t n_targets = find_targets(batch, targets);
    const qn_sequences sequences = {.ids = batch->ids, .starts = batch->starts, .n = batch->n};
    qn_loss found;
    QN_TRY(read_teacher(job, list, batch, err));
    const qn_teacher_top top = qn_teacher_rows_top(&job->teacher, 0);
    const qn_loss_options options = {.compute = job->loss->compute,
                                     .ce_weight = job->loss->ce_weight,
                                     .kl_weight = job->loss->cache ? job->loss->kl_weight : 0.0,
                                     .teacher_top = job->loss->cache ? &top : NULL,
                                     .scale = n_targets > 0 ? 1.0 / (double)n_targets : 0.0,
                                     .keep_bytes = job->keep_bytes};
    QN_TRY(qn_loss_gradient(job->model, &sequences, targets, &options, job->ctx, gradients, &found, err));
    *sum += options.ce_weight * found.ce_nats + options.kl_weight * found.kl_nats;
    *units += (double)n_targets;
    return QN_OK;
}

static qn_status find_loss(void *user, const int64_t *list, int64_t n, qn_gradients *gradients, double *sum,
                           double *units, qn_error *err) {
    model_job *job = user;
    qni_batch batch = {0};
    int32_t *targets = NULL;
    QN_TRY(qni_batch_gather(job->sequences, list, n, &batch, err));
    qn_status status = QNI_ALLOC(targets, batch.n_tokens, "a batch", err);
    if (status == QN_OK) status = batch_loss(job, list, &batch, targets, gradients, sum, units, err);
    free(targets);
    qni_batch_release(&batch);
    return status;
}

static qn_status check_cache(const qn_model *model, const qn_sequences *sequences,
                             const qn_finetune_loss *loss, qn_error *err) {
    if (loss->kl_weight == 0.0) return QN_OK;
    if (!loss->cache)
        return qn_fail(err, QN_E_ARGUMENT, "kl_weight %g needs a teacher's cache", loss->kl_weight);
    char text[QN_SHA256_HEX];
    const qn_teacher_cache_info info = qn_teacher_cache_info_of(loss->cache);
    const int64_t vocab = qn_model_config(model)->vocab_size;
    if (info.vocab_size != vocab)
        return qn_fail(err, QN_E_SHAPE, "the teacher's vocabulary of %lld is not the student's of %lld",
                       (long long)info.vocab_size, (long long)vocab);
    QN_TRY(qn_teacher_cache_text_sha256(sequences, text, err));
    if (strcmp(text, info.text_sha256) == 0) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "the teacher's cache is one of text %s, the run trains on text %s",
                   info.text_sha256, text);
}

static qn_status run(model_job *job, qn_trainable *t, const qn_tune_options *options,
                     const qni_holdout *holdout, qn_tune_report *out, qn_error *err) {
    const qni_tuned_loss loss = {find_loss, job};
    double first = 0.0;
    const bool holds_back = holdout->n_validation > 0;
    QN_TRY(qni_measure(t, &loss, holds_back ? holdout->validation : holdout->train,
                       holds_back ? holdout->n_validation : options->batch, options->batch, job->ctx, &first,
                       err));
    return qni_tune(t, &loss, holdout, first, options, job->ctx, out, err);
}

qn_status qn_finetune(qn_trainable *t, const qn_model *model, const qn_sequences *sequences,
                      const qn_finetune_loss *loss, const qn_tune_options *options, const qn_context *ctx,
                      qn_tune_report *out, qn_error *err) {
    model_job job = {.model = model, .sequences = sequences, .loss = loss, .ctx = ctx};
    qni_holdout holdout = {0};
    QN_TRY(check_cache(model, sequences, loss, err));
    const int64_t available = qni_available_bytes();
    job.keep_bytes = available > 0 ? available / KEPT_PART : 0;
    qn_status status = qni_holdout_make(sequences, options, &holdout, err);
    if (status == QN_OK) status = run(&job, t, options, &holdout, out, err);
    qni_holdout_release(&holdout);
    qn_teacher_rows_release(&job.teacher);
    return status;
}
