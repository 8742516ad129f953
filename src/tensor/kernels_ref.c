/* The reference kernels: plain loops, sums in double, libm. Slow on purpose; never tuned. */
#include "tensor/kernels.h"

#include "quern/tensor/dtype.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

static int gemm_f32(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                    const float *b, int64_t ldb, bool accumulate, float *c, int64_t ldc) {
    const int64_t a_row = trans_a ? 1 : lda, a_col = trans_a ? lda : 1;
    const int64_t b_row = trans_b ? 1 : ldb, b_col = trans_b ? ldb : 1;
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = accumulate ? (double)c[i * ldc + j] : 0.0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)a[i * a_row + l * a_col] * (double)b[l * b_row + j * b_col];
            c[i * ldc + j] = (float)sum;
        }
    }
    return 0;
}

static float dot_f32(const float *x, const float *w, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)w[i];
    return (float)sum;
}

static float dot_bf16(const float *x, const uint16_t *w, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)qn_bf16_to_f32(w[i]);
    return (float)sum;
}

static void rms_norm(const float *x, const float *w, double eps, int64_t n, float *y) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    const float r = (float)(1.0 / sqrt(sum / (double)n + eps));
    for (int64_t i = 0; i < n; i++) y[i] = w[i] * (x[i] * r);
}

static void rope(float *x, const float *cosine, const float *sine, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

static uint32_t magnitude_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & UINT32_C(0x7fffffff);
}

static uint32_t absmax(const float *x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = magnitude_bits(x[i]);
        if (bits > largest) largest = bits;
    }
    return largest;
}

static uint32_t swiglu(float *gate, const float *up, int64_t n) {
    for (int64_t i = 0; i < n; i++) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    return absmax(gate, n);
}

static void rms_norm_backward(const float *x, const float *w, double eps, int64_t n, const float *dy,
                              bool add, float *dx, float *dw) {
    double squares = 0.0, product = 0.0;
    for (int64_t i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
        product += (double)w[i] * (double)dy[i] * (double)x[i];
    }
    const double r = 1.0 / sqrt(squares / (double)n + eps), shrink = r * r * r * product / (double)n;
    for (int64_t i = 0; i < n; i++) {
        const double d = r * (double)w[i] * (double)dy[i] - (double)x[i] * shrink;
        dw[i] += (float)((double)dy[i] * (double)x[i] * r);
        dx[i] = (float)(add ? (double)dx[i] + d : d);
    }
}

static void swiglu_backward(float *gate, float *up, float *dy, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const double g = (double)gate[i], u = (double)up[i], d = (double)dy[i];
        const double logistic = 1.0 / (1.0 + exp(-g)), silu = g * logistic;
        gate[i] = (float)(d * u * (logistic + silu * (1.0 - logistic)));
        up[i] = (float)(d * silu);
        dy[i] = (float)(silu * u);
    }
}

static float max_value(const float *s, int64_t n) {
    float largest = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        if (s[i] > largest) largest = s[i];
    return largest;
}

static float softmax(float *s, int64_t n, float scale) {
    const float shift = max_value(s, n);
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        s[i] = expf(scale * (s[i] - shift));
        sum += (double)s[i];
    }
    return (float)sum;
}

static void softmax_backward(float *e, float *dp, int64_t n, float inverse_sum, float factor) {
    double mean = 0.0;
    for (int64_t i = 0; i < n; i++) {
        e[i] *= inverse_sum;
        mean += (double)e[i] * (double)dp[i];
    }
    for (int64_t i = 0; i < n; i++) dp[i] = (float)((double)factor * (double)e[i] * ((double)dp[i] - mean));
}

static double divergence(float *s, const float *t, int64_t n, double log_sum_s, double log_sum_t,
                         float p_factor, float q_factor) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double log_p = (double)s[i] - log_sum_s, log_q = (double)t[i] - log_sum_t;
        sum += exp(log_q) * (log_q - log_p);
        s[i] = (float)((double)p_factor * exp(log_p) - (double)q_factor * exp(log_q));
    }
    return sum;
}

static double exp_sum(const float *s, int64_t n, float shift) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)s[i] - (double)shift);
    return sum;
}

static double exp_in_place(float *s, int64_t n, float shift) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double e = exp((double)s[i] - (double)shift);
        sum += e;
        s[i] = (float)e;
    }
    return sum;
}

static uint32_t add(float *x, const float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
    return absmax(x, n);
}

static void scale_values(const float *x, float factor, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = factor * x[i];
}

static void widen_bf16(const uint16_t *x, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = qn_bf16_to_f32(x[i]);
}

static void narrow_bf16(const float *x, int64_t n, uint16_t *y) {
    for (int64_t i = 0; i < n; i++) y[i] = qn_f32_to_bf16(x[i]);
}

static void round_bf16(const float *x, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = qn_bf16_to_f32(qn_f32_to_bf16(x[i]));
}

const qni_kernels qni_kernels_ref = {
    .isa = QN_ISA_REF,
    .gemm_f32 = gemm_f32,
    .dot_f32 = dot_f32,
    .dot_bf16 = dot_bf16,
    .rms_norm = rms_norm,
    .rope = rope,
    .swiglu = swiglu,
    .rms_norm_backward = rms_norm_backward,
    .swiglu_backward = swiglu_backward,
    .softmax = softmax,
    .softmax_backward = softmax_backward,
    .divergence = divergence,
    .max = max_value,
    .exp_sum = exp_sum,
    .exp_in_place = exp_in_place,
    .add = add,
    .absmax = absmax,
    .scale = scale_values,
    .widen_bf16 = widen_bf16,
    .narrow_bf16 = narrow_bf16,
    .round_bf16 = round_bf16,
};
