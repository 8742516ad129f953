/* Tensors are decoded and written in blocks of rows, so memory stays small. */
#include "checkpoint/dense_write.h"

#include "base/alloc.h"
#include "checkpoint/companions.h"
#include "checkpoint/config_write.h"
#include "quern/base/writer.h"
#include "quern/checkpoint/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define DEFAULT_SHARD_BYTES (INT64_C(4) << 30)
enum { BLOCK_WEIGHTS = 1 << 22 };

typedef struct dense_job {
    const qni_dense *source;
    const qn_layout *layout;
    const qn_context *ctx;
    qn_dtype dtype;
    const char *folder;
    int64_t *first; /* [n_shards + 1] owned; layout entries of shard s: first[s] .. first[s + 1] - 1 */
    int64_t n_shards;
} dense_job;

static const char *torch_dtype(qn_dtype dtype) {
    switch (dtype) {
    case QN_DTYPE_F32:
        return "float32";
    case QN_DTYPE_F16:
        return "float16";
    case QN_DTYPE_BF16:
        return "bfloat16";
    default:
        return NULL;
    }
}

static int64_t entry_bytes(const dense_job *job, int64_t entry) {
    const qn_layout_entry *e = &job->layout->entries[entry];
    return e->rows * e->cols * (int64_t)qn_dtype_bytes(job->dtype);
}

/* Entries in layout order; a shard is closed before the entry that would make it too large. */
static qn_status plan_shards(dense_job *job, int64_t max_bytes, qn_error *err) {
    job->first = qni_alloc_array(job->layout->n + 1, sizeof *job->first);
    if (!job->first) return qni_fail_nomem(err, "the list of shards");
    int64_t filled = 0;
    for (int64_t i = 0; i < job->layout->n; i++) {
        const int64_t n_bytes = entry_bytes(job, i);
        if (i > 0 && n_bytes > max_bytes - filled) {
            job->first[++job->n_shards] = i;
            filled = 0;
        }
        filled += n_bytes;
    }
    job->first[++job->n_shards] = job->layout->n;
    return QN_OK;
}

static void shard_name(const dense_job *job, int64_t shard, char name[64]) {
    if (job->n_shards == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05lld-of-%05lld.safetensors", (long long)shard + 1,
                 (long long)job->n_shards);
}

/* Buffers of one block: the decoded values, and the same in the dtype of the export (NULL for F32). */
typedef struct block {
    float *values;
    uint16_t *halves;
} block;

static qn_status check_block(const dense_job *job, int64_t entry, int64_t row0, int64_t n, const block *b,
                             qn_error *err) {
    const qn_layout_entry *e = &job->layout->entries[entry];
    const qn_view written = {.data = b->halves ? (const void *)b->halves : b->values,
                             .dtype = job->dtype,
                             .n_dims = 1,
                             .shape = {n}};
    const int64_t bad = qn_view_find_nonfinite(&written, 0, n);
    if (bad < 0) return QN_OK;
    const long long row = (long long)(row0 + bad / e->cols), col = (long long)(bad % e->cols);
    const double value = (double)b->values[bad];
    if (!isfinite(value))
        return qn_fail(err, QN_E_VALUE,
                       "tensor '%s' holds NaN or infinity at row %lld, column %lld: the model is damaged",
                       e->name, row, col);
    return qn_fail(err, QN_E_VALUE, "tensor '%s': %g at row %lld, column %lld does not fit %s: export as F32",
                   e->name, value, row, col, qn_dtype_name(job->dtype));
}

static qn_status write_rows(const dense_job *job, int64_t entry, int64_t row0, int64_t n_rows, const block *b,
                            qn_writer *writer, qn_error *err) {
    const qn_weight *weight = job->source->weights[entry];
    const int64_t cols = job->layout->entries[entry].cols;
    uint16_t (*const convert)(float) = job->dtype == QN_DTYPE_F16 ? qn_f32_to_f16 : qn_f32_to_bf16;
#pragma omp parallel for schedule(static) num_threads(qn_context_threads(job->ctx))
    for (int64_t r = 0; r < n_rows; r++) {
        float *values = b->values + r * cols;
        qn_weight_decode_rows(weight, row0 + r, 1, values);
        for (int64_t c = 0; b->halves && c < cols; c++) b->halves[r * cols + c] = convert(values[c]);
    }
    const int64_t n = n_rows * cols;
    QN_TRY(check_block(job, entry, row0, n, b, err));
    const void *data = b->halves ? (const void *)b->halves : b->values;
    return qn_writer_write(writer, data, (size_t)n * qn_dtype_bytes(job->dtype), err);
}

static qn_status write_tensor(const dense_job *job, int64_t entry, qn_writer *writer, qn_error *err) {
    const qn_layout_entry *e = &job->layout->entries[entry];
    int64_t rows_at_once = BLOCK_WEIGHTS / e->cols;
    if (rows_at_once < 1) rows_at_once = 1;
    if (rows_at_once > e->rows) rows_at_once = e->rows;
    block b = {.values = qni_alloc_aligned(rows_at_once * e->cols, sizeof *b.values)};
    if (job->dtype != QN_DTYPE_F32) b.halves = qni_alloc_aligned(rows_at_once * e->cols, sizeof *b.halves);
    const bool allocated = b.values && (b.halves || job->dtype == QN_DTYPE_F32);
    qn_status status = allocated ? QN_OK : qni_fail_nomem(err, e->name);
    for (int64_t row = 0; row < e->rows && status == QN_OK; row += rows_at_once) {
        const int64_t n = e->rows - row < rows_at_once ? e->rows - row : rows_at_once;
        status = write_rows(job, entry, row, n, &b, writer, err);
    }
    free(b.values);
    free(b.halves);
    return status;
}

