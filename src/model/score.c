#include "quern/model/score.h"

#include "base/alloc.h"
#include "model/walk_stage.h"
#include "model/window_batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

typedef struct score_job {
    const qn_model *model;
    const qn_context *ctx;
    qn_compute compute;
    qni_stage stage;
    qni_window_batch batch;
    float *hidden;       /* owned [tokens, h] */
    double *nll;         /* owned [tokens] */
    double *window_nats; /* owned [n_windows] */
} score_job;

static void release(score_job *job) {
    qni_window_batch_release(&job->batch);
    free(job->hidden);
    free(job->nll);
    free(job->window_nats);
}

static qn_status prepare(score_job *job, const qn_windows *windows, qn_error *err) {
    const qn_config *config = qn_model_config(job->model);
    int64_t floats;
    QN_TRY(qni_window_batch_open(windows, qni_window_batch_budget(config), &job->batch, err));
    if (!qni_multiply_i64(job->batch.max_tokens, config->hidden_size, &floats))
        return qni_fail_nomem(err, "hidden states");
    QN_TRY(QNI_ALLOC(job->hidden, floats, "hidden states", err));
    QN_TRY(QNI_ALLOC(job->nll, job->batch.max_tokens, "losses", err));
    QN_TRY(QNI_ALLOC(job->window_nats, windows->n_windows, "window losses", err));
    job->stage = (qni_stage){.name = "score",
                             .total = qni_window_batch_all_tokens(windows) * (uint64_t)config->n_layers};
    return QN_OK;
}

static qn_status score_batch(score_job *job, qn_walk_stats *stats, qn_error *err) {
    const qni_window_batch *b = &job->batch;
    const qn_sequences sequences = qni_window_batch_sequences(b);
    const qn_walk_options options = {.compute = job->compute};
    QN_TRY(qni_walk(job->model, &sequences, &options, job->ctx, &job->stage, job->hidden, stats, err));
    qni_window_batch_keep_predictors(b, qn_model_config(job->model)->hidden_size, job->hidden);
    QN_TRY(qn_head_nll(job->model, job->hidden, b->targets, b->n_targets, job->compute, job->ctx, job->nll,
                       stats, err));
    const double *nll = job->nll;
    for (int64_t i = b->first; i < b->end; i++) {
        const int64_t n_targets = qni_window_targets(b->windows, i);
        job->window_nats[i] = 0.0;
        for (int64_t t = 0; t < n_targets; t++) job->window_nats[i] += *nll++;
    }
    return QN_OK;
}

static void summarise(const qn_windows *windows, const double *window_nats, qn_score_result *result) {
    double spread = 0.0;
    for (int64_t i = 0; i < windows->n_windows; i++) {
        result->total_nats += window_nats[i];
        result->n_targets += qni_window_targets(windows, i);
    }
    const double n_targets = (double)result->n_targets;
    result->nats = result->total_nats / n_targets;
    result->perplexity = exp(fmin(result->nats, 700.0));
    result->bits_per_byte = result->total_nats / (log(2.0) * (double)windows->target_bytes);
    for (int64_t i = 0; i < windows->n_windows; i++) {
        const double n = (double)qni_window_targets(windows, i);
        const double deviation = window_nats[i] / n - result->nats;
        spread += n * deviation * deviation;
    }
    result->std_error = sqrt(spread / n_targets / (double)windows->n_windows);
}

qn_status qn_score(const qn_model *model, const qn_windows *windows, qn_compute compute,
                   const qn_context *ctx, double *window_nats, qn_score_result *out, qn_error *err) {
    score_job job = {.model = model, .ctx = ctx, .compute = compute};
    qn_score_result result = {0};
    qn_status status = prepare(&job, windows, err);
    while (status == QN_OK && qni_window_batch_next(&job.batch))
        status = score_batch(&job, &result.stats, err);
    if (status == QN_OK) {
        qn_report_progress(ctx, job.stage.name, job.stage.done, job.stage.total);
        summarise(windows, job.window_nats, &result);
        if (window_nats)
            memcpy(window_nats, job.window_nats, (size_t)windows->n_windows * sizeof *window_nats);
        *out = result;
    }
    release(&job);
    return status;
}
