#include "quern/recipe/compress.h"

#include "base/alloc.h"
#include "base/aside.h"
#include "quern/base/writer.h"
#include "quern/fit/rowmix.h"
#include "quern/tensor/isa.h"
#include "recipe/row_budget.h"
#include "recipe/work.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One run of the job: everything that must be released together. */
typedef struct job {
    const qn_compress_options *options;
    const qn_context *ctx;
    qn_model *teacher;
    const qn_checkpoint *source; /* the teacher's */
    qn_artifact_plan *plan;
    qn_rowmix_options rowmix;
    qn_second_moments moments;
    qn_sensitivity sensitivity;
    qn_rescue_choice choice;
    qn_encoded *shapes;    /* [layout.n] of the matrices, as planned */
    qni_row_budget budget; /* borrows from the above */
    char *unverified;      /* where the artifact stands until it has passed its gates */
    qn_compress_result result;
} job;

static bool wants_archive(const char *path) {
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".zip") == 0;
}

/* Whether the teacher brings the tokenizer that its artifact is judged with. */
static bool carries_tokenizer(const job *j) {
    const qn_store *store = qn_checkpoint_store(j->source);
    size_t index;
    return qn_store_find(store, "tokenizer.json", &index) || qn_store_find(store, "vocab.json", &index);
}

/* The size gates hold the file against the smaller of the two counts. */
static int64_t counted_parameters(const job *j) {
    int64_t reference = j->options->reference_parameters;
    return reference && reference < j->result.parameters ? reference : j->result.parameters;
}

/* Says the minimum and what sets it: the one thing a user needs to choose another budget. */
static qn_status fail_budget(const job *j, int64_t floor_bytes, qn_error *err) {
    const qn_compress_options *o = j->options;
    const qn_config *config = qn_checkpoint_config(j->source);
    const int64_t gate_bytes = qn_profile_budget_bytes(o->profile, counted_parameters(j));
    const bool tokenizer = !o->without_tokenizer && carries_tokenizer(j);
    char way[80], columns[40];
    const int group_size = j->rowmix.native.group_size;
    snprintf(columns, sizeof columns, group_size ? "%d columns" : "row", group_size);
    if (floor_bytes <= gate_bytes)
        snprintf(way, sizeof way, "--bytes %lld or more", (long long)floor_bytes);
    else
        snprintf(way, sizeof way, "--bits-per-parameter %.4f or more",
                 ceil(8e4 * (double)floor_bytes / (double)counted_parameters(j)) / 1e4);
    return qn_fail(err, QN_E_BUDGET,
                   "budget of %lld bytes cannot be met: %s of %s needs at least %lld bytes (%s codes with "
                   "one fp16 scale per %s for %lld parameters, plus config, loader and manifest%s); "
                   "give %s%s%s",
                   (long long)j->result.budget_bytes, wants_archive(o->output) ? "an archive" : "a folder",
                   qn_architecture_name(config->architecture), (long long)floor_bytes,
                   qn_code_name(j->rowmix.native.code), columns, (long long)j->result.parameters,
                   tokenizer ? ", and the tokenizer" : "", way, group_size ? ", a larger group_size" : "",
                   tokenizer ? ", or --no-tokenizer" : "");
}

/* What was asked for, and never more than the size gates will let through. */
static int64_t find_budget(const job *j) {
    const int64_t gate_bytes = qn_profile_budget_bytes(j->options->profile, counted_parameters(j));
    const int64_t asked = j->options->budget_bytes;
    return asked && asked < gate_bytes ? asked : gate_bytes;
}

static int64_t most_rescued(const job *j) {
    const int64_t allowed = qn_profile_max_rescued(j->options->profile, j->result.parameters);
    const int64_t wanted = (int64_t)(j->options->recipe->max_rescue_fraction * (double)j->result.parameters);
    return wanted < allowed ? wanted : allowed;
}

static qn_status make_plan(job *j, qn_error *err) {
    const qn_compress_options *o = j->options;
    const qn_layout *layout = qn_checkpoint_layout(j->source);
    qn_isa isa;
    QN_TRY(qn_isa_select(&isa, err));
    const qn_artifact_options options = {.profile = o->profile,
                                         .with_tokenizer = !o->without_tokenizer,
                                         .as_archive = wants_archive(o->output),
                                         .recipe_name = o->recipe->name,
                                         .recipe_sha256 = o->recipe->sha256,
                                         .isa = qn_isa_name(isa),
                                         .seed = o->seed};
    QN_TRY(qn_artifact_plan_new(j->source, &options, &j->plan, err));
    j->shapes = qni_alloc_array(layout->n, sizeof *j->shapes);
    if (!j->shapes) return qni_fail_nomem(err, "the shapes of matrices");
    j->rowmix = (qn_rowmix_options){
        .native = {.code = o->profile->track == QN_TRACK_BINARY ? QN_CODE_SIGN : QN_CODE_TERNARY},
        .rescue = {.code = QN_CODE_Q4, .group_size = 128},
        .rule = o->recipe->rule};
    j->budget = (qni_row_budget){.plan = j->plan,
                                 .layout = layout,
                                 .rowmix = &j->rowmix,
                                 .shapes = j->shapes,
                                 .max_weights = most_rescued(j)};
    return QN_OK;
}

