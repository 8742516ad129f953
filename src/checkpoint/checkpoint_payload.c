/* The packed matrices of an artifact's payload files (docs/format.md). */
#include "checkpoint/checkpoint_files.h"
#include "checkpoint/format.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static qn_status check_header(const qni_weight_file *file, qn_error *err) {
    const char *format = qn_safetensors_metadata(file->tensors, "format");
    const char *version = qn_safetensors_metadata(file->tensors, "version");
    if (!format || strcmp(format, "quern") != 0)
        return qn_fail(err, QN_E_FORMAT, "%s: __metadata__ has format '%.50s', expected 'quern'", file->name,
                       format ? format : "");
    if (!version || strcmp(version, QNI_FORMAT_TEXT) != 0)
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: payload version '%.50s', supported is '" QNI_FORMAT_TEXT "'", file->name,
                       version ? version : "");
    return QN_OK;
}

static const uint8_t *tensor_data(const qni_weight_file *file, const char *name) {
    size_t index = 0;
    return qn_safetensors_find(file->tensors, name, &index) ? qn_safetensors_view(file->tensors, index)->data
                                                            : NULL;
}

/* The one tensor of a matrix: as many bytes as its shape takes, or its stream, which is inflated when all else is known to be
 * sound. */
static qn_status gather_block(const qni_weight_file *file, const char *matrix, qn_encoded *e, bool *taken,
                              qn_error *err) {
    const int64_t n_bytes = qn_encoded_stored_bytes(e);
    size_t index = 0;
    if (!qn_safetensors_find(file->tensors, matrix, &index))
        return qn_fail(err, QN_E_FORMAT, "%s: tensor '%s' is missing: the artifact is damaged", file->name,
                       matrix);
    const qn_view *view = qn_safetensors_view(file->tensors, index);
    if (view->dtype != QN_DTYPE_U8 || view->n_dims != 1 || view->shape[0] != n_bytes)
        return qn_fail(err, QN_E_SHAPE,
                       "%s: tensor '%s' is %s with %d dimensions [%lld, ...], expected U8 [%lld]", file->name,
                       matrix, qn_dtype_name(view->dtype), view->n_dims,
                       (long long)(view->n_dims > 0 ? view->shape[0] : 0), (long long)n_bytes);
    if (!e->stream_bytes) qn_encoded_attach(e, view->data);
    taken[index] = true;
    return QN_OK;
}

static qn_status gather_matrix(qn_checkpoint *c, int64_t entry, size_t f, const char *spec, bool *taken,
                               qn_error *err) {
    const qn_layout_entry *expected = &c->layout.entries[entry];
    const qni_weight_file *file = &c->files[f];
    qn_encoded e = {0};
    qn_error inner;
    const qn_status status = qn_packed_spec_parse(spec, expected->name, &e, &inner);
    if (status != QN_OK) return qn_fail(err, status, "%s: %s", file->name, inner.message);
    if (e.rows != expected->rows || e.cols != expected->cols)
        return qn_fail(err, QN_E_SHAPE,
                       "%s: tensor '%s' is packed as %lldx%lld, config.json implies %lldx%lld", file->name,
                       expected->name, (long long)e.rows, (long long)e.cols, (long long)expected->rows,
                       (long long)expected->cols);
    QN_TRY(gather_block(file, expected->name, &e, taken, err));
    QN_TRY(qni_checkpoint_claim(c, entry, f, err));
    c->weights[entry] = (qn_weight){.kind = QN_WEIGHT_ENCODED, .encoded = e};
    return QN_OK;
}

static qn_status gather_vector(qn_checkpoint *c, int64_t entry, size_t f, size_t index, qn_error *err) {
    const qn_dtype dtype = qn_safetensors_view(c->files[f].tensors, index)->dtype;
    if (c->layout.entries[entry].is_matrix)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: matrix '%s' has no line in __metadata__, expected one that says how it is packed",
                       c->files[f].name, c->layout.entries[entry].name);
    if (dtype != QN_DTYPE_F16 && dtype != QN_DTYPE_BF16)
        return qn_fail(err, QN_E_SHAPE, "%s: vector '%s' is %s, expected F16 or BF16", c->files[f].name,
                       c->layout.entries[entry].name, qn_dtype_name(dtype));
    return qni_checkpoint_bind_dense(c, entry, f, index, err);
}

/* What no matrix took: vectors, and the padding as the very last tensor. */
static qn_status gather_rest(qn_checkpoint *c, size_t f, const bool *taken, qn_error *err) {
    const qn_safetensors *tensors = c->files[f].tensors;
    const size_t n = qn_safetensors_count(tensors);
    for (size_t i = 0; i < n; i++) {
        const char *name = qn_safetensors_tensor_name(tensors, i);
        if (taken[i]) continue;
        if (f + 1 == c->n_files && i + 1 == n && strcmp(name, QNI_PADDING_NAME) == 0 &&
            qn_safetensors_view(tensors, i)->dtype == QN_DTYPE_U8)
            continue;
        const int64_t entry = qni_checkpoint_find(c, name);
        if (entry < 0) return qni_checkpoint_fail_surplus(c, f, name, err);
        QN_TRY(gather_vector(c, entry, f, i, err));
    }
    return QN_OK;
}

static qn_status gather_file(qn_checkpoint *c, size_t f, bool *taken, qn_error *err) {
    for (int64_t i = 0; i < c->layout.n; i++) {
        const qn_layout_entry *entry = &c->layout.entries[i];
        const char *spec =
            entry->is_matrix ? qn_safetensors_metadata(c->files[f].tensors, entry->name) : NULL;
        if (spec) QN_TRY(gather_matrix(c, i, f, spec, taken, err));
    }
    return gather_rest(c, f, taken, err);
}

/* Streams, codes and scales are checked last: it is the slow part. */
static qn_status bind_matrix(const qn_checkpoint *c, int64_t entry, qn_error *err) {
    const qni_weight_file *file = &c->files[c->file_of[entry]];
    qn_weight *weight = &c->weights[entry];
    qn_encoded *e = &weight->encoded;
    if (weight->kind != QN_WEIGHT_ENCODED) return QN_OK;
    char *name = NULL;
    if (asprintf(&name, "%s: %s", file->name, c->layout.entries[entry].name) < 0)
        return qni_fail_nomem(err, "a message");
    qn_status status = QN_OK;
    if (e->stream_bytes)
        status = qn_encoded_inflate(e, tensor_data(file, c->layout.entries[entry].name), name, err);
    if (status == QN_OK) status = qn_encoded_bind(e, name, err);
    free(name);
    return status;
}

qn_status qni_checkpoint_bind_payload(qn_checkpoint *c, qn_error *err) {
    for (size_t f = 0; f < c->n_files; f++) {
        QN_TRY(check_header(&c->files[f], err));
        bool *taken = qni_alloc_array((int64_t)qn_safetensors_count(c->files[f].tensors), sizeof *taken);
        if (!taken) return qni_fail_nomem(err, c->files[f].name);
        const qn_status status = gather_file(c, f, taken, err);
        free(taken);
        QN_TRY(status);
    }
    return qni_checkpoint_for_each(c, NULL, NULL, bind_matrix, err);
}
