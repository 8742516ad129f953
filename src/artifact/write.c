/* Writing an artifact as planned: payload files aside, then the manifest, then the whole in one rename. */
#include "artifact/archive.h"
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
    const int64_t *n_rescued;
    qni_form form;
    int64_t extra_bytes;
    qn_artifact_provider provider;
    void *user;
    const qn_context *ctx;
    char *folder; /* where files are made */
    qni_rows *rows;
    int64_t *payload_bytes;
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

/* ------------------------------------------------------------------------------------------- arguments */

static qn_status check_row_count(const qn_artifact_plan *plan, int64_t entry, int64_t n, qn_error *err) {
    const qn_layout_entry *t = &qn_checkpoint_layout(plan->source)->entries[entry];
    if (n < 0 || n > t->rows || (n > 0 && plan->rescue.code == QN_CODE_NONE)) {
        return qn_fail(err, QN_E_ARGUMENT, "%s: %lld rescued rows of %lld with rescue code %s", t->name,
                       (long long)n, (long long)t->rows, qn_code_name(plan->rescue.code));
    }
    return QN_OK;
}

static qn_status check_choice(const write_job *job, qn_error *err) {
    const qn_artifact_plan *plan = job->plan;
    const qn_layout *layout = layout_of(job);
    int64_t cost = 0, weights = 0;

    if (job->extra_bytes < 0 || job->extra_bytes > plan->max_extra) {
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s: %lld extra bytes; rows within the rescue fraction cost at most %lld", job->path,
                       (long long)job->extra_bytes, (long long)plan->max_extra);
    }
    for (int64_t i = 0; i < layout->n; i++) {
        if (!layout->entries[i].is_matrix) continue;
        QN_TRY(check_row_count(plan, i, job->n_rescued[i], err));
        cost += job->n_rescued[i] * qn_artifact_plan_row_price(plan, i);
        weights += job->n_rescued[i] * layout->entries[i].cols;
    }
    if (cost > job->extra_bytes || (weights > 0 && job->extra_bytes == 0)) {
        return qn_fail(err, QN_E_ARGUMENT, "%s: the rescued rows cost %lld extra bytes, allowed %lld",
                       job->path, (long long)cost, (long long)job->extra_bytes);
    }
    const int64_t most = qn_profile_max_rescued(&plan->profile, layout->n_parameters);
    if (weights > most) {
        return qn_fail(err, QN_E_ARGUMENT, "%s: %lld rescued parameters; profile %s allows %lld", job->path,
                       (long long)weights, plan->profile.name, (long long)most);
    }
    return QN_OK;
}

static qn_status job_init(write_job *job, qn_error *err) {
    const qn_layout *layout = layout_of(job);
    job->rows = qni_alloc_array(layout->n, sizeof *job->rows);
    job->payload_bytes = qni_alloc_array(job->plan->n_shards, sizeof *job->payload_bytes);
    job->payload_sha256 = qni_alloc_array(job->plan->n_shards, sizeof *job->payload_sha256);
    if (!job->rows || !job->payload_bytes || !job->payload_sha256) return qni_fail_nomem(err, "an artifact");
    for (int64_t i = 0; i < layout->n; i++) {
        if (!layout->entries[i].is_matrix) continue;
        job->rows[i] = (qni_rows){layout->entries[i].rows - job->n_rescued[i], job->n_rescued[i]};
    }
    return QN_OK;
}

static void job_release(write_job *job) {
    free(job->rows);
    free(job->payload_bytes);
    free(job->payload_sha256);
    free(job->folder);
}

/* ------------------------------------------------------------------------------------------- payload */

static qn_status check_encoded(const write_job *job, int64_t entry, const qn_encoded *e, qn_error *err) {
    const qn_encoded want = qni_plan_encoded(job->plan, entry, job->n_rescued[entry]);
    const bool same = e->rows == want.rows && e->cols == want.cols &&
                      e->n_rescue_rows == want.n_rescue_rows && e->native.code == want.native.code &&
                      e->native.group_size == want.native.group_size && e->rescue.code == want.rescue.code &&
                      e->rescue.group_size == want.rescue.group_size;
    if (same) return QN_OK;
    char expected[QN_PACKED_SPEC_BYTES], got[QN_PACKED_SPEC_BYTES];
    qn_packed_spec_format(&want, expected, sizeof expected);
    qn_packed_spec_format(e, got, sizeof got);
    return qn_fail(err, QN_E_ARGUMENT, "%s: planned as '%s', the provider gave '%s'",
                   layout_of(job)->entries[entry].name, expected, got);
}

