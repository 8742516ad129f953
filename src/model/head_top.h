/* A teacher given by its largest log-probabilities, as the head's loss reads it: rows of positions with a target. */
#ifndef QUERN_SRC_MODEL_HEAD_TOP_H
#define QUERN_SRC_MODEL_HEAD_TOP_H

#include "quern/model/gradient.h"
#include "tensor/ops.h"

/* Room for the rows of one chunk. Zeroed is empty. */
typedef struct qni_top_rows {
    int32_t *ids;                     /* owned [n, k] */
    float *log_probs, *tail_log_prob; /* owned [n, k], [n] */
} qni_top_rows;

QN_NODISCARD qn_status qni_top_rows_make(int64_t n, int64_t k, qni_top_rows *out, qn_error *err);
void qni_top_rows_release(qni_top_rows *rows);

/* Copies positions POSITIONS [n] of TOP; what is returned points into ROWS. */
qni_loss_top qni_top_rows_pick(const qni_top_rows *rows, const qn_teacher_top *top, const int64_t *positions,
                               int64_t n);

/* Refuses, naming the position, what is no distribution over VOCAB ids. */
QN_NODISCARD qn_status qni_top_check(const qn_teacher_top *top, const int64_t *positions, int64_t n,
                                     int64_t vocab, qn_error *err);

#endif
