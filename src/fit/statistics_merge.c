/* Several files of statistics into one. */
#include "quern/fit/statistics.h"

#include "base/alloc.h"
#include "fit/statistics_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

typedef struct merge_job {
    qn_statistics **files; /* owned [n] */
    int64_t n;
    qn_safetensors_item *items; /* owned; as in the first file, without data */
    size_t n_items;
    qn_statistics_info info;
    char *text_sha256, *context, *seed; /* owned; joined */
    double *sums;                       /* owned [largest tensor] */
    float *values;                      /* owned [largest tensor] */
    qni_statistics_writer writer;
} merge_job;

static void release(merge_job *job) {
    for (int64_t i = 0; job->files && i < job->n; i++) qn_statistics_close(job->files[i]);
    free(job->files);
    free(job->items);
    free(job->text_sha256);
    free(job->context);
    free(job->seed);
    free(job->sums);
    free(job->values);
    qni_statistics_writer_abandon(&job->writer);
}

static bool same_text(const char *a, const char *b) {
    return a && b && strcmp(a, b) == 0;
}

/* FILE must say of which model it is, and that must be the first file's. */
static qn_status check_model(const merge_job *job, const qn_statistics *file, qn_error *err) {
    const char *first = qn_statistics_info_of(job->files[0]).model_sha256;
    const qn_statistics_info info = qn_statistics_info_of(file);
    if (!info.model_sha256 || info.n_tokens <= 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s: says neither its model nor its tokens; only files that do can be merged",
                       qni_statistics_path(file));
    if (same_text(first, info.model_sha256)) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%s: measured on another model than %s (model_sha256 %.64s, not %.64s)",
                   qni_statistics_path(file), qni_statistics_path(job->files[0]), info.model_sha256,
                   first ? first : "none");
}

/* Every tensor of the first file must be in FILE with its shape, and none besides. */
static qn_status check_tensors(const merge_job *job, const qn_statistics *file, qn_error *err) {
    const qn_safetensors *other = qni_statistics_file(file);
    for (size_t i = 0; i < job->n_items; i++) {
        size_t at;
        const qn_safetensors_item *item = &job->items[i];
        if (qn_safetensors_find(other, item->name, &at) &&
            qn_safetensors_view(other, at)->shape[0] == item->view.shape[0])
            continue;
        return qn_fail(err, QN_E_ARGUMENT, "%s: lacks %s, or has it in another shape, which %s has",
                       qni_statistics_path(file), item->name, qni_statistics_path(job->files[0]));
    }
    if (qn_safetensors_count(other) == job->n_items) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "%s: holds other statistics than %s (%lld tensors, not %lld)",
                   qni_statistics_path(file), qni_statistics_path(job->files[0]),
                   (long long)qn_safetensors_count(other), (long long)job->n_items);
}

/* VALUE alone, or behind what stands there already where that does not hold it yet. *joined is owned. */
static qn_status join_text(char **joined, const char *value, qn_error *err) {
    char *longer = NULL;
    const char *at = *joined;
    if (!value || !*value) value = "?";
    while (at && (at = strstr(at, value))) {
        const bool begins = at == *joined || at[-1] == '+';
        const char end = at[strlen(value)];
        if (begins && (end == 0 || end == '+')) return QN_OK;
        at++;
    }
    if (asprintf(&longer, "%s%s%s", *joined ? *joined : "", *joined ? "+" : "", value) < 0)
        return qni_fail_nomem(err, "metadata of statistics");
    free(*joined);
    *joined = longer;
    return QN_OK;
}

static qn_status list_items(merge_job *job, qn_error *err) {
    const qn_safetensors *first = qni_statistics_file(job->files[0]);
    int64_t largest = 1;
    job->n_items = qn_safetensors_count(first);
    job->items = qni_alloc_array((int64_t)job->n_items, sizeof *job->items);
    if (!job->items) return qni_fail_nomem(err, "list of statistics");
    for (size_t i = 0; i < job->n_items; i++) {
        job->items[i] =
            (qn_safetensors_item){qn_safetensors_tensor_name(first, i), *qn_safetensors_view(first, i)};
        job->items[i].view.data = NULL;
        const int64_t n = qni_statistic_floats(&job->items[i].view);
        if (n > largest) largest = n;
    }
    QN_TRY(QNI_ALLOC(job->sums, largest, "merged statistics", err));
    return QNI_ALLOC(job->values, largest, "merged statistics", err);
}

