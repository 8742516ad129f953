/* What codes lose of a matrix: the error of a fit in a code, relative to what the sensitivities of the lines add up to. */
#ifndef QUERN_SRC_RECIPE_CODE_ERRORS_H
#define QUERN_SRC_RECIPE_CODE_ERRORS_H

#include "quern/fit/hessian_fit.h"
#include "recipe/planner.h"

/* errors[k] = E (w - q)^2 / E w^2 of normal weights at the best scale, in bands of each kind. */
void qni_code_errors_normal(const qni_band_codecs *codecs, double errors[QNI_BAND_KIND_COUNT]);

/* A matrix in the basis it would be stored in, and the metric of its inputs there. */
typedef struct qni_code_errors_job {
    const qn_weight *weight;
    const char *name;
    int32_t hadamard;
    qn_axis axis;
    const float *hessian; /* [cols, cols] */
    const double *d;      /* [cols]: qn_feedback_diagonal of it */
    const qni_band_codecs *codecs;
    const qn_hessian_fit_options *fit;
} qni_code_errors_job;

/* errors[k] = what the fit leaves of a sample of rows, all of them in bands of kind k, over sum D_j w_ij^2: below the error of normal
 * weights by what descent gains on feedback, above it where weights have heavy tails. Cost: three fits of the sample. */
QN_NODISCARD qn_status qni_code_errors_measure(const qni_code_errors_job *job, const qn_context *ctx,
                                               double errors[QNI_BAND_KIND_COUNT], qn_error *err);

#endif