/* Chooses the group size, and the size of the file. */
static qn_status size_file(job *j, qn_error *err) {
    const qn_recipe *recipe = j->options->recipe;
    qn_compress_result *r = &j->result;
    int32_t group_size = recipe->group_size;

    do {
        j->rowmix.native.group_size = group_size;
        QN_TRY(qni_row_budget_need(&j->budget, NULL, &r->minimum_bytes, err));
        if (r->minimum_bytes <= r->budget_bytes || !recipe->automatic_groups) break;
        group_size = qn_recipe_coarser_group(group_size);
    } while (group_size >= 0);
    if (r->minimum_bytes > r->budget_bytes) return fail_budget(j, r->minimum_bytes, err);
    QN_TRY(qni_row_budget_size(&j->budget, r->budget_bytes, err));
    r->native = j->rowmix.native;
    r->bytes = j->budget.file_bytes;
    r->rescued_parameters = j->budget.max_weights;
    return QN_OK;
}

static qn_status open_and_plan(job *j, qn_error *err) {
    QN_TRY(qn_model_open(j->options->model, &j->teacher, err));
    j->source = qn_model_checkpoint(j->teacher);
    j->result.parameters = qn_checkpoint_layout(j->source)->n_parameters;
    j->result.budget_bytes = find_budget(j);
    QN_TRY(make_plan(j, err));
    return size_file(j, err);
}

/* The error of every row in both codes: measured, or taken from the work folder of a run that was stopped. */
static qn_status measure_rows(job *j, qn_error *err) {
    const qn_compress_options *o = j->options;
    if (!o->work) return qn_sensitivity_measure(j->source, &j->rowmix, j->ctx, &j->sensitivity, err);
    char key[QN_SHA256_HEX];
    bool found = false;
    QN_TRY(qni_work_key(o, &j->rowmix, j->source, j->ctx, key, err));
    if (o->resume) QN_TRY(qni_work_load(o->work, key, j->source, &j->rowmix, &found, &j->sensitivity, err));
    if (found) return QN_OK;
    QN_TRY(qn_sensitivity_measure(j->source, &j->rowmix, j->ctx, &j->sensitivity, err));
    return qni_work_save(o->work, key, j->source, &j->sensitivity, err);
}

static qn_status choose_rows(job *j, qn_error *err) {
    if (j->options->second_moments) {
        QN_TRY(qn_second_moments_load(j->options->second_moments, j->source, j->ctx, &j->moments, err));
        j->rowmix.moments = &j->moments;
    }
    if (j->budget.max_weights > 0) {
        QN_TRY(measure_rows(j, err));
        QN_TRY(qni_row_budget_choose(&j->budget, &j->sensitivity, &j->choice, err));
    }
    return qn_artifact_plan_fix(j->plan, j->shapes, j->budget.file_bytes, err);
}

static const uint8_t *rescued_rows_of(const job *j, int64_t entry) {
    for (int64_t t = 0; t < j->choice.n; t++)
        if (j->sensitivity.tensors[t].entry == entry) return j->choice.rescued[t];
    return NULL;
}

static qn_status provide(void *user, int64_t entry, qn_encoded *out, qn_error *err) {
    const job *j = user;
    const qn_layout *layout = qn_checkpoint_layout(j->source);
    QN_TRY(qn_check_cancelled(j->ctx, err));
    qn_report_progress(j->ctx, "encode", (uint64_t)entry, (uint64_t)layout->n);
    return qn_rowmix_encode(qn_checkpoint_weight(j->source, entry), layout->entries[entry].name, &j->rowmix,
                            qn_second_moments_of(j->rowmix.moments, entry), rescued_rows_of(j, entry), j->ctx,
                            out, err);
}

/* Takes a place beside the output, before anything long begins: an output that cannot be written is found
 * now. */
static qn_status reserve_output(job *j, qn_error *err) {
    const char *path = j->options->output;
    qn_writer *probe = NULL;
    int fd = -1;
    if (!wants_archive(path)) return qn_folder_begin(path, &j->unverified, err);
    QN_TRY(qn_writer_open(path, &probe, err));
    qn_writer_abandon(probe);
    QN_TRY(qni_aside_file(path, &j->unverified, &fd, err));
    (void)close(fd);
    return QN_OK;
}