static qn_status open_all(merge_job *job, const char *const *paths, qn_error *err) {
    job->files = qni_alloc_array(job->n, sizeof *job->files);
    if (!job->files) return qni_fail_nomem(err, "statistics to be merged");
    for (int64_t i = 0; i < job->n; i++) {
        QN_TRY(qn_statistics_open(paths[i], NULL, &job->files[i], err));
        if (i == 0) QN_TRY(list_items(job, err));
        QN_TRY(check_model(job, job->files[i], err));
        QN_TRY(check_tensors(job, job->files[i], err));
        const qn_statistics_info info = qn_statistics_info_of(job->files[i]);
        job->info.n_tokens += info.n_tokens;
        job->info.n_fisher_tokens += info.n_fisher_tokens;
        QN_TRY(join_text(&job->text_sha256, info.text_sha256, err));
        QN_TRY(join_text(&job->context, info.context, err));
        QN_TRY(join_text(&job->seed, info.seed, err));
    }
    job->info.model_sha256 = qn_statistics_info_of(job->files[0]).model_sha256;
    job->info.text_sha256 = job->text_sha256;
    job->info.context = job->context;
    job->info.seed = job->seed;
    return QN_OK;
}

/* The tokens that a statistic of FILE is a mean over. */
static int64_t tokens_of(const qn_statistics_info *info, qn_statistic statistic) {
    const bool is_gradient =
        statistic == QN_STATISTIC_OUTPUT_FISHER || statistic == QN_STATISTIC_LOOKUP_GRADIENT;
    return is_gradient ? info->n_fisher_tokens : info->n_tokens;
}

static qn_status merge_item(merge_job *job, const qn_safetensors_item *item, qn_error *err) {
    const int64_t n = qni_statistic_floats(&item->view);
    qn_statistic statistic = QN_STATISTIC_COUNT;
    size_t n_name, at;
    (void)qni_statistic_parse(item->name, &n_name, &statistic); /* has the form: the file was opened */
    memset(job->sums, 0, (size_t)n * sizeof *job->sums);
    const int64_t total = tokens_of(&job->info, statistic);
    for (int64_t f = 0; f < job->n; f++) {
        const qn_statistics_info info = qn_statistics_info_of(job->files[f]);
        const qn_safetensors *file = qni_statistics_file(job->files[f]);
        const double weight = total > 0 ? (double)tokens_of(&info, statistic) / (double)total : 0.0;
        (void)qn_safetensors_find(file, item->name, &at); /* is there: the tensors were compared */
        memcpy(job->values, qn_safetensors_view(file, at)->data, (size_t)n * sizeof *job->values);
        QN_TRY(qni_statistic_check(statistic, job->values, item->view.shape[0],
                                   qni_statistics_path(job->files[f]), item->name, err));
        for (int64_t i = 0; i < n; i++) job->sums[i] += weight * (double)job->values[i];
    }
    for (int64_t i = 0; i < n; i++) job->values[i] = (float)job->sums[i];
    return qni_statistics_writer_put(&job->writer, item->name, job->values, err);
}

static qn_status run(merge_job *job, const char *const *paths, const char *out, const qn_context *ctx,
                     qn_error *err) {
    QN_TRY(open_all(job, paths, err));
    QN_TRY(qni_statistics_writer_open(out, job->items, job->n_items, &job->info, &job->writer, err));
    for (size_t i = 0; i < job->n_items; i++) {
        QN_TRY(qn_check_cancelled(ctx, err));
        QN_TRY(merge_item(job, &job->items[i], err));
    }
    return qni_statistics_writer_commit(&job->writer, err);
}

qn_status qn_statistics_merge(const char *const *paths, int64_t n, const char *out, const qn_context *ctx,
                              qn_error *err) {
    merge_job job = {.n = n};
    if (n < 1) return qn_fail(err, QN_E_ARGUMENT, "no statistics to merge");
    const qn_status status = run(&job, paths, out, ctx, err);
    release(&job);
    return status;
}
