#include "quern/checkpoint/safetensors.h"

#include "base/alloc.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { PREFIX_BYTES = 8, MAX_HEADER_BYTES = 100000000 };

typedef struct entry {
    const char *name; /* borrowed from the header */
    uint64_t begin, end;
    qn_view view;
} entry;

struct qn_safetensors {
    json_t *header;  /* owned */
    entry *entries;  /* owned; in the order of their bytes */
    size_t *by_name; /* owned; indices into entries in name order */
    size_t n;
};

/* What parsing needs to know everywhere; `name` is the file. */
typedef struct source {
    const uint8_t *payload;
    uint64_t n_payload;
    const char *name;
} source;

static uint64_t load_le64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

static qn_status find_header(const uint8_t *data, size_t n_bytes, const char *name, uint64_t *n_header,
                             qn_error *err) {
    if (n_bytes < PREFIX_BYTES)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: %zu bytes are too few for a safetensors file: download it again", name, n_bytes);
    const uint64_t length = load_le64(data);
    if (length > MAX_HEADER_BYTES)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: header of %llu bytes, expected at most %d: not a safetensors file?", name,
                       (unsigned long long)length, MAX_HEADER_BYTES);
    if (length > n_bytes - PREFIX_BYTES)
        return qn_fail(
            err, QN_E_FORMAT,
            "%s: the header needs %llu bytes, the file has %zu after its length: truncated, download it "
            "again",
            name, (unsigned long long)length, n_bytes - PREFIX_BYTES);
    if (length == 0 || data[PREFIX_BYTES] != '{')
        return qn_fail(err, QN_E_FORMAT, "%s: the header does not start with '{': not a safetensors file",
                       name);
    *n_header = length;
    return QN_OK;
}

static qn_status check_metadata(json_t *metadata, const char *name, qn_error *err) {
    if (metadata && !json_is_object(metadata))
        return qn_fail(err, QN_E_FORMAT, "%s: __metadata__ is %s, expected an object of strings", name,
                       qni_json_type_name(metadata));
    const char *key, *text;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        QN_TRY(qni_json_get_string(metadata, key, true, name, &text, err));
    }
    return QN_OK;
}

static qn_status fail_tensor(const source *s, const char *tensor, const char *what, qn_error *err) {
    return qn_fail(err, QN_E_FORMAT, "%s: tensor '%.300s': %s", s->name, tensor, what);
}

static qn_status read_shape(const source *s, const char *tensor, const json_t *shape, qn_view *view,
                            qn_error *err) {
    const size_t n = json_array_size(shape);
    if (!json_is_array(shape)) return fail_tensor(s, tensor, "shape is missing or no list", err);
    if (n > QN_MAX_DIMS)
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: tensor '%.300s' has %zu dimensions, supported are at most %d", s->name, tensor, n,
                       QN_MAX_DIMS);
    for (size_t i = 0; i < n; i++) {
        const json_t *extent = json_array_get(shape, i);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return fail_tensor(s, tensor, "shape holds something other than non-negative integers", err);
        view->shape[i] = json_integer_value(extent);
    }
    view->n_dims = (int)n;
    return QN_OK;
}

static qn_status read_range(const source *s, const json_t *offsets, entry *e, qn_error *err) {
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return fail_tensor(s, e->name, "data_offsets is no pair of integers", err);
    const json_int_t b = json_integer_value(begin), n = json_integer_value(end);
    if (b < 0 || n < b || (uint64_t)n > s->n_payload)
        return qn_fail(
            err, QN_E_FORMAT,
            "%s: tensor '%.300s': data_offsets [%lld, %lld] do not lie in the file's %llu data bytes: "
            "truncated or damaged, download it again",
            s->name, e->name, (long long)b, (long long)n, (unsigned long long)s->n_payload);
    e->begin = (uint64_t)b;
    e->end = (uint64_t)n;
    return QN_OK;
}

static qn_status check_size(const source *s, const entry *e, qn_error *err) {
    int64_t n = (int64_t)qn_dtype_bytes(e->view.dtype);
    bool fits = true;
    for (int i = 0; i < e->view.n_dims; i++) fits = fits && qni_multiply_i64(n, e->view.shape[i], &n);
    if (!fits || (uint64_t)n != e->end - e->begin)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: tensor '%.300s': its shape in %s needs %s%lld bytes, data_offsets give %llu",
                       s->name, e->name, qn_dtype_name(e->view.dtype), fits ? "" : "more than ", (long long)n,
                       (unsigned long long)(e->end - e->begin));
    return QN_OK;
}

