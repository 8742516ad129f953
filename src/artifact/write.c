/* Writing an artifact as planned: payload files aside, then the manifest, then the whole in one rename. */
#include "artifact/plan.h"

#include "base/alloc.h"
#include "quern/base/writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* One call of qn_artifact_write. */
typedef struct write_job {
    const qn_artifact_plan *plan;
    const char *path;
    qn_artifact_provider provider;
    void *user;
    const qn_context *ctx;
    char *folder; /* where files are made */
    char (*payload_sha256)[QN_SHA256_HEX];
    char source_sha256[QN_SHA256_HEX];
    int64_t n_done;
} write_job;

static const qn_layout *layout_of(const write_job *job) {
    return qn_checkpoint_layout(job->plan->source);
}

static char *file_in(const char *folder, const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s", folder, name) < 0 ? NULL : path;
}

/* ------------------------------------------------------------------------------------------- payload */

static qn_status check_encoded(const write_job *job, int64_t entry, const qn_encoded *e, qn_error *err) {
    const char *name = layout_of(job)->entries[entry].name;
    const qn_encoded *want = &job->plan->shapes[entry];
    char expected[QN_PACKED_SPEC_BYTES], got[QN_PACKED_SPEC_BYTES];

    QN_TRY(qn_encoded_check_shape(e, name, err));
    if (qn_encoded_same_shape(e, want)) return QN_OK;
    qn_packed_spec_format(want, expected);
    qn_packed_spec_format(e, got);
    return qn_fail(err, QN_E_ARGUMENT, "%s: planned as '%s', the provider gave '%s'", name, expected, got);
}

static qn_status write_stream(const write_job *job, int64_t entry, const qn_encoded *e, qn_writer *writer,
                              qn_error *err) {
    uint8_t *stream = NULL;
    int64_t n_bytes = 0;
    QN_TRY(qn_encoded_deflate(e, &stream, &n_bytes, err));
    qn_status status = QN_OK;
    if (n_bytes == e->stream_bytes)
        status = qn_writer_write(writer, stream, (size_t)n_bytes, err);
    else
        status = qn_fail(err, QN_E_ARGUMENT, "%s: a zlib stream of %lld bytes was planned, it takes %lld",
                         layout_of(job)->entries[entry].name, (long long)e->stream_bytes, (long long)n_bytes);
    free(stream);
    return status;
}

/* Bound here, whoever made it: nothing illegal is ever written. */
static qn_status write_matrix(write_job *job, int64_t entry, qn_writer *writer, qn_error *err) {
    qn_encoded e = {0};
    qn_status status = job->provider(job->user, entry, &e, err);

    if (status == QN_OK) status = check_encoded(job, entry, &e, err);
    if (status == QN_OK) status = qn_encoded_bind(&e, layout_of(job)->entries[entry].name, err);
    if (status == QN_OK && e.stream_bytes)
        status = write_stream(job, entry, &e, writer, err);
    else if (status == QN_OK)
        status = qn_writer_write(writer, e.data, (size_t)qn_encoded_bytes(&e), err);
    qn_encoded_release(&e);
    return status;
}

static qn_status narrow(const float *values, int64_t n, uint16_t *out, const char *name, qn_error *err) {
    for (int64_t i = 0; i < n; i++) {
        out[i] = qn_f32_to_f16(values[i]);
        if (isfinite(qn_f16_to_f32(out[i]))) continue;
        return qn_fail(err, QN_E_VALUE, "%s: %g at %lld does not fit into 16 bits (largest 65504)", name,
                       (double)values[i], (long long)i);
    }
    return QN_OK;
}

/* 16-bit vectors as they are, wider ones and those of the caller rounded to fp16. */
static qn_status write_vector(write_job *job, int64_t entry, qn_writer *writer, qn_error *err) {
    const qn_layout_entry *t = &layout_of(job)->entries[entry];
    const qn_view *view = &qn_checkpoint_weight(job->plan->source, entry)->dense;
    const float *const *vectors = job->plan->vectors;
    const qn_view trained = {
        .data = vectors ? vectors[entry] : NULL, .dtype = QN_DTYPE_F32, .n_dims = 1, .shape = {t->cols}};
    if (trained.data) view = &trained;
    if (view->dtype == qni_plan_vector_dtype(job->plan, entry)) {
        return qn_writer_write(writer, view->data, (size_t)t->cols * 2, err);
    }
    float *wide = qni_alloc_aligned(t->cols, sizeof *wide);
    uint16_t *half = qni_alloc_aligned(t->cols, sizeof *half);
    qn_status status = wide && half ? QN_OK : qni_fail_nomem(err, t->name);

    if (status == QN_OK) status = qn_view_to_f32(view, 0, t->cols, wide, err);
    if (status == QN_OK) status = narrow(wide, t->cols, half, t->name, err);
    if (status == QN_OK) status = qn_writer_write(writer, half, (size_t)t->cols * 2, err);
    free(wide);
    free(half);
    return status;
}

