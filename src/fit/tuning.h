/* The loop that block-wise distillation and whole-model tuning share (quern/fit/distill.h). */
#ifndef QUERN_SRC_FIT_TUNING_H
#define QUERN_SRC_FIT_TUNING_H

#include "quern/fit/distill.h"

/* What is minimised: adds up *sum and *units over the N sequences numbered in LIST, and with GRADIENTS (else NULL) the gradients of
 * sum / units. */
typedef struct qni_tuned_loss {
    qn_status (*find)(void *user, const int64_t *list, int64_t n, qn_gradients *gradients, double *sum,
                      double *units, qn_error *err);
    void *user;
} qni_tuned_loss;

/* The numbers of the sequences that are held back, spread evenly, and of the others; made for options that make sense alone. */
typedef struct qni_holdout {
    int64_t *train, *validation; /* owned */
    int64_t n_train, n_validation;
} qni_holdout;

QN_NODISCARD qn_status qni_holdout_make(const qn_sequences *sequences, const qn_tune_options *options,
                                        qni_holdout *out, qn_error *err);
void qni_holdout_release(qni_holdout *holdout);

/* *mean over the sequences of LIST, batch by batch, with the weights rounded as they are stored. */
QN_NODISCARD qn_status qni_measure(qn_trainable *t, const qni_tuned_loss *loss, const int64_t *list,
                                   int64_t n, int64_t batch, const qn_context *ctx, double *mean,
                                   qn_error *err);

/* FIRST_LOSS as qni_measure gives it before any step. */
QN_NODISCARD qn_status qni_tune(qn_trainable *t, const qni_tuned_loss *loss, const qni_holdout *holdout,
                                double first_loss, const qn_tune_options *options, const qn_context *ctx,
                                qn_tune_report *out, qn_error *err);

/* What a mark keeps of a report, and the report again: all but the numbers of sequences. */
void qni_mark_report(const qn_tune_report *report, qn_trainable_mark *mark);
qn_tune_report qni_marked_report(const qn_trainable_mark *mark);

/* Sequences of a list, one behind another. */
typedef struct qni_batch {
    int32_t *ids;    /* owned [T] */
    int64_t *starts; /* owned [n + 1] */
    int64_t n, n_tokens;
} qni_batch;

QN_NODISCARD qn_status qni_batch_gather(const qn_sequences *sequences, const int64_t *list, int64_t n,
                                        qni_batch *out, qn_error *err);
void qni_batch_release(qni_batch *batch);

#endif
