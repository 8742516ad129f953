#include "checkpoint/checkpoint_files.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static int compare_entries(const void *a, const void *b, void *entries) {
    const qn_layout_entry *e = entries;
    return strcmp(e[*(const int64_t *)a].name, e[*(const int64_t *)b].name);
}

int64_t qni_checkpoint_find(const qn_checkpoint *c, const char *name) {
    int64_t low = 0, high = c->layout.n;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const int order = strcmp(c->layout.entries[c->by_name[middle]].name, name);
        if (order == 0) return c->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

static qn_status read_config(qn_checkpoint *c, qn_error *err) {
    size_t index = 0, n_bytes = 0;
    const uint8_t *text = NULL;
    if (!qn_store_find(c->store, "config.json", &index))
        return qn_fail(err, QN_E_FORMAT,
                       "%s: no config.json: give a Hugging Face model folder, or a zip of one",
                       qn_store_path(c->store));
    QN_TRY(qn_store_map(c->store, "config.json", &text, &n_bytes, err));
    char *name = qni_checkpoint_member_name(c, "config.json");
    if (!name) return qni_fail_nomem(err, "config.json");
    const qn_status status = qn_config_parse(text, n_bytes, name, &c->config, err);
    free(name);
    return status;
}

static qn_status make_layout(qn_checkpoint *c, qn_error *err) {
    QN_TRY(qn_layout_make(&c->config, &c->layout, err));
    const int64_t n = c->layout.n;
    c->weights = qni_alloc_array(n, sizeof *c->weights);
    c->file_of = qni_alloc_array(n, sizeof *c->file_of);
    c->by_name = qni_alloc_array(n, sizeof *c->by_name);
    if (!c->weights || !c->file_of || !c->by_name) return qni_fail_nomem(err, "the list of weights");
    for (int64_t i = 0; i < n; i++) c->by_name[i] = i;
    qsort_r(c->by_name, (size_t)n, sizeof *c->by_name, compare_entries, c->layout.entries);
    return QN_OK;
}

qn_status qni_checkpoint_fail_surplus(const qn_checkpoint *c, size_t file, const char *tensor,
                                      qn_error *err) {
    return qn_fail(
        err, QN_E_SHAPE,
        "%s: tensor '%.300s' is not part of the %s model of %lld layers that config.json describes: are both "
        "files from the same checkpoint?",
        c->files[file].name, tensor, qn_architecture_name(c->config.architecture),
        (long long)c->config.n_layers);
}

qn_status qni_checkpoint_claim(qn_checkpoint *c, int64_t entry, size_t file, qn_error *err) {
    if (c->weights[entry].kind != QN_WEIGHT_NONE)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: tensor '%s' lies in %s too, expected once: remove the wrong shard",
                       c->files[file].name, c->layout.entries[entry].name, c->files[c->file_of[entry]].name);
    c->file_of[entry] = file;
    return QN_OK;
}

static bool is_weight_dtype(qn_dtype dtype) {
    return dtype == QN_DTYPE_F32 || dtype == QN_DTYPE_F16 || dtype == QN_DTYPE_BF16;
}

static qn_status check_dense(const qni_weight_file *file, const qn_layout_entry *entry, const qn_view *view,
                             qn_error *err) {
    if (!is_weight_dtype(view->dtype))
        return qn_fail(err, QN_E_SHAPE,
                       "%s: tensor '%s' is %s, expected F32, F16 or BF16: dequantise it first", file->name,
                       entry->name, qn_dtype_name(view->dtype));
    if (entry->is_matrix &&
        (view->n_dims != 2 || view->shape[0] != entry->rows || view->shape[1] != entry->cols))
        return qn_fail(err, QN_E_SHAPE,
                       "%s: tensor '%s' has %d dimensions [%lld, %lld], expected [%lld, %lld] by config.json",
                       file->name, entry->name, view->n_dims, (long long)view->shape[0],
                       (long long)view->shape[1], (long long)entry->rows, (long long)entry->cols);
    if (!entry->is_matrix && (view->n_dims != 1 || view->shape[0] != entry->cols))
        return qn_fail(
            err, QN_E_SHAPE, "%s: tensor '%s' has %d dimensions [%lld, ...], expected [%lld] by config.json",
            file->name, entry->name, view->n_dims, (long long)view->shape[0], (long long)entry->cols);
    return QN_OK;
}

