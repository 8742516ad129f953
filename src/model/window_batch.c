#include "model/window_batch.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

int64_t qni_window_batch_budget(const qn_config *config) {
    const int64_t n = (INT64_C(1) << 26) / config->hidden_size;
    return n < 4096 ? 4096 : n > 65536 ? 65536 : n;
}

int64_t qni_window_targets(const qn_windows *windows, int64_t index) {
    return windows->windows[index].n_ids - windows->windows[index].first_target;
}

uint64_t qni_window_batch_all_tokens(const qn_windows *windows) {
    uint64_t n = 0;
    for (int64_t i = 0; i < windows->n_windows; i++) n += (uint64_t)windows->windows[i].n_ids;
    return n;
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

/* One past the last window of the batch that starts at FIRST. */
static int64_t batch_end(const qni_window_batch *b, int64_t first, int64_t *n_tokens) {
    const qn_windows *windows = b->windows;
    int64_t end = first;
    *n_tokens = 0;
    while (end < windows->n_windows && (end == first || *n_tokens + windows->windows[end].n_ids <= b->budget))
        *n_tokens += windows->windows[end++].n_ids;
    return end;
}

static qn_status allocate(qni_window_batch *b, qn_error *err) {
    int64_t n_windows = 1, n;
    for (int64_t first = 0, end; first < b->windows->n_windows; first = end) {
        end = batch_end(b, first, &n);
        if (n > b->max_tokens) b->max_tokens = n;
        if (end - first > n_windows) n_windows = end - first;
    }
    QN_TRY(QNI_ALLOC(b->ids, b->max_tokens, "token ids", err));
    QN_TRY(QNI_ALLOC(b->starts, n_windows + 1, "window starts", err));
    return QNI_ALLOC(b->targets, b->max_tokens, "targets", err);
}

qn_status qni_window_batch_open(const qn_windows *windows, int64_t budget, qni_window_batch *out,
                                qn_error *err) {
    qni_window_batch b = {.windows = windows, .budget = budget};
    QN_TRY(check_windows(windows, err));
    const qn_status status = allocate(&b, err);
    if (status == QN_OK)
        *out = b;
    else
        qni_window_batch_release(&b);
    return status;
}

void qni_window_batch_release(qni_window_batch *b) {
    free(b->ids);
    free(b->starts);
    free(b->targets);
    *b = (qni_window_batch){0};
}

bool qni_window_batch_next(qni_window_batch *b) {
    int64_t n_tokens, n = 0;
    b->first = b->end;
    b->end = batch_end(b, b->first, &n_tokens);
    b->n_targets = 0;
    for (int64_t i = b->first; i < b->end; i++) {
        const qn_window *w = &b->windows->windows[i];
        const int64_t n_targets = qni_window_targets(b->windows, i);
        b->starts[i - b->first] = n;
        memcpy(b->ids + n, b->windows->ids + w->first, (size_t)w->n_ids * sizeof *b->ids);
        memcpy(b->targets + b->n_targets, b->ids + n + w->first_target,
               (size_t)n_targets * sizeof *b->targets);
        n += w->n_ids;
        b->n_targets += n_targets;
    }
    b->starts[b->end - b->first] = n;
    return b->end > b->first;
}

qn_sequences qni_window_batch_sequences(const qni_window_batch *b) {
    return (qn_sequences){.ids = b->ids, .starts = b->starts, .n = b->end - b->first};
}

void qni_window_batch_keep_predictors(const qni_window_batch *b, int64_t h, float *x) {
    int64_t n = 0;
    for (int64_t i = b->first; i < b->end; i++) {
        const int64_t n_targets = qni_window_targets(b->windows, i);
        const int64_t from = b->starts[i - b->first] + b->windows->windows[i].first_target - 1;
        memmove(x + n * h, x + from * h, (size_t)(n_targets * h) * sizeof *x);
        n += n_targets;
    }
}
