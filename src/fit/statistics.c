#include "quern/fit/statistics.h"

#include "base/alloc.h"
#include "base/mapping.h"
#include "fit/statistics_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

struct qn_statistics {
    char *path; /* owned */
    qni_mapping mapping;
    qn_safetensors *file;    /* owned */
    const qn_layout *layout; /* borrowed, or NULL */
    qn_statistics_info info;
    float **vectors;     /* owned [QN_STATISTIC_COUNT * layout->n], each owned or NULL */
    int64_t *hessian_at; /* owned [layout->n]; one more than the tensor's place in the file; 0: none */
};

/* ---- names and shapes ---- */

static const char *const k_names[QN_STATISTIC_COUNT] = {
    [QN_STATISTIC_SECOND_MOMENT] = "input_second_moment", [QN_STATISTIC_HESSIAN] = "input_hessian",
    [QN_STATISTIC_OUTPUT_FISHER] = "output_fisher",       [QN_STATISTIC_TOKEN_FREQUENCY] = "token_frequency",
    [QN_STATISTIC_LOOKUP_GRADIENT] = "lookup_gradient",
};

const char *qn_statistic_name(qn_statistic statistic) {
    return k_names[statistic];
}

bool qni_statistic_parse(const char *tensor, size_t *n_name, qn_statistic *out) {
    const char *dot = strrchr(tensor, '.');
    for (int s = 0; dot && s < QN_STATISTIC_COUNT; s++) {
        if (strcmp(dot + 1, k_names[s]) != 0) continue;
        *n_name = (size_t)(dot - tensor);
        *out = (qn_statistic)s;
        return *n_name > 0;
    }
    return false;
}

qn_view qni_statistic_view(qn_statistic statistic, int64_t n) {
    return (qn_view){
        .dtype = QN_DTYPE_F32, .n_dims = statistic == QN_STATISTIC_HESSIAN ? 2 : 1, .shape = {n, n}};
}

int64_t qni_statistic_floats(const qn_view *view) {
    return view->n_dims == 2 ? view->shape[0] * view->shape[1] : view->shape[0];
}

qn_status qni_statistic_check(qn_statistic statistic, const float *values, int64_t n, const char *path,
                              const char *tensor, qn_error *err) {
    const bool is_matrix = statistic == QN_STATISTIC_HESSIAN;
    for (int64_t i = 0; i < (is_matrix ? n * n : n); i++) {
        const bool may_be_negative = is_matrix && i % (n + 1) != 0;
        if (isfinite(values[i]) && (values[i] >= 0 || may_be_negative)) continue;
        return qn_fail(err, QN_E_VALUE, "%s: %s[%lld] is %g; expected a finite value, not negative", path,
                       tensor, (long long)i, (double)values[i]);
    }
    return QN_OK;
}

int64_t qn_statistics_shared_input(const qn_layout *layout, int64_t entry) {
    const qn_layout_entry *e = &layout->entries[entry];
    switch (e->kind) {
    case QN_TENSOR_K:
    case QN_TENSOR_V:
        return qn_layout_find(layout, QN_TENSOR_Q, e->layer);
    case QN_TENSOR_UP:
        return qn_layout_find(layout, QN_TENSOR_GATE, e->layer);
    default:
        return entry;
    }
}

/* ---- opening ---- */

/* The matrix of that name, or -1. */
static int64_t find_matrix(const qn_layout *layout, const char *name, size_t n_name) {
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *entry = &layout->entries[i];
        if (entry->is_matrix && strlen(entry->name) == n_name && memcmp(entry->name, name, n_name) == 0)
            return i;
    }
    return -1;
}

static int64_t width_of(const qn_layout_entry *entry, qn_statistic statistic) {
    const bool is_output =
        statistic == QN_STATISTIC_OUTPUT_FISHER || statistic == QN_STATISTIC_TOKEN_FREQUENCY;
    return is_output ? entry->rows : entry->cols;
}

/* F32, a vector or a square matrix; of WIDTH unless that is -1. */
static qn_status check_view(const qn_view *view, qn_statistic statistic, int64_t width, const char *path,
                            const char *tensor, qn_error *err) {
    const bool is_matrix = statistic == QN_STATISTIC_HESSIAN;
    char expected[64];
    if (view->dtype == QN_DTYPE_F32 && view->n_dims == (is_matrix ? 2 : 1) &&
        (!is_matrix || view->shape[0] == view->shape[1]) && (width < 0 || view->shape[0] == width))
        return QN_OK;
    if (width < 0)
        snprintf(expected, sizeof expected, "%s", is_matrix ? "and a square" : "and a vector");
    else if (is_matrix)
        snprintf(expected, sizeof expected, "[%lld, %lld]", (long long)width, (long long)width);
    else
        snprintf(expected, sizeof expected, "[%lld]", (long long)width);
    return qn_fail(err, QN_E_SHAPE, "%s: %s is %s with %d dimensions and %lld elements; expected F32 %s",
                   path, tensor, qn_dtype_name(view->dtype), view->n_dims, (long long)qn_view_elements(view),
                   expected);
}

