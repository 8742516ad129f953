#include "recipe/matrix_store.h"

#include "base/alloc.h"
#include "base/mapping.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

static const char k_key[] = "quern.run", k_spec[] = "spec", k_target[] = "target",
                  k_relative_error[] = "relative_error";
static const char *const k_matrix_of[QNI_STAGE_COUNT] = {"matrix", "trained", "tuned"};

qn_status qni_store_path(const qni_matrix_store *store, const char *name, char **path, qn_error *err) {
    char *joined = NULL;
    if (asprintf(&joined, "%s/%s", store->folder, name) < 0) return qni_fail_nomem(err, "a path");
    *path = joined;
    return QN_OK;
}

qn_status qni_stage_path(const qni_matrix_store *store, qni_run_stage stage, const char *what, int64_t number,
                         char **path, qn_error *err) {
    char name[96];
    if (stage == QNI_STAGE_FITTED)
        (void)snprintf(name, sizeof name, "%s-%05lld.safetensors", what, (long long)number);
    else
        (void)snprintf(name, sizeof name, "%s-%.*s-%05lld.safetensors", what, QNI_KEY_DIGITS,
                       store->keys[stage], (long long)number);
    return qni_store_path(store, name, path, err);
}

static qn_status path_of(const qni_matrix_store *store, qni_run_stage stage, int64_t entry, char **path,
                         qn_error *err) {
    return qni_stage_path(store, stage, k_matrix_of[stage], entry, path, err);
}

bool qni_stage_has(const qni_matrix_store *store, qni_run_stage stage, const char *what, int64_t number) {
    char *path = NULL;
    if (qni_stage_path(store, stage, what, number, &path, NULL) != QN_OK) return false;
    const bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}

bool qni_matrix_store_has(const qni_matrix_store *store, qni_run_stage stage, int64_t entry) {
    return qni_stage_has(store, stage, k_matrix_of[stage], entry);
}

bool qni_matrix_store_is_used(const qni_matrix_store *store, const qn_layout *layout) {
    bool is_used = false;
    for (int64_t i = 0; i < layout->n && !is_used; i++)
        is_used = qni_matrix_store_has(store, QNI_STAGE_FITTED, i);
    return is_used;
}

/* ---- saving ---- */

static qn_status save(const qni_matrix_store *store, qni_run_stage stage, int64_t entry,
                      const qn_safetensors_item *items, size_t n_items, const qn_safetensors_meta *meta,
                      size_t n_meta, qn_error *err) {
    char *path = NULL;
    QN_TRY(path_of(store, stage, entry, &path, err));
    const qn_status status = qn_safetensors_save(path, items, n_items, meta, n_meta, NULL, err);
    free(path);
    return status;
}

qn_status qni_matrix_store_save(const qni_matrix_store *store, qni_run_stage stage, int64_t entry,
                                const char *name, const qn_encoded *encoded, const float *target,
                                double relative_error, qn_error *err) {
    char spec[QN_PACKED_SPEC_BYTES], number[32];
    qn_packed_spec_format(encoded, spec);
    (void)snprintf(number, sizeof number, "%.17g", relative_error);
    const qn_safetensors_item items[] = {
        {name,
         {.data = encoded->data, .dtype = QN_DTYPE_U8, .n_dims = 1, .shape = {qn_encoded_bytes(encoded)}}},
        {k_target,
         {.data = target, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {encoded->rows, encoded->cols}}}};
    const qn_safetensors_meta meta[] = {
        {k_key, store->keys[stage]}, {k_spec, spec}, {k_relative_error, number}};
    return save(store, stage, entry, items, target ? 2 : 1, meta, relative_error >= 0.0 ? 3 : 2, err);
}

qn_status qni_vector_store_save(const qni_matrix_store *store, qni_run_stage stage, int64_t entry,
                                const char *name, const float *values, int64_t n, qn_error *err) {
    const qn_safetensors_item item = {name,
                                      {.data = values, .dtype = QN_DTYPE_F32, .n_dims = 1, .shape = {n}}};
    const qn_safetensors_meta meta = {k_key, store->keys[stage]};
    return save(store, stage, entry, &item, 1, &meta, 1, err);
}

/* ---- loading ---- */

typedef struct store_file {
    char *path; /* owned */
    qni_mapping mapping;
    qn_safetensors *file;
} store_file;

static void file_close(store_file *f) {
    qn_safetensors_free(f->file);
    qni_mapping_release(&f->mapping);
    free(f->path);
    *f = (store_file){0};
}

static qn_status check_key(const store_file *f, const char *key, qn_error *err) {
    const char *saved = qn_safetensors_metadata(f->file, k_key);
    if (saved && strcmp(saved, key) == 0) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%s belongs to another run (other weights, recipe, text, tokenizer, budget, seed or "
                   "processor): expected "
                   "run %s, found %s; give another --work folder",
                   f->path, key, saved ? saved : "none");
}