static qn_status read_entry(const source *s, const char *tensor, const json_t *value, entry *out,
                            qn_error *err) {
    entry e = {.name = tensor};
    if (!json_is_object(value))
        return fail_tensor(s, tensor, "expected an object with dtype, shape, data_offsets", err);
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    if (!dtype) return fail_tensor(s, tensor, "dtype is missing or no string", err);
    e.view.dtype = qn_dtype_from_name(dtype);
    if (e.view.dtype == QN_DTYPE_NONE)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: tensor '%.300s': dtype '%.50s' is unknown to this version",
                       s->name, tensor, dtype);
    QN_TRY(read_shape(s, tensor, json_object_get(value, "shape"), &e.view, err));
    QN_TRY(read_range(s, json_object_get(value, "data_offsets"), &e, err));
    QN_TRY(check_size(s, &e, err));
    e.view.data = s->payload + e.begin;
    *out = e;
    return QN_OK;
}

/* Empty tensors come before the one that starts at the same place. */
static int compare_ranges(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static qn_status check_tiling(const source *s, const qn_safetensors *file, qn_error *err) {
    uint64_t at = 0;
    for (size_t i = 0; i < file->n; i++) {
        const entry *e = &file->entries[i];
        if (e->begin < at)
            return qn_fail(err, QN_E_FORMAT, "%s: tensor '%.300s' overlaps tensor '%.300s' at data byte %llu",
                           s->name, e->name, file->entries[i - 1].name, (unsigned long long)e->begin);
        if (e->begin > at)
            return qn_fail(err, QN_E_FORMAT, "%s: %llu bytes before tensor '%.300s' belong to no tensor",
                           s->name, (unsigned long long)(e->begin - at), e->name);
        at = e->end;
    }
    if (at != s->n_payload)
        return qn_fail(err, QN_E_FORMAT, "%s: %llu bytes after the last tensor belong to no tensor", s->name,
                       (unsigned long long)(s->n_payload - at));
    return QN_OK;
}

static int compare_names(const void *a, const void *b, void *entries) {
    const entry *e = entries;
    return strcmp(e[*(const size_t *)a].name, e[*(const size_t *)b].name);
}

static qn_status read_entries(const source *s, qn_safetensors *file, qn_error *err) {
    QN_TRY(check_metadata(json_object_get(file->header, "__metadata__"), s->name, err));
    const size_t n_keys = json_object_size(file->header);
    file->entries = qni_alloc_array((int64_t)n_keys, sizeof *file->entries);
    file->by_name = qni_alloc_array((int64_t)n_keys, sizeof *file->by_name);
    if (!file->entries || !file->by_name) return qni_fail_nomem(err, s->name);

    const char *key;
    json_t *value;
    json_object_foreach(file->header, key, value) {
        if (strcmp(key, "__metadata__") == 0) continue;
        QN_TRY(read_entry(s, key, value, &file->entries[file->n], err));
        file->n++;
    }
    if (file->n > 0) qsort(file->entries, file->n, sizeof *file->entries, compare_ranges);
    QN_TRY(check_tiling(s, file, err));
    for (size_t i = 0; i < file->n; i++) file->by_name[i] = i;
    if (file->n > 0) qsort_r(file->by_name, file->n, sizeof *file->by_name, compare_names, file->entries);
    return QN_OK;
}

qn_status qn_safetensors_parse(const uint8_t *data, size_t n_bytes, const char *name, qn_safetensors **out,
                               qn_error *err) {
    uint64_t n_header = 0;
    QN_TRY(find_header(data, n_bytes, name, &n_header, err));
    const source s = {data + PREFIX_BYTES + n_header, n_bytes - PREFIX_BYTES - n_header, name};
    qn_safetensors *file = qni_alloc_array(1, sizeof *file);
    if (!file) return qni_fail_nomem(err, name);

    qn_status status = qni_json_parse(data + PREFIX_BYTES, n_header, name, &file->header, err);
    if (status == QN_OK) status = read_entries(&s, file, err);
    if (status == QN_OK)
        *out = file;
    else
        qn_safetensors_free(file);
    return status;
}

void qn_safetensors_free(qn_safetensors *file) {
    if (!file) return;
    json_decref(file->header);
    free(file->entries);
    free(file->by_name);
    free(file);
}

size_t qn_safetensors_count(const qn_safetensors *file) {
    return file->n;
}

const char *qn_safetensors_tensor_name(const qn_safetensors *file, size_t index) {
    return file->entries[index].name;
}

const qn_view *qn_safetensors_view(const qn_safetensors *file, size_t index) {
    return &file->entries[index].view;
}

bool qn_safetensors_find(const qn_safetensors *file, const char *tensor, size_t *index) {
    size_t low = 0, high = file->n;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(file->entries[file->by_name[middle]].name, tensor);
        if (order == 0) {
            *index = file->by_name[middle];
            return true;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

const char *qn_safetensors_metadata(const qn_safetensors *file, const char *key) {
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}