static qn_status copy_vector(const qn_statistics *s, qn_statistic statistic, const qn_view *view,
                             const char *tensor, float **out, qn_error *err) {
    QN_TRY(QNI_ALLOC(*out, view->shape[0], "statistics", err));
    memcpy(*out, view->data, (size_t)view->shape[0] * sizeof **out);
    return qni_statistic_check(statistic, *out, view->shape[0], s->path, tensor, err);
}

static qn_status take_tensor(qn_statistics *s, size_t index, qn_error *err) {
    const char *tensor = qn_safetensors_tensor_name(s->file, index);
    const qn_view *view = qn_safetensors_view(s->file, index);
    qn_statistic statistic = QN_STATISTIC_COUNT;
    size_t n_name = 0;
    const bool has_form = qni_statistic_parse(tensor, &n_name, &statistic);
    const int64_t entry = has_form && s->layout ? find_matrix(s->layout, tensor, n_name) : -1;
    if (!has_form || (s->layout && entry < 0)) {
        return qn_fail(err, QN_E_FORMAT,
                       "%s: %s names no matrix of this checkpoint; expected `<weight name>.%s` or another "
                       "statistic",
                       s->path, tensor, k_names[0]);
    }
    if (!s->layout) return check_view(view, statistic, -1, s->path, tensor, err);
    QN_TRY(
        check_view(view, statistic, width_of(&s->layout->entries[entry], statistic), s->path, tensor, err));
    if (statistic == QN_STATISTIC_HESSIAN) {
        s->hessian_at[entry] = (int64_t)index + 1;
        return QN_OK;
    }
    return copy_vector(s, statistic, view, tensor, &s->vectors[(int)statistic * s->layout->n + entry], err);
}

static const int64_t k_most = INT64_C(1)
                              << 53; /* tokens of a file: so many are a broken count, and sums of files fit */

/* A count of the metadata: absent is 0. */
static qn_status read_count(const qn_statistics *s, const char *key, int64_t *out, qn_error *err) {
    const char *text = qn_safetensors_metadata(s->file, key);
    char *end = NULL;
    *out = 0;
    if (!text) return QN_OK;
    *out = strtoll(text, &end, 10);
    if (end != text && *end == 0 && *out >= 0 && *out <= k_most) return QN_OK;
    return qn_fail(err, QN_E_FORMAT, "%s: metadata %s is '%.40s'; expected a count", s->path, key, text);
}

static qn_status read_info(qn_statistics *s, qn_error *err) {
    const char *version = qn_safetensors_metadata(s->file, "version");
    if (version && strcmp(version, QNI_STATISTICS_VERSION) != 0)
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: statistics of version %.40s; this program reads version %s", s->path, version,
                       QNI_STATISTICS_VERSION);
    s->info = (qn_statistics_info){.model_sha256 = qn_safetensors_metadata(s->file, "model_sha256"),
                                   .text_sha256 = qn_safetensors_metadata(s->file, "text_sha256"),
                                   .context = qn_safetensors_metadata(s->file, "context"),
                                   .seed = qn_safetensors_metadata(s->file, "seed")};
    QN_TRY(read_count(s, "n_tokens", &s->info.n_tokens, err));
    return read_count(s, "n_fisher_tokens", &s->info.n_fisher_tokens, err);
}

static qn_status open_file(qn_statistics *s, const char *path, const qn_layout *layout, qn_error *err) {
    s->path = qni_copy_string(path);
    s->layout = layout;
    const int64_t n = layout ? layout->n : 0;
    s->vectors = qni_alloc_array(QN_STATISTIC_COUNT * n, sizeof *s->vectors);
    s->hessian_at = qni_alloc_array(n, sizeof *s->hessian_at);
    if (!s->path || !s->vectors || !s->hessian_at) return qni_fail_nomem(err, "statistics");
    QN_TRY(qni_mapping_open(path, &s->mapping, err));
    QN_TRY(qn_safetensors_parse(s->mapping.data, s->mapping.n_bytes, s->path, &s->file, err));
    QN_TRY(read_info(s, err));
    for (size_t i = 0; i < qn_safetensors_count(s->file); i++) QN_TRY(take_tensor(s, i, err));
    return QN_OK;
}

