#include "quern/recipe/compress.h"

#include "base/aside.h"
#include "quern/base/writer.h"
#include "quern/tensor/isa.h"
#include "recipe/compress_job.h"
#include "recipe/run_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof((qn_recipe *)0)->name == QN_MAX_RECIPE_NAME + 1, "every recipe's name fits a manifest");

static bool wants_archive(const char *path) {
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".zip") == 0;
}

/* Whether the teacher brings the tokenizer that its artifact is judged with. */
static bool carries_tokenizer(const qni_job *j) {
    const qn_store *store = qn_checkpoint_store(j->source);
    size_t index;
    return qn_store_find(store, "tokenizer.json", &index) || qn_store_find(store, "vocab.json", &index);
}

/* The size gates hold the file against the smaller of the two counts. */
static int64_t counted_parameters(const qni_job *j) {
    int64_t reference = j->options->reference_parameters;
    return reference && reference < j->result.parameters ? reference : j->result.parameters;
}

qn_status qni_fail_budget(const qni_job *j, int64_t floor_bytes, const char *setting, const char *advice,
                          qn_error *err) {
    const qn_compress_options *o = j->options;
    const qn_config *config = qn_checkpoint_config(j->source);
    const int64_t gate_bytes = qn_profile_budget_bytes(o->profile, counted_parameters(j));
    const bool tokenizer = !o->without_tokenizer && carries_tokenizer(j);
    char way[80];
    if (floor_bytes <= gate_bytes)
        snprintf(way, sizeof way, "--bytes %lld or more", (long long)floor_bytes);
    else
        snprintf(way, sizeof way, "--bits-per-parameter %.4f or more",
                 ceil(8e4 * (double)floor_bytes / (double)counted_parameters(j)) / 1e4);
    return qn_fail(err, QN_E_BUDGET,
                   "budget of %lld bytes cannot be met: %s of %s needs at least %lld bytes (%s for %lld "
                   "parameters, plus config, loader and manifest%s); give %s%s%s",
                   (long long)j->result.budget_bytes, wants_archive(o->output) ? "an archive" : "a folder",
                   qn_architecture_name(config->architecture), (long long)floor_bytes, setting,
                   (long long)j->result.parameters, tokenizer ? ", and the tokenizer" : "", way, advice,
                   tokenizer ? ", or --no-tokenizer" : "");
}

/* What was asked for, and never more than the size gates will let through. */
static int64_t find_budget(const qni_job *j) {
    const int64_t gate_bytes = qn_profile_budget_bytes(j->options->profile, counted_parameters(j));
    const int64_t asked = j->options->budget_bytes;
    return asked && asked < gate_bytes ? asked : gate_bytes;
}

static int64_t most_rescued(const qni_job *j) {
    const int64_t allowed = qn_profile_max_rescued(j->options->profile, j->result.parameters);
    const int64_t wanted = (int64_t)(j->options->recipe->max_rescue_fraction * (double)j->result.parameters);
    return wanted < allowed ? wanted : allowed;
}

static qn_status open_and_plan(qni_job *j, qn_error *err) {
    const qn_compress_options *o = j->options;
    qn_isa isa;
    QN_TRY(qn_isa_select(&isa, err));
    QN_TRY(qn_model_open(o->model, &j->teacher, err));
    j->source = qn_model_checkpoint(j->teacher);
    j->layout = qn_checkpoint_layout(j->source);
    j->result.parameters = j->layout->n_parameters;
    j->result.budget_bytes = find_budget(j);
    j->max_rescued_weights = most_rescued(j);
    const qn_artifact_options options = {.profile = o->profile,
                                         .with_tokenizer = !o->without_tokenizer,
                                         .as_archive = wants_archive(o->output),
                                         .recipe_name = o->recipe->name,
                                         .recipe_sha256 = o->recipe->sha256,
                                         .isa = qn_isa_name(isa),
                                         .seed = o->seed,
                                         .f16_vectors = o->start || o->recipe->distill.steps > 0 ||
                                                        o->recipe->finetune.steps > 0};
    QN_TRY(qn_artifact_plan_new(j->source, &options, &j->plan, err));
    return j->way->plan(j, err);
}

