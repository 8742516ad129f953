#include "recipe/dev_trace.h"

#include "base/alloc.h"
#include "quern/model/score.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

qn_status qni_dev_trace_model(const qni_dev_trace *trace, const qn_model *student, const qn_context *ctx,
                              double *perplexity, qn_error *err) {
    qn_context quiet = ctx ? *ctx : (qn_context){0};
    qn_score_result result;
    quiet.on_progress = NULL; /* a glance, no stage of its own */
    QN_TRY(qn_score(student, &trace->windows, QN_COMPUTE_F32, &quiet, NULL, &result, err));
    *perplexity = result.perplexity;
    return QN_OK;
}

/* The first batch is what is kept. */
static qn_status keep_some(qni_dev_trace *trace, qn_error *err) {
    qni_window_batch *batch = &trace->batch;
    QN_TRY(qni_window_batch_open(&trace->windows, QN_DEV_TOKENS, batch, err));
    (void)qni_window_batch_next(batch);
    trace->windows.n_windows = batch->end;
    trace->windows.n_targets = batch->n_targets;
    trace->report.n_tokens = batch->starts[batch->end];
    trace->report.n_targets = batch->n_targets;
    return QN_OK;
}

static qn_status prepare(qni_dev_trace *trace, const qn_model *teacher, const qn_context *ctx,
                         qn_error *err) {
    qn_dev_report *r = &trace->report;
    const int64_t n_layers = qn_model_config(teacher)->n_layers;
    QN_TRY(keep_some(trace, err));
    r->blocks = qni_alloc_array(n_layers, sizeof *r->blocks);
    if (!r->blocks) return qni_fail_nomem(err, "the report on dev");
    r->n_blocks = n_layers;
    QN_TRY(qni_dev_trace_model(trace, teacher, ctx, &r->teacher, err));
    qn_log(ctx, QN_LOG_INFO, "perplexity of the teacher on %lld tokens of the dev documents: %.4f",
           (long long)r->n_tokens, r->teacher);
    return QN_OK;
}

qn_status qni_dev_trace_open(const qn_model *teacher, qn_windows *windows, int64_t every,
                             const qn_context *ctx, qni_dev_trace **out, qn_error *err) {
    qni_dev_trace *trace = qni_alloc_array(1, sizeof *trace);
    if (!trace) {
        qn_windows_release(windows);
        return qni_fail_nomem(err, "the report on dev");
    }
    trace->windows = *windows;
    trace->every = every;
    *windows = (qn_windows){0};
    const qn_status status = prepare(trace, teacher, ctx, err);
    if (status == QN_OK)
        *out = trace;
    else
        qni_dev_trace_close(trace);
    return status;
}

void qni_dev_trace_close(qni_dev_trace *trace) {
    if (!trace) return;
    qni_window_batch_release(&trace->batch);
    qn_windows_release(&trace->windows);
    free(trace->report.blocks);
    free(trace);
}

qn_status qni_dev_trace_block(qni_dev_trace *trace, qni_probe *probe, int64_t layer, const qn_context *ctx,
                              qn_error *err) {
    double nats;
    if ((layer + 1) % trace->every != 0) return QN_OK;
    QN_TRY(qni_probe_nats(probe, &trace->batch, layer + 1, &nats, err));
    trace->report.blocks[layer] = exp(fmin(nats, 700.0)); /* as qn_score */
    qn_log(ctx, QN_LOG_INFO, "block %lld: perplexity on dev %.4f (the teacher's %.4f)", (long long)layer,
           trace->report.blocks[layer], trace->report.teacher);
    return QN_OK;
}
