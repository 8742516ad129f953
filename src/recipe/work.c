#include "recipe/work.h"

#include "base/alloc.h"
#include "base/mapping.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/tensor/isa.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MEASURED_COLUMNS = 4, MAX_PATH_BYTES = 4096, MAX_NAME_BYTES = 512 };
static const char k_key[] = "quern.run";

static qn_status measured_path(const char *folder, char path[MAX_PATH_BYTES], qn_error *err) {
    int n = snprintf(path, MAX_PATH_BYTES, "%s/row-errors.safetensors", folder);
    if (n < 0 || n >= MAX_PATH_BYTES)
        return qn_fail(err, QN_E_ARGUMENT, "path of the work folder is too long");
    return QN_OK;
}

qn_status qni_work_key(const qn_compress_options *options, const qn_rowmix_options *rowmix,
                       const qn_checkpoint *source, const qn_context *ctx, char key[QN_SHA256_HEX],
                       qn_error *err) {
    char weights[QN_SHA256_HEX], moments[QN_SHA256_HEX] = "none", text[512];
    qn_isa isa; /* its sums decide between rows that are nearly equal */
    QN_TRY(qn_isa_select(&isa, err));
    QN_TRY(qn_checkpoint_sha256(source, ctx, weights, err));
    if (options->second_moments) QN_TRY(qn_sha256_of_file(options->second_moments, moments, NULL, err));
    int n =
        snprintf(text, sizeof text, "quern work 1\nweights %s\nrecipe %s\ncode %s/%d\nmoments %s\nisa %s\n",
                 weights, options->recipe->sha256, qn_code_name(rowmix->native.code),
                 rowmix->native.group_size, moments, qn_isa_name(isa));
    return qn_sha256_of_memory(text, (size_t)n, key, err);
}

qn_status qni_work_begin(const qn_compress_options *options, qn_error *err) {
    char path[MAX_PATH_BYTES];
    if (mkdir(options->work, 0777) != 0 && errno != EEXIST)
        return qn_fail_errno(err, "cannot make the work folder %s", options->work);
    QN_TRY(measured_path(options->work, path, err));
    if (!options->resume && access(path, F_OK) == 0)
        return qn_fail(
            err, QN_E_ARGUMENT,
            "work folder %s holds a run already: give --resume to go on with it, or another folder",
            options->work);
    return QN_OK;
}

/* "NAME.row_errors" [rows, 4] f32 and "NAME.energy" [1] f64 for each matrix. */
static qn_status describe(const qn_checkpoint *source, const qn_sensitivity *s, qn_safetensors_item *items,
                          char (*names)[MAX_NAME_BYTES], qn_error *err) {
    for (int64_t t = 0; t < s->n; t++) {
        const qn_sensitivity_tensor *tensor = &s->tensors[t];
        const char *name = qn_checkpoint_layout(source)->entries[tensor->entry].name;
        if (strlen(name) + 16 > MAX_NAME_BYTES)
            return qn_fail(err, QN_E_UNSUPPORTED, "tensor name too long: %s", name);
        snprintf(names[2 * t], MAX_NAME_BYTES, "%s.row_errors", name);
        snprintf(names[2 * t + 1], MAX_NAME_BYTES, "%s.energy", name);
        items[2 * t] = (qn_safetensors_item){names[2 * t],
                                             {.data = tensor->errors,
                                              .dtype = QN_DTYPE_F32,
                                              .n_dims = 2,
                                              .shape = {tensor->rows, MEASURED_COLUMNS}}};
        items[2 * t + 1] = (qn_safetensors_item){
            names[2 * t + 1], {.data = &tensor->energy, .dtype = QN_DTYPE_F64, .n_dims = 1, .shape = {1}}};
    }
    return QN_OK;
}

qn_status qni_work_save(const char *folder, const char *key, const qn_checkpoint *source,
                        const qn_sensitivity *sensitivity, qn_error *err) {
    _Static_assert(sizeof(qn_row_errors) == MEASURED_COLUMNS * sizeof(float),
                   "row errors are four f32 columns");
    char path[MAX_PATH_BYTES];
    QN_TRY(measured_path(folder, path, err));
    size_t n_items = 2 * (size_t)sensitivity->n;
    qn_safetensors_item *items = qni_alloc_array((int64_t)n_items, sizeof *items);
    char(*names)[MAX_NAME_BYTES] = qni_alloc_array((int64_t)n_items, MAX_NAME_BYTES);
    qn_status st =
        items && names ? describe(source, sensitivity, items, names, err) : qni_fail_nomem(err, "work file");
    const qn_safetensors_meta meta[] = {{k_key, key}, {"weighted", sensitivity->weighted ? "1" : "0"}};
    if (st == QN_OK) st = qn_safetensors_save(path, items, n_items, meta, 2, NULL, err);
    free(items);
    free(names);
    return st;
}