static qn_status write_unverified(job *j, qn_error *err) {
    qn_artifact_result written;
    QN_TRY(qn_artifact_write(j->plan, j->unverified, provide, j, j->ctx, &written, err));
    qn_compress_result *r = &j->result;
    r->bytes = written.bytes;
    r->rescued_parameters = written.rescued_parameters;
    memcpy(r->role_bytes, written.role_bytes, sizeof r->role_bytes);
    memcpy(r->sha256, written.sha256, sizeof r->sha256);
    return QN_OK;
}

static qn_status publish(const job *j, qn_error *err) {
    const char *path = j->options->output;
    if (!wants_archive(path)) return qn_folder_commit(j->unverified, path, err);
    if (rename(j->unverified, path) != 0)
        return qn_fail_errno(err, "%s: the artifact cannot be put in place", path);
    return qni_aside_sync_parent(path, err);
}

/* Every gate on the file that was written; then it takes its name. */
static qn_status verify_and_publish(job *j, qn_error *err) {
    const qn_compress_options *o = j->options;
    const qn_verify_options options = {
        .profile = o->profile,
        .reference_parameters = o->reference_parameters ? o->reference_parameters : j->result.parameters,
        .expected_sha256 = wants_archive(o->output) ? j->result.sha256 : NULL,
        .documents = o->documents,
        .tokenizer = o->tokenizer           ? o->tokenizer
                     : carries_tokenizer(j) ? o->model
                                            : NULL};
    QN_TRY(qn_verify(j->unverified, &options, j->ctx, &j->result.verified, err));
    QN_TRY(publish(j, err));
    free(j->unverified);
    j->unverified = NULL;
    return QN_OK;
}

static qn_status score_teacher(job *j, qn_error *err) {
    qn_tokenizer *tokenizer = NULL;
    qn_documents documents = {0};
    qn_windows windows = {0};
    const qn_protocol protocol = qn_protocol_default();
    const char *path = j->options->tokenizer ? j->options->tokenizer : j->options->model;
    qn_status st = qn_tokenizer_open(path, &tokenizer, err);
    if (st == QN_OK) st = qn_documents_open(j->options->documents, &documents, err);
    if (st == QN_OK) st = qn_windows_make(&documents, tokenizer, &protocol, &windows, err);
    if (st == QN_OK)
        st = qn_score(j->teacher, &windows, QN_COMPUTE_F32, j->ctx, NULL, &j->result.teacher, err);
    qn_windows_release(&windows);
    qn_documents_release(&documents);
    qn_tokenizer_free(tokenizer);
    return st;
}

static qn_status run(job *j, qn_error *err) {
    QN_TRY(open_and_plan(j, err));
    if (j->options->dry_run) return QN_OK;
    QN_TRY(reserve_output(j, err));
    if (j->options->work) QN_TRY(qni_work_begin(j->options, err));
    QN_TRY(qn_checkpoint_check_finite(j->source, j->ctx, err)); /* vectors too, which no fit looks at */
    /* The teacher is scored first: unreadable documents must not cost a whole run. */
    if (j->options->documents) QN_TRY(score_teacher(j, err));
    QN_TRY(choose_rows(j, err));
    QN_TRY(write_unverified(j, err));
    QN_TRY(verify_and_publish(j, err));
    if (j->options->documents) {
        j->result.student = j->result.verified.score;
        j->result.scored = true;
    }
    return QN_OK;
}

/* What a failed run leaves at the unverified path goes away with it. */
static void remove_unverified(job *j) {
    if (!j->unverified) return;
    if (wants_archive(j->options->output))
        (void)unlink(j->unverified);
    else
        qn_folder_abandon(j->unverified);
    free(j->unverified);
}

qn_status qn_compress(const qn_compress_options *options, const qn_context *ctx, qn_compress_result *out,
                      qn_error *err) {
    job j = {.options = options, .ctx = ctx};
    qn_status st = run(&j, err);
    if (st == QN_OK) {
        *out = j.result;
        j.result = (qn_compress_result){0};
    }
    remove_unverified(&j);
    qn_compress_result_release(&j.result);
    free(j.shapes);
    qn_rescue_choice_release(&j.choice);
    qn_sensitivity_release(&j.sensitivity);
    qn_second_moments_release(&j.moments);
    qn_artifact_plan_free(j.plan);
    qn_model_close(j.teacher);
    return st;
}

void qn_compress_result_release(qn_compress_result *result) {
    if (result) qn_verify_report_release(&result->verified);
}
