#include "model/head_top.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define MASS_TOLERANCE                                                                                       \
    1e-3 /* far above what f32 log-probabilities round, far below what a mistake would give */

qn_status qni_top_rows_make(int64_t n, int64_t k, qni_top_rows *out, qn_error *err) {
    qni_top_rows rows = {0};
    int64_t entries;
    if (!qni_multiply_i64(n, k, &entries)) return qni_fail_nomem(err, "the teacher's largest probabilities");
    rows.ids = qni_alloc_aligned(entries, sizeof *rows.ids);
    rows.log_probs = qni_alloc_aligned(entries, sizeof *rows.log_probs);
    rows.tail_log_prob = qni_alloc_aligned(n, sizeof *rows.tail_log_prob);
    if (!rows.ids || !rows.log_probs || !rows.tail_log_prob) {
        qni_top_rows_release(&rows);
        return qni_fail_nomem(err, "the teacher's largest probabilities");
    }
    *out = rows;
    return QN_OK;
}

void qni_top_rows_release(qni_top_rows *rows) {
    free(rows->ids);
    free(rows->log_probs);
    free(rows->tail_log_prob);
    *rows = (qni_top_rows){0};
}

qni_loss_top qni_top_rows_pick(const qni_top_rows *rows, const qn_teacher_top *top, const int64_t *positions,
                               int64_t n) {
    const int64_t k = top->k;
    for (int64_t i = 0; i < n; i++) {
        const int64_t from = positions[i];
        memcpy(rows->ids + i * k, top->ids + from * k, (size_t)k * sizeof *rows->ids);
        memcpy(rows->log_probs + i * k, top->log_probs + from * k, (size_t)k * sizeof *rows->log_probs);
        rows->tail_log_prob[i] = top->tail_log_prob[from];
    }
    return (qni_loss_top){
        .ids = rows->ids, .log_probs = rows->log_probs, .tail_log_prob = rows->tail_log_prob, .k = k};
}

static qn_status check_position(const qn_teacher_top *top, int64_t position, int64_t vocab, qn_error *err) {
    const int32_t *ids = top->ids + position * top->k;
    const float *log_probs = top->log_probs + position * top->k;
    double mass = top->k < vocab ? exp((double)top->tail_log_prob[position]) : 0.0;
    for (int64_t i = 0; i < top->k; i++) {
        if (ids[i] < 0 || ids[i] >= vocab)
            return qn_fail(err, QN_E_VALUE,
                           "the teacher's id %d at position %lld is outside the vocabulary of %lld", ids[i],
                           (long long)position, (long long)vocab);
        if (i > 0 && ids[i] <= ids[i - 1])
            return qn_fail(err, QN_E_VALUE, "the teacher's ids at position %lld do not ascend: %d after %d",
                           (long long)position, ids[i], ids[i - 1]);
        if (!isfinite(log_probs[i]))
            return qn_fail(err, QN_E_VALUE, "the teacher's log-probability of id %d at position %lld is %g",
                           ids[i], (long long)position, (double)log_probs[i]);
        mass += exp((double)log_probs[i]);
    }
    if (fabs(mass - 1.0) <= MASS_TOLERANCE) return QN_OK;
    return qn_fail(
        err, QN_E_VALUE,
        "the teacher's probabilities at position %lld sum to %g with those of all other ids, not to 1",
        (long long)position, mass);
}

qn_status qni_top_check(const qn_teacher_top *top, const int64_t *positions, int64_t n, int64_t vocab,
                        qn_error *err) {
    if (top->k < 1 || top->k > vocab)
        return qn_fail(err, QN_E_ARGUMENT, "%lld ids a position of the teacher's, of a vocabulary of %lld",
                       (long long)top->k, (long long)vocab);
    for (int64_t i = 0; i < n; i++) QN_TRY(check_position(top, positions[i], vocab, err));
    return QN_OK;
}
