#include "fit/tuning.h"

#include "base/alloc.h"
#include "quern/base/rng.h"
#include "quern/fit/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { RNG_PURPOSE = 0x74756e65 }; /* "tune" */

/* ---- sequences ---- */

void qni_holdout_release(qni_holdout *holdout) {
    free(holdout->train);
    free(holdout->validation);
    *holdout = (qni_holdout){0};
}

static qn_status check_options(const qn_tune_options *o, qn_error *err) {
    if (o->steps < 0 || o->batch < 1 || !(o->lr > 0) || !(o->temperature >= 0) ||
        !(o->soft_part >= 0 && o->soft_part <= 1) || !(o->validation_part >= 0 && o->validation_part < 1) ||
        o->validations < 0 || o->patience < 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%lld steps of %lld sequences at rate %g, temperature %g for %g of the steps, %g held "
                       "back for %lld validations, patience %lld: these make no run",
                       (long long)o->steps, (long long)o->batch, o->lr, o->temperature, o->soft_part,
                       o->validation_part, (long long)o->validations, (long long)o->patience);
    return QN_OK;
}

static qn_status check_amount(const qn_sequences *sequences, int64_t n_validation, const qn_tune_options *o,
                              qn_error *err) {
    const int64_t needed = n_validation + o->batch, n_tokens = sequences->starts[sequences->n];
    if (sequences->n >= needed) return QN_OK;
    const int64_t longest = sequences->n > 0 ? (n_tokens + sequences->n - 1) / sequences->n : 0;
    return qn_fail(err, QN_E_VALUE,
                   "too little calibration text: %lld sequences (%lld tokens) where a batch of %lld and %lld "
                   "held back for validation need %lld; give at least %lld tokens or a smaller batch",
                   (long long)sequences->n, (long long)n_tokens, (long long)o->batch, (long long)n_validation,
                   (long long)needed, (long long)(needed * longest));
}

qn_status qni_holdout_make(const qn_sequences *sequences, const qn_tune_options *o, qni_holdout *out,
                           qn_error *err) {
    qni_holdout holdout = {0};
    const int64_t n = sequences->n;
    QN_TRY(check_options(o, err));
    int64_t held = (int64_t)ceil(o->validation_part * (double)n);
    if (held > n) held = n;
    QN_TRY(check_amount(sequences, held, o, err));
    holdout.train = qni_alloc_array(n, sizeof *holdout.train);
    holdout.validation = qni_alloc_array(n, sizeof *holdout.validation);
    if (!holdout.train || !holdout.validation) {
        qni_holdout_release(&holdout);
        return qni_fail_nomem(err, "the sequences of a run");
    }
    for (int64_t i = 0; i < n; i++) {
        if (held > 0 && i * held / n != (i + 1) * held / n) /* the last of each of `held` equal parts */
            holdout.validation[holdout.n_validation++] = i;
        else
            holdout.train[holdout.n_train++] = i;
    }
    *out = holdout;
    return QN_OK;
}

void qni_batch_release(qni_batch *batch) {
    free(batch->ids);
    free(batch->starts);
    *batch = (qni_batch){0};
}

