/* Brackets of the best ternary scales of eight groups at once, a group in each lane: no sums across lanes in the loop that narrows
 * them. Private to fit_ternary.c, where the argument stands. */
#ifndef QUERN_SRC_FIT_TERNARY_EIGHT_H
#define QUERN_SRC_FIT_TERNARY_EIGHT_H

#include "fit/lanes.h"

typedef struct qni_eight_brackets {
    float max[QNI_LANES8]; /* of the magnitudes */
    float low_threshold[QNI_LANES8], high_threshold[QNI_LANES8];
    int32_t low_count[QNI_LANES8], high_count[QNI_LANES8]; /* magnitudes above them */
    double high_sum[QNI_LANES8];
} qni_eight_brackets;

/* W [8, n], n a multiple of 8. MAGNITUDE [8, n] receives |w|; SPARE [8, n] is overwritten. MARGIN: relative, as that of one group.
 * Each sum has the order it has where a group stands alone (lanes.h), so both ways give the same bits. */
void qni_bracket_eight(const float *w, int64_t n, double margin, float *magnitude, float *spare,
                       qni_eight_brackets *out);

#endif
