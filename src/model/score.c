#include "quern/model/score.h"

#include "base/alloc.h"
#include "model/walk_stage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* Windows [first, end) walked together, and their buffers, sized for the largest batch. */
typedef struct batch {
    int64_t first, end;
    int32_t *ids;     /* owned [tokens] */
    int64_t *starts;  /* owned [windows + 1] */
    float *hidden;    /* owned [tokens, h] */
    int32_t *targets; /* owned [tokens] */
    double *nll;      /* owned [tokens] */
} batch;

static void batch_release(batch *b) {
    free(b->ids);
    free(b->starts);
    free(b->hidden);
    free(b->targets);
    free(b->nll);
}

/* Tokens of a batch: 256 MiB of stream, within bounds that amortise decoding the weights and keep memory
 * small. A function of the width only, so that results do not depend on anything else. */
static int64_t batch_tokens(const qn_config *config) {
    const int64_t n = (INT64_C(1) << 26) / config->hidden_size;
    return n < 4096 ? 4096 : n > 65536 ? 65536 : n;
}

/* One past the last window of the batch that starts at FIRST; a window longer than the budget is a batch by
 * itself. */
static int64_t batch_end(const qn_windows *windows, int64_t first, int64_t budget, int64_t *n_tokens) {
    int64_t end = first;
    *n_tokens = 0;
    while (end < windows->n_windows && (end == first || *n_tokens + windows->windows[end].n_ids <= budget))
        *n_tokens += windows->windows[end++].n_ids;
    return end;
}

static qn_status batch_make(const qn_model *model, const qn_windows *windows, int64_t budget, batch *out,
                            qn_error *err) {
    int64_t tokens = 1, n_windows = 1, n;
    for (int64_t first = 0, end; first < windows->n_windows; first = end) {
        end = batch_end(windows, first, budget, &n);
        if (n > tokens) tokens = n;
        if (end - first > n_windows) n_windows = end - first;
    }
    int64_t floats;
    if (!qni_multiply_i64(tokens, qn_model_config(model)->hidden_size, &floats))
        return qni_fail_nomem(err, "hidden states");
    QN_TRY(QNI_ALLOC(out->hidden, floats, "hidden states", err));
    QN_TRY(QNI_ALLOC(out->ids, tokens, "token ids", err));
    QN_TRY(QNI_ALLOC(out->starts, n_windows + 1, "window starts", err));
    QN_TRY(QNI_ALLOC(out->targets, tokens, "targets", err));
    return QNI_ALLOC(out->nll, tokens, "losses", err);
}

static qn_sequences gather_ids(const qn_windows *windows, const batch *b) {
    int64_t n = 0;
    for (int64_t i = b->first; i < b->end; i++) {
        const qn_window *w = &windows->windows[i];
        b->starts[i - b->first] = n;
        memcpy(b->ids + n, windows->ids + w->first, (size_t)w->n_ids * sizeof *b->ids);
        n += w->n_ids;
    }
    b->starts[b->end - b->first] = n;
    return (qn_sequences){.ids = b->ids, .starts = b->starts, .n = b->end - b->first};
}

/* Moves the hidden states that predict a target to the front, in place. Returns how many. */
static int64_t keep_predictors(const qn_windows *windows, const batch *b, int64_t h) {
    int64_t n = 0;
    for (int64_t i = b->first; i < b->end; i++) {
        const qn_window *w = &windows->windows[i];
        const int64_t start = b->starts[i - b->first], n_targets = w->n_ids - w->first_target;
        memmove(b->hidden + n * h, b->hidden + (start + w->first_target - 1) * h,
                (size_t)(n_targets * h) * sizeof *b->hidden);
        memcpy(b->targets + n, b->ids + start + w->first_target, (size_t)n_targets * sizeof *b->targets);
        n += n_targets;
    }
    return n;
}

