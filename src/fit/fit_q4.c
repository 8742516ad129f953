/* q4: symmetric codes in [-7, 7]. The grid is clipped where that lowers the error: each candidate clip of
 * max|w| gives codes, the codes give the least-squares scale s = sum h w q / sum h q^2, and the candidate of
 * the largest (sum h w q)^2 / sum h q^2 wins. */
#include "base/clones.h"
#include "fit/group_fit.h"
#include "fit/lanes.h"

#include <float.h>
#include <string.h>

#include "base/banned.h"

enum { N_CLIPS = 10 };

static const double clips[N_CLIPS] = {1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5};

/* Adding it brings a float below 2^22 to an integer, to nearest even. */
static const float rounder = 12582912.0f;

/* x becomes the nearest integer within [-7, 7]. */
QNI_LANE_INLINE void round_to_code(qni_f8 *x) {
    const qni_f8 seven = (qni_f8){0} + 7.0f;
    qni_f8 v = *x;
    qni_i8 low = v<-seven, high = v> seven, inside = ~(low | high);
    v = (qni_f8)(((qni_i8)v & inside) | ((qni_i8)-seven & low) | ((qni_i8)seven & high));
    *x = (v + rounder) - rounder;
}

/* With x = w * inverse and the codes q nearest to x: sum h x q and sum h q^2. In float, since only a choice
 * and a scale that is rounded to fp16 come of them; h is taken relative to its largest value so that nothing
 * overflows. */
typedef struct products {
    float xq, qq;
} products;

QNI_LANE_INLINE products product_sums(const float *w, const float *h, int64_t n, float inverse,
                                      float h_unit) {
    qni_f8 xq = {0}, qq = {0};
    for (int64_t i = 0; i < n; i += QNI_LANES8) {
        qni_f8 x, q, hq, hi;
        qni_load_f8(&x, w, i, n);
        x *= inverse;
        q = x;
        round_to_code(&q);
        hq = q;
        if (h) {
            qni_load_f8(&hi, h, i, n);
            hq *= hi * h_unit;
        }
        xq += hq * x;
        qq += hq * q;
    }
    return (products){qni_sum_f8(&xq), qni_sum_f8(&qq)};
}

QNI_CLONES
static products products_at(const float *w, const float *h, int64_t n, float inverse, float h_unit) {
    return h ? product_sums(w, h, n, inverse, h_unit) : product_sums(w, NULL, n, inverse, 1);
}

QNI_CLONES
static void choose_nearest(const float *w, int64_t n, float inverse, float *rounded, int8_t *q) {
    for (int64_t i = 0; i < n; i += QNI_LANES8) {
        qni_f8 x;
        qni_load_f8(&x, w, i, n);
        x *= inverse;
        round_to_code(&x);
        memcpy(rounded + i, &x, sizeof x);
    }
    for (int64_t i = 0; i < n; i++) q[i] = (int8_t)(int)rounded[i];
}

/* q4 needs a positive scale even where every weight is zero. */
static uint16_t choose_for_scale(const float *w, int64_t n, double scale, const qni_group_work *work,
                                 int8_t *q) {
    uint16_t bits = qni_scale_bits(scale > 0 ? scale : DBL_MIN);
    choose_nearest(w, n, 1 / qn_f16_to_f32(bits), work->values, q);
    return bits;
}

static double best_clipped_scale(const float *w, const float *h, int64_t n, double full_scale) {
    float h_max = h ? qni_sum_magnitudes(h, NULL, n).max : 1;
    float h_unit = h_max > FLT_MIN ? 1 / h_max : 1;
    double best = -1, best_scale = full_scale;
    for (int i = 0; i < N_CLIPS; i++) {
        float clipped = qn_f16_to_f32(qni_scale_bits(clips[i] * full_scale));
        products p = products_at(w, h, n, 1 / clipped, h_unit);
        double wq = (double)clipped * (double)p.xq, qq = (double)p.qq;
        if (!(qq > 0) || wq * wq / qq <= best) continue;
        best = wq * wq / qq;
        best_scale = wq / qq;
    }
    return best_scale;
}

uint16_t qni_fit_q4_published(const float *w, const float *h, int64_t n, const qni_group_work *work,
                              int8_t *q) {
    (void)h;
    return choose_for_scale(w, n, (double)qni_sum_magnitudes(w, NULL, n).max / 7, work, q);
}

uint16_t qni_fit_q4(const float *w, const float *h, int64_t n, const qni_group_work *work, int8_t *q) {
    double full_scale = (double)qni_sum_magnitudes(w, NULL, n).max / 7;
    uint16_t full = choose_for_scale(w, n, full_scale, work, q);
    if (!(full_scale > 0)) return full;
    uint16_t clipped = choose_for_scale(w, n, best_clipped_scale(w, h, n, full_scale), work, work->q);
    if (qni_group_error(w, h, n, work->q, clipped, work) >= qni_group_error(w, h, n, q, full, work))
        return full;
    memcpy(q, work->q, (size_t)n);
    return clipped;
}
