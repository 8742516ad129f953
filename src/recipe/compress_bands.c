/* The calibrated way: bands of lines, fitted on a walk of the student through calibration text. */
#include "base/alloc.h"
#include "base/aside.h"
#include "quern/base/writer.h"
#include "recipe/calibrated.h"
#include "recipe/compress_job.h"
#include "recipe/estimate.h"
#include "recipe/run_keys.h"
#include "recipe/start.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "base/banned.h"

typedef struct bands {
    qni_calibrated calibrated;
    qni_matrix_store store;
    qn_checkpoint *start; /* owned: the artifact that training goes on from, or NULL */
    char *own_folder;     /* owned: of a run that was given no work folder, removed with it */
    float **vectors;      /* owned [n_vectors]: trained ones, NULL for the others */
    int64_t n_vectors;
} bands;

static qn_status fail_budget(const qni_job *job, int64_t minimum, qn_error *err) {
    const qn_recipe *recipe = job->options->recipe;
    const qn_code native = job->options->profile->track == QN_TRACK_BINARY ? QN_CODE_SIGN : QN_CODE_TERNARY;
    char setting[80];
    snprintf(setting, sizeof setting, "%s codes with one %s scale per %lld columns", qn_code_name(native),
             qn_scale_code_name(recipe->scales), (long long)recipe->group_size);
    return qni_fail_budget(job, minimum, setting, ", a larger group_size", err);
}

static void count_rescued(qni_job *job, const qni_calibrated *c) {
    job->result.rescued_parameters = 0;
    for (int64_t i = 0; i < job->layout->n; i++) {
        qn_part parts[QN_MAX_PARTS];
        if (!job->layout->entries[i].is_matrix) continue;
        const int n = qn_encoded_parts(&c->shapes[i], parts);
        for (int k = 0; k < n; k++)
            if (parts[k].role == QN_ROLE_RESCUE) job->result.rescued_parameters += parts[k].n_weights;
    }
}

/* The plan as a table for people. */
static qn_status show_plan(qni_job *job, const qni_calibrated *c, qn_error *err) {
    qn_compress_result *r = &job->result;
    r->plan = qni_alloc_array(job->layout->n_matrices, sizeof *r->plan);
    if (!r->plan) return qni_fail_nomem(err, "a plan");
    for (int64_t i = 0; i < job->layout->n; i++) {
        char spec[QN_PACKED_SPEC_BYTES];
        if (!job->layout->entries[i].is_matrix) continue;
        qn_packed_spec_format(&c->shapes[i], spec);
        qn_plan_row *row = &r->plan[r->n_plan++];
        *row = (qn_plan_row){.name = qni_copy_string(job->layout->entries[i].name),
                             .spec = qni_copy_string(spec),
                             .n_bytes = c->choices[i].n_bytes,
                             .predicted_loss = c->choices[i].loss};
        if (!row->name || !row->spec) return qni_fail_nomem(err, "a plan");
    }
    return QN_OK;
}

/* The bytes before entropy coding: what it saves may be spent at once, by a guess that qni_entropy_fix checks. */
static int64_t planned_budget(const qni_job *job) {
    const int64_t budget = job->result.budget_bytes;
    return budget + (int64_t)(job->options->recipe->overbook * (double)budget);
}

/* The smallest file that fits the budget with what the planner chooses. */
static qn_status choose_bands(qni_job *job, bands *b, qn_error *err) {
    qn_compress_result *r = &job->result;
    const qn_status status = qni_calibrated_plan(&b->calibrated, job->plan, planned_budget(job),
                                                 job->max_rescued_weights, &r->minimum_bytes, err);
    if (status == QN_E_BUDGET) return fail_budget(job, r->minimum_bytes, err);
    r->bytes = b->calibrated.file_bytes;
    return status;
}

