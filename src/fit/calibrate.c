#include "quern/fit/calibrate.h"

#include "base/alloc.h"
#include "fit/statistics_plan.h"
#include "quern/fit/fisher.h"
#include "quern/fit/moments.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

typedef struct calibrate_job {
    const qn_model *model;
    const qn_layout *layout;
    const qn_calibration_text *text;
    const qn_calibrate_options *options;
    const qn_context *ctx;
    qn_calibration_text
        fisher_text; /* the part of the text for the Fisher diagonals; empty: none are wanted */
    qn_calibrate_result result;
    qni_statistics_plan plan;
    qni_statistics_writer writer;
    qn_fisher fisher;
    qn_moment *moments; /* owned [layout->n]; of the inputs of the present layer */
    int64_t layer;      /* the present one */
    float *hidden;      /* owned [T, h] */
} calibrate_job;

qn_calibrate_options qn_calibrate_options_default(void) {
    return (qn_calibrate_options){.compute = QN_COMPUTE_F32, .n_fisher_tokens = 16384};
}

static void release(calibrate_job *job) {
    for (int64_t i = 0; job->moments && i < job->layout->n; i++) qn_moment_release(&job->moments[i]);
    free(job->moments);
    free(job->hidden);
    qn_fisher_release(&job->fisher);
    qn_calibration_text_release(&job->fisher_text);
    qni_statistics_writer_abandon(&job->writer);
    qni_statistics_plan_release(&job->plan);
}

/* ---- writing ---- */

static qn_status put(calibrate_job *job, int64_t entry, qn_statistic statistic, const float *values,
                     qn_error *err) {
    char *name = qni_statistic_tensor(job->layout, entry, statistic);
    if (!name) return qni_fail_nomem(err, "names of statistics");
    const int64_t n = statistic == QN_STATISTIC_OUTPUT_FISHER || statistic == QN_STATISTIC_TOKEN_FREQUENCY
                          ? job->layout->entries[entry].rows
                          : job->layout->entries[entry].cols;
    qn_status status = qni_statistic_check(statistic, values, n, "calibration", name, err);
    if (status == QN_OK) status = qni_statistics_writer_put(&job->writer, name, values, err);
    free(name);
    return status;
}

/* Writes the moments of the input of ENTRY for all who share it, and counts its dead inputs. MEAN is what the moment gives:
 * its diagonal is moved to the front. */
static qn_status put_input(calibrate_job *job, int64_t entry, float *mean, qn_error *err) {
    const int64_t cols = job->layout->entries[entry].cols;
    if (!job->options->diagonal) {
        QN_TRY(put(job, entry, QN_STATISTIC_HESSIAN, mean, err));
        for (int64_t c = 1; c < cols; c++) mean[c] = mean[c * cols + c];
    }
    for (int64_t i = -1; (i = qni_next_sharer(job->layout, entry, i)) >= 0;)
        QN_TRY(put(job, i, QN_STATISTIC_SECOND_MOMENT, mean, err));
    job->result.n_inputs += cols;
    for (int64_t c = 0; c < cols; c++) job->result.n_dead_inputs += mean[c] == 0.0f;
    return QN_OK;
}

static qn_status finish_input(calibrate_job *job, int64_t entry, qn_error *err) {
    qn_moment *moment = &job->moments[entry];
    float *mean = NULL;
    QN_TRY(QNI_ALLOC(mean, job->options->diagonal ? moment->cols : moment->cols * moment->cols,
                     "second moments", err)); /* the sums were no smaller */
    qn_moment_mean(moment, mean);
    qn_moment_release(moment);
    const qn_status status = put_input(job, entry, mean, err);
    free(mean);
    return status;
}

static qn_status finish_layer(calibrate_job *job, qn_error *err) {
    for (int64_t i = 0; i < job->layout->n; i++)
        if (job->moments[i].n_tokens > 0) QN_TRY(finish_input(job, i, err));
    return QN_OK;
}