static qn_status write_zeros(qn_writer *writer, int64_t n, qn_error *err) {
    static const uint8_t zeros[4096];
    while (n > 0) {
        const size_t step = n < (int64_t)sizeof zeros ? (size_t)n : sizeof zeros;
        QN_TRY(qn_writer_write(writer, zeros, step, err));
        n -= (int64_t)step;
    }
    return QN_OK;
}

static qn_status write_shard_body(write_job *job, int64_t k, qn_writer *writer, qn_error *err) {
    const qni_sizing *sizing = &job->plan->fixed;
    const qni_shard *shard = &sizing->shards[k];
    const qn_layout *layout = layout_of(job);
    uint8_t *header = NULL;
    size_t header_bytes = 0;

    QN_TRY(qni_shard_header(job->plan, sizing, k, &header, &header_bytes, err));
    qn_status status = qn_writer_write(writer, header, header_bytes, err);
    free(header);
    QN_TRY(status);
    for (int64_t i = shard->first; i < shard->first + shard->n; i++) {
        QN_TRY(qn_check_cancelled(job->ctx, err));
        if (!layout->entries[i].is_matrix) {
            QN_TRY(write_vector(job, i, writer, err));
            continue;
        }
        QN_TRY(write_matrix(job, i, writer, err));
        qn_report_progress(job->ctx, "write", (uint64_t)++job->n_done, (uint64_t)layout->n_matrices);
    }
    return write_zeros(writer, qni_shard_padding(sizing, k), err);
}

static qn_status write_shard(write_job *job, int64_t k, qn_error *err) {
    const qni_sizing *sizing = &job->plan->fixed;
    qn_writer *writer = NULL;
    char *path = file_in(job->folder, sizing->shards[k].name);
    qn_status status = path ? qn_writer_open(path, &writer, err) : qni_fail_nomem(err, "a path");

    free(path);
    QN_TRY(status);
    status = write_shard_body(job, k, writer, err);
    if (status == QN_OK && (int64_t)qn_writer_bytes(writer) != qni_shard_bytes(sizing, k)) {
        status = qn_fail(err, QN_E_INTERNAL, "%s: %llu bytes, planned %lld", sizing->shards[k].name,
                         (unsigned long long)qn_writer_bytes(writer), (long long)qni_shard_bytes(sizing, k));
    }
    if (status == QN_OK) return qn_writer_commit(writer, job->payload_sha256[k], err);
    qn_writer_abandon(writer);
    return status;
}

/* ------------------------------------------------------------------------------------------- assembly */

static qn_status write_text(const write_job *job, const char *name, const void *data, int64_t n_bytes,
                            qn_error *err) {
    char *path = file_in(job->folder, name);
    qn_status status = path ? qn_write_file(path, data, (size_t)n_bytes, err) : qni_fail_nomem(err, "a path");
    free(path);
    return status;
}

static qn_status write_folder(const write_job *job, char **manifest, size_t n_bytes, qn_error *err) {
    const qn_artifact_plan *plan = job->plan;
    const int64_t planned = plan->fixed.manifest_bytes + plan->spare;
    const qni_text *config = &plan->fixed.config;

    QN_TRY(qni_grow_array((void **)manifest, planned, 1, err));
    memset(*manifest + n_bytes, ' ', (size_t)planned - n_bytes);
    QN_TRY(write_text(job, "quern.json", *manifest, planned, err));
    QN_TRY(write_text(job, config->name, config->data, config->n_bytes, err));
    for (size_t i = 0; i < plan->texts.n; i++) {
        const qni_text *text = &plan->texts.items[i];
        QN_TRY(write_text(job, text->name, text->data, text->n_bytes, err));
    }
    return qn_folder_commit(job->folder, job->path, err);
}

static qn_status list_members(const write_job *job, const char *manifest, size_t n_bytes,
                              int64_t stored_bytes, qni_zip_member *members, size_t *n, char **paths,
                              qn_error *err) {
    const qn_artifact_plan *plan = job->plan;
    const qni_sizing *sizing = &plan->fixed;
    size_t k = 0;

    members[k++] = qni_text_member(&sizing->config);
    for (size_t i = 0; i < plan->texts.n; i++) members[k++] = qni_text_member(&plan->texts.items[i]);
    for (int64_t i = 0; i < sizing->n_shards; i++) {
        const int64_t bytes = qni_shard_bytes(sizing, i);
        if (!(paths[i] = file_in(job->folder, sizing->shards[i].name))) return qni_fail_nomem(err, "a path");
        members[k++] = (qni_zip_member){.name = sizing->shards[i].name,
                                        .path = paths[i],
                                        .stored = true,
                                        .raw_bytes = bytes,
                                        .packed_bytes = bytes};
    }
    members[k++] = (qni_zip_member){
        .name = "quern.json", .data = manifest, .raw_bytes = (int64_t)n_bytes, .packed_bytes = stored_bytes};
    *n = k;
    qni_zip_sort(members, k);
    return QN_OK;
}

