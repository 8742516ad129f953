#include "quern/recipe/control.h"

#include "base/alloc.h"
#include "base/aside.h"
#include "checkpoint/dense_write.h"
#include "quern/base/writer.h"
#include "recipe/calibrated.h"
#include "recipe/model_tuning.h"
#include "recipe/run_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/banned.h"

typedef struct control {
    const qn_compress_options *options;
    const qn_context *ctx;
    qn_model *teacher, *student;
    const qn_layout *layout;
    qn_calibration_text text;
    qni_matrix_store store;
    char *own_folder; /* owned: of a run that was given no work folder, removed with it */
    qn_trainable t;
} control;

static qn_status make_set(control *c, const qn_trainable_rates *rates, qn_error *err) {
    QN_TRY(qn_trainable_init(c->layout, &c->t, err));
    for (int64_t i = 0; i < c->layout->n; i++) {
        const qn_weight *w = qn_model_weight(c->teacher, i);
        QN_TRY(c->layout->entries[i].is_matrix ? qn_trainable_add_dense(&c->t, i, w, err)
                                               : qn_trainable_add_vector(&c->t, i, w, err));
    }
    return qn_trainable_seal(&c->t, rates, err);
}

static qn_status make_key(control *c, qn_error *err) {
    char weights[QN_SHA256_HEX], line[384];
    QN_TRY(qn_checkpoint_sha256(qn_model_checkpoint(c->teacher), c->ctx, weights, err));
    const int n =
        snprintf(line, sizeof line, "quern control 1\nweights %s\nrecipe %s\ntext %s\nseed %llu\n", weights,
                 c->options->recipe->sha256, c->text.sha256, (unsigned long long)c->options->seed);
    return qn_sha256_of_memory(line, (size_t)n, c->store.keys[QNI_STAGE_TUNED], err);
}

static qn_status open_work(control *c, qn_error *err) {
    const char *work = c->options->work;
    if (work && mkdir(work, 0777) != 0 && errno != EEXIST)
        return qn_fail_errno(err, "cannot make the work folder %s", work);
    if (!work) QN_TRY(qni_aside_folder(c->options->output, &c->own_folder, err));
    c->store.folder = work ? work : c->own_folder;
    return QN_OK;
}

static qn_status write_model(const control *c, qn_error *err) {
    const qn_weight **weights = qni_alloc_array(c->layout->n, sizeof *weights);
    char *temporary = NULL;
    if (!weights) return qni_fail_nomem(err, "the list of weights");
    for (int64_t i = 0; i < c->t.n_parts; i++) weights[c->t.parts[i].entry] = &c->t.parts[i].weight;
    const qni_dense dense = {.config = qn_model_config(c->teacher),
                             .layout = c->layout,
                             .weights = weights,
                             .companions = qn_checkpoint_store(qn_model_checkpoint(c->teacher)),
                             .dtype = QN_DTYPE_F32};
    qn_status status = qn_folder_begin(c->options->output, &temporary, err);
    if (status == QN_OK) {
        status = qni_dense_write(&dense, temporary, c->ctx, err);
        if (status == QN_OK) status = qn_folder_commit(temporary, c->options->output, err);
        if (status != QN_OK) qn_folder_abandon(temporary);
    }
    free(temporary);
    free(weights);
    return status;
}

static qn_status run(control *c, qn_tuning_row *out, qn_error *err) {
    const qn_compress_options *o = c->options;
    const qni_model_tuning tuning = qni_model_tuning_of(o->recipe, o->seed);
    qn_tune_report report = {0};
    QN_TRY(qn_model_open(o->model, &c->teacher, err));
    QN_TRY(qn_model_open(o->model, &c->student, err));
    c->layout = qn_checkpoint_layout(qn_model_checkpoint(c->teacher));
    QN_TRY(qni_run_text(o, qn_model_config(c->teacher), o->recipe->finetune.tokens, c->ctx, &c->text, err));
    QN_TRY(make_set(c, &tuning.rates, err));
    QN_TRY(make_key(c, err));
    QN_TRY(open_work(c, err));
    const qn_sequences sequences = qn_calibration_sequences(&c->text);
    const qni_model_job job = {.tuning = &tuning,
                               .compute = QN_COMPUTE_F32,
                               .teacher = c->teacher,
                               .student = c->student,
                               .sequences = &sequences,
                               .store = &c->store};
    QN_TRY(qni_tune_set(&job, &c->t, c->ctx, &report, err));
    QN_TRY(write_model(c, err));
    qni_forget_training(&c->store);
    *out = (qn_tuning_row){.steps = report.steps,
                           .best_step = report.best_step,
                           .first_loss = report.first_loss,
                           .best_loss = report.best_loss,
                           .diverged = report.diverged};
    return QN_OK;
}

qn_status qn_tune_control(const qn_compress_options *options, const qn_context *ctx, qn_tuning_row *out,
                          qn_error *err) {
    control c = {.options = options, .ctx = ctx};
    if (options->recipe->finetune.steps == 0)
        return qn_fail(err, QN_E_ARGUMENT, "recipe '%s' does not tune the whole model: there is no control",
                       options->recipe->name);
    const qn_status status = run(&c, out, err);
    qn_trainable_release(&c.t);
    qn_calibration_text_release(&c.text);
    qn_model_close(c.student);
    qn_model_close(c.teacher);
    if (c.own_folder) qn_folder_abandon(c.own_folder);
    free(c.own_folder);
    return status;
}
