/* Closed-form fits: the best code and scale for one row, without data or with a diagonal weight.
 *
 * Minimised per group of a row: sum_c h[c] * (w[c] - s*q[c])^2, with h = 1 or the input's second moment E[x_c^2].
 *   sign, optimal       q = sign(w) (0 counts as +), s = sum h|w| / sum h. Exact: no other q and s are better
 *   ternary, optimal    sort |w| descending; q != 0 for the first m, s = S_m/H_m, m maximising S_m^2 / H_m with
 *                       S_m = sum h|w|, H_m = sum h over the first m. Exact, with weights too: for a given s the best q
 *                       is 0 iff |w| <= s/2 whatever h is, so the best support of every s is a prefix of that order
 *   q4, optimal         symmetric codes in [-7, 7]; the best of some clips of max|w|/7, refitted by least squares
 *                       (s = sum h w q / sum h q^2). Never worse than published; not proved optimal
 *   published           binary s = mean|w|; ternary threshold 0.7 mean|w|, s = mean|w| of the kept ones; q4 s = max|w|/7;
 *                       h has no part in the choice. Sources: Rastegari et al., XNOR-Net, 2016; Li, Zhang, Liu, Ternary
 *                       weight networks, 2016
 * Exact means: before the scale is rounded to fp16. The optimal fits then choose the codes again, the best ones for the
 * rounded scale, so the reported error is the least for the scale that is stored. A scale is held within [2^-24, 65504];
 * it is 0 only for a sign or ternary group whose weights are all zero. Columns with h = 0 get the code nearest to w; a
 * group whose h says nothing (0 wherever w is not) is fitted as if h = 1. */
#ifndef QUERN_FIT_CLOSED_FORM_H
#define QUERN_FIT_CLOSED_FORM_H

#include "quern/codec/codec.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_fit_rule { QN_FIT_OPTIMAL, QN_FIT_PUBLISHED } qn_fit_rule;

/* Scratch for rows of up to `cols` columns; one per thread. */
typedef struct qn_fit_scratch {
    void *block; /* owned */
    int64_t cols;
} qn_fit_scratch;
QN_NODISCARD QN_API qn_status qn_fit_scratch_init(qn_fit_scratch *scratch, int64_t cols, qn_error *err);
QN_API void qn_fit_scratch_release(qn_fit_scratch *scratch);

/* Fits one row w [cols] (finite). h [cols] >= 0, finite, or NULL. q [cols] and scales [groups] (fp16 bits) are outputs;
 * either may be NULL when only the error is wanted. Returns sum h (w - s q)^2 in double with the stored values.
 * Deterministic, and the same bits from every instruction set. Cost O(cols), ternary O(cols log group) at worst. */
QN_API double qn_fit_row(qn_codec codec, qn_fit_rule rule, const float *w, const float *h, int64_t cols,
                         qn_fit_scratch *scratch, int8_t *q, uint16_t *scales);

/* The same codes and scales, without the error, which costs as much again; neither may be NULL. */
QN_API void qn_fit_row_codes(qn_codec codec, qn_fit_rule rule, const float *w, const float *h, int64_t cols,
                             qn_fit_scratch *scratch, int8_t *q, uint16_t *scales);

#ifdef __cplusplus
}
#endif
#endif