/* ---- the walk ---- */

static qn_status add_input(calibrate_job *job, int64_t entry, const float *x, int64_t n, qn_error *err) {
    qn_moment *moment = &job->moments[entry];
    const qn_moment_kind kind = job->options->diagonal ? QN_MOMENT_DIAGONAL : QN_MOMENT_SYMMETRIC;
    if (!moment->sums) QN_TRY(qn_moment_init(moment, kind, job->layout->entries[entry].cols, err));
    return qn_moment_add(moment, x, x, n, job->ctx, err);
}

static qn_status on_linear_input(void *user, int64_t index, const float *x, int64_t first_token,
                                 int64_t n_tokens, int64_t cols, qn_error *err) {
    calibrate_job *job = user;
    const qn_layout_entry *entry = &job->layout->entries[index];
    (void)first_token, (void)cols;
    if (!qni_has_own_input(job->layout, index)) return QN_OK;
    if (entry->layer != job->layer) QN_TRY(finish_layer(job, err));
    job->layer = entry->layer;
    return add_input(job, index, x, n_tokens, err);
}

static qn_status walk(calibrate_job *job, qn_error *err) {
    const qn_sequences sequences = qn_calibration_sequences(job->text);
    const qn_walk_observer observer = {.on_linear_input = on_linear_input, .user = job};
    const qn_walk_options options = {.compute = job->options->compute, .observer = &observer};
    const int64_t head = qni_head_entry(job->layout);
    int64_t floats;
    if (!qni_multiply_i64(job->result.n_tokens, job->layout->entries[head].cols, &floats))
        return qni_fail_nomem(err, "hidden states");
    QN_TRY(QNI_ALLOC(job->hidden, floats, "hidden states of the calibration text", err));
    job->moments = qni_alloc_array(job->layout->n, sizeof *job->moments);
    if (!job->moments) return qni_fail_nomem(err, "second moments");
    QN_TRY(qn_walk(job->model, &sequences, &options, job->ctx, job->hidden, NULL, err));
    QN_TRY(finish_layer(job, err));
    QN_TRY(add_input(job, head, job->hidden, job->result.n_tokens, err));
    return finish_input(job, head, err);
}

/* ---- outputs ---- */

static qn_status put_frequencies(calibrate_job *job, qn_error *err) {
    const int64_t embed = qn_layout_find(job->layout, QN_TENSOR_EMBED, -1), n = job->result.n_tokens;
    const int64_t vocab = job->layout->entries[embed].rows;
    int64_t *counts = qni_alloc_array(vocab, sizeof *counts);
    float *shares = qni_alloc_array(vocab, sizeof *shares);
    qn_status status = counts && shares ? QN_OK : qni_fail_nomem(err, "token frequencies");
    if (status == QN_OK) {
        for (int64_t i = 0; i < n; i++) counts[job->text->ids[i]]++; /* the walk has checked the ids */
        for (int64_t v = 0; v < vocab; v++) shares[v] = (float)((double)counts[v] / (double)n);
        status = put(job, embed, QN_STATISTIC_TOKEN_FREQUENCY, shares, err);
    }
    free(counts);
    free(shares);
    return status;
}

static qn_status put_fisher(calibrate_job *job, qn_error *err) {
    const qn_fisher_options options = {.compute = job->options->compute, .seed = job->options->seed};
    const qn_sequences sequences = qn_calibration_sequences(&job->fisher_text);
    const int64_t embed = qn_layout_find(job->layout, QN_TENSOR_EMBED, -1);
    if (sequences.n == 0) return QN_OK;
    QN_TRY(qn_fisher_measure(job->model, &sequences, &options, job->ctx, &job->fisher, err));
    QN_TRY(put(job, embed, QN_STATISTIC_LOOKUP_GRADIENT, job->fisher.lookup_gradient, err));
    for (int64_t i = 0; i < job->layout->n; i++)
        if (job->fisher.output[i])
            QN_TRY(put(job, i, QN_STATISTIC_OUTPUT_FISHER, job->fisher.output[i], err));
    return QN_OK;
}

