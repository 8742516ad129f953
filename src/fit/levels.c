#include "fit/levels.h"

#include "base/clones.h"

#include <stdbool.h>
#include <stddef.h>

#include "base/banned.h"

#define QNI_INLINE static inline __attribute__((always_inline))

/* Adding and subtracting 1.5 * 2^23 rounds a small float to the nearest integer, to nearest even. */
static const float rounder = 12582912.0f;

QNI_CLONES
static void choose_sign(const float *v, const float *s1, const float *s2, float *value, int8_t *q1,
                        int8_t *q2) {
    (void)s2, (void)q2;
    for (int t = 0; t < QNI_LANES; t++) {
        const int q = v[t] < 0 ? -1 : 1;
        q1[t] = (int8_t)q;
        value[t] = s1[t] * (float)q;
    }
}

/* PRICED is a constant where it is used: without a price there is no division, and the thresholds are exact halves. */
QNI_INLINE void trits(const float *v, const float *s1, bool priced, float price, float *value, int8_t *q1) {
    for (int t = 0; t < QNI_LANES; t++) {
        const int some = s1[t] > 0;
        const float half = priced ? (s1[t] + price / (some ? s1[t] : 1)) / 2 : s1[t] / 2;
        const int q = ((v[t] > half) - (v[t] < -half)) * some;
        q1[t] = (int8_t)q;
        value[t] = s1[t] * (float)q;
    }
}

QNI_CLONES
static void choose_trit(const float *v, const float *s1, const float *s2, float *value, int8_t *q1,
                        int8_t *q2) {
    (void)s2, (void)q2;
    trits(v, s1, false, 0, value, q1);
}

QNI_CLONES
static void choose_priced_trit(const float *v, const float *s1, const float *s2, float price, float *value,
                               int8_t *q1, int8_t *q2) {
    (void)s2, (void)q2;
    trits(v, s1, true, price, value, q1);
}

QNI_CLONES
static void choose_q4(const float *v, const float *s1, const float *s2, float *value, int8_t *q1,
                      int8_t *q2) {
    (void)s2, (void)q2;
    for (int t = 0; t < QNI_LANES; t++) {
        float x = v[t] / (s1[t] > 0 ? s1[t] : 1);
        x = x > 7 ? 7 : x;
        x = x < -7 ? -7 : x;
        x = s1[t] > 0 ? (x + rounder) - rounder : 0;
        value[t] = s1[t] * x;
        q1[t] = (int8_t)(int)x;
    }
}

/* The better of the first plane's signs, each with the best sign of what it leaves. */
QNI_CLONES
static void choose_two_signs(const float *v, const float *s1, const float *s2, float *value, int8_t *q1,
                             int8_t *q2) {
    for (int t = 0; t < QNI_LANES; t++) {
        const float up = v[t] - s1[t], down = v[t] + s1[t];
        const float up2 = up < 0 ? -1 : 1, down2 = down < 0 ? -1 : 1;
        const float up_left = up - up2 * s2[t], down_left = down - down2 * s2[t];
        const int take_down = down_left * down_left < up_left * up_left;
        const float a = take_down ? -1 : 1, b = take_down ? down2 : up2;
        value[t] = s1[t] * a + s2[t] * b;
        q1[t] = (int8_t)(int)a;
        q2[t] = (int8_t)(int)b;
    }
}

/* The best of the first plane's trits, 0 first, each with the best trit of what it leaves. */
QNI_INLINE void two_trits(const float *v, const float *s1, const float *s2, bool priced, float price,
                          float *value, int8_t *q1, int8_t *q2) {
    for (int t = 0; t < QNI_LANES; t++) {
        const int some = s2[t] > 0;
        const float threshold = priced ? (s2[t] + price / (some ? s2[t] : 1)) / 2 : s2[t] / 2;
        const float half = some ? threshold : 3e38f;
        float best = 0, a = 0, b = 0;
        for (int k = 0; k < 3; k++) {
            const float try_a = k == 0 ? 0.0f : k == 1 ? 1.0f : -1.0f;
            const float rest = v[t] - try_a * s1[t];
            const float try_b = rest > half ? 1.0f : rest < -half ? -1.0f : 0.0f;
            const float left = rest - try_b * s2[t];
            const float toll = priced ? price * (try_a * try_a + try_b * try_b) : 0,
                        error = left * left + toll;
            const int better = k == 0 || error < best;
            best = better ? error : best;
            a = better ? try_a : a;
            b = better ? try_b : b;
        }
        value[t] = s1[t] * a + s2[t] * b;
        q1[t] = (int8_t)(int)a;
        q2[t] = (int8_t)(int)b;
    }
}

QNI_CLONES
static void choose_two_trits(const float *v, const float *s1, const float *s2, float *value, int8_t *q1,
                             int8_t *q2) {
    two_trits(v, s1, s2, false, 0, value, q1, q2);
}

QNI_CLONES
static void choose_two_priced_trits(const float *v, const float *s1, const float *s2, float price,
                                    float *value, int8_t *q1, int8_t *q2) {
    two_trits(v, s1, s2, true, price, value, q1, q2);
}

qni_choose_level *qni_level_chooser(const qn_band_spec *spec) {
    static qni_choose_level *const choosers[QN_CODE_COUNT][QN_MAX_PLANES] = {
        [QN_CODE_SIGN] = {choose_sign, choose_two_signs},
        [QN_CODE_TERNARY] = {choose_trit, choose_two_trits},
        [QN_CODE_Q4] = {choose_q4, NULL},
    };
    return choosers[spec->code][spec->n_planes - 1];
}

qni_choose_priced *qni_priced_chooser(const qn_band_spec *spec) {
    if (spec->code != QN_CODE_TERNARY) return NULL;
    return spec->n_planes == 1 ? choose_priced_trit : choose_two_priced_trits;
}
