#include "quern/checkpoint/safetensors.h"

#include "base/alloc.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { PREFIX_BYTES = 8, ALIGNMENT = 8 };

static bool item_bytes(const qn_view *view, int64_t *n_bytes) {
    int64_t n = (int64_t)qn_dtype_bytes(view->dtype);
    bool fits = n > 0 && view->n_dims >= 0 && view->n_dims <= QN_MAX_DIMS;
    for (int i = 0; fits && i < view->n_dims; i++) fits = qni_multiply_i64(n, view->shape[i], &n);
    *n_bytes = n;
    return fits;
}

/* {"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}; NULL when memory is short. */
static json_t *describe(const qn_view *view, int64_t begin, int64_t end) {
    json_t *shape = json_array();
    int failed = 0;
    for (int i = 0; i < view->n_dims; i++)
        failed |= json_array_append_new(shape, json_integer(view->shape[i]));
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", qn_dtype_name(view->dtype), "shape", shape,
                              "data_offsets", (json_int_t)begin, (json_int_t)end);
    if (!failed) return entry;
    json_decref(entry);
    return NULL;
}

static qn_status add_items(json_t *root, const qn_safetensors_item *items, size_t n_items, qn_error *err) {
    int64_t at = 0;
    for (size_t i = 0; i < n_items; i++) {
        int64_t n_bytes = 0;
        if (!item_bytes(&items[i].view, &n_bytes) || n_bytes > INT64_MAX - at)
            return qn_fail(err, QN_E_ARGUMENT, "tensor '%s' to be written has an impossible dtype or shape",
                           items[i].name);
        if (json_object_get(root, items[i].name) || strcmp(items[i].name, "__metadata__") == 0)
            return qn_fail(err, QN_E_ARGUMENT, "tensor '%s' to be written twice", items[i].name);
        json_t *entry = describe(&items[i].view, at, at + n_bytes);
        if (!entry || json_object_set_new(root, items[i].name, entry) != 0)
            return qni_fail_nomem(err, "a safetensors header");
        at += n_bytes;
    }
    return QN_OK;
}

static qn_status add_metadata(json_t *root, const qn_safetensors_meta *meta, size_t n_meta, qn_error *err) {
    if (n_meta == 0) return QN_OK;
    json_t *object = json_object();
    int failed = json_object_set_new(root, "__metadata__", object);
    for (size_t i = 0; i < n_meta; i++)
        failed |= json_object_set_new(object, meta[i].key, json_string(meta[i].value));
    return failed ? qni_fail_nomem(err, "a safetensors header") : QN_OK;
}

/* Length prefix, TEXT, and spaces up to the alignment and MIN_BYTES. */
static qn_status frame(const char *text, size_t min_bytes, uint8_t **header, size_t *n_bytes, qn_error *err) {
    const size_t length = strlen(text);
    size_t total = PREFIX_BYTES + length;
    total += (ALIGNMENT - total % ALIGNMENT) % ALIGNMENT;
    if (total < min_bytes) total = min_bytes;
    uint8_t *bytes = qni_alloc_array((int64_t)total, 1);
    if (!bytes) return qni_fail_nomem(err, "a safetensors header");
    const uint64_t n_header = total - PREFIX_BYTES;
    for (int i = 0; i < PREFIX_BYTES; i++) bytes[i] = (uint8_t)(n_header >> (8 * i));
    memcpy(bytes + PREFIX_BYTES, text, length);
    memset(bytes + PREFIX_BYTES + length, ' ', total - PREFIX_BYTES - length);
    *header = bytes;
    *n_bytes = total;
    return QN_OK;
}

qn_status qn_safetensors_header(const qn_safetensors_item *items, size_t n_items,
                                const qn_safetensors_meta *meta, size_t n_meta, size_t min_header_bytes,
                                uint8_t **header, size_t *n_bytes, qn_error *err) {
    json_t *root = json_object();
    if (!root) return qni_fail_nomem(err, "a safetensors header");
    qn_status status = add_metadata(root, meta, n_meta, err);
    if (status == QN_OK) status = add_items(root, items, n_items, err);
    char *text = status == QN_OK ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (status == QN_OK && !text) status = qni_fail_nomem(err, "a safetensors header");
    if (status == QN_OK) status = frame(text, min_header_bytes, header, n_bytes, err);
    free(text);
    return status;
}

static qn_status write_all(qn_writer *writer, const qn_safetensors_item *items, size_t n_items,
                           const qn_safetensors_meta *meta, size_t n_meta, qn_error *err) {
    uint8_t *header = NULL;
    size_t n_header = 0;
    QN_TRY(qn_safetensors_header(items, n_items, meta, n_meta, 0, &header, &n_header, err));
    qn_status status = qn_writer_write(writer, header, n_header, err);
    free(header);
    for (size_t i = 0; i < n_items && status == QN_OK; i++) {
        int64_t n_bytes = 0;
        (void)item_bytes(&items[i].view, &n_bytes); /* possible: the header was */
        if (n_bytes > 0) status = qn_writer_write(writer, items[i].view.data, (size_t)n_bytes, err);
    }
    return status;
}

qn_status qn_safetensors_save(const char *path, const qn_safetensors_item *items, size_t n_items,
                              const qn_safetensors_meta *meta, size_t n_meta, char hex[QN_SHA256_HEX],
                              qn_error *err) {
    qn_writer *writer = NULL;
    QN_TRY(qn_writer_open(path, &writer, err));
    const qn_status status = write_all(writer, items, n_items, meta, n_meta, err);
    if (status == QN_OK) return qn_writer_commit(writer, hex, err);
    qn_writer_abandon(writer);
    return status;
}
