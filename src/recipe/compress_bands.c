/* The calibrated way: bands of lines, fitted on a walk of the student through calibration text. */
#include "base/alloc.h"
#include "base/aside.h"
#include "quern/base/writer.h"
#include "quern/tensor/isa.h"
#include "recipe/calibrated.h"
#include "recipe/compress_job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

typedef struct bands {
    qni_calibrated calibrated;
    qni_matrix_store store;
    char *own_folder; /* owned: of a run that was given no work folder, removed with it */
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

static qn_status plan(qni_job *job, qn_error *err) {
    qn_compress_result *r = &job->result;
    bands *b = qni_alloc_array(1, sizeof *b);
    if (!b) return qni_fail_nomem(err, "the state of a run");
    job->state = b;
    QN_TRY(qn_checkpoint_check_finite(job->source, job->ctx, err));
    QN_TRY(qni_calibrated_open(job->options, job->teacher, job->ctx, &b->calibrated, err));
    const qn_status status = qni_calibrated_plan(&b->calibrated, job->plan, r->budget_bytes,
                                                 job->max_rescued_weights, &r->minimum_bytes, err);
    if (status == QN_E_BUDGET) return fail_budget(job, r->minimum_bytes, err);
    QN_TRY(status);
    r->bytes = r->budget_bytes;
    r->native = (qn_codec){job->options->profile->track == QN_TRACK_BINARY ? QN_CODE_SIGN : QN_CODE_TERNARY,
                           (int32_t)job->options->recipe->group_size, job->options->recipe->scales};
    count_rescued(job, &b->calibrated);
    QN_TRY(show_plan(job, &b->calibrated, err));
    return qn_artifact_plan_fix(job->plan, b->calibrated.shapes, r->bytes, err);
}

/* Everything that decides the bytes of a matrix. */
static qn_status make_key(const qni_job *job, const bands *b, char key[QN_SHA256_HEX], qn_error *err) {
    char weights[QN_SHA256_HEX], ids[QN_SHA256_HEX], text[768];
    const qn_calibration_text *calibration = &b->calibrated.text;
    qn_isa isa;
    QN_TRY(qn_isa_select(&isa, err));
    QN_TRY(qn_checkpoint_sha256(job->source, job->ctx, weights, err));
    QN_TRY(qn_sha256_of_memory(calibration->ids,
                               (size_t)(calibration->n * calibration->context) * sizeof *calibration->ids,
                               ids, err));
    const int n = snprintf(text, sizeof text,
                           "quern bands 1\nweights %s\nrecipe %s\ntrack %s\ntokens %s\nbytes %lld\nrescued "
                           "%lld\nseed %llu\nisa %s\n",
                           weights, job->options->recipe->sha256, qn_track_name(job->options->profile->track),
                           ids, (long long)job->result.bytes, (long long)job->max_rescued_weights,
                           (unsigned long long)job->options->seed, qn_isa_name(isa));
    return qn_sha256_of_memory(text, (size_t)n, key, err);
}

static qn_status begin_store(const qni_job *job, bands *b, qn_error *err) {
    const char *work = job->options->work;
    QN_TRY(make_key(job, b, b->store.key, err));
    if (work) {
        if (mkdir(work, 0777) != 0 && errno != EEXIST)
            return qn_fail_errno(err, "cannot make the work folder %s", work);
        b->store.folder = work;
        if (job->options->resume || !qni_matrix_store_is_used(&b->store, job->layout)) return QN_OK;
        return qn_fail(
            err, QN_E_ARGUMENT,
            "work folder %s holds a run already: give --resume to go on with it, or another folder", work);
    }
    QN_TRY(qni_aside_folder(job->options->output, &b->own_folder, err));
    b->store.folder = b->own_folder;
    return QN_OK;
}

static qn_status prepare(qni_job *job, qn_error *err) {
    bands *b = job->state;
    QN_TRY(begin_store(job, b, err));
    QN_TRY(qni_calibrated_run(&b->calibrated, &b->store, job->ctx, err));
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
    QN_TRY(qni_matrix_store_load(&b->store, QNI_STAGE_FITTED, entry, name, &b->calibrated.shapes[entry],
                                 &found, out, NULL, err));
    return found ? QN_OK : qn_fail(err, QN_E_IO, "%s: %s has gone", b->store.folder, name);
}

static void release(qni_job *job) {
    bands *b = job->state;
    if (!b) return;
    if (b->own_folder) qn_folder_abandon(b->own_folder);
    free(b->own_folder);
    qni_calibrated_close(&b->calibrated);
    free(b);
    job->state = NULL;
}

const qni_way qni_way_bands = {plan, prepare, provide, release};
