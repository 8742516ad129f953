/* What a caller lends to a long operation: threads, progress, log and a way to stop it. */
#ifndef QUERN_BASE_CONTEXT_H
#define QUERN_BASE_CONTEXT_H

#include "quern/base/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_log_level { QN_LOG_DEBUG, QN_LOG_INFO, QN_LOG_WARNING } qn_log_level;

typedef struct qn_progress {
    const char *stage; /* for example "score: layers"; a static string */
    uint64_t done, total;
} qn_progress;

/* A zeroed context is valid: all processors of the process, silence, no cancelling. Every function that takes
 * a `const qn_context *` accepts NULL for the same. The callbacks run on the calling thread only. Results
 * never depend on n_threads. */
typedef struct qn_context {
    int n_threads; /* 0: as many as the process may use */
    void (*on_progress)(void *user, const qn_progress *progress);
    void (*on_log)(void *user, qn_log_level level, const char *message);
    bool (*is_cancelled)(void *user);
    void *user; /* borrowed; handed to the callbacks */
} qn_context;

/* The number of threads CTX stands for, at least 1. */
QN_API int qn_context_threads(const qn_context *ctx);

QN_API void qn_report_progress(const qn_context *ctx, const char *stage, uint64_t done, uint64_t total);
QN_API void qn_log(const qn_context *ctx, qn_log_level level, const char *format, ...) QN_PRINTF(3, 4);

/* QN_E_CANCELLED when the caller asked to stop, else QN_OK. */
QN_NODISCARD QN_API qn_status qn_check_cancelled(const qn_context *ctx, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