static qn_status write_header(const dense_job *job, int64_t shard, qn_writer *writer, qn_error *err) {
    const int64_t first = job->first[shard], n = job->first[shard + 1] - first;
    const qn_safetensors_meta meta = {"format", "pt"};
    qn_safetensors_item *items = qni_alloc_array(n, sizeof *items);
    if (!items) return qni_fail_nomem(err, "a safetensors header");
    for (int64_t i = 0; i < n; i++) {
        const qn_layout_entry *e = &job->layout->entries[first + i];
        items[i] = (qn_safetensors_item){
            e->name, {.dtype = job->dtype, .n_dims = e->is_matrix ? 2 : 1, .shape = {e->rows, e->cols}}};
        if (!e->is_matrix) items[i].view.shape[0] = e->cols;
    }
    uint8_t *header = NULL;
    size_t n_header = 0;
    qn_status status = qn_safetensors_header(items, (size_t)n, &meta, 1, 0, &header, &n_header, err);
    if (status == QN_OK) status = qn_writer_write(writer, header, n_header, err);
    free(header);
    free(items);
    return status;
}

static qn_status fill_shard(const dense_job *job, int64_t shard, qn_writer *writer, qn_error *err) {
    QN_TRY(write_header(job, shard, writer, err));
    for (int64_t i = job->first[shard]; i < job->first[shard + 1]; i++) {
        QN_TRY(qn_check_cancelled(job->ctx, err));
        QN_TRY(write_tensor(job, i, writer, err));
        qn_report_progress(job->ctx, "write: tensors", (uint64_t)i + 1, (uint64_t)job->layout->n);
    }
    return QN_OK;
}

/* FOLDER/NAME of the export, owned by the caller. */
static qn_status member_path(const dense_job *job, const char *name, char **out, qn_error *err) {
    char *path = NULL;
    if (asprintf(&path, "%s/%s", job->folder, name) < 0) return qni_fail_nomem(err, name);
    *out = path;
    return QN_OK;
}

static qn_status write_shard(const dense_job *job, int64_t shard, qn_error *err) {
    char name[64], *path = NULL;
    qn_writer *writer = NULL;
    shard_name(job, shard, name);
    QN_TRY(member_path(job, name, &path, err));
    qn_status status = qn_writer_open(path, &writer, err);
    free(path);
    QN_TRY(status);
    status = fill_shard(job, shard, writer, err);
    if (status == QN_OK) return qn_writer_commit(writer, NULL, err);
    qn_writer_abandon(writer);
    return status;
}

static qn_status write_member(const dense_job *job, const char *name, const void *data, size_t n_bytes,
                              qn_error *err) {
    char *path = NULL;
    QN_TRY(member_path(job, name, &path, err));
    const qn_status status = qn_write_file(path, data, n_bytes, err);
    free(path);
    return status;
}

/* Consumes VALUE, which is NULL when memory was short. */
static qn_status write_json(const dense_job *job, const char *name, json_t *value, qn_error *err) {
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    json_decref(value);
    if (!text) return qni_fail_nomem(err, name);
    const qn_status status = write_member(job, name, text, strlen(text), err);
    free(text);
    return status;
}

static qn_status write_index(const dense_job *job, qn_error *err) {
    json_t *map = json_object();
    int64_t total = 0;
    int failed = 0;
    for (int64_t s = 0; s < job->n_shards; s++) {
        char name[64];
        shard_name(job, s, name);
        for (int64_t i = job->first[s]; i < job->first[s + 1]; i++) {
            failed |= json_object_set_new(map, job->layout->entries[i].name, json_string(name));
            total += entry_bytes(job, i);
        }
    }
    json_t *index =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    if (failed) {
        json_decref(index);
        index = NULL;
    }
    return write_json(job, "model.safetensors.index.json", index, err);
}

static qn_status copy_companions(const dense_job *job, qn_error *err) {
    qn_store *store = job->source->companions;
    if (!store) return QN_OK;
    for (size_t i = 0; i < QNI_N_COMPANIONS; i++) {
        const char *name = qni_companions[i].name;
        const uint8_t *data = NULL;
        size_t index = 0, n_bytes = 0;
        if (!qn_store_find(store, name, &index)) continue;
        QN_TRY(qn_store_map(store, name, &data, &n_bytes, err));
        QN_TRY(write_member(job, name, data, n_bytes, err));
    }
    return QN_OK;
}

static qn_status fill_folder(dense_job *job, qn_error *err) {
    const int64_t max_bytes = job->source->max_shard_bytes;
    json_t *config = NULL;
    QN_TRY(plan_shards(job, max_bytes ? max_bytes : DEFAULT_SHARD_BYTES, err));
    QN_TRY(copy_companions(job, err));
    for (int64_t s = 0; s < job->n_shards; s++) QN_TRY(write_shard(job, s, err));
    if (job->n_shards > 1) QN_TRY(write_index(job, err));
    QN_TRY(qni_config_json(job->source->config, torch_dtype(job->dtype), &config, err));
    return write_json(job, "config.json", config, err);
}

qn_status qni_dense_write(const qni_dense *dense, const char *folder, const qn_context *ctx, qn_error *err) {
    if (!torch_dtype(dense->dtype) || dense->max_shard_bytes < 0)
        return qn_fail(
            err, QN_E_ARGUMENT,
            "weights as %s in shards of %lld bytes: expected F32, F16 or BF16 and no negative size",
            qn_dtype_name(dense->dtype), (long long)dense->max_shard_bytes);
    dense_job job = {
        .source = dense, .layout = dense->layout, .ctx = ctx, .dtype = dense->dtype, .folder = folder};
    const qn_status status = fill_folder(&job, err);
    free(job.first);
    return status;
}
