/* Perplexity on a little of the dev documents while a run goes on: a line and a figure after every so many blocks, and around the tuning
 * of the whole model. To look at: nothing is trained, calibrated or decided by it, and no file depends on it. A run that is taken up
 * again measures again. */
#ifndef QUERN_SRC_RECIPE_DEV_TRACE_H
#define QUERN_SRC_RECIPE_DEV_TRACE_H

#include "quern/recipe/compress.h"
#include "recipe/probe.h"

typedef struct qni_dev_trace {
    qn_windows windows;     /* owned: the first whole ones of QN_DEV_TOKENS together, one at least */
    qni_window_batch batch; /* owned: the same, side by side */
    int64_t every;          /* blocks */
    qn_dev_report report;   /* owned */
} qni_dev_trace;

/* Takes *windows over, also when it fails, and scores the teacher on what it keeps of them. EVERY is at least 1. */
QN_NODISCARD qn_status qni_dev_trace_open(const qn_model *teacher, qn_windows *windows, int64_t every,
                                          const qn_context *ctx, qni_dev_trace **out, qn_error *err);
void qni_dev_trace_close(qni_dev_trace *trace);

/* After block LAYER was passed by PROBE, which walks the trace's batch; nothing where its turn has not come. */
QN_NODISCARD qn_status qni_dev_trace_block(qni_dev_trace *trace, qni_probe *probe, int64_t layer,
                                           const qn_context *ctx, qn_error *err);

/* The whole STUDENT as it is lent now. */
QN_NODISCARD qn_status qni_dev_trace_model(const qni_dev_trace *trace, const qn_model *student,
                                           const qn_context *ctx, double *perplexity, qn_error *err);

#endif
