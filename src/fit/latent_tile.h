/* 64 latents of one stored row at once: rounding, the smooth surrogate, and the gradients of both (quern/fit/latents.h). */
#ifndef QUERN_SRC_FIT_LATENT_TILE_H
#define QUERN_SRC_FIT_LATENT_TILE_H

#include "fit/levels.h"

typedef struct qni_latent_tile {
    float v[QNI_LANES];
    float s[QN_MAX_PLANES][QNI_LANES]; /* scales as stored; of planes that are not there 0 */
    float threshold[QNI_LANES];        /* in scales; one-plane trits only */
    float w[QNI_LANES];
    int8_t q[QN_MAX_PLANES][QNI_LANES];
    float dw[QNI_LANES]; /* on entry of the gradients; then: */
    float dv[QNI_LANES], ds[QN_MAX_PLANES][QNI_LANES], dthreshold[QNI_LANES];
} qni_latent_tile;

/* Whether a band is one of those that the surrogate smooths: one native plane. */
bool qni_latent_is_smoothed(const qn_band_spec *spec);

/* q and w of v. */
void qni_latent_tile_round(const qn_band_spec *spec, qni_latent_tile *tile);

/* w of v through the surrogate of WIDTH (as v); q is not touched. */
void qni_latent_tile_smooth(const qn_band_spec *spec, float width, qni_latent_tile *tile);

/* Straight through the rounding; WIDTH is that of the threshold's surrogate. Reads q. */
void qni_latent_tile_round_gradient(const qn_band_spec *spec, float width, qni_latent_tile *tile);

/* Of the surrogate, exactly. */
void qni_latent_tile_smooth_gradient(const qn_band_spec *spec, float width, qni_latent_tile *tile);

#endif