static qn_status write_archive(const write_job *job, const char *manifest, size_t n_bytes,
                               int64_t stored_bytes, qn_error *err) {
    const qn_artifact_plan *plan = job->plan;
    const int64_t n_shards = plan->fixed.n_shards, most = (int64_t)plan->texts.n + n_shards + 2;
    qni_zip_member *members = qni_alloc_array(most, sizeof *members);
    char **paths = qni_alloc_array(n_shards, sizeof *paths);
    size_t n = 0;
    qn_status status = members && paths ? QN_OK : qni_fail_nomem(err, "archive members");

    if (status == QN_OK) status = list_members(job, manifest, n_bytes, stored_bytes, members, &n, paths, err);
    if (status == QN_OK) {
        status =
            qni_archive_write(members, n, plan->fixed.total_bytes, job->folder, job->path, job->ctx, err);
    }
    for (int64_t i = 0; paths && i < n_shards; i++) free(paths[i]);
    free(paths);
    free(members);
    return status;
}

static qn_status assemble(write_job *job, qn_error *err) {
    const qn_artifact_plan *plan = job->plan;
    qni_manifest_facts facts = {.sizing = &plan->fixed,
                                .payload_sha256 = (const char(*)[QN_SHA256_HEX])job->payload_sha256,
                                .source_sha256 = job->source_sha256,
                                .recipe_name = plan->recipe_name,
                                .recipe_sha256 = plan->recipe_sha256,
                                .total_bytes = plan->fixed.total_bytes};
    char *text = NULL;
    size_t n_bytes = 0;
    int64_t stored = 0;

    QN_TRY(qni_manifest_fit(plan, &facts, plan->fixed.manifest_bytes, &text, &n_bytes, &stored, err));
    qn_status status = plan->as_archive ? write_archive(job, text, n_bytes, stored, err)
                                        : write_folder(job, &text, n_bytes, err);
    free(text);
    return status;
}

static qn_status begin(write_job *job, qn_error *err) {
    if (job->plan->as_archive) return qni_archive_begin(job->path, &job->folder, err);
    return qn_folder_begin(job->path, &job->folder, err);
}

static qn_status run(write_job *job, qn_error *err) {
    QN_TRY(qn_checkpoint_sha256(job->plan->source, job->ctx, job->source_sha256, err));
    for (int64_t k = 0; k < job->plan->fixed.n_shards; k++) QN_TRY(write_shard(job, k, err));
    return assemble(job, err);
}

/* ------------------------------------------------------------------------------------------- result */

static qn_status folder_sha256(const write_job *job, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    for (int64_t k = 0; k < job->plan->fixed.n_shards; k++) {
        char line[QN_SHA256_HEX + 64];
        const int n =
            snprintf(line, sizeof line, "%s  %s\n", job->payload_sha256[k], job->plan->fixed.shards[k].name);
        qn_sha256_update(hash, line, (size_t)n);
    }
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

static qn_status measure(const write_job *job, qn_artifact_result *out, qn_error *err) {
    const int64_t planned = job->plan->fixed.total_bytes;
    const qni_totals totals = qni_count_totals(job->plan, job->plan->shapes, planned);
    qn_artifact_result result = {.bytes = planned,
                                 .parameters = totals.parameters,
                                 .rescued_parameters = totals.role_parameters[QN_ROLE_RESCUE]};

    memcpy(result.role_bytes, totals.role_bytes, sizeof result.role_bytes);
    if (job->plan->as_archive)
        QN_TRY(qn_sha256_of_file(job->path, result.sha256, NULL, err));
    else
        QN_TRY(folder_sha256(job, result.sha256, err));
    *out = result;
    return QN_OK;
}

qn_status qn_artifact_write(const qn_artifact_plan *plan, const char *path, qn_artifact_provider provider,
                            void *user, const qn_context *ctx, qn_artifact_result *out, qn_error *err) {
    write_job job = {.plan = plan, .path = path, .provider = provider, .user = user, .ctx = ctx};
    if (!plan->shapes) return qn_fail(err, QN_E_ARGUMENT, "%s: no shapes were fixed in the plan", path);
    job.payload_sha256 = qni_alloc_array(plan->fixed.n_shards, sizeof *job.payload_sha256);
    qn_status status = job.payload_sha256 ? begin(&job, err) : qni_fail_nomem(err, "an artifact");
    if (status == QN_OK) {
        status = run(&job, err);
        /* A finished folder has been renamed away; what is left of an archive's is always removed. */
        if (status != QN_OK || plan->as_archive) qn_folder_abandon(job.folder);
    }
    if (status == QN_OK) status = measure(&job, out, err);
    free(job.payload_sha256);
    free(job.folder);
    return status;
}
