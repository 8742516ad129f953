#include "artifact/plan.h"

#include "base/alloc.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static const char *or_empty(const char *text) {
    return text ? text : "";
}

/* Such a name takes as many bytes in the manifest as it has, so that the longest one bounds them all (manifest_size.c). */
static qn_status check_recipe_name(const char *name, qn_error *err) {
    const size_t n = strlen(name);
    bool plain = n <= QN_MAX_RECIPE_NAME && qni_utf8_valid_prefix((const uint8_t *)name, n) == n;
    for (const char *c = name; *c; c++)
        plain = plain && (unsigned char)*c >= ' ' && *c != 0x7F && *c != '"' && *c != '\\';
    if (plain) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "a recipe's name is UTF-8 text of at most %d bytes without control characters, quotes and "
                   "backslashes",
                   QN_MAX_RECIPE_NAME);
}

static qn_status make_plan(qn_artifact_plan *plan, const qn_artifact_options *o, qn_error *err) {
    plan->profile = *o->profile;
    plan->as_archive = o->as_archive;
    plan->max_shard_bytes = o->max_shard_bytes;
    plan->f16_vectors = o->f16_vectors;
    plan->seed = o->seed;
    plan->recipe_name = qni_copy_string(or_empty(o->recipe_name));
    plan->recipe_sha256 = qni_copy_string(or_empty(o->recipe_sha256));
    plan->isa = qni_copy_string(or_empty(o->isa));
    if (!plan->recipe_name || !plan->recipe_sha256 || !plan->isa)
        return qni_fail_nomem(err, "an artifact plan");
    return qni_texts_collect(plan, o->with_tokenizer, &plan->texts, err);
}

qn_status qn_artifact_plan_new(const qn_checkpoint *source, const qn_artifact_options *options,
                               qn_artifact_plan **out, qn_error *err) {
    if (!options->profile) return qn_fail(err, QN_E_ARGUMENT, "an artifact needs a profile");
    QN_TRY(check_recipe_name(or_empty(options->recipe_name), err));
    if (options->max_shard_bytes < 0) return qn_fail(err, QN_E_ARGUMENT, "max_shard_bytes is not negative");
    if (options->seed > INT64_MAX)
        return qn_fail(err, QN_E_ARGUMENT, "the seed of an artifact is below 2^63");
    qn_artifact_plan *plan = qni_alloc_array(1, sizeof *plan);
    if (!plan) return qni_fail_nomem(err, "an artifact plan");
    plan->source = source;
    qn_status status = make_plan(plan, options, err);
    if (status != QN_OK) {
        qn_artifact_plan_free(plan);
        return status;
    }
    *out = plan;
    return QN_OK;
}

qn_status qn_artifact_plan_set_vectors(qn_artifact_plan *plan, const float *const *vectors, qn_error *err) {
    if (!plan->f16_vectors)
        return qn_fail(err, QN_E_ARGUMENT, "vectors of one's own need a plan with f16_vectors");
    plan->vectors = vectors;
    return QN_OK;
}

void qn_artifact_plan_free(qn_artifact_plan *plan) {
    if (!plan) return;
    qni_texts_release(&plan->texts);
    qni_sizing_release(&plan->fixed);
    free(plan->shapes);
    free(plan->recipe_name);
    free(plan->recipe_sha256);
    free(plan->isa);
    free(plan);
}

/* ------------------------------------------------------------------------------------------- size of one set of shapes */

void qni_sizing_release(qni_sizing *sizing) {
    free(sizing->shards);
    qni_text_release(&sizing->config);
    *sizing = (qni_sizing){0};
}

static qn_status check_shapes(const qn_artifact_plan *plan, const qn_encoded *shapes, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *t = &layout->entries[i];
        if (!t->is_matrix) continue;
        QN_TRY(qn_encoded_check_shape(&shapes[i], t->name, err));
        if (shapes[i].rows == t->rows && shapes[i].cols == t->cols) continue;
        return qn_fail(err, QN_E_ARGUMENT, "%s: a shape of %lldx%lld for a matrix of %lldx%lld", t->name,
                       (long long)shapes[i].rows, (long long)shapes[i].cols, (long long)t->rows,
                       (long long)t->cols);
    }
    return QN_OK;
}

static qn_status archive_total(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err) {
    const size_t n = plan->texts.n + (size_t)sizing->n_shards + 2;
    qni_zip_member *members = qni_alloc_array((int64_t)n, sizeof *members);
    size_t k = 0;

    if (!members) return qni_fail_nomem(err, "archive members");
    members[k++] = qni_text_member(&sizing->config);
    for (size_t i = 0; i < plan->texts.n; i++) members[k++] = qni_text_member(&plan->texts.items[i]);
    for (int64_t i = 0; i < sizing->n_shards; i++) {
        const int64_t bytes = qni_shard_bytes(sizing, i);
        members[k++] = (qni_zip_member){
            .name = sizing->shards[i].name, .stored = true, .raw_bytes = bytes, .packed_bytes = bytes};
    }
    members[k++] = (qni_zip_member){.name = "quern.json", .packed_bytes = sizing->manifest_bytes};
    qni_zip_sort(members, n);
    sizing->total_bytes = qni_archive_bytes(members, n);
    free(members);
    return QN_OK;
}

