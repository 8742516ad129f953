/* A teacher given by its largest log-probabilities, as the head's loss reads it: rows of positions with a target. */
#ifndef QUERN_SRC_MODEL_HEAD_TOP_H
#define QUERN_SRC_MODEL_HEAD_TOP_H

#include "quern/model/gradient.h"
#include "tensor/ops.h"

/* Copies positions POSITIONS [n] of TOP into ROWS, made for as many ids and samples; what is returned points into ROWS. */
qni_loss_top qni_top_pick(const qn_teacher_rows *rows, const qn_teacher_top *top, const int64_t *positions,
                          int64_t n);

/* Refuses, naming the position, what is no distribution over VOCAB ids. */
QN_NODISCARD qn_status qni_top_check(const qn_teacher_top *top, const int64_t *positions, int64_t n,
                                     int64_t vocab, qn_error *err);

#endif