/* Takes a place beside the output, before anything long begins: an output that cannot be written is found
 * now. */
static qn_status reserve_output(qni_job *j, qn_error *err) {
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

static qn_status write_unverified(qni_job *j, qn_error *err) {
    qn_artifact_result written;
    QN_TRY(qn_artifact_write(j->plan, j->unverified, qni_entropy_provide, j, j->ctx, &written, err));
    qn_compress_result *r = &j->result;
    r->bytes = written.bytes;
    r->rescued_parameters = written.rescued_parameters;
    memcpy(r->role_bytes, written.role_bytes, sizeof r->role_bytes);
    memcpy(r->sha256, written.sha256, sizeof r->sha256);
    return QN_OK;
}

static qn_status publish(const qni_job *j, qn_error *err) {
    const char *path = j->options->output;
    if (!wants_archive(path)) return qn_folder_commit(j->unverified, path, err);
    if (rename(j->unverified, path) != 0)
        return qn_fail_errno(err, "%s: the artifact cannot be put in place", path);
    return qni_aside_sync_parent(path, err);
}

/* Every gate on the file that was written; then it takes its name. */
static qn_status verify_and_publish(qni_job *j, qn_error *err) {
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

static qn_status score_teacher(qni_job *j, qn_error *err) {
    qn_windows windows = {0};
    QN_TRY(qni_run_windows(j->options, &windows, err));
    const qn_status st =
        qn_score(j->teacher, &windows, QN_COMPUTE_F32, j->ctx, NULL, &j->result.teacher, err);
    qn_windows_release(&windows);
    return st;
}

static qn_status run(qni_job *j, qn_error *err) {
    QN_TRY(open_and_plan(j, err));
    if (j->options->dry_run) return QN_OK;
    QN_TRY(reserve_output(j, err));
    QN_TRY(qn_checkpoint_check_finite(j->source, j->ctx, err)); /* vectors too, which no fit looks at */
    /* The teacher is scored first: unreadable documents must not cost a whole run. */
    if (j->options->documents) QN_TRY(score_teacher(j, err));
    QN_TRY(j->way->prepare(j, err));
    QN_TRY(qni_entropy_fix(j, err));
    QN_TRY(write_unverified(j, err));
    QN_TRY(verify_and_publish(j, err));
    if (j->options->documents) {
        j->result.student = j->result.verified.score;
        j->result.scored = true;
    }
    return QN_OK;
}

/* What a failed run leaves at the unverified path goes away with it. */
static void remove_unverified(qni_job *j) {
    if (!j->unverified) return;
    if (wants_archive(j->options->output))
        (void)unlink(j->unverified);
    else
        qn_folder_abandon(j->unverified);
    free(j->unverified);
}

qn_status qn_compress(const qn_compress_options *options, const qn_context *ctx, qn_compress_result *out,
                      qn_error *err) {
    qni_job j = {.options = options,
                 .ctx = ctx,
                 .way = qn_recipe_calibrates(options->recipe) ? &qni_way_bands : &qni_way_rows};
    qn_status st = run(&j, err);
    if (st == QN_OK) {
        *out = j.result;
        j.result = (qn_compress_result){0};
    }
    remove_unverified(&j);
    qn_compress_result_release(&j.result);
    j.way->release(&j);
    free(j.stream_bytes);
    qn_artifact_plan_free(j.plan);
    qn_model_close(j.teacher);
    return st;
}

void qn_compress_result_release(qn_compress_result *result) {
    if (!result) return;
    qn_verify_report_release(&result->verified);
    for (int64_t i = 0; i < result->n_plan; i++) {
        free(result->plan[i].name);
        free(result->plan[i].spec);
    }
    free(result->plan);
    free(result->blocks);
    free(result->dev.blocks);
    result->dev = (qn_dev_report){0};
    result->blocks = NULL;
    result->n_blocks = 0;
    result->plan = NULL;
    result->n_plan = 0;
}
