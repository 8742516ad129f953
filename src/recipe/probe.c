#include "recipe/probe.h"

#include "base/alloc.h"
#include "quern/model/compare.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static qn_status prepare(qni_probe *p, qn_error *err) {
    const int64_t h = qn_model_config(p->teacher)->hidden_size;
    p->n_tokens = p->sequences.starts[p->sequences.n];
    QN_TRY(QNI_ALLOC(p->stream, p->n_tokens * h, "the stream of a probe", err));
    QN_TRY(QNI_ALLOC(p->scratch, p->n_tokens * h, "the stream of a probe", err));
    QN_TRY(qn_stepper_open(p->student, &p->sequences, p->compute, p->ctx, &p->stepper, err));
    return qn_stepper_embed(p->stepper, p->stream, err);
}

qn_status qni_probe_open(const qn_model *teacher, qn_model *student, const qn_sequences *sequences,
                         qn_compute compute, const qn_context *ctx, qni_probe *out, qn_error *err) {
    qni_probe p = {
        .teacher = teacher, .student = student, .sequences = *sequences, .ctx = ctx, .compute = compute};
    const qn_status status = prepare(&p, err);
    if (status == QN_OK)
        *out = p;
    else
        qni_probe_close(&p);
    return status;
}

void qni_probe_close(qni_probe *p) {
    qn_stepper_close(p->stepper);
    free(p->stream);
    free(p->scratch);
    free(p->teacher_hidden);
    *p = (qni_probe){0};
}

/* scratch = the student's stream behind the final norm. */
static qn_status walk_to_head(qni_probe *p, int64_t layer, qn_error *err) {
    const qn_config *config = qn_model_config(p->student);
    memcpy(p->scratch, p->stream, (size_t)(p->n_tokens * config->hidden_size) * sizeof *p->scratch);
    for (int64_t l = layer; l < config->n_layers; l++)
        QN_TRY(qn_stepper_block(p->stepper, l, p->scratch, err));
    return qn_stepper_norm(p->stepper, p->scratch, err);
}

static qn_status walk_teacher(qni_probe *p, qn_error *err) {
    const qn_context quiet = {.n_threads = qn_context_threads(p->ctx)};
    const qn_walk_options options = {.compute = p->compute};
    if (p->teacher_hidden) return QN_OK;
    QN_TRY(QNI_ALLOC(p->teacher_hidden, p->n_tokens * qn_model_config(p->teacher)->hidden_size,
                     "the stream of a probe", err));
    const qn_status status =
        qn_walk(p->teacher, &p->sequences, &options, &quiet, p->teacher_hidden, NULL, err);
    if (status != QN_OK) {
        free(p->teacher_hidden);
        p->teacher_hidden = NULL;
    }
    return status;
}

/* The student's head is the teacher's own until it is compressed: one yardstick for all blocks. */

qn_status qni_probe_kl(qni_probe *p, int64_t layer, double *kl_nats, qn_error *err) {
    QN_TRY(walk_teacher(p, err));
    QN_TRY(walk_to_head(p, layer, err));
    return qn_head_kl(p->teacher, p->teacher_hidden, p->teacher, p->scratch, p->n_tokens, QN_COMPUTE_F32,
                      p->ctx, kl_nats, err);
}

qn_status qni_probe_nats(qni_probe *p, const qni_window_batch *batch, int64_t layer, double *nats,
                         qn_error *err) {
    const int64_t n = batch->n_targets;
    double *nll = NULL, sum = 0.0;
    QN_TRY(walk_to_head(p, layer, err));
    qni_window_batch_keep_predictors(batch, qn_model_config(p->teacher)->hidden_size, p->scratch);
    QN_TRY(QNI_ALLOC(nll, n, "losses", err));
    const qn_status status =
        qn_head_nll(p->teacher, p->scratch, batch->targets, n, QN_COMPUTE_F32, p->ctx, nll, NULL, err);
    for (int64_t i = 0; i < n && status == QN_OK; i++) sum += nll[i];
    free(nll);
    if (status == QN_OK) *nats = sum / (double)n;
    return status;
}

qn_status qni_probe_pass(qni_probe *p, int64_t layer, qn_error *err) {
    return qn_stepper_block(p->stepper, layer, p->stream, err);
}
