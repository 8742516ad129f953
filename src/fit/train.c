#include "quern/fit/train.h"

#include "base/alloc.h"
#include "base/aside.h"
#include "base/json.h"
#include "base/mapping.h"
#include "base/memory.h"
#include "checkpoint/dense_write.h"
#include "fit/train_run.h"
#include "quern/base/writer.h"
#include "quern/model/score.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/banned.h"

#define IDENTITY_FILE "train.json"
enum {
    RECENT_STEPS = 50,
    BYTES_A_PARAMETER = 16, /* master, gradient, two moments */
    KEPT_PART = 4 /* of the memory that is left: the files of a saved state want a place in the cache, too */
};

typedef struct train {
    const qn_train_options *options;
    const qn_context *ctx;
    qn_context quiet; /* of the walks inside a step: they can be cancelled, but the steps report */
    qni_train_inputs inputs;
    qni_train_weights weights;
    qni_train_metrics metrics;
    qn_model *model;
    char *state_folder, *identity_path, *config_path; /* owned; below OUT */
    int64_t first_step, saved_step;                   /* of this call; -1: none yet */
    int64_t keep_bytes;
    bool is_finished;

    qn_packing_order order;
    int64_t epoch;               /* of the order; -1: none yet */
    int32_t *ids;                /* [batch * context] owned */
    int32_t *targets;            /* [batch * context] owned */
    int64_t *starts;             /* [batch + 1] owned */
    double recent[RECENT_STEPS]; /* losses of the last steps, step s at s % RECENT_STEPS */
} train;

static double seconds_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void train_release(train *t) {
    qn_model_close(t->model);
    qni_train_metrics_close(&t->metrics);
    qni_train_weights_release(&t->weights);
    qni_train_inputs_release(&t->inputs);
    qn_packing_order_release(&t->order);
    free(t->state_folder);
    free(t->identity_path);
    free(t->config_path);
    free(t->ids);
    free(t->targets);
    free(t->starts);
}

/* ---- the folder of the run ---- */

static bool exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

static qn_status make_folder(const char *path, qn_error *err) {
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return QN_OK;
    return qn_fail_errno(err, "%s: cannot be made", path);
}

static qn_status check_empty(const char *folder, qn_error *err) {
    int n_entries = 0;
    DIR *entries = opendir(folder);
    if (!entries) return qn_fail_errno(err, "%s: cannot be read", folder);
    while (n_entries <= 2 && readdir(entries)) n_entries++;
    (void)closedir(entries);
    if (n_entries <= 2) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%s: holds files; to take up the run in it ask for --resume, else choose another folder",
                   folder);
}

static qn_status write_identity(const train *t, const json_t *identity, qn_error *err) {
    char *text = json_dumps(identity, JSON_INDENT(2));
    if (!text) return qni_fail_nomem(err, t->identity_path);
    const qn_status status = qn_write_file(t->identity_path, text, strlen(text), err);
    free(text);
    return status;
}

static qn_status compare_identity(const train *t, const json_t *identity, qn_error *err) {
    qni_mapping mapping = {0};
    json_t *saved = NULL;
    QN_TRY(qni_mapping_open(t->identity_path, &mapping, err));
    qn_status status = qni_json_parse(mapping.data, mapping.n_bytes, t->identity_path, &saved, err);
    qni_mapping_release(&mapping);
    if (status == QN_OK) status = qni_train_compare(saved, identity, t->identity_path, t->ctx, err);
    json_decref(saved);
    return status;
}

static qn_status claim_folder(train *t, const json_t *identity, qn_error *err) {
    const char *out = t->options->out;
    if (t->options->resume && !exists(out))
        return qn_fail(err, QN_E_ARGUMENT, "%s: there is no run to resume", out);
    QN_TRY(make_folder(out, err));
    if (t->options->resume) qni_aside_sweep(out, IDENTITY_FILE);
    if (t->options->resume && exists(t->identity_path)) {
        QN_TRY(compare_identity(t, identity, err));
        qni_aside_sweep(out, NULL);
        t->is_finished = exists(t->config_path) && !exists(t->state_folder);
    } else {
        QN_TRY(check_empty(out, err));
        QN_TRY(write_identity(t, identity, err));
    }
    if (!t->is_finished) return make_folder(t->state_folder, err);
    qni_train_state_remove(t->state_folder); /* a kill may have left part of it */
    return QN_OK;
}