/* ---- all of it ---- */

static qn_status open_writer(calibrate_job *job, const char *path, qn_error *err) {
    char context[24], seed[24];
    snprintf(context, sizeof context, "%" PRId64, job->text->context);
    snprintf(seed, sizeof seed, "%" PRIu64, job->options->seed);
    const qn_statistics_info info = {.model_sha256 = job->result.model_sha256,
                                     .text_sha256 = job->text->sha256,
                                     .context = context,
                                     .seed = seed,
                                     .n_tokens = job->result.n_tokens,
                                     .n_fisher_tokens = job->result.n_fisher_tokens};
    QN_TRY(qni_statistics_plan_make(job->layout, job->options->diagonal, job->fisher_text.n > 0, &job->plan,
                                    err));
    return qni_statistics_writer_open(path, job->plan.items, job->plan.n, &info, &job->writer, err);
}

/* Finds the widest input and warns when the text cannot span it. */
static void bound_rank(calibrate_job *job) {
    qn_calibrate_result *r = &job->result;
    const char *widest = "";
    for (int64_t i = 0; i < job->layout->n; i++) {
        const qn_layout_entry *entry = &job->layout->entries[i];
        if (!qni_has_own_input(job->layout, i) || entry->cols <= r->widest_input) continue;
        r->widest_input = entry->cols;
        widest = entry->name;
    }
    r->rank_bound = r->n_tokens < r->widest_input ? r->n_tokens : r->widest_input;
    if (job->options->diagonal || r->rank_bound == r->widest_input) return;
    qn_log(job->ctx, QN_LOG_WARNING,
           "%lld tokens: the Hessian of %s has rank %lld at most for a width of %lld; calibrate on more "
           "tokens, or "
           "fit with more damping",
           (long long)r->n_tokens, widest, (long long)r->rank_bound, (long long)r->widest_input);
}

static qn_status run(calibrate_job *job, const char *path, qn_error *err) {
    QN_TRY(qn_checkpoint_sha256(qn_model_checkpoint(job->model), job->ctx, job->result.model_sha256, err));
    bound_rank(job);
    if (job->options->n_fisher_tokens > 0)
        QN_TRY(qn_calibration_text_part(job->text, job->options->n_fisher_tokens, &job->fisher_text, err));
    job->result.n_fisher_tokens = job->fisher_text.n * job->text->context;
    QN_TRY(open_writer(job, path, err));
    QN_TRY(walk(job, err));
    QN_TRY(put_frequencies(job, err));
    QN_TRY(put_fisher(job, err));
    QN_TRY(qni_statistics_writer_commit(&job->writer, err));
    if (job->result.n_dead_inputs > 0)
        qn_log(
            job->ctx, QN_LOG_WARNING,
            "%lld of %lld inputs were 0 at every token: what their weights become is left to the plain fit",
            (long long)job->result.n_dead_inputs, (long long)job->result.n_inputs);
    return QN_OK;
}

qn_status qn_calibrate(const qn_model *model, const qn_calibration_text *text,
                       const qn_calibrate_options *options, const char *path, const qn_context *ctx,
                       qn_calibrate_result *out, qn_error *err) {
    calibrate_job job = {.model = model,
                         .layout = qn_checkpoint_layout(qn_model_checkpoint(model)),
                         .text = text,
                         .options = options,
                         .ctx = ctx,
                         .result = {.n_tokens = text->n * text->context}};
    if (text->n < 1 || options->n_fisher_tokens < 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "calibration on %lld contexts with %lld tokens for the Fisher diagonals",
                       (long long)text->n, (long long)options->n_fisher_tokens);
    const qn_status status = run(&job, path, err);
    if (status == QN_OK) *out = job.result;
    release(&job);
    return status;
}