qn_status qni_checkpoint_bind_dense(qn_checkpoint *c, int64_t entry, size_t file, size_t index,
                                    qn_error *err) {
    const qn_view *view = qn_safetensors_view(c->files[file].tensors, index);
    QN_TRY(check_dense(&c->files[file], &c->layout.entries[entry], view, err));
    QN_TRY(qni_checkpoint_claim(c, entry, file, err));
    c->weights[entry] = (qn_weight){.kind = QN_WEIGHT_DENSE, .dense = *view};
    return QN_OK;
}

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* Tensors that some writers add and that change nothing: the second copy of a tied head, and rotary tables.
 */
static qn_status bind_extra(const qn_checkpoint *c, size_t file, size_t index, qn_error *err) {
    const qn_safetensors *tensors = c->files[file].tensors;
    const char *name = qn_safetensors_tensor_name(tensors, index);
    if (ends_with(name, ".rotary_emb.inv_freq")) return QN_OK;
    if (!c->config.tied || strcmp(name, "lm_head.weight") != 0)
        return qni_checkpoint_fail_surplus(c, file, name, err);
    const qn_layout_entry head = {.name = (char[]){"lm_head.weight"},
                                  .kind = QN_TENSOR_HEAD,
                                  .layer = -1,
                                  .rows = c->config.vocab_size,
                                  .cols = c->config.hidden_size,
                                  .is_matrix = true};
    return check_dense(&c->files[file], &head, qn_safetensors_view(tensors, index), err);
}

static qn_status bind_all_dense(qn_checkpoint *c, qn_error *err) {
    for (size_t f = 0; f < c->n_files; f++) {
        const size_t n = qn_safetensors_count(c->files[f].tensors);
        for (size_t i = 0; i < n; i++) {
            const int64_t entry = qni_checkpoint_find(c, qn_safetensors_tensor_name(c->files[f].tensors, i));
            if (entry < 0)
                QN_TRY(bind_extra(c, f, i, err));
            else
                QN_TRY(qni_checkpoint_bind_dense(c, entry, f, i, err));
        }
    }
    return QN_OK;
}

static qn_status check_complete(const qn_checkpoint *c, qn_error *err) {
    int64_t n_missing = 0, first = -1;
    for (int64_t i = 0; i < c->layout.n; i++) {
        if (c->weights[i].kind != QN_WEIGHT_NONE) continue;
        if (first < 0) first = i;
        n_missing++;
    }
    if (n_missing == 0) return QN_OK;
    return qn_fail(
        err, QN_E_SHAPE,
        "%s: tensor '%s' is missing (%lld of %lld are) from the weight files that config.json describes: "
        "are all files there, from the same checkpoint?",
        qn_store_path(c->store), c->layout.entries[first].name, (long long)n_missing, (long long)c->layout.n);
}

static qn_status open_checkpoint(const char *path, qn_checkpoint *c, qn_error *err) {
    QN_TRY(qn_store_open(path, &c->store, err));
    QN_TRY(read_config(c, err));
    QN_TRY(make_layout(c, err));
    QN_TRY(qni_checkpoint_open_files(c, err));
    QN_TRY(c->is_artifact ? qni_checkpoint_bind_payload(c, err) : bind_all_dense(c, err));
    return check_complete(c, err);
}

qn_status qn_checkpoint_open(const char *path, qn_checkpoint **out, qn_error *err) {
    qn_checkpoint *c = qni_alloc_array(1, sizeof *c);
    if (!c) return qni_fail_nomem(err, path);
    const qn_status status = open_checkpoint(path, c, err);
    if (status == QN_OK)
        *out = c;
    else
        qn_checkpoint_close(c);
    return status;
}

void qn_checkpoint_close(qn_checkpoint *c) {
    if (!c) return;
    for (int64_t i = 0; c->weights && i < c->layout.n; i++) qn_encoded_release(&c->weights[i].encoded);
    for (size_t i = 0; i < c->n_files; i++) {
        qn_safetensors_free(c->files[i].tensors);
        free(c->files[i].member);
        free(c->files[i].name);
    }
    free(c->files);
    free(c->weights);
    free(c->file_of);
    free(c->by_name);
    qn_layout_release(&c->layout);
    qn_config_release(&c->config);
    qn_store_close(c->store);
    free(c);
}

const qn_config *qn_checkpoint_config(const qn_checkpoint *checkpoint) {
    return &checkpoint->config;
}

const qn_layout *qn_checkpoint_layout(const qn_checkpoint *checkpoint) {
    return &checkpoint->layout;
}

qn_store *qn_checkpoint_store(const qn_checkpoint *checkpoint) {
    return checkpoint->store;
}

bool qn_checkpoint_is_artifact(const qn_checkpoint *checkpoint) {
    return checkpoint->is_artifact;
}

const qn_weight *qn_checkpoint_weight(const qn_checkpoint *checkpoint, int64_t index) {
    return &checkpoint->weights[index];
}
