#include "quern/model/compare.h"

#include "base/alloc.h"
#include "base/smaller.h"
#include "model/pass.h"
#include "model/walk_stage.h"
#include "model/window_batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { BASE, CANDIDATE, N_SIDES };

typedef struct side {
    const qn_model *model;
    int64_t h;
    float *hidden; /* owned [tokens, h] */
    float *logits; /* owned [chunk, V] */
} side;

typedef struct compare_job {
    side sides[N_SIDES];
    const qn_context *ctx;
    qn_compute compute;
    qni_stage stage;
    qni_window_batch batch;
    int64_t chunk_tokens;
    qni_comparison_row *rows; /* owned [tokens] */
    double *differences;      /* owned [n_windows] */
    double base_total, kl_total;
    int64_t n_agreeing;
} compare_job;

static void release(compare_job *job) {
    for (int i = 0; i < N_SIDES; i++) {
        free(job->sides[i].hidden);
        free(job->sides[i].logits);
    }
    qni_window_batch_release(&job->batch);
    free(job->rows);
    free(job->differences);
}

static qn_status check_vocabularies(const qn_model *base, const qn_model *candidate, qn_error *err) {
    const int64_t a = qn_model_config(base)->vocab_size, b = qn_model_config(candidate)->vocab_size;
    if (a == b) return QN_OK;
    return qn_fail(
        err, QN_E_SHAPE,
        "the candidate's vocabulary of %lld is not the base's of %lld: only models of one vocabulary can "
        "be compared token by token",
        (long long)b, (long long)a);
}

static qn_status allocate_side(const compare_job *job, side *s, int64_t vocab, qn_error *err) {
    int64_t floats;
    if (!qni_multiply_i64(job->batch.max_tokens, s->h, &floats)) return qni_fail_nomem(err, "hidden states");
    QN_TRY(QNI_ALLOC(s->hidden, floats, "hidden states", err));
    return QNI_ALLOC(s->logits, job->chunk_tokens * vocab, "logits", err);
}

static qn_status prepare(compare_job *job, const qn_windows *windows, qn_error *err) {
    const qn_config *base = qn_model_config(job->sides[BASE].model),
                    *candidate = qn_model_config(job->sides[CANDIDATE].model);
    const int64_t a = qni_window_batch_budget(base), b = qni_window_batch_budget(candidate);
    QN_TRY(qni_window_batch_open(windows, qni_min(a, b), &job->batch, err));
    job->chunk_tokens = qni_head_chunk_tokens(base->vocab_size);
    if (job->chunk_tokens > job->batch.max_tokens) job->chunk_tokens = job->batch.max_tokens;
    for (int i = 0; i < N_SIDES; i++) {
        job->sides[i].h = qn_model_config(job->sides[i].model)->hidden_size;
        QN_TRY(allocate_side(job, &job->sides[i], base->vocab_size, err));
    }
    QN_TRY(QNI_ALLOC(job->rows, job->batch.max_tokens, "losses", err));
    QN_TRY(QNI_ALLOC(job->differences, windows->n_windows, "window differences", err));
    const uint64_t layers = (uint64_t)base->n_layers + (uint64_t)candidate->n_layers;
    job->stage = (qni_stage){.name = "compare", .total = qni_window_batch_all_tokens(windows) * layers};
    return QN_OK;
}

/* Both heads over the batch's predictors. */
static qn_status compare_rows(const compare_job *job, const qni_pass *passes, qn_error *err) {
    const qni_window_batch *b = &job->batch;
    const side *sides = job->sides;
    for (int64_t first = 0, n; first < b->n_targets; first += n) {
        n = b->n_targets - first < job->chunk_tokens ? b->n_targets - first : job->chunk_tokens;
        QN_TRY(qn_check_cancelled(job->ctx, err));
        for (int i = 0; i < N_SIDES; i++)
            QN_TRY(qni_linear(&passes[i], sides[i].model->head, -1, sides[i].hidden + first * sides[i].h, 0,
                              n, sides[i].logits, err));
        const qni_compare_args args = {.base = sides[BASE].logits,
                                       .candidate = sides[CANDIDATE].logits,
                                       .m = n,
                                       .n = sides[BASE].model->config->vocab_size,
                                       .targets = b->targets + first,
                                       .rows = job->rows + first};
        passes[BASE].ops->compare(passes[BASE].ops, &args, passes[BASE].n_threads);
    }
    return QN_OK;
}

static qn_status run_heads(const compare_job *job, qn_error *err) {
    qni_pass passes[N_SIDES] = {0};
    qn_status status = QN_OK;
    for (int i = 0; i < N_SIDES && status == QN_OK; i++)
        status = qni_pass_open(&passes[i], job->sides[i].model, job->compute, job->ctx, err);
    if (status == QN_OK) status = compare_rows(job, passes, err);
    for (int i = 0; i < N_SIDES; i++) qni_pass_release(&passes[i]);
    return status;
}