/* The bands of the artifact that training goes on from. */
static qn_status take_bands(qni_job *job, bands *b, qn_error *err) {
    qni_calibrated *c = &b->calibrated;
    qn_compress_result *r = &job->result;
    QN_TRY(qn_checkpoint_open(job->options->start, &b->start, err));
    QN_TRY(qni_start_shapes(b->start, job->layout, &c->shapes, err));
    c->choices = qni_alloc_array(job->layout->n, sizeof *c->choices);
    if (!c->choices) return qni_fail_nomem(err, "a plan");
    for (int64_t i = 0; i < job->layout->n; i++) {
        if (!job->layout->entries[i].is_matrix) continue;
        c->choices[i].shape = c->shapes[i];
        c->choices[i].n_bytes = qn_encoded_bytes(&c->shapes[i]);
    }
    QN_TRY(qn_artifact_plan_need(job->plan, c->shapes, &r->minimum_bytes, err));
    r->bytes = r->minimum_bytes;
    if (r->bytes <= r->budget_bytes) return QN_OK;
    return qn_fail(err, QN_E_BUDGET, "%s needs %lld bytes, the budget is %lld: compress it to that first",
                   job->options->start, (long long)r->bytes, (long long)r->budget_bytes);
}

static double seconds_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Of what follows the plan, at the rate at which the teacher was measured; 0 where it was not. */
static double estimate_seconds(const qni_job *job, const qni_calibrated *c, double measuring_seconds) {
    const qn_recipe *recipe = job->options->recipe;
    const int64_t n_tokens = c->text.n * c->text.context;
    const int64_t n_fisher = recipe->fisher_tokens < n_tokens ? recipe->fisher_tokens : n_tokens;
    const int64_t n_tuning = c->tuning_text.n * c->tuning_text.context;
    const qni_run_cost cost =
        qni_count_cost(qn_checkpoint_config(job->source), job->layout, recipe, n_tokens, n_fisher, n_tuning);
    if (!c->loss_is_measured) return 0.0;
    return measuring_seconds * (cost.fit + cost.distill + cost.finetune) / cost.measure;
}

static qn_status plan(qni_job *job, qn_error *err) {
    qn_compress_result *r = &job->result;
    bands *b = qni_alloc_array(1, sizeof *b);
    if (!b) return qni_fail_nomem(err, "the state of a run");
    job->state = b;
    QN_TRY(qn_checkpoint_check_finite(job->source, job->ctx, err));
    const double began = seconds_now();
    QN_TRY(qni_calibrated_open(job->options, job->teacher, job->ctx, &b->calibrated, err));
    QN_TRY(job->options->start ? take_bands(job, b, err) : choose_bands(job, b, err));
    r->native = (qn_codec){job->options->profile->track == QN_TRACK_BINARY ? QN_CODE_SIGN : QN_CODE_TERNARY,
                           (int32_t)job->options->recipe->group_size, job->options->recipe->scales};
    r->estimated_seconds = estimate_seconds(job, &b->calibrated, seconds_now() - began);
    count_rescued(job, &b->calibrated);
    QN_TRY(show_plan(job, &b->calibrated, err));
    return qn_artifact_plan_fix(job->plan, b->calibrated.shapes, r->bytes, err);
}

static qn_status begin_store(const qni_job *job, bands *b, qn_error *err) {
    const char *work = job->options->work;
    QN_TRY(qni_stage_keys(&b->calibrated, b->start, job->ctx, b->store.keys, err));
    if (work) {
        if (mkdir(work, 0777) != 0 && errno != EEXIST)
            return qn_fail_errno(err, "cannot make the work folder %s", work);
        b->store.folder = work;
        if (job->options->resume || !qni_matrix_store_is_used(&b->store, job->layout))
            return qni_matrix_store_check(&b->store, job->layout, err);
        return qn_fail(
            err, QN_E_ARGUMENT,
            "work folder %s holds a run already: give --resume to go on with it, or another folder", work);
    }
    QN_TRY(qni_aside_folder(job->options->output, &b->own_folder, err));
    b->store.folder = b->own_folder;
    return QN_OK;
}