static qn_status take_matrix(const qn_safetensors *file, const char *path, const qn_layout *layout,
                             int64_t entry, const qn_rowmix_options *rowmix, qn_sensitivity_tensor *out,
                             qn_error *err) {
    const qn_layout_entry *e = &layout->entries[entry];
    char name[MAX_NAME_BYTES];
    size_t errors, energy;
    snprintf(name, sizeof name, "%s.row_errors", e->name);
    bool complete = qn_safetensors_find(file, name, &errors);
    snprintf(name, sizeof name, "%s.energy", e->name);
    complete = complete && qn_safetensors_find(file, name, &energy);
    const qn_view *view = complete ? qn_safetensors_view(file, errors) : NULL;
    if (!view || view->dtype != QN_DTYPE_F32 || view->n_dims != 2 || view->shape[0] != e->rows ||
        view->shape[1] != MEASURED_COLUMNS || qn_safetensors_view(file, energy)->dtype != QN_DTYPE_F64 ||
        qn_view_elements(qn_safetensors_view(file, energy)) != 1)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: lacks the measured rows of %s; remove the work folder and start again", path,
                       e->name);
    *out = (qn_sensitivity_tensor){.entry = entry,
                                   .native = rowmix->native,
                                   .rows = e->rows,
                                   .cols = e->cols,
                                   .token_share = qn_row_token_share(e),
                                   .extra_bytes = qn_codec_row_bytes(rowmix->rescue, e->cols) -
                                                  qn_codec_row_bytes(rowmix->native, e->cols)};
    memcpy(&out->energy, qn_safetensors_view(file, energy)->data, sizeof out->energy);
    out->errors = qni_alloc_array(e->rows, sizeof *out->errors);
    if (!out->errors) return qni_fail_nomem(err, "measured rows");
    memcpy(out->errors, view->data, (size_t)e->rows * sizeof *out->errors);
    return QN_OK;
}

static qn_status take_all(const qn_safetensors *file, const char *path, const char *key,
                          const qn_checkpoint *source, const qn_rowmix_options *rowmix, qn_sensitivity *out,
                          qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(source);
    const char *saved = qn_safetensors_metadata(file, k_key),
               *weighted = qn_safetensors_metadata(file, "weighted");
    if (!saved || strcmp(saved, key) != 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s belongs to another run (other weights, recipe, track or second moments): expected "
                       "run %s, found "
                       "%s; give another --work folder",
                       path, key, saved ? saved : "none");
    out->weighted = weighted && strcmp(weighted, "1") == 0;
    out->tensors = qni_alloc_array(layout->n_matrices, sizeof *out->tensors);
    if (!out->tensors) return qni_fail_nomem(err, "measured rows");
    for (int64_t i = 0; i < layout->n; i++) {
        if (!layout->entries[i].is_matrix) continue;
        QN_TRY(take_matrix(file, path, layout, i, rowmix, &out->tensors[out->n], err));
        out->n++;
    }
    return QN_OK;
}

qn_status qni_work_load(const char *folder, const char *key, const qn_checkpoint *source,
                        const qn_rowmix_options *rowmix, bool *found, qn_sensitivity *out, qn_error *err) {
    char path[MAX_PATH_BYTES];
    qni_mapping mapping = {0};
    qn_safetensors *file = NULL;
    qn_sensitivity loaded = {0};
    QN_TRY(measured_path(folder, path, err));
    *found = access(path, F_OK) == 0;
    if (!*found) return QN_OK;
    QN_TRY(qni_mapping_open(path, &mapping, err));
    qn_status st = qn_safetensors_parse(mapping.data, mapping.n_bytes, path, &file, err);
    if (st == QN_OK) st = take_all(file, path, key, source, rowmix, &loaded, err);
    if (st == QN_OK)
        *out = loaded;
    else
        qn_sensitivity_release(&loaded);
    qn_safetensors_free(file);
    qni_mapping_release(&mapping);
    return st;
}
