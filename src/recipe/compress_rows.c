/* The data-free way: whole rows in the native code, the best of them rescued in q4. */
#include "base/alloc.h"
#include "quern/fit/rowmix.h"
#include "quern/fit/second_moments.h"
#include "recipe/compress_job.h"
#include "recipe/row_budget.h"
#include "recipe/work.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

typedef struct rows {
    qn_rowmix_options rowmix;
    qn_second_moments moments;
    qn_sensitivity sensitivity;
    qn_rescue_choice choice;
    qn_encoded *shapes;    /* [layout.n] of the matrices, as planned */
    qni_row_budget budget; /* borrows from the above */
} rows;

static qn_status fail_budget(const qni_job *job, const rows *j, qn_error *err) {
    const int group_size = j->rowmix.native.group_size;
    char setting[80], columns[40];
    snprintf(columns, sizeof columns, group_size ? "%d columns" : "row", group_size);
    snprintf(setting, sizeof setting, "%s codes with one fp16 scale per %s",
             qn_code_name(j->rowmix.native.code), columns);
    return qni_fail_budget(job, job->result.minimum_bytes, setting, group_size ? ", a larger group_size" : "",
                           err);
}

/* Chooses the group size, and the size of the file. */
static qn_status size_file(qni_job *job, rows *j, qn_error *err) {
    const qn_recipe *recipe = job->options->recipe;
    qn_compress_result *r = &job->result;
    int64_t group_size = recipe->group_size;

    do {
        j->rowmix.native.group_size = (int32_t)group_size;
        QN_TRY(qni_row_budget_need(&j->budget, NULL, &r->minimum_bytes, err));
        if (r->minimum_bytes <= r->budget_bytes || !recipe->automatic_groups) break;
        group_size = qn_recipe_coarser_group(group_size);
    } while (group_size >= 0);
    if (r->minimum_bytes > r->budget_bytes) return fail_budget(job, j, err);
    QN_TRY(qni_row_budget_size(&j->budget, r->budget_bytes, err));
    r->native = j->rowmix.native;
    r->bytes = j->budget.file_bytes;
    r->rescued_parameters = j->budget.max_weights;
    return QN_OK;
}

static qn_status plan(qni_job *job, qn_error *err) {
    rows *j = qni_alloc_array(1, sizeof *j);
    if (!j) return qni_fail_nomem(err, "the state of a run");
    job->state = j;
    j->shapes = qni_alloc_array(job->layout->n, sizeof *j->shapes);
    if (!j->shapes) return qni_fail_nomem(err, "the shapes of matrices");
    j->rowmix = (qn_rowmix_options){
        .native = {.code = job->options->profile->track == QN_TRACK_BINARY ? QN_CODE_SIGN : QN_CODE_TERNARY},
        .rescue = {.code = QN_CODE_Q4, .group_size = 128},
        .rule = job->options->recipe->rule};
    j->budget = (qni_row_budget){.plan = job->plan,
                                 .layout = job->layout,
                                 .rowmix = &j->rowmix,
                                 .shapes = j->shapes,
                                 .max_weights = job->max_rescued_weights};
    return size_file(job, j, err);
}

/* The error of every row in both codes: measured, or taken from the work folder of a run that was stopped. */
static qn_status measure_rows(const qni_job *job, rows *j, qn_error *err) {
    const qn_compress_options *o = job->options;
    if (!o->work) return qn_sensitivity_measure(job->source, &j->rowmix, job->ctx, &j->sensitivity, err);
    char key[QN_SHA256_HEX];
    bool found = false;
    QN_TRY(qni_work_key(o, &j->rowmix, job->source, job->ctx, key, err));
    if (o->resume) QN_TRY(qni_work_load(o->work, key, job->source, &j->rowmix, &found, &j->sensitivity, err));
    if (found) return QN_OK;
    QN_TRY(qn_sensitivity_measure(job->source, &j->rowmix, job->ctx, &j->sensitivity, err));
    return qni_work_save(o->work, key, job->source, &j->sensitivity, err);
}

static qn_status prepare(qni_job *job, qn_error *err) {
    rows *j = job->state;
    if (job->options->work) QN_TRY(qni_work_begin(job->options, err));
    if (job->options->second_moments) {
        QN_TRY(qn_second_moments_load(job->options->second_moments, job->source, job->ctx, &j->moments, err));
        j->rowmix.moments = &j->moments;
    }
    if (j->budget.max_weights > 0) {
        QN_TRY(measure_rows(job, j, err));
        QN_TRY(qni_row_budget_choose(&j->budget, &j->sensitivity, &j->choice, err));
    }
    return qn_artifact_plan_fix(job->plan, j->shapes, j->budget.file_bytes, err);
}

static const uint8_t *rescued_rows_of(const rows *j, int64_t entry) {
    for (int64_t t = 0; t < j->choice.n; t++)
        if (j->sensitivity.tensors[t].entry == entry) return j->choice.rescued[t];
    return NULL;
}

static qn_status provide(void *user, int64_t entry, qn_encoded *out, qn_error *err) {
    const qni_job *job = user;
    const rows *j = job->state;
    const qn_layout *layout = job->layout;
    QN_TRY(qn_check_cancelled(job->ctx, err));
    qn_report_progress(job->ctx, "encode", (uint64_t)entry, (uint64_t)layout->n);
    return qn_rowmix_encode(qn_checkpoint_weight(job->source, entry), layout->entries[entry].name, &j->rowmix,
                            qn_second_moments_of(j->rowmix.moments, entry), rescued_rows_of(j, entry),
                            job->ctx, out, err);
}

static void release(qni_job *job) {
    rows *j = job->state;
    if (!j) return;
    free(j->shapes);
    qn_rescue_choice_release(&j->choice);
    qn_sensitivity_release(&j->sensitivity);
    qn_second_moments_release(&j->moments);
    free(j);
    job->state = NULL;
}

const qni_way qni_way_rows = {plan, prepare, provide, release};
