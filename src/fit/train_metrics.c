#include "fit/train_run.h"

#include "base/alloc.h"

#include <stdlib.h>

#include "base/banned.h"

/* A killed run may have left half a line: it is ended, never removed. */
static qn_status end_last_line(qni_train_metrics *metrics, qn_error *err) {
    if (fseek(metrics->file, -1, SEEK_END) != 0) return QN_OK; /* empty */
    const int last = fgetc(metrics->file);
    const int failed = fseek(metrics->file, 0, SEEK_END);
    if (!failed && (last == '\n' || fputc('\n', metrics->file) == '\n')) return QN_OK;
    return qn_fail_errno(err, "%s: cannot be written", metrics->path);
}

qn_status qni_train_metrics_open(const char *out, qni_train_metrics *metrics, qn_error *err) {
    qni_train_metrics made = {0};
    if (asprintf(&made.path, "%s/metrics.jsonl", out) < 0) return qni_fail_nomem(err, out);
    made.file = fopen(made.path, "a+e");
    const qn_status status =
        made.file ? end_last_line(&made, err) : qn_fail_errno(err, "%s: cannot be written", made.path);
    if (status == QN_OK)
        *metrics = made;
    else
        qni_train_metrics_close(&made);
    return status;
}

qn_status qni_train_metrics_add(qni_train_metrics *metrics, json_t *value, qn_error *err) {
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(10)) : NULL;
    json_decref(value);
    if (!text) return qni_fail_nomem(err, metrics->path);
    const int n = fprintf(metrics->file, "%s\n", text);
    free(text);
    if (n > 0 && fflush(metrics->file) == 0) return QN_OK;
    return qn_fail_errno(err, "%s: cannot be written", metrics->path);
}

void qni_train_metrics_close(qni_train_metrics *metrics) {
    if (metrics->file) (void)fclose(metrics->file); /* every line was flushed and checked */
    free(metrics->path);
    *metrics = (qni_train_metrics){0};
}
