/* How far the second-order model of the loss is from the truth, matrix by matrix.
 *
 * A matrix is changed as a fit would change it: by half of what one native plane with error feedback leaves, about what a whole
 * plan leaves in the end. The divergence that this makes at the head of a little text, over what the model predicts,
 *
 *   1/2 sum_i F_i D_i H D_i^T  (+ 1/2 sum_v f_v sum_j G_j D_vj^2 for an embedding)
 *
 * is the factor by which the matrix's sensitivities are corrected. It is far from 1 where errors of many tokens add up: those of
 * v_proj meet again in every token that attends to them, which the diagonal of a Fisher matrix cannot know. */
#ifndef QUERN_SRC_RECIPE_MEASURED_SENSITIVITY_H
#define QUERN_SRC_RECIPE_MEASURED_SENSITIVITY_H

#include "quern/fit/hessian_fit.h"
#include "recipe/probe.h"

typedef struct qni_sensitivity_job {
    int64_t entry;       /* of a block: the one the probe stands in front of */
    const float *metric; /* [cols, cols]: of the fit */
    const float
        *hessian; /* [cols, cols] of its inputs, with fisher [rows]; NULL where it is looked up only */
    const float *fisher;
    const float *lookup_gradient; /* [cols], with frequency [rows]; NULL where it is not looked up */
    const float *frequency;
    qn_codec codec; /* native */
    const qn_hessian_fit_options *fit;
} qni_sensitivity_job;

/* *factor: within 1/16 .. 16; 1 where the model predicts nothing. The probe's student is lent the changed matrix and has its own back
 * afterwards. Deterministic; independent of threads. Cost: the feedback of one fit, and the probe's text through the blocks
 * behind the matrix and the head. */
QN_NODISCARD qn_status qni_sensitivity_measure(const qni_sensitivity_job *job, qni_probe *probe,
                                               const qn_context *ctx, double *factor, qn_error *err);

#endif