static qn_status write_matrix(write_job *job, int64_t entry, qn_writer *writer, qn_error *err) {
    qn_encoded e = {0};
    qn_status status = job->provider(job->user, entry, &e, err);

    if (status == QN_OK) status = check_encoded(job, entry, &e, err);
    /* Bound again: nothing illegal is ever written, whoever made it. */
    free(e.slot);
    e.slot = NULL;
    if (status == QN_OK) status = qn_encoded_bind(&e, layout_of(job)->entries[entry].name, err);
    if (status == QN_OK) {
        qn_part parts[QN_MAX_PARTS];
        const int n = qn_encoded_parts(&e, parts);
        for (int p = 0; status == QN_OK && p < n; p++) {
            const int64_t bytes =
                qn_view_elements(&parts[p].view) * (int64_t)qn_dtype_bytes(parts[p].view.dtype);
            status = qn_writer_write(writer, parts[p].view.data, (size_t)bytes, err);
        }
    }
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

/* 16-bit vectors as they are, wider ones rounded to fp16. */
static qn_status write_vector(write_job *job, int64_t entry, qn_writer *writer, qn_error *err) {
    const qn_layout_entry *t = &layout_of(job)->entries[entry];
    const qn_view *view = &qn_checkpoint_weight(job->plan->source, entry)->dense;
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

/* What rows and masks leave of the planned bytes, over all shards. */
static int64_t padding_bytes(const write_job *job) {
    int64_t left = job->extra_bytes;
    for (int64_t k = 0; k < job->plan->n_shards; k++) {
        const qni_shard *shard = &job->plan->shards[k];
        left +=
            shard->native_bytes + shard->mask_bytes - qni_shard_data_bytes(job->plan, shard, job->n_rescued);
    }
    return left;
}

static qn_status write_shard_body(write_job *job, const qni_shard *shard, int64_t padding, qn_writer *writer,
                                  qn_error *err) {
    const qn_layout *layout = layout_of(job);
    uint8_t *header = NULL;
    size_t header_bytes = 0;

    QN_TRY(
        qni_shard_header(job->plan, shard, job->form, job->n_rescued, padding, &header, &header_bytes, err));
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
    return padding > 0 ? write_zeros(writer, padding, err) : QN_OK;
}

static qn_status write_shard(write_job *job, int64_t k, qn_error *err) {
    const bool is_last = k == job->plan->n_shards - 1;
    const int64_t padding = is_last && job->form == QNI_RESCUED ? padding_bytes(job) : -1;
    qn_writer *writer = NULL;
    char *path = file_in(job->folder, job->plan->shards[k].name);
    qn_status status = path ? qn_writer_open(path, &writer, err) : qni_fail_nomem(err, "a path");

    free(path);
    QN_TRY(status);
    status = write_shard_body(job, &job->plan->shards[k], padding, writer, err);
    if (status != QN_OK) {
        qn_writer_abandon(writer);
        return status;
    }
    job->payload_bytes[k] = (int64_t)qn_writer_bytes(writer);
    return qn_writer_commit(writer, job->payload_sha256[k], err);
}

/* ------------------------------------------------------------------------------------------- assembly */

static qn_status write_folder(const write_job *job, char **manifest, size_t n_bytes, qn_error *err) {
    const qn_artifact_plan *plan = job->plan;
    const size_t planned = (size_t)plan->form[job->form].manifest_bytes;

    QN_TRY(qni_grow_array((void **)manifest, (int64_t)planned, 1, err));
    memset(*manifest + n_bytes, ' ', planned - n_bytes);
    char *path = file_in(job->folder, "quern.json");
    qn_status status = path ? qn_write_file(path, *manifest, planned, err) : qni_fail_nomem(err, "a path");
    free(path);
    for (size_t i = 0; status == QN_OK && i < plan->texts.n; i++) {
        const qni_text *text = &plan->texts.items[i];
        path = file_in(job->folder, text->name);
        status = path ? qn_write_file(path, text->data, (size_t)text->n_bytes, err)
                      : qni_fail_nomem(err, "a path");
        free(path);
    }
    return status == QN_OK ? qn_folder_commit(job->folder, job->path, err) : status;
}

static qn_status list_members(const write_job *job, const char *manifest, size_t n_bytes,
                              int64_t stored_bytes, qni_zip_member *members, size_t *n, char **paths,
                              qn_error *err) {
    const qn_artifact_plan *plan = job->plan;
    size_t k = 0;

    for (size_t i = 0; i < plan->texts.n; i++) {
        const qni_text *text = &plan->texts.items[i];
        members[k++] = (qni_zip_member){.name = text->name,
                                        .data = text->data,
                                        .raw_bytes = text->n_bytes,
                                        .packed_bytes = text->deflated_bytes};
    }
    for (int64_t i = 0; i < plan->n_shards; i++) {
        if (!(paths[i] = file_in(job->folder, plan->shards[i].name))) return qni_fail_nomem(err, "a path");
        members[k++] = (qni_zip_member){.name = plan->shards[i].name,
                                        .path = paths[i],
                                        .stored = true,
                                        .raw_bytes = job->payload_bytes[i],
                                        .packed_bytes = job->payload_bytes[i]};
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
    const int64_t most = (int64_t)plan->texts.n + plan->n_shards + 1;
    qni_zip_member *members = qni_alloc_array(most, sizeof *members);
    char **paths = qni_alloc_array(plan->n_shards, sizeof *paths);
    size_t n = 0;
    qn_status status = members && paths ? QN_OK : qni_fail_nomem(err, "archive members");

    if (status == QN_OK) status = list_members(job, manifest, n_bytes, stored_bytes, members, &n, paths, err);
    if (status == QN_OK) {
        status = qni_archive_write(members, n, qn_artifact_plan_bytes(plan, job->extra_bytes), job->folder,
                                   job->path, job->ctx, err);
    }
    for (int64_t i = 0; paths && i < plan->n_shards; i++) free(paths[i]);
    free(paths);
    free(members);
    return status;
}

static qn_status assemble(write_job *job, qn_error *err) {
    const qn_artifact_plan *plan = job->plan;
    qni_manifest_facts facts = {.rows = job->rows,
                                .payload_sha256 = (const char(*)[QN_SHA256_HEX])job->payload_sha256,
                                .payload_bytes = job->payload_bytes,
                                .source_sha256 = job->source_sha256,
                                .total_bytes = qn_artifact_plan_bytes(plan, job->extra_bytes)};
    char *text = NULL;
    size_t n_bytes = 0;
    int64_t stored = 0;

    QN_TRY(
        qni_manifest_fit(plan, &facts, plan->form[job->form].manifest_bytes, &text, &n_bytes, &stored, err));
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
    for (int64_t k = 0; k < job->plan->n_shards; k++) QN_TRY(write_shard(job, k, err));
    return assemble(job, err);
}

/* ------------------------------------------------------------------------------------------- result */

static qn_status folder_sha256(const write_job *job, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    for (int64_t k = 0; k < job->plan->n_shards; k++) {
        char line[QN_SHA256_HEX + 64];
        const int n =
            snprintf(line, sizeof line, "%s  %s\n", job->payload_sha256[k], job->plan->shards[k].name);
        qn_sha256_update(hash, line, (size_t)n);
    }
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

static qn_status measure(const write_job *job, qn_artifact_result *out, qn_error *err) {
    const int64_t planned = qn_artifact_plan_bytes(job->plan, job->extra_bytes);
    const qni_totals totals = qni_count_totals(job->plan, job->rows, planned);
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

qn_status qn_artifact_write(const qn_artifact_plan *plan, const char *path, const int64_t *n_rescued_rows,
                            int64_t extra_bytes, qn_artifact_provider provider, void *user,
                            const qn_context *ctx, qn_artifact_result *out, qn_error *err) {
    write_job job = {.plan = plan,
                     .path = path,
                     .n_rescued = n_rescued_rows,
                     .form = extra_bytes > 0 ? QNI_RESCUED : QNI_PLAIN,
                     .extra_bytes = extra_bytes,
                     .provider = provider,
                     .user = user,
                     .ctx = ctx};
    QN_TRY(check_choice(&job, err));
    qn_status status = job_init(&job, err);
    if (status == QN_OK) status = begin(&job, err);
    if (status == QN_OK) {
        status = run(&job, err);
        /* A finished folder has been renamed away; what is left of an archive's is always removed. */
        if (status != QN_OK || plan->as_archive) qn_folder_abandon(job.folder);
    }
    if (status == QN_OK) status = measure(&job, out, err);
    job_release(&job);
    return status;
}
