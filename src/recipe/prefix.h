/* The student's walk: matrices are compressed one after another, each with the inputs it will really get.
 *
 * Teacher and student pass through the same calibration text side by side. The embedding is compressed first, then block after
 * block, and within a block in the order in which inputs arise (q, k, v; o; gate, up; down), so that the second moments of
 * each fit come from a student whose earlier matrices are in their codes already. A linear layer is fitted to the target half
 * way between the teacher's weights and the teacher's outputs (qn_asymmetric_target). The head of an untied model comes last.
 *
 * With block tuning, a block whose matrices are done is trained (block_tuning.h) before the walk goes on, and the walk goes on with what
 * the training made of it.
 *
 * Each matrix is saved as soon as it is done (matrix_store.h); a run that is taken up again takes what is there and walks on, to
 * the same bytes; where nothing is left to do, nobody walks. Memory: two streams of T * h floats, one chunk's inputs, one layer's second moments, and the codes of one
 * block. */
#ifndef QUERN_SRC_RECIPE_PREFIX_H
#define QUERN_SRC_RECIPE_PREFIX_H

#include "quern/fit/hessian_fit.h"
#include "quern/model/model.h"
#include "quern/fit/fisher.h"
#include "quern/model/walk.h"
#include "recipe/block_tuning.h"
#include "recipe/dev_trace.h"
#include "recipe/planner.h"

typedef struct qni_prefix_options {
    qn_compute compute;
    qn_hessian_fit_options fit;
    bool student_inputs; /* else every fit sees the teacher's inputs */
    double target_blend; /* 0: the teacher's weights; 1: the teacher's outputs */
    double target_ridge;
    double shrinkage;  /* of second moments (quern/fit/moments.h) */
    bool keep_targets; /* saves with each matrix where training would begin; implied by tuning */
    qni_block_tuning tuning;
} qni_prefix_options;

typedef struct qni_prefix_job {
    qn_model *teacher,
        *student; /* two opened models of one checkpoint; the student is lent weights and given them back */
    const qn_sequences *sequences;  /* calibration text */
    const qni_plan_choice *choices; /* [layout.n] matrices only */
    const float *embedding_metric;  /* [h, h] */
    const qni_matrix_store *store;
    const qn_sequences *probe; /* tuning only: text to judge it by */
    const qn_fisher *fisher;   /* tuning with fisher_weights only */
    qni_dev_trace *dev;        /* told how the student does as the walk goes on; NULL: nobody asks */
    qni_prefix_options options;
} qni_prefix_job;

/* Compresses every matrix into the store. *relative_errors [layout.n] (may be NULL) receives what each fit left of its metric, now or
 * when the matrix was saved; -1 where nobody knows. REPORTS [layers], with tuning only, may be NULL. */
QN_NODISCARD qn_status qni_prefix_run(const qni_prefix_job *job, const qn_context *ctx,
                                      double *relative_errors, qni_block_report *reports, qn_error *err);

#endif
