/* sign: q = sign(w), s = sum h|w| / sum h; the published rule leaves h out. */
#include "base/clones.h"
#include "fit/group_fit.h"

#include "base/banned.h"

QNI_CLONES
static void choose_signs(const float *w, int64_t n, int8_t *q) {
    for (int64_t i = 0; i < n; i++) q[i] = w[i] < 0 ? -1 : 1;
}

uint16_t qni_fit_sign(const float *w, const float *h, int64_t n, const qni_group_work *work, int8_t *q) {
    (void)work;
    qni_magnitudes m = qni_sum_magnitudes(w, h, n);
    choose_signs(w, n, q);
    /* Weights that vanish wherever w does not say nothing about the scale. */
    return m.weighted > 0 ? qni_scale_bits(m.weighted / m.h) : qni_scale_bits(m.plain / (double)n);
}

uint16_t qni_fit_sign_published(const float *w, const float *h, int64_t n, const qni_group_work *work,
                                int8_t *q) {
    (void)h;
    return qni_fit_sign(w, NULL, n, work, q);
}