static int64_t folder_total(const qn_artifact_plan *plan, const qni_sizing *sizing) {
    int64_t bytes = sizing->manifest_bytes + sizing->config.n_bytes;
    for (size_t i = 0; i < plan->texts.n; i++) bytes += plan->texts.items[i].n_bytes;
    for (int64_t i = 0; i < sizing->n_shards; i++) bytes += qni_shard_bytes(sizing, i);
    return bytes;
}

static qn_status size_parts(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err) {
    QN_TRY(qni_size_shards(plan, sizing, err));
    QN_TRY(qni_size_headers(plan, sizing, err));
    QN_TRY(qni_size_config(plan, sizing, err));
    QN_TRY(qni_size_manifest(plan, sizing, err));
    if (plan->as_archive) return archive_total(plan, sizing, err);
    sizing->total_bytes = folder_total(plan, sizing);
    return QN_OK;
}

/* *out is to be released. */
static qn_status size_shapes(const qn_artifact_plan *plan, const qn_encoded *shapes, int64_t padding,
                             qni_sizing *out, qn_error *err) {
    qni_sizing sizing = {.shapes = shapes, .padding = padding};
    qn_status status = check_shapes(plan, shapes, err);
    if (status == QN_OK) status = size_parts(plan, &sizing, err);
    if (status != QN_OK) {
        qni_sizing_release(&sizing);
        return status;
    }
    *out = sizing;
    return QN_OK;
}

qn_status qn_artifact_plan_need(const qn_artifact_plan *plan, const qn_encoded *shapes, int64_t *n_bytes,
                                qn_error *err) {
    qni_sizing sizing;
    QN_TRY(size_shapes(plan, shapes, -1, &sizing, err));
    *n_bytes = sizing.total_bytes;
    qni_sizing_release(&sizing);
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- fixing */

static qn_status check_rules(const qn_artifact_plan *plan, const qn_encoded *shapes, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(plan->source);
    const int64_t most = qn_profile_max_rescued(&plan->profile, layout->n_parameters);
    const int64_t rescued = qni_count_totals(plan, shapes, 0).role_parameters[QN_ROLE_RESCUE];

    for (int64_t i = 0; i < layout->n; i++) {
        const char *feature =
            layout->entries[i].is_matrix ? qn_profile_forbids(&plan->profile, &shapes[i]) : NULL;
        if (!feature) continue;
        return qn_fail(err, QN_E_REJECTED, "%s: profile %s forbids %s", layout->entries[i].name,
                       plan->profile.name, feature);
    }
    if (rescued <= most) return QN_OK;
    return qn_fail(err, QN_E_REJECTED, "%lld parameters in q4; profile %s allows %lld", (long long)rescued,
                   plan->profile.name, (long long)most);
}

/* The artifact of SHAPES with a padding tensor where N_BYTES leaves enough for one. */
static qn_status size_padded(const qn_artifact_plan *plan, const qn_encoded *shapes, int64_t n_bytes,
                             qni_sizing *out, qn_error *err) {
    qni_sizing plain;
    QN_TRY(size_shapes(plan, shapes, -1, &plain, err));
    const int64_t left = n_bytes - plain.total_bytes;
    if (left >= 0 && left < QNI_PADDING_FROM) {
        *out = plain;
        return QN_OK;
    }
    const int64_t need = plain.total_bytes;
    qni_sizing_release(&plain);
    if (left < 0) {
        return qn_fail(err, QN_E_BUDGET, "the artifact takes at least %lld bytes, %lld were asked for",
                       (long long)need, (long long)n_bytes);
    }
    return size_shapes(plan, shapes, left - QNI_PADDING_COST, out, err);
}

qn_status qn_artifact_plan_fix(qn_artifact_plan *plan, const qn_encoded *shapes, int64_t n_bytes,
                               qn_error *err) {
    const int64_t n = qn_checkpoint_layout(plan->source)->n;
    qni_sizing sizing = {0};
    qn_encoded *copy = qni_alloc_array(n, sizeof *copy);

    if (!copy) return qni_fail_nomem(err, "the shapes of an artifact");
    memcpy(copy, shapes, (size_t)n * sizeof *copy);
    qn_status status = size_padded(plan, copy, n_bytes, &sizing, err);
    if (status == QN_OK) status = check_rules(plan, copy, err);
    if (status == QN_OK && n_bytes < sizing.total_bytes) {
        status = qn_fail(err, QN_E_INTERNAL, "an artifact of %lld bytes padded to %lld", (long long)n_bytes,
                         (long long)sizing.total_bytes);
    }
    if (status != QN_OK) {
        qni_sizing_release(&sizing);
        free(copy);
        return status;
    }
    qni_sizing_release(&plan->fixed);
    free(plan->shapes);
    plan->shapes = copy;
    plan->fixed = sizing;
    plan->spare = n_bytes - sizing.total_bytes;
    plan->fixed.total_bytes = n_bytes;
    return QN_OK;
}
