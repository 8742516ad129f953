/* Rounding to the nearest level that a code and its scales offer, for 64 rows at once. */
#ifndef QUERN_SRC_FIT_LEVELS_H
#define QUERN_SRC_FIT_LEVELS_H

#include "fit/panel.h"
#include "quern/fit/bands.h"

/* value[t] = the level of s1[t] q1 + s2[t] q2 nearest to v[t], and its codes; scales >= 0. s2 and q2 are not read or written for
 * one plane. Of two equally near levels the smaller |q| wins, and +1 over -1. A code whose scale is 0 is 0 where it can be. */
typedef void qni_choose_level(const float *v, const float *s1, const float *s2, float *value, int8_t *q1,
                              int8_t *q2);

qni_choose_level *qni_level_chooser(const qn_band_spec *spec);

/* As above, of the smallest squared error plus PRICE for each trit that is not 0. */
typedef void qni_choose_priced(const float *v, const float *s1, const float *s2, float price, float *value,
                               int8_t *q1, int8_t *q2);

/* NULL for codes whose levels all have the same price. */
qni_choose_priced *qni_priced_chooser(const qn_band_spec *spec);

#endif