qn_status qn_statistics_open(const char *path, const qn_layout *layout, qn_statistics **out, qn_error *err) {
    qn_statistics *s = qni_alloc_array(1, sizeof *s);
    const qn_status status = s ? open_file(s, path, layout, err) : qni_fail_nomem(err, "statistics");
    if (status == QN_OK)
        *out = s;
    else
        qn_statistics_close(s);
    return status;
}

void qn_statistics_close(qn_statistics *s) {
    if (!s) return;
    const int64_t n = s->layout ? QN_STATISTIC_COUNT * s->layout->n : 0;
    for (int64_t i = 0; s->vectors && i < n; i++) free(s->vectors[i]);
    free(s->vectors);
    free(s->hessian_at);
    qn_safetensors_free(s->file);
    qni_mapping_release(&s->mapping);
    free(s->path);
    free(s);
}

/* ---- reading ---- */

const char *qni_statistics_path(const qn_statistics *s) {
    return s->path;
}

const qn_safetensors *qni_statistics_file(const qn_statistics *s) {
    return s->file;
}

qn_statistics_info qn_statistics_info_of(const qn_statistics *s) {
    return s->info;
}

qn_status qn_statistics_check_model(const qn_statistics *s, const qn_checkpoint *checkpoint,
                                    const qn_context *ctx, qn_error *err) {
    char found[QN_SHA256_HEX];
    if (!s->info.model_sha256) return QN_OK;
    QN_TRY(qn_checkpoint_sha256(checkpoint, ctx, found, err));
    if (strcmp(s->info.model_sha256, found) == 0) return QN_OK;
    return qn_fail(
        err, QN_E_ARGUMENT,
        "%s: measured on another model (model_sha256 %.64s, this checkpoint has %s); calibrate again",
        s->path, s->info.model_sha256, found);
}

const float *qn_statistics_vector(const qn_statistics *s, qn_statistic statistic, int64_t entry) {
    if (!s->layout || entry < 0 || entry >= s->layout->n) return NULL;
    return s->vectors[(int)statistic * s->layout->n + entry];
}

/* The place of the Hessian of ENTRY's input in the file, or -1. */
static int64_t find_hessian(const qn_statistics *s, int64_t entry) {
    if (!s->layout || entry < 0 || entry >= s->layout->n) return -1;
    const int64_t own = s->hessian_at[entry];
    return (own ? own : s->hessian_at[qn_statistics_shared_input(s->layout, entry)]) - 1;
}

bool qn_statistics_has_hessian(const qn_statistics *s, int64_t entry) {
    return find_hessian(s, entry) >= 0;
}

qn_status qn_statistics_hessian(const qn_statistics *s, int64_t entry, float *out, qn_error *err) {
    const int64_t at = find_hessian(s, entry);
    if (at < 0) {
        const bool is_entry = s->layout && entry >= 0 && entry < s->layout->n;
        return qn_fail(err, QN_E_ARGUMENT, "%s: no Hessian of the input of %s; calibrate without --diagonal",
                       s->path, is_entry ? s->layout->entries[entry].name : "an unknown matrix");
    }
    const qn_view *view = qn_safetensors_view(s->file, (size_t)at);
    memcpy(out, view->data, (size_t)qni_statistic_floats(view) * sizeof *out);
    return qni_statistic_check(QN_STATISTIC_HESSIAN, out, view->shape[0], s->path,
                               qn_safetensors_tensor_name(s->file, (size_t)at), err);
}

/* ---- listing ---- */

int64_t qn_statistics_count(const qn_statistics *s) {
    return (int64_t)qn_safetensors_count(s->file);
}

qn_status qn_statistics_item_at(const qn_statistics *s, int64_t index, qn_statistics_item *out,
                                qn_error *err) {
    if (index < 0 || index >= qn_statistics_count(s))
        return qn_fail(err, QN_E_ARGUMENT, "%s: no tensor %lld", s->path, (long long)index);
    const qn_view *view = qn_safetensors_view(s->file, (size_t)index);
    qn_statistics_item item = {.name = qn_safetensors_tensor_name(s->file, (size_t)index),
                               .n_values = view->shape[0]};
    size_t n_name;
    (void)qni_statistic_parse(item.name, &n_name, &item.statistic); /* has the form: the file was opened */
    const int64_t step = item.statistic == QN_STATISTIC_HESSIAN ? item.n_values + 1 : 1;
    for (int64_t i = 0; i < item.n_values; i++) {
        float value;
        memcpy(&value, (const char *)view->data + (size_t)(i * step) * sizeof value, sizeof value);
        QN_TRY(qni_statistic_check(QN_STATISTIC_SECOND_MOMENT, &value, 1, s->path, item.name, err));
        item.n_zero += value == 0.0f;
        item.mean += (double)value / (double)item.n_values;
        if ((double)value > item.largest) item.largest = (double)value;
    }
    *out = item;
    return QN_OK;
}