/* file->file NULL: there is none. To be closed in every case. */
static qn_status file_open(const qni_matrix_store *store, qni_run_stage stage, int64_t entry, store_file *f,
                           qn_error *err) {
    QN_TRY(path_of(store, stage, entry, &f->path, err));
    if (access(f->path, F_OK) != 0) return QN_OK;
    QN_TRY(qni_mapping_open(f->path, &f->mapping, err));
    QN_TRY(qn_safetensors_parse(f->mapping.data, f->mapping.n_bytes, f->path, &f->file, err));
    return check_key(f, store->keys[stage], err);
}

qn_status qni_matrix_store_check(const qni_matrix_store *store, const qn_layout *layout, qn_error *err) {
    for (int64_t i = 0; i < layout->n; i++) {
        store_file f = {0};
        const qn_status status = file_open(store, QNI_STAGE_FITTED, i, &f, err);
        const bool found = f.file;
        file_close(&f);
        if (found || status != QN_OK) return status;
    }
    return QN_OK;
}

/* The tensor NAME of that many elements, or NULL. */
static const qn_view *find(const store_file *f, const char *name, qn_dtype dtype, int64_t n) {
    size_t index;
    if (!qn_safetensors_find(f->file, name, &index)) return NULL;
    const qn_view *view = qn_safetensors_view(f->file, index);
    return view->dtype == dtype && qn_view_elements(view) == n ? view : NULL;
}

static qn_status take_matrix(const store_file *f, const char *name, const qn_encoded *shape, qn_encoded *out,
                             qn_error *err) {
    char expected[QN_PACKED_SPEC_BYTES];
    const char *spec = qn_safetensors_metadata(f->file, k_spec);
    qn_packed_spec_format(shape, expected);
    const qn_view *view = find(f, name, QN_DTYPE_U8, qn_encoded_bytes(shape));
    if (!spec || strcmp(spec, expected) != 0 || !view)
        return qn_fail(err, QN_E_FORMAT, "%s: expected %s as %s, found %s; remove the file and start again",
                       f->path, name, expected, spec ? spec : "something else");
    qn_encoded_arrays arrays;
    qn_encoded encoded = *shape;
    QN_TRY(qn_encoded_alloc(&encoded, &arrays, err));
    memcpy(encoded.owned, view->data, (size_t)qn_encoded_bytes(shape));
    const qn_status status = qn_encoded_bind(&encoded, name, err);
    if (status == QN_OK)
        *out = encoded;
    else
        qn_encoded_release(&encoded);
    return status;
}

static qn_status take_target(const store_file *f, const qn_encoded *shape, float **target, qn_error *err) {
    const int64_t n = shape->rows * shape->cols;
    const qn_view *view = find(f, k_target, QN_DTYPE_F32, n);
    *target = NULL;
    if (!view) return QN_OK;
    QN_TRY(QNI_ALLOC(*target, n, "where training begins", err));
    memcpy(*target, view->data, (size_t)n * sizeof **target);
    return QN_OK;
}

qn_status qni_matrix_store_load(const qni_matrix_store *store, qni_run_stage stage, int64_t entry,
                                const char *name, const qn_encoded *shape, bool *found, qn_encoded *out,
                                float **target, qn_error *err) {
    store_file f = {0};
    float *own_target = NULL;
    qn_status status = file_open(store, stage, entry, &f, err);
    *found = status == QN_OK && f.file;
    if (*found && target) status = take_target(&f, shape, &own_target, err);
    if (*found && status == QN_OK) status = take_matrix(&f, name, shape, out, err);
    if (*found && status == QN_OK && target)
        *target = own_target;
    else
        free(own_target);
    file_close(&f);
    return status;
}

qn_status qni_matrix_store_error(const qni_matrix_store *store, qni_run_stage stage, int64_t entry,
                                 double *relative_error, qn_error *err) {
    store_file f = {0};
    const qn_status status = file_open(store, stage, entry, &f, err);
    const char *saved = status == QN_OK && f.file ? qn_safetensors_metadata(f.file, k_relative_error) : NULL;
    *relative_error = saved ? strtod(saved, NULL) : -1.0;
    file_close(&f);
    return status;
}

qn_status qni_vector_store_load(const qni_matrix_store *store, qni_run_stage stage, int64_t entry,
                                const char *name, int64_t n, bool *found, float *out, qn_error *err) {
    store_file f = {0};
    qn_status status = file_open(store, stage, entry, &f, err);
    *found = status == QN_OK && f.file;
    if (*found) {
        const qn_view *view = find(&f, name, QN_DTYPE_F32, n);
        if (view)
            memcpy(out, view->data, (size_t)n * sizeof *out);
        else
            status = qn_fail(err, QN_E_FORMAT,
                             "%s: expected %lld F32 values of %s; remove the file and start again", f.path,
                             (long long)n, name);
    }
    file_close(&f);
    return status;
}
