/* Closed-form fits: the best code and scale for one row, without data or with a diagonal weight.
 *
 * Minimised per group of a row: sum_c h[c] * (w[c] - s*q[c])^2, with h = 1 or the input's second moment E[x_c^2].
 *   sign, optimal       q = sign(w) (0 counts as +), s = sum h|w| / sum h
 *   ternary, optimal    sort |w| descending; q != 0 for the first m, s = S_m/H_m, m maximising S_m^2 / H_m
 *                       with S_m = sum h|w|, H_m = sum h over the first m. Exact for h = 1 (proved by exhaustive search
 *                       in the tests); with weights the threshold form q != 0 iff |w| > s/2 is iterated from it
 *   q4, optimal         symmetric codes in [-7, 7]; the best s among candidate clip ratios of max|w|/7, each refitted
 *   published           binary s = mean|w|; ternary threshold 0.7 mean|w|, s = mean|w| of the kept ones; q4 s = max|w|/7
 * The scale is rounded to fp16 (never to 0 unless the group is all zero) and the codes are chosen again for the rounded
 * scale where that lowers the error, so the reported error is that of what is stored. */
#ifndef QUERN_FIT_CLOSED_FORM_H
#define QUERN_FIT_CLOSED_FORM_H

#include "quern/codec/codec.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_fit_rule { QN_FIT_OPTIMAL, QN_FIT_PUBLISHED } qn_fit_rule;

/* Scratch for rows of up to `cols` columns; one per thread. */
typedef struct qn_fit_scratch {
    void   *block; /* owned */
    int64_t cols;
} qn_fit_scratch;
QN_NODISCARD QN_API qn_status qn_fit_scratch_init(qn_fit_scratch *scratch, int64_t cols, qn_error *err);
QN_API void qn_fit_scratch_release(qn_fit_scratch *scratch);

/* Fits one row w [cols] (finite). h [cols] >= 0 or NULL. q [cols] and scales [groups] (fp16 bits) are outputs; either
 * may be NULL when only the error is wanted. Returns sum h (w - s q)^2 in double with the stored values. Deterministic.
 * Cost O(cols log group). */
QN_API double qn_fit_row(qn_codec codec, qn_fit_rule rule, const float *w, const float *h, int64_t cols,
                         qn_fit_scratch *scratch, int8_t *q, uint16_t *scales);

#ifdef __cplusplus
}
#endif
#endif