static qn_status enter_folder(train *t, qn_error *err) {
    const char *out = t->options->out;
    json_t *identity = NULL;
    if (asprintf(&t->state_folder, "%s/state", out) < 0) t->state_folder = NULL;
    if (asprintf(&t->identity_path, "%s/" IDENTITY_FILE, out) < 0) t->identity_path = NULL;
    if (asprintf(&t->config_path, "%s/config.json", out) < 0) t->config_path = NULL;
    if (!t->state_folder || !t->identity_path || !t->config_path) return qni_fail_nomem(err, out);
    QN_TRY(qni_train_identity(t->options, &t->inputs, t->ctx, &identity, err));
    const qn_status status = claim_folder(t, identity, err);
    json_decref(identity);
    return status;
}

/* ---- the first and the last state ---- */

static qn_status save_state(train *t, int64_t step, qn_error *err) {
    QN_TRY(qni_train_state_save(t->state_folder, step, &t->inputs, &t->weights, t->ctx, err));
    t->saved_step = step;
    return QN_OK;
}

static qn_status begin_anew(train *t, qn_error *err) {
    if (t->inputs.start) {
        qni_train_weights_decode(&t->weights, t->inputs.start, &t->inputs.layout, t->ctx);
    } else {
        QN_TRY(qni_train_weights_draw(&t->weights, &t->inputs, t->options->seed, t->ctx, err));
    }
    return save_state(t, 0, err);
}

/* A model needs a checkpoint: that of the state. Its weights give way to the masters. */
static qn_status open_model(train *t, qn_error *err) {
    char *path = NULL;
    QN_TRY(qni_train_state_path(t->state_folder, t->saved_step, &path, err));
    qn_status status = qn_model_open(path, &t->model, err);
    free(path);
    for (int64_t i = 0; i < t->weights.n && status == QN_OK; i++)
        status = qn_model_set_weight(t->model, i, &t->weights.weights[i], err);
    return status;
}

static qn_status take_up(train *t, qn_error *err) {
    QN_TRY(qni_train_weights_alloc(t->options, &t->inputs.layout, &t->weights, err));
    QN_TRY(qni_train_state_find(t->state_folder, &t->saved_step, err));
    if (t->saved_step < 0) {
        QN_TRY(begin_anew(t, err));
    } else {
        QN_TRY(qni_train_state_load(t->state_folder, t->saved_step, &t->inputs, &t->weights, t->ctx, err));
        json_t *line = json_pack("{s:I}", "resumed_at", (json_int_t)t->saved_step);
        QN_TRY(qni_train_metrics_add(&t->metrics, line, err));
        qn_log(t->ctx, QN_LOG_INFO, "resumed after step %lld", (long long)t->saved_step);
    }
    return open_model(t, err);
}

/* Asked before the weights are touched, so that what they will take is still in it. */
static int64_t bytes_to_keep(const train *t) {
    if (t->options->keep_bytes >= 0) return t->options->keep_bytes;
    const int64_t left = qni_available_bytes() - BYTES_A_PARAMETER * t->inputs.layout.n_parameters;
    return left > 0 ? left / KEPT_PART : 0;
}

/* ---- one step ---- */

static qn_status alloc_batch(train *t, qn_error *err) {
    const int64_t batch = t->options->batch, n = batch * t->options->context;
    QN_TRY(QNI_ALLOC(t->ids, n, "a batch", err));
    QN_TRY(QNI_ALLOC(t->targets, n, "a batch", err));
    QN_TRY(QNI_ALLOC(t->starts, batch + 1, "a batch", err));
    for (int64_t i = 0; i <= batch; i++) t->starts[i] = i * t->options->context;
    return QN_OK;
}

/* Contexts FIRST and following of the run: a function of their number alone. */
static qn_status draw_batch(train *t, int64_t first, qn_error *err) {
    const int64_t n = t->options->context;
    for (int64_t i = 0; i < t->options->batch; i++) {
        const int64_t epoch = (first + i) / t->inputs.text.n_contexts;
        const int64_t turn = (first + i) % t->inputs.text.n_contexts;
        if (epoch != t->epoch)
            QN_TRY(qn_packing_shuffle(&t->inputs.text, t->options->seed, epoch, &t->order, err));
        t->epoch = epoch;
        qn_packing_draw(&t->inputs.text, &t->order, turn, t->ids + i * n);
        memcpy(t->targets + i * n, t->ids + i * n + 1, (size_t)(n - 1) * sizeof *t->targets);
        t->targets[i * n + n - 1] = -1;
    }
    return QN_OK;
}

