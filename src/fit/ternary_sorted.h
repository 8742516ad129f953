/* The best ternary scales of sixteen groups at once, by sorting: of weights that are all bf16 numbers, whose magnitudes are 15-bit
 * keys. Private to fit_ternary.c, where the argument stands. */
#ifndef QUERN_SRC_FIT_TERNARY_SORTED_H
#define QUERN_SRC_FIT_TERNARY_SORTED_H

#include <stdbool.h>
#include <stdint.h>

enum { QNI_SORTED_GROUPS = 16, QNI_SORTED_LONGEST = 128 };

/* Whether every w[0..n) is a bf16 number. */
bool qni_all_bf16(const float *w, int64_t n);

/* scales[g] of w[g * group_size ..], before rounding to fp16: the bits a group has alone. W [cols] is of bf16 numbers in
 * (cols + group_size - 1) / group_size <= 16 groups, the last of which may be short; group_size <= QNI_SORTED_LONGEST. A group
 * whose largest magnitude is below LEAST or above MOST gets that magnitude. Stack: 14 kB. */
void qni_sorted_scales(const float *w, int64_t cols, int64_t group_size, float least, float most,
                       double *scales);

#endif