qn_status qni_batch_gather(const qn_sequences *sequences, const int64_t *list, int64_t n, qni_batch *out,
                           qn_error *err) {
    qni_batch batch = {.n = n};
    QN_TRY(QNI_ALLOC(batch.starts, n + 1, "a batch", err));
    batch.starts[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t *from = &sequences->starts[list[i]];
        batch.starts[i + 1] = batch.starts[i] + from[1] - from[0];
    }
    batch.n_tokens = batch.starts[n];
    batch.ids = qni_alloc_array(batch.n_tokens, sizeof *batch.ids);
    if (!batch.ids) {
        qni_batch_release(&batch);
        return qni_fail_nomem(err, "a batch");
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(batch.ids + batch.starts[i], sequences->ids + sequences->starts[list[i]],
               (size_t)(batch.starts[i + 1] - batch.starts[i]) * sizeof *batch.ids);
    *out = batch;
    return QN_OK;
}

/* ---- the loop ---- */

typedef struct tuning {
    qn_trainable *t;
    const qni_tuned_loss *loss;
    const qni_holdout *holdout;
    const qn_tune_options *options;
    const qn_context *ctx;
    qn_schedule schedule;
    int64_t *order; /* owned [n_train]: of the epoch */
    int64_t *list;  /* owned [batch] */
    int64_t epoch;  /* of the order; -1: none yet */
    qn_trainable_mark mark;
} tuning;

qn_status qni_measure(qn_trainable *t, const qni_tuned_loss *loss, const int64_t *list, int64_t n,
                      int64_t batch, const qn_context *ctx, double *mean, qn_error *err) {
    double sum = 0.0, units = 0.0;
    qn_trainable_evaluate(t, 0.0, ctx);
    for (int64_t i = 0; i < n; i += batch) {
        QN_TRY(qn_check_cancelled(ctx, err));
        QN_TRY(loss->find(loss->user, list + i, n - i < batch ? n - i : batch, NULL, &sum, &units, err));
    }
    *mean = units > 0.0 ? sum / units : 0.0;
    return QN_OK;
}

static qn_status shuffle(tuning *r, int64_t epoch, qn_error *err) {
    int64_t *turns = qni_alloc_array(r->holdout->n_train, sizeof *turns);
    qn_rng rng;
    if (!turns) return qni_fail_nomem(err, "an order of sequences");
    qn_rng_seed_stream(&rng, r->options->seed, RNG_PURPOSE, (uint32_t)epoch);
    qn_rng_permutation(&rng, r->holdout->n_train, turns);
    for (int64_t i = 0; i < r->holdout->n_train; i++) r->order[i] = r->holdout->train[turns[i]];
    free(turns);
    r->epoch = epoch;
    return QN_OK;
}

/* The sequences of a step: a function of its number alone. */
static qn_status draw(tuning *r, int64_t step, qn_error *err) {
    for (int64_t i = 0; i < r->options->batch; i++) {
        const int64_t turn = step * r->options->batch + i, epoch = turn / r->holdout->n_train;
        if (epoch != r->epoch) QN_TRY(shuffle(r, epoch, err));
        r->list[i] = r->order[turn % r->holdout->n_train];
    }
    return QN_OK;
}

static double temperature_at(const qn_tune_options *o, int64_t step) {
    const double soft_steps = o->soft_part * (double)o->steps;
    return (double)step < soft_steps ? o->temperature * (1.0 - (double)step / soft_steps) : 0.0;
}

static qn_status take_step(tuning *r, int64_t step, qn_error *err) {
    static const qn_adamw_options adamw = {
        .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-12}; /* tiny: the gradients' size means nothing here */
    const double temperature = temperature_at(r->options, step);
    double sum = 0.0, units = 0.0;
    QN_TRY(draw(r, step, err));
    qn_trainable_evaluate(r->t, temperature, r->ctx);
    qn_gradients_renew(&r->t->gradients);
    QN_TRY(r->loss->find(r->loss->user, r->list, r->options->batch, &r->t->gradients, &sum, &units, err));
    return qn_trainable_step(r->t, temperature, &adamw, qn_schedule_rate(&r->schedule, step), step + 1,
                             r->ctx, err);
}

/* That a run does in its first STEP steps. */
static int64_t validations_by(const qn_tune_options *o, int64_t step) {
    return step * o->validations / o->steps;
}

static bool is_patient(const tuning *r) {
    const qn_tune_options *o = r->options;
    if (o->patience == 0 || r->holdout->n_validation == 0) return true;
    return validations_by(o, r->mark.step) - validations_by(o, r->mark.best_step) < o->patience;
}

/* After STEP steps, where the run's plan says so. */
static qn_status validate(tuning *r, int64_t step, qn_error *err) {
    const qn_tune_options *o = r->options;
    if (r->holdout->n_validation == 0 || validations_by(o, step) == validations_by(o, step - 1)) return QN_OK;
    double mean = 0.0;
    QN_TRY(qni_measure(r->t, r->loss, r->holdout->validation, r->holdout->n_validation, o->batch, r->ctx,
                       &mean, err));
    if (!(mean < r->mark.best_loss)) return QN_OK;
    r->mark.best_loss = mean;
    r->mark.best_step = step;
    return qn_trainable_keep(r->t, err);
}

static qn_status save(tuning *r, qn_error *err) {
    return qn_trainable_save(r->t, r->options->state_path, &r->mark, true, err);
}

static qn_status take_up(tuning *r, qn_error *err) {
    bool found = false;
    if (!r->options->state_path) return QN_OK;
    return qn_trainable_load(r->t, r->options->state_path, &r->mark, true, &found, err);
}

static qn_status run_steps(tuning *r, qn_error *err) {
    const qn_tune_options *o = r->options;
    while (r->mark.step < o->steps && is_patient(r)) {
        const bool may_save = o->state_path && o->save_every > 0;
        qn_status status = qn_check_cancelled(r->ctx, err);
        if (status != QN_OK) { /* what was done is kept; a full disk says so instead */
            if (may_save) QN_TRY(save(r, err));
            return status;
        }
        QN_TRY(take_step(r, r->mark.step, err));
        r->mark.step++;
        QN_TRY(validate(r, r->mark.step, err));
        qn_report_progress(r->ctx, o->label ? o->label : "distil", (uint64_t)r->mark.step,
                           (uint64_t)o->steps);
        if (may_save && r->mark.step % o->save_every == 0 && r->mark.step < o->steps) QN_TRY(save(r, err));
    }
    return QN_OK;
}

/* A loss or a gradient that is not finite ends the run, not the caller's work. */
static qn_status finish(tuning *r, qn_status status, qn_tune_report *out, qn_error *err) {
    out->diverged = status == QN_E_VALUE;
    if (status != QN_OK && !out->diverged) return status;
    if (out->diverged)
        qn_log(r->ctx, QN_LOG_WARNING, "stopped after step %lld: %s", (long long)r->mark.step,
               err ? err->message : "a value is not finite");
    if (r->holdout->n_validation > 0 || out->diverged) qn_trainable_restore(r->t);
    out->first_loss = r->mark.first_loss;
    out->best_loss = r->mark.best_loss;
    out->best_step = r->holdout->n_validation > 0 ? r->mark.best_step : out->diverged ? 0 : r->mark.step;
    out->steps = r->mark.step;
    return QN_OK;
}

static qn_status prepare(tuning *r, double first_loss, qn_error *err) {
    const qn_tune_options *o = r->options;
    r->schedule = (qn_schedule){.kind = QN_SCHEDULE_COSINE,
                                .peak = o->lr,
                                .min_ratio = o->min_lr_ratio,
                                .warmup_steps = o->warmup_steps < o->steps ? o->warmup_steps : 0,
                                .total_steps = o->steps > 0 ? o->steps : 1};
    r->mark =
        (qn_trainable_mark){.key = o->key ? o->key : "", .first_loss = first_loss, .best_loss = first_loss};
    QN_TRY(qn_schedule_check(&r->schedule, err));
    QN_TRY(QNI_ALLOC(r->order, r->holdout->n_train, "an order of sequences", err));
    QN_TRY(QNI_ALLOC(r->list, o->batch, "a batch", err));
    QN_TRY(qn_trainable_keep(r->t, err));
    return take_up(r, err);
}

qn_status qni_tune(qn_trainable *t, const qni_tuned_loss *loss, const qni_holdout *holdout, double first_loss,
                   const qn_tune_options *options, const qn_context *ctx, qn_tune_report *out,
                   qn_error *err) {
    tuning r = {.t = t, .loss = loss, .holdout = holdout, .options = options, .ctx = ctx, .epoch = -1};
    qn_tune_report report = {.n_train = holdout->n_train, .n_validation = holdout->n_validation};
    qn_error own = {0};
    qn_status status = prepare(&r, first_loss, err);
    if (status == QN_OK) {
        status = finish(&r, run_steps(&r, &own), &report, &own);
        if (status != QN_OK && err) *err = own;
    }
    free(r.order);
    free(r.list);
    if (status == QN_OK) {
        qn_trainable_evaluate(t, 0.0, ctx);
        *out = report;
    }
    return status;
}

void qni_mark_report(const qn_tune_report *report, qn_trainable_mark *mark) {
    mark->step = report->steps;
    mark->best_step = report->best_step;
    mark->first_loss = report->first_loss;
    mark->best_loss = report->best_loss;
    mark->diverged = report->diverged;
}

qn_tune_report qni_marked_report(const qn_trainable_mark *mark) {
    return (qn_tune_report){.steps = mark->step,
                            .best_step = mark->best_step,
                            .first_loss = mark->first_loss,
                            .best_loss = mark->best_loss,
                            .diverged = mark->diverged};
}
