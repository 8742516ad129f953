/* Stored scales of a plane: fp16, or one of 64 values of a geometric grid. */
#ifndef QUERN_SRC_FIT_SCALE_GRID_H
#define QUERN_SRC_FIT_SCALE_GRID_H

#include "quern/base/status.h"

#include <stdint.h>

enum { QNI_GRID_LEVELS = 64 };

typedef struct qni_scale_grid {
    float base, ratio;
    float level[QNI_GRID_LEVELS]; /* what fp16(base * ratio^k) stands for; never falls with k */
    uint16_t bits[QNI_GRID_LEVELS];
} qni_scale_grid;

/* The 64 values of BASE and RATIO. */
void qni_scale_grid_init(qni_scale_grid *grid, float base, float ratio);

/* Scales with weights, gathered in bins of 1/64 octave: enough to choose a grid by. */
typedef struct qni_scale_census qni_scale_census;
QN_NODISCARD qn_status qni_scale_census_new(qni_scale_census **out, qn_error *err);
void qni_scale_census_free(qni_scale_census *census);
/* Scales that are not positive are passed over. */
void qni_scale_census_add(qni_scale_census *census, float scale, double weight);

/* The grid with the least sum of weight * (relative rounding error)^2. Its ends are chosen among a fixed set of shares of the
 * scales' range, so that a few small scales do not waste the numbers of all others. */
void qni_scale_grid_choose(const qni_scale_census *census, qni_scale_grid *out);

/* The number of the level nearest to SCALE; the smaller one of two. */
int qni_scale_grid_nearest(const qni_scale_grid *grid, float scale);

#endif
