#include "fit/latent_tile.h"

#include "base/clones.h"

#include "base/banned.h"

static bool is_trit(const qn_band_spec *spec) {
    return spec->code == QN_CODE_TERNARY && spec->n_planes == 1;
}

bool qni_latent_is_smoothed(const qn_band_spec *spec) {
    return spec->code != QN_CODE_Q4 && spec->n_planes == 1;
}

QNI_CLONES
static void round_trits(qni_latent_tile *tile) {
    for (int t = 0; t < QNI_LANES; t++) {
        const float s = tile->s[0][t], edge = tile->threshold[t] * s;
        const int some = s > 0;
        const int q = ((tile->v[t] > edge) - (tile->v[t] < -edge)) * some;
        tile->q[0][t] = (int8_t)q;
        tile->w[t] = s * (float)q;
    }
}

void qni_latent_tile_round(const qn_band_spec *spec, qni_latent_tile *tile) {
    if (is_trit(spec)) {
        round_trits(tile);
        return;
    }
    qni_level_chooser(spec)(tile->v, tile->s[0], tile->s[1], tile->w, tile->q[0], tile->q[1]);
}

/* S(x) and its derivative, without a branch. */
static inline float smooth_step(float x) {
    x = x > 1 ? 1 : x < -1 ? -1 : x;
    return 0.5f + x * (0.75f - 0.25f * x * x);
}

static inline float smooth_slope(float x) {
    x = x > 1 ? 1 : x < -1 ? -1 : x;
    return 0.75f - 0.75f * x * x;
}

QNI_CLONES
static void smooth_signs(float per_width, qni_latent_tile *tile) {
    for (int t = 0; t < QNI_LANES; t++)
        tile->w[t] = tile->s[0][t] * (2 * smooth_step(tile->v[t] * per_width) - 1);
}

QNI_CLONES
static void smooth_trits(float per_width, qni_latent_tile *tile) {
    for (int t = 0; t < QNI_LANES; t++) {
        const float s = tile->s[0][t], edge = tile->threshold[t] * s;
        const float up = smooth_step((tile->v[t] - edge) * per_width),
                    down = smooth_step((tile->v[t] + edge) * per_width);
        tile->w[t] = s * (up + down - 1);
    }
}

void qni_latent_tile_smooth(const qn_band_spec *spec, float width, qni_latent_tile *tile) {
    if (spec->code == QN_CODE_SIGN)
        smooth_signs(1 / width, tile);
    else
        smooth_trits(1 / width, tile);
}

/* dw / dthreshold of trits: how the edges' motion changes the surrogate. */
QNI_CLONES
static void trit_edges(float per_width, qni_latent_tile *tile) {
    for (int t = 0; t < QNI_LANES; t++) {
        const float s = tile->s[0][t], edge = tile->threshold[t] * s;
        const float up = smooth_slope((tile->v[t] - edge) * per_width),
                    down = smooth_slope((tile->v[t] + edge) * per_width);
        tile->dthreshold[t] = tile->dw[t] * s * s * (down - up) * per_width;
    }
}

QNI_CLONES
static void pass_through(qni_latent_tile *tile) {
    for (int t = 0; t < QNI_LANES; t++) {
        tile->dv[t] = tile->dw[t];
        tile->ds[0][t] = tile->dw[t] * (float)tile->q[0][t];
        tile->ds[1][t] = tile->dw[t] * (float)tile->q[1][t];
    }
}

void qni_latent_tile_round_gradient(const qn_band_spec *spec, float width, qni_latent_tile *tile) {
    pass_through(tile);
    if (is_trit(spec)) trit_edges(1 / width, tile);
}

QNI_CLONES
static void smooth_sign_gradient(float per_width, qni_latent_tile *tile) {
    for (int t = 0; t < QNI_LANES; t++) {
        const float x = tile->v[t] * per_width;
        tile->dv[t] = tile->dw[t] * tile->s[0][t] * 2 * smooth_slope(x) * per_width;
        tile->ds[0][t] = tile->dw[t] * (2 * smooth_step(x) - 1);
    }
}

QNI_CLONES
static void smooth_trit_gradient(float per_width, qni_latent_tile *tile) {
    for (int t = 0; t < QNI_LANES; t++) {
        const float s = tile->s[0][t], edge = tile->threshold[t] * s;
        const float a = (tile->v[t] - edge) * per_width, b = (tile->v[t] + edge) * per_width;
        const float by_edge = s * (smooth_slope(b) - smooth_slope(a)) * per_width;
        tile->dv[t] = tile->dw[t] * s * (smooth_slope(a) + smooth_slope(b)) * per_width;
        tile->ds[0][t] = tile->dw[t] * (smooth_step(a) + smooth_step(b) - 1 + tile->threshold[t] * by_edge);
        tile->dthreshold[t] = tile->dw[t] * s * by_edge;
    }
}

void qni_latent_tile_smooth_gradient(const qn_band_spec *spec, float width, qni_latent_tile *tile) {
    if (spec->code == QN_CODE_SIGN)
        smooth_sign_gradient(1 / width, tile);
    else
        smooth_trit_gradient(1 / width, tile);
}