typedef struct step_report {
    double loss, rate, norm;
} step_report;

static qn_status run_step(train *t, int64_t step, step_report *report, qn_error *err) {
    const qn_train_options *o = t->options;
    const double n_targets = (double)(o->batch * o->accumulate * (o->context - 1));
    const qn_loss_options loss_options = {
        .compute = o->compute, .ce_weight = 1.0, .scale = 1.0 / n_targets, .keep_bytes = t->keep_bytes};
    const qn_sequences sequences = {.ids = t->ids, .starts = t->starts, .n = o->batch};
    double nats = 0;
    qn_gradients_renew(&t->weights.gradients);
    for (int64_t i = 0; i < o->accumulate; i++) {
        qn_loss loss = {0};
        QN_TRY(draw_batch(t, (step * o->accumulate + i) * o->batch, err));
        QN_TRY(qn_loss_gradient(t->model, &sequences, t->targets, &loss_options, &t->quiet,
                                &t->weights.gradients, &loss, err));
        nats += loss.ce_nats;
    }
    report->loss = nats / n_targets;
    report->rate = qn_schedule_rate(&o->schedule, step);
    return qn_adamw_step(t->weights.groups, t->weights.n, &o->adamw, report->rate, step + 1, t->ctx,
                         &report->norm, err);
}

/* ---- measuring and reporting ---- */

/* Mean nats over the dev contexts, each by itself. */
static qn_status measure_dev(const train *t, const qn_model *model, qn_score_result *result, qn_error *err) {
    const qn_packing *dev = &t->inputs.dev;
    qn_windows windows = {.ids = dev->ids,
                          .n_ids = dev->n_ids,
                          .n_windows = dev->n_contexts,
                          .target_bytes = 1 /* not reported */};
    windows.windows = qni_alloc_array(dev->n_contexts, sizeof *windows.windows);
    if (!windows.windows) return qni_fail_nomem(err, "the dev contexts");
    for (int64_t i = 0; i < dev->n_contexts; i++)
        windows.windows[i] = (qn_window){i * dev->context, dev->context, 1};
    const qn_status status = qn_score(model, &windows, t->options->compute, &t->quiet, NULL, result, err);
    free(windows.windows);
    return status;
}

static qn_status report_step(train *t, int64_t step, const step_report *r, double seconds, qn_error *err) {
    const qn_train_options *o = t->options;
    const double rate = (double)(o->batch * o->accumulate * o->context) / seconds;
    const int64_t done = step + 1, total = o->schedule.total_steps;
    const bool has_dev = t->inputs.dev.n_contexts > 0 && o->eval_every > 0 && done % o->eval_every == 0;
    qn_score_result dev = {0};
    if (has_dev) QN_TRY(measure_dev(t, t->model, &dev, err));
    json_t *line =
        json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "step", (json_int_t)done, "loss", r->loss, "lr", r->rate,
                  "grad_norm", r->norm, "tokens_per_second", rate, "seconds", seconds);
    if (has_dev && json_object_set_new(line, "dev_loss", json_real(dev.nats)) != 0) {
        json_decref(line);
        line = NULL;
    }
    QN_TRY(qni_train_metrics_add(&t->metrics, line, err));
    qn_report_progress(t->ctx, "train: steps", (uint64_t)(done - t->first_step),
                       (uint64_t)(total - t->first_step));
    if (has_dev)
        qn_log(t->ctx, QN_LOG_INFO, "step %lld of %lld: loss %.4f, dev loss %.4f, %.0f tokens/s",
               (long long)done, (long long)total, r->loss, dev.nats, rate);
    else if (done % RECENT_STEPS == 0 || done == total)
        qn_log(t->ctx, QN_LOG_INFO, "step %lld of %lld: loss %.4f, %.0f tokens/s", (long long)done,
               (long long)total, r->loss, rate);
    return QN_OK;
}

/* ---- the loop ---- */

/* Says where a failed step leaves the run. REASON is not *err. */
static qn_status fail_step(const train *t, int64_t step, const qn_error *reason, qn_error *err) {
    return qn_fail(err, reason->code, "step %lld: %s; the state after step %lld is kept in %s",
                   (long long)step + 1, reason->message, (long long)t->saved_step, t->state_folder);
}

