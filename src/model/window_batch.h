/* Windows of text, a bounded number of tokens at a time: what scoring and comparing walk. */
#ifndef QUERN_SRC_MODEL_WINDOW_BATCH_H
#define QUERN_SRC_MODEL_WINDOW_BATCH_H

#include "quern/model/walk.h"
#include "quern/text/windows.h"

/* Windows [first, end) walked together; the arrays are sized for the largest batch. Zeroed is valid. */
typedef struct qni_window_batch {
    const qn_windows *windows; /* borrowed */
    int64_t budget, max_tokens;
    int64_t first, end;
    int64_t n_targets;
    int32_t *ids;     /* owned [tokens] */
    int64_t *starts;  /* owned [windows + 1] */
    int32_t *targets; /* owned [n_targets] */
} qni_window_batch;

/* Tokens of a batch: 256 MiB of stream, within bounds that amortise decoding the weights and keep memory small. A
 * function of the width only, so that results do not depend on anything else. */
int64_t qni_window_batch_budget(const qn_config *config);

/* Before the first batch of WINDOWS. A window longer than the budget is a batch by itself. No window, or one that does
 * not fit its ids, is QN_E_ARGUMENT. */
QN_NODISCARD qn_status qni_window_batch_open(const qn_windows *windows, int64_t budget, qni_window_batch *out,
                                             qn_error *err);
void qni_window_batch_release(qni_window_batch *batch);

/* Moves to the next batch: its ids, starts and targets. False after the last. */
bool qni_window_batch_next(qni_window_batch *batch);

/* The ids of the batch, for a walk. */
qn_sequences qni_window_batch_sequences(const qni_window_batch *batch);

/* Tokens of all windows, for progress. */
uint64_t qni_window_batch_all_tokens(const qn_windows *windows);

/* Scored ids of window INDEX. */
int64_t qni_window_targets(const qn_windows *windows, int64_t index);

/* Moves the n_targets rows of x [tokens, h] that predict a target to the front, in the order of the targets. */
void qni_window_batch_keep_predictors(const qni_window_batch *batch, int64_t h, float *x);

#endif
