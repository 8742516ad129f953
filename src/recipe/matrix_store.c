#include "recipe/matrix_store.h"

#include "base/mapping.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/safetensors.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { MAX_PATH_BYTES = 4096 };
static const char k_key[] = "quern.run", k_spec[] = "spec";

static qn_status path_of(const qni_matrix_store *store, int64_t entry, char path[MAX_PATH_BYTES],
                         qn_error *err) {
    const int n =
        snprintf(path, MAX_PATH_BYTES, "%s/matrix-%05lld.safetensors", store->folder, (long long)entry);
    if (n > 0 && n < MAX_PATH_BYTES) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "%s: the path of the work folder is too long", store->folder);
}

bool qni_matrix_store_is_used(const qni_matrix_store *store, const qn_layout *layout) {
    char path[MAX_PATH_BYTES];
    for (int64_t i = 0; i < layout->n; i++)
        if (path_of(store, i, path, NULL) == QN_OK && access(path, F_OK) == 0) return true;
    return false;
}

qn_status qni_matrix_store_save(const qni_matrix_store *store, int64_t entry, const char *name,
                                const qn_encoded *encoded, qn_error *err) {
    char path[MAX_PATH_BYTES], spec[QN_PACKED_SPEC_BYTES];
    QN_TRY(path_of(store, entry, path, err));
    qn_packed_spec_format(encoded, spec);
    const qn_safetensors_item item = {
        name,
        {.data = encoded->data, .dtype = QN_DTYPE_U8, .n_dims = 1, .shape = {qn_encoded_bytes(encoded)}}};
    const qn_safetensors_meta meta[] = {{k_key, store->key}, {k_spec, spec}};
    return qn_safetensors_save(path, &item, 1, meta, 2, NULL, err);
}

static qn_status take(const qn_safetensors *file, const char *path, const char *key, const char *name,
                      const qn_encoded *shape, qn_encoded *out, qn_error *err) {
    char expected[QN_PACKED_SPEC_BYTES];
    const char *saved = qn_safetensors_metadata(file, k_key), *spec = qn_safetensors_metadata(file, k_spec);
    size_t index;
    if (!saved || strcmp(saved, key) != 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s belongs to another run (other weights, recipe, text, tokenizer, budget, seed or "
                       "processor): expected "
                       "run %s, found %s; give another --work folder",
                       path, key, saved ? saved : "none");
    qn_packed_spec_format(shape, expected);
    const bool found = qn_safetensors_find(file, name, &index);
    const qn_view *view = found ? qn_safetensors_view(file, index) : NULL;
    if (!spec || strcmp(spec, expected) != 0 || !view || view->dtype != QN_DTYPE_U8 ||
        qn_view_elements(view) != qn_encoded_bytes(shape))
        return qn_fail(err, QN_E_FORMAT, "%s: expected %s as %s, found %s; remove the file and start again",
                       path, name, expected, spec ? spec : "something else");
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

qn_status qni_matrix_store_load(const qni_matrix_store *store, int64_t entry, const char *name,
                                const qn_encoded *shape, bool *found, qn_encoded *out, qn_error *err) {
    char path[MAX_PATH_BYTES];
    qni_mapping mapping = {0};
    qn_safetensors *file = NULL;
    QN_TRY(path_of(store, entry, path, err));
    *found = access(path, F_OK) == 0;
    if (!*found) return QN_OK;
    QN_TRY(qni_mapping_open(path, &mapping, err));
    qn_status status = qn_safetensors_parse(mapping.data, mapping.n_bytes, path, &file, err);
    if (status == QN_OK) status = take(file, path, store->key, name, shape, out, err);
    qn_safetensors_free(file);
    qni_mapping_release(&mapping);
    return status;
}
