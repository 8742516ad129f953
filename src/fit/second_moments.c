#include "quern/fit/second_moments.h"

#include "base/alloc.h"
#include "base/mapping.h"
#include "quern/checkpoint/safetensors.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

const float *qn_second_moments_of(const qn_second_moments *moments, int64_t entry) {
    return moments && moments->per_entry && entry < moments->n ? moments->per_entry[entry] : NULL;
}

void qn_second_moments_release(qn_second_moments *moments) {
    for (int64_t i = 0; moments->per_entry && i < moments->n; i++) free(moments->per_entry[i]);
    free(moments->per_entry);
    *moments = (qn_second_moments){0};
}

/* The matrix whose moments tensor TENSOR holds, or -1. */
static int64_t find_matrix(const qn_layout *layout, const char *tensor) {
    size_t length = strlen(tensor), suffix = strlen(QN_SECOND_MOMENT_SUFFIX);
    if (length <= suffix || strcmp(tensor + length - suffix, QN_SECOND_MOMENT_SUFFIX) != 0) return -1;
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *entry = &layout->entries[i];
        bool same =
            strlen(entry->name) == length - suffix && memcmp(entry->name, tensor, length - suffix) == 0;
        if (same && entry->is_matrix) return i;
    }
    return -1;
}

static qn_status check_values(const float *values, int64_t n, const char *path, const char *tensor,
                              qn_error *err) {
    for (int64_t c = 0; c < n; c++) {
        if (isfinite(values[c]) && values[c] >= 0) continue;
        return qn_fail(err, QN_E_VALUE, "%s: %s[%lld] is %g; a second moment is finite and not negative",
                       path, tensor, (long long)c, (double)values[c]);
    }
    return QN_OK;
}

static qn_status take_tensor(const qn_layout *layout, const char *path, const char *tensor,
                             const qn_view *view, qn_second_moments *out, qn_error *err) {
    int64_t entry = find_matrix(layout, tensor);
    if (entry < 0) {
        return qn_fail(err, QN_E_FORMAT,
                       "%s: %s names no matrix of this checkpoint; expected `<weight name>%s`", path, tensor,
                       QN_SECOND_MOMENT_SUFFIX);
    }
    int64_t cols = layout->entries[entry].cols;
    if (view->dtype != QN_DTYPE_F32 || view->n_dims != 1 || view->shape[0] != cols) {
        return qn_fail(err, QN_E_SHAPE,
                       "%s: %s is %s with %d dimensions and %lld elements; expected F32 [%lld]", path, tensor,
                       qn_dtype_name(view->dtype), view->n_dims, (long long)qn_view_elements(view),
                       (long long)cols);
    }
    float *values;
    QN_TRY(QNI_ALLOC(values, cols, "second moments", err));
    out->per_entry[entry] = values;
    memcpy(values, view->data, (size_t)cols * sizeof *values);
    return check_values(values, cols, path, tensor, err);
}

static qn_status check_model(const qn_safetensors *file, const char *path, const qn_checkpoint *checkpoint,
                             const qn_context *ctx, qn_error *err) {
    const char *expected = qn_safetensors_metadata(file, "model_sha256");
    if (!expected) return QN_OK;
    char found[QN_SHA256_HEX];
    QN_TRY(qn_checkpoint_sha256(checkpoint, ctx, found, err));
    if (strcmp(expected, found) == 0) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%s: measured on another model (model_sha256 %s, this checkpoint has %s); calibrate again",
                   path, expected, found);
}

static qn_status take_all(const qn_safetensors *file, const char *path, const qn_layout *layout,
                          qn_second_moments *out, qn_error *err) {
    out->per_entry = qni_alloc_array(layout->n, sizeof *out->per_entry);
    if (!out->per_entry) return qni_fail_nomem(err, "second moments");
    out->n = layout->n;
    size_t count = qn_safetensors_count(file);
    for (size_t i = 0; i < count; i++) {
        QN_TRY(take_tensor(layout, path, qn_safetensors_tensor_name(file, i), qn_safetensors_view(file, i),
                           out, err));
    }
    return QN_OK;
}

qn_status qn_second_moments_load(const char *path, const qn_checkpoint *checkpoint, const qn_context *ctx,
                                 qn_second_moments *out, qn_error *err) {
    qni_mapping mapping = {0};
    qn_safetensors *file = NULL;
    qn_second_moments moments = {0};
    qn_status status = qni_mapping_open(path, &mapping, err);
    if (status == QN_OK) status = qn_safetensors_parse(mapping.data, mapping.n_bytes, path, &file, err);
    if (status == QN_OK) status = take_all(file, path, qn_checkpoint_layout(checkpoint), &moments, err);
    if (status == QN_OK) status = check_model(file, path, checkpoint, ctx, err);
    if (status == QN_OK) {
        *out = moments;
        moments = (qn_second_moments){0};
    }
    qn_second_moments_release(&moments);
    qn_safetensors_free(file);
    qni_mapping_release(&mapping);
    return status;
}
