/* The closed forms written plainly, in double and by sorting: what the fast ones are tested against. */
#ifndef QUERN_SRC_FIT_FIT_REFERENCE_H
#define QUERN_SRC_FIT_FIT_REFERENCE_H

#include "quern/fit/closed_form.h"

/* The least-squares scale of w[0..n), n > 0, before rounding; h[0..n) or NULL. *error (may be NULL) receives
 * the least sum h (w - s q)^2. QN_E_NOMEM is the only failure. */
QN_NODISCARD qn_status qni_reference_sign(const float *w, const float *h, int64_t n, double *scale,
                                          double *error);
QN_NODISCARD qn_status qni_reference_ternary(const float *w, const float *h, int64_t n, double *scale,
                                             double *error);

/* sum h (w - s q)^2 with the q nearest to w/s among those of CODE. */
double qni_reference_error(qn_code code, const float *w, const float *h, int64_t n, double scale);

#endif
