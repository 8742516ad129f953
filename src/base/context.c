#include "quern/base/context.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/banned.h"

enum { LOG_BYTES = 1024 };

int qn_context_threads(const qn_context *ctx) {
    if (ctx && ctx->n_threads > 0) return ctx->n_threads;
    /* Not omp_get_max_threads: a caller's own OMP settings are no wish about this library. */
    int n = omp_get_num_procs();
    return n > 0 ? n : 1;
}

void qn_report_progress(const qn_context *ctx, const char *stage, uint64_t done, uint64_t total) {
    if (!ctx || !ctx->on_progress) return;
    qn_progress progress = {.stage = stage, .done = done, .total = total};
    ctx->on_progress(ctx->user, &progress);
}

void qn_log(const qn_context *ctx, qn_log_level level, const char *format, ...) {
    if (!ctx || !ctx->on_log) return;
    char message[LOG_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (n >= 0) ctx->on_log(ctx->user, level, message);
}

qn_status qn_check_cancelled(const qn_context *ctx, qn_error *err) {
    if (!ctx || !ctx->is_cancelled || !ctx->is_cancelled(ctx->user)) return QN_OK;
    return qn_fail(err, QN_E_CANCELLED, "cancelled");
}
