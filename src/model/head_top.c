#include "model/head_top.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define MASS_TOLERANCE                                                                                       \
    1e-3 /* far above what f32 log-probabilities round, far below what a mistake would give */

qn_status qn_teacher_rows_alloc(int64_t n, int64_t k, int64_t n_samples, qn_teacher_rows *out,
                                qn_error *err) {
    static const char what[] = "a teacher's largest probabilities";
    qn_teacher_rows rows = {.n = n, .k = k, .n_samples = n_samples};
    int64_t entries, samples;
    if (!qni_multiply_i64(n, k, &entries) || !qni_multiply_i64(n, n_samples, &samples))
        return qni_fail_nomem(err, what);
    qn_status status = QNI_ALLOC(rows.ids, entries, what, err);
    if (status == QN_OK) status = QNI_ALLOC(rows.log_probs, entries, what, err);
    if (status == QN_OK) status = QNI_ALLOC(rows.tail_log_prob, n, what, err);
    if (status == QN_OK) status = QNI_ALLOC(rows.sample_ids, samples, what, err);
    if (status == QN_OK) status = QNI_ALLOC(rows.sample_log_prob, n, what, err);
    if (status == QN_OK)
        *out = rows;
    else
        qn_teacher_rows_release(&rows);
    return status;
}

void qn_teacher_rows_release(qn_teacher_rows *rows) {
    free(rows->ids);
    free(rows->log_probs);
    free(rows->tail_log_prob);
    free(rows->sample_ids);
    free(rows->sample_log_prob);
    *rows = (qn_teacher_rows){0};
}

qn_teacher_top qn_teacher_rows_top(const qn_teacher_rows *rows, int64_t first) {
    return (qn_teacher_top){.ids = rows->ids + first * rows->k,
                            .log_probs = rows->log_probs + first * rows->k,
                            .tail_log_prob = rows->tail_log_prob + first,
                            .k = rows->k,
                            .n_samples = rows->n_samples,
                            .sample_ids = rows->sample_ids + first * rows->n_samples,
                            .sample_log_prob = rows->sample_log_prob + first};
}

qni_loss_top qni_top_pick(const qn_teacher_rows *rows, const qn_teacher_top *top, const int64_t *positions,
                          int64_t n) {
    const int64_t k = top->k, m = top->n_samples;
    for (int64_t i = 0; i < n; i++) {
        const int64_t from = positions[i];
        memcpy(rows->ids + i * k, top->ids + from * k, (size_t)k * sizeof *rows->ids);
        memcpy(rows->log_probs + i * k, top->log_probs + from * k, (size_t)k * sizeof *rows->log_probs);
        rows->tail_log_prob[i] = top->tail_log_prob[from];
        if (m == 0) continue;
        memcpy(rows->sample_ids + i * m, top->sample_ids + from * m, (size_t)m * sizeof *rows->sample_ids);
        rows->sample_log_prob[i] = top->sample_log_prob[from];
    }
    return (qni_loss_top){.ids = rows->ids,
                          .log_probs = rows->log_probs,
                          .tail_log_prob = rows->tail_log_prob,
                          .k = k,
                          .n_samples = m,
                          .sample_ids = rows->sample_ids,
                          .sample_log_prob = rows->sample_log_prob};
}

/* IDS [n] ascend within the vocabulary, each by STEP at least. */
static qn_status check_ids(const int32_t *ids, int64_t n, int64_t step, int64_t position, int64_t vocab,
                           qn_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return qn_fail(err, QN_E_VALUE,
                           "the teacher's id %d at position %lld is outside the vocabulary of %lld", ids[i],
                           (long long)position, (long long)vocab);
        if (i > 0 && ids[i] - ids[i - 1] < step)
            return qn_fail(err, QN_E_VALUE, "the teacher's ids at position %lld do not ascend: %d after %d",
                           (long long)position, ids[i], ids[i - 1]);
    }
    return QN_OK;
}

static qn_status check_samples(const qn_teacher_top *top, int64_t position, int64_t vocab, qn_error *err) {
    QN_TRY(check_ids(top->sample_ids + position * top->n_samples, top->n_samples, 0, position, vocab, err));
    const float mean = top->sample_log_prob[position];
    if (isfinite(mean)) return QN_OK;
    return qn_fail(err, QN_E_VALUE,
                   "the mean log-probability of the teacher's samples at position %lld is %g",
                   (long long)position, (double)mean);
}

static qn_status check_position(const qn_teacher_top *top, int64_t position, int64_t vocab, qn_error *err) {
    const int32_t *ids = top->ids + position * top->k;
    const float *log_probs = top->log_probs + position * top->k;
    const double tail = top->k < vocab ? exp((double)top->tail_log_prob[position]) : 0.0;
    double mass = tail;
    QN_TRY(check_ids(ids, top->k, 1, position, vocab, err));
    for (int64_t i = 0; i < top->k; i++) {
        if (!isfinite(log_probs[i]))
            return qn_fail(err, QN_E_VALUE, "the teacher's log-probability of id %d at position %lld is %g",
                           ids[i], (long long)position, (double)log_probs[i]);
        mass += exp((double)log_probs[i]);
    }
    if (!(fabs(mass - 1.0) <= MASS_TOLERANCE))
        return qn_fail(
            err, QN_E_VALUE,
            "the teacher's probabilities at position %lld sum to %g with those of all other ids, not to 1",
            (long long)position, mass);
    return tail > 0.0 && top->n_samples > 0 ? check_samples(top, position, vocab, err) : QN_OK;
}

qn_status qni_top_check(const qn_teacher_top *top, const int64_t *positions, int64_t n, int64_t vocab,
                        qn_error *err) {
    if (top->k < 1 || top->k > vocab)
        return qn_fail(err, QN_E_ARGUMENT, "%lld ids a position of the teacher's, of a vocabulary of %lld",
                       (long long)top->k, (long long)vocab);
    if (top->n_samples < 0 || (top->n_samples > 0 && top->k == vocab))
        return qn_fail(err, QN_E_ARGUMENT, "%lld samples of the %lld ids beside the teacher's %lld largest",
                       (long long)top->n_samples, (long long)(vocab - top->k), (long long)top->k);
    for (int64_t i = 0; i < n; i++) QN_TRY(check_position(top, positions[i], vocab, err));
    return QN_OK;
}