static qn_status stop(train *t, int64_t done, qn_error *err) {
    if (t->saved_step != done) QN_TRY(save_state(t, done, err));
    return qn_fail(
        err, QN_E_CANCELLED,
        "stopped after step %lld of %lld, which is saved in %s: the same command with --resume goes on",
        (long long)done, (long long)t->options->schedule.total_steps, t->state_folder);
}

static qn_status run_steps(train *t, qn_train_result *result, qn_error *err) {
    const qn_train_options *o = t->options;
    const int64_t total = o->schedule.total_steps;
    result->first_step = t->first_step = t->saved_step;
    for (int64_t step = t->first_step; step < total; step++) {
        qn_error reason = {0};
        step_report report = {0};
        const double began = seconds_now();
        qn_status status = qn_check_cancelled(t->ctx, NULL);
        if (status == QN_OK) status = run_step(t, step, &report, &reason);
        if (status == QN_E_CANCELLED) return stop(t, step, err);
        if (status != QN_OK) return fail_step(t, step, &reason, err);
        t->recent[step % RECENT_STEPS] = report.loss;
        result->seconds += seconds_now() - began;
        status = report_step(t, step, &report, seconds_now() - began, err);
        if (status == QN_E_CANCELLED) return stop(t, step + 1, err);
        QN_TRY(status);
        const bool is_due = o->save_every > 0 && (step + 1) % o->save_every == 0;
        if (is_due || step + 1 == total) QN_TRY(save_state(t, step + 1, err));
    }
    const int64_t n_done = total - result->first_step, n = n_done < RECENT_STEPS ? n_done : RECENT_STEPS;
    for (int64_t i = 0; i < n; i++)
        result->train_loss += t->recent[(total - 1 - i) % RECENT_STEPS] / (double)n;
    result->tokens = n_done * o->batch * o->accumulate * o->context;
    return QN_OK;
}

/* ---- the end ---- */

static qn_status write_model(const train *t, qn_error *err) {
    const qni_dense dense = {.config = &t->inputs.config,
                             .layout = &t->inputs.layout,
                             .weights = t->weights.list,
                             .companions = t->inputs.companions,
                             .dtype = t->options->dtype};
    return qni_dense_write(&dense, t->options->out, &t->quiet, err);
}

/* The loss of the files as they are, not of the masters. */
static qn_status measure_files(const train *t, qn_train_result *result, qn_error *err) {
    qn_model *model = NULL;
    qn_score_result dev = {0};
    if (t->inputs.dev.n_contexts == 0) return QN_OK;
    QN_TRY(qn_model_open(t->options->out, &model, err));
    const qn_status status = measure_dev(t, model, &dev, err);
    qn_model_close(model);
    result->dev_loss = dev.nats;
    result->dev_targets = dev.n_targets;
    return status;
}

static qn_status finish(train *t, qn_train_result *result, qn_error *err) {
    qn_status status = write_model(t, err);
    if (status == QN_OK) status = measure_files(t, result, err);
    if (status == QN_E_CANCELLED) return stop(t, t->saved_step, err);
    if (status == QN_OK) qni_train_state_remove(t->state_folder);
    return status;
}

static qn_status run_unfinished(train *t, qn_train_result *result, qn_error *err) {
    t->keep_bytes = bytes_to_keep(t);
    QN_TRY(alloc_batch(t, err));
    QN_TRY(qni_train_metrics_open(t->options->out, &t->metrics, err));
    QN_TRY(take_up(t, err));
    QN_TRY(run_steps(t, result, err));
    return finish(t, result, err);
}

static qn_status run(train *t, qn_train_result *result, qn_error *err) {
    QN_TRY(qni_train_check(t->options, err));
    QN_TRY(qni_train_inputs_open(t->options, &t->inputs, err));
    QN_TRY(enter_folder(t, err));
    result->n_parameters = t->inputs.layout.n_parameters;
    result->steps = result->first_step = t->options->schedule.total_steps;
    return t->is_finished ? measure_files(t, result, err) : run_unfinished(t, result, err);
}

qn_status qn_train(const qn_train_options *options, const qn_context *ctx, qn_train_result *out,
                   qn_error *err) {
    train t = {.options = options, .ctx = ctx, .saved_step = -1, .epoch = -1};
    qn_train_result result = {0};
    if (ctx) t.quiet = *ctx;
    t.quiet.on_progress = NULL;
    const qn_status status = run(&t, &result, err);
    train_release(&t);
    if (status == QN_OK) *out = result;
    return status;
}