static void add_rows(compare_job *job) {
    const qni_window_batch *b = &job->batch;
    const qni_comparison_row *row = job->rows;
    for (int64_t i = b->first; i < b->end; i++) {
        const int64_t n = qni_window_targets(b->windows, i);
        double difference = 0.0;
        for (int64_t t = 0; t < n; t++, row++) {
            difference += row->candidate_nats - row->base_nats;
            job->base_total += row->base_nats;
            job->kl_total += row->kl_nats;
            job->n_agreeing += row->same_top;
        }
        job->differences[i] = difference;
    }
}

static qn_status run_batch(compare_job *job, qn_error *err) {
    const qn_sequences sequences = qni_window_batch_sequences(&job->batch);
    const qn_walk_options options = {.compute = job->compute};
    for (int i = 0; i < N_SIDES; i++) {
        const side *s = &job->sides[i];
        QN_TRY(qni_walk(s->model, &sequences, &options, job->ctx, &job->stage, s->hidden, NULL, err));
        qni_window_batch_keep_predictors(&job->batch, s->h, s->hidden);
    }
    QN_TRY(run_heads(job, err));
    add_rows(job);
    return QN_OK;
}

/* The 97.5 % point of Student's distribution: exact to the third digit up to three degrees of freedom, then the first terms
 * of its expansion about the normal one (Abramowitz and Stegun 26.7.5), within 0.3 %. */
static double student_97_5(int64_t degrees) {
    static const double k_small[] = {12.706, 4.303, 3.182};
    const double z = 1.959963985, z2 = z * z, v = (double)degrees;
    if (degrees <= 3) return k_small[degrees - 1];
    return z + z * (z2 + 1) / (4 * v) + z * ((5 * z2 + 16) * z2 + 3) / (96 * v * v) +
           z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / (384 * v * v * v);
}

static void estimate_error(const qn_windows *windows, const double *differences, qn_comparison *c) {
    const double n_windows = (double)c->n_windows;
    double spread = 0.0, reach = HUGE_VAL;
    c->std_error = HUGE_VAL;
    if (c->n_windows > 1) {
        for (int64_t i = 0; i < c->n_windows; i++) {
            const double rest = differences[i] - (double)qni_window_targets(windows, i) * c->difference;
            spread += rest * rest;
        }
        c->std_error = sqrt(spread * n_windows / (n_windows - 1)) / (double)c->n_targets;
        reach = student_97_5(c->n_windows - 1) * c->std_error;
    }
    c->low = c->difference - reach;
    c->high = c->difference + reach;
}

static qn_comparison summarise(const compare_job *job, const qn_windows *windows) {
    qn_comparison c = {.n_windows = windows->n_windows};
    double total = 0.0;
    for (int64_t i = 0; i < windows->n_windows; i++) {
        total += job->differences[i];
        c.n_targets += qni_window_targets(windows, i);
    }
    const double n = (double)c.n_targets;
    c.difference = total / n;
    c.base_nats = job->base_total / n;
    c.candidate_nats = c.base_nats + c.difference;
    c.kl_nats = job->kl_total / n;
    c.agreement = (double)job->n_agreeing / n;
    estimate_error(windows, job->differences, &c);
    return c;
}

qn_status qn_compare(const qn_model *base, const qn_model *candidate, const qn_windows *windows,
                     qn_compute compute, const qn_context *ctx, double *window_differences,
                     qn_comparison *out, qn_error *err) {
    compare_job job = {.sides = {[BASE] = {.model = base}, [CANDIDATE] = {.model = candidate}},
                       .ctx = ctx,
                       .compute = compute};
    QN_TRY(check_vocabularies(base, candidate, err));
    qn_status status = prepare(&job, windows, err);
    while (status == QN_OK && qni_window_batch_next(&job.batch)) status = run_batch(&job, err);
    if (status == QN_OK) {
        qn_report_progress(ctx, job.stage.name, job.stage.done, job.stage.total);
        *out = summarise(&job, windows);
        if (window_differences)
            memcpy(window_differences, job.differences,
                   (size_t)windows->n_windows * sizeof *window_differences);
    }
    release(&job);
    return status;
}

static qn_verdict verdict_of(double nats) {
    return nats < -QN_BAND_NATS  ? QN_VERDICT_BETTER
           : nats > QN_BAND_NATS ? QN_VERDICT_WORSE
                                 : QN_VERDICT_WITHIN;
}

qn_verdict qn_comparison_verdict(const qn_comparison *c, bool *certain) {
    const qn_verdict verdict = verdict_of(c->difference);
    if (certain) *certain = verdict_of(c->low) == verdict && verdict_of(c->high) == verdict;
    return verdict;
}

const char *qn_verdict_name(qn_verdict verdict) {
    static const char *const k_names[] = {"better", "within", "worse"};
    return k_names[verdict];
}
