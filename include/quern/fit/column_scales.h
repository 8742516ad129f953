/* Scales of columns: a factor for each input, beside the scales of rows and groups.
 *
 *   w_rc = c_c * (s_rg q_rc)
 *
 * The fit of codes and scales knows nothing of them: it sees W diag(c)^-1 in the metric diag(c) H diag(c), whose error is that
 * of W in H. Letters: W [R, C], H [C, C]. */
#ifndef QUERN_FIT_COLUMN_SCALES_H
#define QUERN_FIT_COLUMN_SCALES_H

#include "quern/base/status.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* scales[C] = fp16 bits of the factors c that with some r minimise sum_ij H_jj (|w_ij| - r_i c_j)^2, found by eight alternating
 * steps of least squares from c = 1, with the geometric mean 1. Of a column without any weight, or one beyond 2^-10 .. 2^10, the
 * nearest of these. WEIGHTS h [C] >= 0 is the diagonal of H. Sums in double, in a fixed order. QN_E_NOMEM. Cost 16 R C. */
QN_NODISCARD QN_API qn_status qn_column_scales(const float *w, const float *weights, int64_t rows,
                                               int64_t cols, uint16_t *scales, qn_error *err);

/* w[R, C] = W diag(c)^-1 and, unless NULL, hessian[C, C] = diag(c) H diag(c), in place. */
QN_API void qn_column_scales_fold(const uint16_t *scales, int64_t rows, int64_t cols, float *w,
                                  float *hessian);

#ifdef __cplusplus
}
#endif
#endif