static qn_status score_batch(const qn_model *model, const qn_windows *windows, const batch *b,
                             qn_compute compute, const qn_context *ctx, qni_stage *stage, double *window_nats,
                             qn_walk_stats *stats, qn_error *err) {
    const qn_sequences sequences = gather_ids(windows, b);
    const qn_walk_options options = {.compute = compute};
    QN_TRY(qni_walk(model, &sequences, &options, ctx, stage, b->hidden, stats, err));
    const int64_t n = keep_predictors(windows, b, qn_model_config(model)->hidden_size);
    QN_TRY(qn_head_nll(model, b->hidden, b->targets, n, compute, ctx, b->nll, stats, err));
    const double *nll = b->nll;
    for (int64_t i = b->first; i < b->end; i++) {
        const int64_t n_targets = windows->windows[i].n_ids - windows->windows[i].first_target;
        window_nats[i] = 0.0;
        for (int64_t t = 0; t < n_targets; t++) window_nats[i] += *nll++;
    }
    return QN_OK;
}

static void summarise(const qn_windows *windows, const double *window_nats, qn_score_result *result) {
    double spread = 0.0;
    for (int64_t i = 0; i < windows->n_windows; i++) {
        result->total_nats += window_nats[i];
        result->n_targets += windows->windows[i].n_ids - windows->windows[i].first_target;
    }
    const double n_targets = (double)result->n_targets;
    result->nats = result->total_nats / n_targets;
    result->perplexity = exp(fmin(result->nats, 700.0));
    result->bits_per_byte = result->total_nats / (log(2.0) * (double)windows->target_bytes);
    for (int64_t i = 0; i < windows->n_windows; i++) {
        const double n = (double)(windows->windows[i].n_ids - windows->windows[i].first_target);
        const double deviation = window_nats[i] / n - result->nats;
        spread += n * deviation * deviation;
    }
    result->std_error = sqrt(spread / n_targets / (double)windows->n_windows);
}

static qn_status check_windows(const qn_windows *windows, qn_error *err) {
    if (windows->n_windows < 1) return qn_fail(err, QN_E_ARGUMENT, "nothing to score: no window");
    for (int64_t i = 0; i < windows->n_windows; i++) {
        const qn_window *w = &windows->windows[i];
        if (w->first < 0 || w->n_ids > windows->n_ids - w->first || w->first_target < 1 ||
            w->first_target >= w->n_ids) {
            return qn_fail(err, QN_E_ARGUMENT, "window %lld does not fit its %lld ids", (long long)i,
                           (long long)windows->n_ids);
        }
    }
    return QN_OK;
}

qn_status qn_score(const qn_model *model, const qn_windows *windows, qn_compute compute,
                   const qn_context *ctx, double *window_nats, qn_score_result *out, qn_error *err) {
    const int64_t budget = batch_tokens(qn_model_config(model));
    qn_score_result result = {0};
    batch b = {0};
    qni_stage stage = {.name = "score"};
    double *nats = NULL;
    int64_t n_tokens;
    QN_TRY(check_windows(windows, err));
    qn_status status = QNI_ALLOC(nats, windows->n_windows, "window losses", err);
    if (status == QN_OK) status = batch_make(model, windows, budget, &b, err);
    if (status != QN_OK) goto done;
    for (int64_t i = 0; i < windows->n_windows; i++) stage.total += (uint64_t)windows->windows[i].n_ids;
    stage.total *= (uint64_t)qn_model_config(model)->n_layers;
    for (b.first = 0; b.first < windows->n_windows; b.first = b.end) {
        b.end = batch_end(windows, b.first, budget, &n_tokens);
        status = score_batch(model, windows, &b, compute, ctx, &stage, nats, &result.stats, err);
        if (status != QN_OK) goto done;
    }
    qn_report_progress(ctx, stage.name, stage.done, stage.total);
    summarise(windows, nats, &result);
    if (window_nats) memcpy(window_nats, nats, (size_t)windows->n_windows * sizeof *nats);
    *out = result;
done:
    batch_release(&b);
    free(nats);
    return status;
}