/* Vectors that were trained, now or before, go into the artifact instead of the teacher's. */
static qn_status take_vectors(qni_job *job, bands *b, qn_error *err) {
    const qn_recipe *recipe = job->options->recipe;
    if (recipe->distill.steps == 0 && recipe->finetune.steps == 0 && !b->start) return QN_OK;
    b->vectors = qni_alloc_array(job->layout->n, sizeof *b->vectors);
    if (!b->vectors) return qni_fail_nomem(err, "vectors");
    b->n_vectors = job->layout->n;
    for (int64_t i = 0; i < job->layout->n; i++) {
        const qn_layout_entry *e = &job->layout->entries[i];
        const qni_run_stage stage = qni_last_stage(recipe, e->layer);
        bool found = false;
        if (e->is_matrix || (stage == QNI_STAGE_FITTED && !b->start)) continue;
        QN_TRY(QNI_ALLOC(b->vectors[i], e->cols, e->name, err));
        QN_TRY(qni_vector_store_load(&b->store, stage, i, e->name, e->cols, &found, b->vectors[i], err));
        if (!found) return qn_fail(err, QN_E_IO, "%s: %s has gone", b->store.folder, e->name);
    }
    return qn_artifact_plan_set_vectors(job->plan, (const float *const *)b->vectors, err);
}

/* What the training of the blocks and of the whole came to. */
static void take_reports(qni_job *job, qni_calibrated *c) {
    qn_compress_result *r = &job->result;
    const qn_tune_report *m = &c->model_report;
    r->tuning = (qn_tuning_row){
        .steps = m->steps, .best_step = m->best_step, .first_loss = m->first_loss, .best_loss = m->best_loss};
    if (c->dev) {
        r->dev = c->dev->report;
        c->dev->report = (qn_dev_report){0};
    }
    if (!c->block_reports) return;
    r->n_blocks = qn_model_config(c->model)->n_layers;
    r->blocks = qni_alloc_array(r->n_blocks, sizeof *r->blocks);
    if (!r->blocks) r->n_blocks = 0; /* a report is not worth a failed run */
    for (int64_t l = 0; l < r->n_blocks; l++) {
        const qni_block_report *b = &c->block_reports[l];
        r->blocks[l] = (qn_tuning_row){.steps = b->tune.steps,
                                       .best_step = b->tune.best_step,
                                       .first_loss = b->tune.first_loss,
                                       .best_loss = b->tune.best_loss,
                                       .first_kl = b->fitted_kl,
                                       .best_kl = b->trained_kl,
                                       .was_trap = b->was_trap,
                                       .diverged = b->tune.diverged};
    }
}

static qn_status prepare(qni_job *job, qn_error *err) {
    bands *b = job->state;
    QN_TRY(begin_store(job, b, err));
    QN_TRY(qni_calibrated_keep_loss(&b->calibrated, job->ctx, err));
    if (b->start) QN_TRY(qni_start_fill(b->start, job->teacher, &b->store, job->ctx, err));
    QN_TRY(qni_calibrated_run(&b->calibrated, &b->store, job->ctx, err));
    QN_TRY(take_vectors(job, b, err));
    take_reports(job, &b->calibrated);
    for (int64_t i = 0, row = 0; i < job->layout->n; i++)
        if (job->layout->entries[i].is_matrix)
            job->result.plan[row++].relative_error = b->calibrated.relative_errors[i];
    return QN_OK;
}

static qn_status provide(void *user, int64_t entry, qn_encoded *out, qn_error *err) {
    const qni_job *job = user;
    const bands *b = job->state;
    bool found = false;
    const char *name = job->layout->entries[entry].name;
    QN_TRY(qn_check_cancelled(job->ctx, err));
    const qni_run_stage stage = qni_last_stage(job->options->recipe, job->layout->entries[entry].layer);
    QN_TRY(qni_matrix_store_load(&b->store, stage, entry, name, &b->calibrated.shapes[entry], &found, out,
                                 NULL, err));
    return found ? QN_OK : qn_fail(err, QN_E_IO, "%s: %s has gone", b->store.folder, name);
}

static void release(qni_job *job) {
    bands *b = job->state;
    if (!b) return;
    if (b->own_folder) qn_folder_abandon(b->own_folder);
    free(b->own_folder);
    for (int64_t i = 0; i < b->n_vectors; i++) free(b->vectors[i]);
    free(b->vectors);
    qn_checkpoint_close(b->start);
    qni_calibrated_close(&b->calibrated);
    free(b);
    job->state = NULL;
}

const qni_way qni_way_bands = {plan, prepare, provide, release};
