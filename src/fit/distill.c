/* Block-wise distillation: the loss of a window on batches of its streams. */
#include "quern/fit/distill.h"

#include "base/alloc.h"
#include "fit/tuning.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

typedef struct window_job {
    const qn_model *model;
    const qn_sequences *sequences;
    const qn_distill_window *window;
    const qn_context *ctx;
    double huber_delta;
    float *stream, *target; /* owned [capacity, h] */
    int64_t capacity;       /* tokens */
} window_job;

static qn_status reserve(window_job *job, int64_t n_tokens, qn_error *err) {
    const int64_t h = qn_model_config(job->model)->hidden_size;
    if (n_tokens <= job->capacity) return QN_OK;
    free(job->stream);
    free(job->target);
    job->stream = job->target = NULL;
    job->capacity = 0;
    QN_TRY(QNI_ALLOC(job->stream, n_tokens * h, "the streams of a batch", err));
    QN_TRY(QNI_ALLOC(job->target, n_tokens * h, "the streams of a batch", err));
    job->capacity = n_tokens;
    return QN_OK;
}

static void gather_streams(window_job *job, const int64_t *list, const qni_batch *batch) {
    const int64_t h = qn_model_config(job->model)->hidden_size;
    for (int64_t i = 0; i < batch->n; i++) {
        const int64_t from = job->sequences->starts[list[i]] * h, to = batch->starts[i] * h;
        const size_t bytes = (size_t)((batch->starts[i + 1] - batch->starts[i]) * h) * sizeof(float);
        memcpy(job->stream + to, job->window->stream + from, bytes);
        memcpy(job->target + to, job->window->target + from, bytes);
    }
}

static qn_status find_loss(void *user, const int64_t *list, int64_t n, qn_gradients *gradients, double *sum,
                           double *units, qn_error *err) {
    window_job *job = user;
    const int64_t h = qn_model_config(job->model)->hidden_size;
    qni_batch batch = {0};
    double loss = 0.0;
    QN_TRY(qni_batch_gather(job->sequences, list, n, &batch, err));
    qn_status status = reserve(job, batch.n_tokens, err);
    if (status == QN_OK) {
        gather_streams(job, list, &batch);
        const qn_sequences sequences = {.ids = batch.ids, .starts = batch.starts, .n = n};
        const qn_window_options options = {.first_layer = job->window->first_layer,
                                           .n_layers = job->window->n_layers,
                                           .compute = job->window->compute,
                                           .huber_delta = job->huber_delta,
                                           .channel_weights = job->window->channel_weights,
                                           .scale = 1.0 / (double)(batch.n_tokens * h),
                                           .keep_bytes = INT64_MAX};
        status = qn_window_gradient(job->model, &sequences, job->stream, job->target, &options, job->ctx,
                                    gradients, &loss, err);
        *sum += loss;
        *units += (double)(batch.n_tokens * h);
    }
    qni_batch_release(&batch);
    return status;
}

static qn_status run(window_job *job, qn_trainable *t, const qn_tune_options *options,
                     const qni_holdout *holdout, qn_tune_report *out, qn_error *err) {
    const qni_tuned_loss loss = {find_loss, job};
    double first = 0.0;
    const bool holds_back = holdout->n_validation > 0;
    const int64_t *list = holds_back ? holdout->validation : holdout->train;
    const int64_t n = holds_back ? holdout->n_validation : options->batch;
    QN_TRY(qni_measure(t, &loss, list, n, options->batch, job->ctx, &first, err));
    if (job->window->huber > 0.0) {
        job->huber_delta = job->window->huber * sqrt(first);
        QN_TRY(qni_measure(t, &loss, list, n, options->batch, job->ctx, &first, err));
    }
    return qni_tune(t, &loss, holdout, first, options, job->ctx, out, err);
}

qn_status qn_distill(qn_trainable *t, const qn_model *model, const qn_sequences *sequences,
                     const qn_distill_window *window, const qn_tune_options *options, const qn_context *ctx,
                     qn_tune_report *out, qn_error *err) {
    window_job job = {.model = model, .sequences = sequences, .window = window, .ctx = ctx};
    qni_holdout holdout = {0};
    qn_status status = qni_holdout_make(sequences, options, &holdout, err);
    if (status == QN_OK) status = run(&job, t, options, &holdout, out, err);
    qni_holdout_release(&holdout);
    free(job.stream);
    free(job.target);
    return status;
}
