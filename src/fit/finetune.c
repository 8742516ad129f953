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

/* What the teacher says of a batch, [capacity, k]. */
typedef struct teacher_batch {
    int32_t *ids;                     /* owned */
    float *log_probs, *tail_log_prob; /* owned */
    int64_t capacity;                 /* tokens */
} teacher_batch;

typedef struct model_job {
    const qn_model *model;
    const qn_sequences *sequences;
    const qn_finetune_loss *loss;
    const qn_context *ctx;
    teacher_batch teacher;
    int64_t k, keep_bytes;
} model_job;

static void teacher_release(teacher_batch *t) {
    free(t->ids);
    free(t->log_probs);
    free(t->tail_log_prob);
    *t = (teacher_batch){0};
}

static qn_status reserve(model_job *job, int64_t n_tokens, qn_error *err) {
    teacher_batch *t = &job->teacher;
    if (n_tokens <= t->capacity) return QN_OK;
    teacher_release(t);
    QN_TRY(QNI_ALLOC(t->ids, n_tokens * job->k, "the teacher's predictions", err));
    QN_TRY(QNI_ALLOC(t->log_probs, n_tokens * job->k, "the teacher's predictions", err));
    QN_TRY(QNI_ALLOC(t->tail_log_prob, n_tokens, "the teacher's predictions", err));
    t->capacity = n_tokens;
    return QN_OK;
}

static qn_status read_teacher(model_job *job, const int64_t *list, const qni_batch *batch, qn_error *err) {
    if (!job->loss->cache) return QN_OK;
    QN_TRY(reserve(job, batch->n_tokens, err));
    for (int64_t i = 0; i < batch->n; i++) {
        const int64_t at = batch->starts[i];
        QN_TRY(qn_teacher_cache_read(job->loss->cache, list[i], 1, job->teacher.ids + at * job->k,
                                     job->teacher.log_probs + at * job->k, job->teacher.tail_log_prob + at,
                                     err));
    }
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
    const qn_teacher_top top = {.ids = job->teacher.ids,
                                .log_probs = job->teacher.log_probs,
                                .tail_log_prob = job->teacher.tail_log_prob,
                                .k = job->k};
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
    if (loss->cache) job.k = qn_teacher_cache_info_of(loss->cache).k;
    const int64_t available = qni_available_bytes();
    job.keep_bytes = available > 0 ? available / KEPT_PART : 0;
    qn_status status = qni_holdout_make(sequences, options, &holdout, err);
    if (status == QN_OK) status = run(&job, t, options, &holdout, out, err);
    qni_holdout_release(&holdout);
    teacher_release(&job.teacher);
    return status;
}
