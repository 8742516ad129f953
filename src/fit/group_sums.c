#include "base/clones.h"
#include "fit/group_fit.h"
#include "fit/lanes.h"

#include "base/banned.h"

enum { F16_SMALLEST = 0x0001, F16_LARGEST = 0x7bff };

uint16_t qni_scale_bits(double s) {
    if (!(s > 0)) return 0;
    uint16_t bits = qn_f32_to_f16((float)s);
    if (bits < F16_SMALLEST) return F16_SMALLEST;
    return bits < F16_LARGEST ? bits : F16_LARGEST;
}

QNI_LANE_INLINE double square_sum(const float *residual, const float *h, int64_t n) {
    qni_d8 sum = {0};
    for (int64_t i = 0; i < n; i += QNI_LANES8) {
        qni_f8 x;
        qni_d8 d, hd;
        qni_load_f8(&x, residual, i, n);
        qni_widen(&d, &x);
        if (h) {
            qni_load_f8(&x, h, i, n);
            qni_widen(&hd, &x);
            sum += hd * (d * d);
        } else {
            sum += d * d;
        }
    }
    return qni_sum_d8(&sum);
}

QNI_CLONES
static double plain_squares(const float *w, int64_t n) {
    return square_sum(w, NULL, n);
}

double qni_sum_squares(const float *w, int64_t n) {
    return plain_squares(w, n);
}

QNI_CLONES
static double error_at(const float *w, const float *h, int64_t n, const int8_t *q, float scale,
                       float *residual) {
    for (int64_t i = 0; i < n; i++) residual[i] = w[i] - scale * (float)q[i];
    return h ? square_sum(residual, h, n) : square_sum(residual, NULL, n);
}

double qni_group_error(const float *w, const float *h, int64_t n, const int8_t *q, uint16_t scale_bits,
                       const qni_group_work *work) {
    return error_at(w, h, n, q, qn_f16_to_f32(scale_bits), work->values);
}

QNI_LANE_INLINE qni_magnitudes magnitude_sums(const float *w, const float *h, int64_t n) {
    qni_d8 plain = {0}, weighted = {0}, h_sum = {0};
    qni_f8 max = {0};
    for (int64_t i = 0; i < n; i += QNI_LANES8) {
        qni_f8 x;
        qni_d8 ad, hd;
        qni_load_f8(&x, w, i, n);
        qni_abs_f8(&x);
        qni_max_f8(&max, &x);
        qni_widen(&ad, &x);
        plain += ad;
        if (h) {
            qni_load_f8(&x, h, i, n);
            qni_widen(&hd, &x);
            weighted += hd * ad;
            h_sum += hd;
        }
    }
    qni_magnitudes m = {.plain = qni_sum_d8(&plain),
                        .weighted = qni_sum_d8(&weighted),
                        .h = qni_sum_d8(&h_sum),
                        .max = qni_top_f8(&max)};
    if (!h) {
        m.weighted = m.plain;
        m.h = (double)n;
    }
    return m;
}

QNI_CLONES
static void sum_magnitudes(const float *w, const float *h, int64_t n, qni_magnitudes *out) {
    *out = h ? magnitude_sums(w, h, n) : magnitude_sums(w, NULL, n);
}

qni_magnitudes qni_sum_magnitudes(const float *w, const float *h, int64_t n) {
    qni_magnitudes m;
    sum_magnitudes(w, h, n, &m);
    return m;
}
