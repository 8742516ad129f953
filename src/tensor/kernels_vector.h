/* The vector kernels, written once with the compilers' vector extension and compiled once an instruction set:
 * the including file defines QNI_LANES (floats in a register) and is built with that set's flags. Lane sums
 * are added in a fixed order, so a result depends on QNI_LANES only. */
#include "tensor/kernels.h"

#include <math.h>
#include <string.h>

typedef float vec __attribute__((vector_size(QNI_LANES * 4)));
typedef int32_t veci __attribute__((vector_size(QNI_LANES * 4)));
typedef uint32_t vecu __attribute__((vector_size(QNI_LANES * 4)));
typedef uint16_t vech __attribute__((vector_size(QNI_LANES * 2)));

#define KERNEL static inline __attribute__((always_inline))

KERNEL vec splat(float value) {
    return value - (vec){0};
}

KERNEL vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The first n < QNI_LANES values, then FILL. */
KERNEL vec load_tail(const float *p, int64_t n, float fill) {
    vec v = splat(fill);
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}

KERNEL void store(float *p, vec v) {
    memcpy(p, &v, sizeof v);
}

KERNEL void store_tail(float *p, int64_t n, vec v) {
    memcpy(p, &v, (size_t)n * sizeof *p);
}

KERNEL vecu bits_of(vec v) {
    return (vecu)v & UINT32_C(0x7fffffff);
}

/* Lane masks are 0 or -1. */
KERNEL vec select(veci mask, vec yes, vec no) {
    return (vec)(((veci)yes & mask) | ((veci)no & ~mask));
}

KERNEL vecu max_u(vecu a, vecu b) {
    const vecu mask = (vecu)(a > b);
    return (a & mask) | (b & ~mask);
}

KERNEL vec max_f(vec a, vec b) {
    return select(a > b, a, b);
}

KERNEL double sum_lanes(vec v) {
    float lane[QNI_LANES];
    memcpy(lane, &v, sizeof lane);
    double sum = 0.0;
    for (int i = 0; i < QNI_LANES; i++) sum += (double)lane[i];
    return sum;
}

KERNEL uint32_t max_lanes_u(vecu v) {
    uint32_t lane[QNI_LANES], largest = 0;
    memcpy(lane, &v, sizeof lane);
    for (int i = 0; i < QNI_LANES; i++)
        if (lane[i] > largest) largest = lane[i];
    return largest;
}

/* exp(x) to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, a degree-6 Taylor-like minimax polynomial of r
 * (Cephes expf), times 2^n put into the exponent bits. x is held within [-87.3, 88.3], where the result is a
 * normal number: what lies below becomes 1e-38, which no sum here can feel. NaN stays NaN. */
KERNEL vec exp_vec(vec x) {
    x = select(x < -87.3f, splat(-87.3f), x);
    x = select(x > 88.3f, splat(88.3f), x);
    const vec magic =
        splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer held in the low bits */
    const vec shifted = x * 1.44269504088896341f + magic;
    const vec n = shifted - magic;
    const vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const vecu power = ((vecu)shifted - UINT32_C(0x4b400000) + 127) << 23;
    return p * (vec)power;
}

static float dot_f32(const float *x, const float *w, int64_t n) {
    vec a = {0}, b = {0}, c = {0}, d = {0};
    int64_t i = 0;
    for (; i + 4 * QNI_LANES <= n; i += 4 * QNI_LANES) {
        a += load(x + i) * load(w + i);
        b += load(x + i + QNI_LANES) * load(w + i + QNI_LANES);
        c += load(x + i + 2 * QNI_LANES) * load(w + i + 2 * QNI_LANES);
        d += load(x + i + 3 * QNI_LANES) * load(w + i + 3 * QNI_LANES);
    }
    for (; i + QNI_LANES <= n; i += QNI_LANES) a += load(x + i) * load(w + i);
    if (i < n) b += load_tail(x + i, n - i, 0.0f) * load_tail(w + i, n - i, 0.0f);
    return (float)sum_lanes((a + b) + (c + d));
}

KERNEL vec widen(vech half) {
    return (vec)(__builtin_convertvector(half, vecu) << 16);
}

KERNEL vec load_bf16(const uint16_t *p) {
    vech v;
    memcpy(&v, p, sizeof v);
    return widen(v);
}

KERNEL vec load_bf16_tail(const uint16_t *p, int64_t n) {
    vech v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return widen(v);
}

static float dot_bf16(const float *x, const uint16_t *w, int64_t n) {
    vec a = {0}, b = {0}, c = {0}, d = {0};
    int64_t i = 0;
    for (; i + 4 * QNI_LANES <= n; i += 4 * QNI_LANES) {
        a += load(x + i) * load_bf16(w + i);
        b += load(x + i + QNI_LANES) * load_bf16(w + i + QNI_LANES);
        c += load(x + i + 2 * QNI_LANES) * load_bf16(w + i + 2 * QNI_LANES);
        d += load(x + i + 3 * QNI_LANES) * load_bf16(w + i + 3 * QNI_LANES);
    }
    for (; i + QNI_LANES <= n; i += QNI_LANES) a += load(x + i) * load_bf16(w + i);
    if (i < n) b += load_tail(x + i, n - i, 0.0f) * load_bf16_tail(w + i, n - i);
    return (float)sum_lanes((a + b) + (c + d));
}

static void rms_norm(const float *x, const float *w, double eps, int64_t n, float *y) {
    const float r = (float)(1.0 / sqrt((double)dot_f32(x, x, n) / (double)n + eps));
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) store(y + i, load(w + i) * (load(x + i) * r));
    for (; i < n; i++) y[i] = w[i] * (x[i] * r);
}

static void rope(float *x, const float *cosine, const float *sine, int64_t half) {
    int64_t i = 0;
    for (; i + QNI_LANES <= half; i += QNI_LANES) {
        const vec a = load(x + i), b = load(x + i + half), c = load(cosine + i), s = load(sine + i);
        store(x + i, a * c - b * s);
        store(x + i + half, b * c + a * s);
    }
    for (; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

KERNEL vec swiglu_vec(vec gate, vec up) {
    return gate / (1.0f + exp_vec(-gate)) * up;
}

static uint32_t swiglu(float *gate, const float *up, int64_t n) {
    vecu largest = {0};
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) {
        const vec y = swiglu_vec(load(gate + i), load(up + i));
        largest = max_u(largest, bits_of(y));
        store(gate + i, y);
    }
    if (i < n) {
        const vec y = swiglu_vec(load_tail(gate + i, n - i, 0.0f), load_tail(up + i, n - i, 0.0f));
        largest = max_u(largest, bits_of(y));
        store_tail(gate + i, n - i, y);
    }
    return max_lanes_u(largest);
}

static float max_value(const float *s, int64_t n) {
    vec largest = splat(-INFINITY);
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) largest = max_f(load(s + i), largest);
    if (i < n) largest = max_f(load_tail(s + i, n - i, -INFINITY), largest);
    float lane[QNI_LANES], result = -INFINITY;
    memcpy(lane, &largest, sizeof lane);
    for (int l = 0; l < QNI_LANES; l++)
        if (lane[l] > result) result = lane[l];
    return result;
}

static float softmax(float *s, int64_t n, float scale) {
    const float shift = max_value(s, n);
    vec sum = {0};
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) {
        const vec e = exp_vec((load(s + i) - shift) * scale);
        sum += e;
        store(s + i, e);
    }
    double tail_sum = 0.0;
    if (i < n) {
        float lane[QNI_LANES];
        store(lane, exp_vec((load_tail(s + i, n - i, 0.0f) - shift) * scale));
        memcpy(s + i, lane, (size_t)(n - i) * sizeof *s);
        for (int64_t l = 0; l < n - i; l++) tail_sum += (double)lane[l];
    }
    return (float)(sum_lanes(sum) + tail_sum);
}

/* Sum of exp(s - shift); e receives the exponentials unless NULL. */
KERNEL double exp_all(const float *s, int64_t n, float shift, float *e) {
    vec sum = {0};
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) {
        const vec v = exp_vec(load(s + i) - shift);
        sum += v;
        if (e) store(e + i, v);
    }
    double tail_sum = 0.0;
    if (i < n) {
        float lane[QNI_LANES];
        store(lane, exp_vec(load_tail(s + i, n - i, 0.0f) - shift));
        for (int64_t l = 0; l < n - i; l++) tail_sum += (double)lane[l];
        if (e) memcpy(e + i, lane, (size_t)(n - i) * sizeof *e);
    }
    return sum_lanes(sum) + tail_sum;
}

static double exp_sum(const float *s, int64_t n, float shift) {
    return exp_all(s, n, shift, NULL);
}

static double exp_in_place(float *s, int64_t n, float shift) {
    return exp_all(s, n, shift, s);
}

static uint32_t add(float *x, const float *y, int64_t n) {
    vecu largest = {0};
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) {
        const vec v = load(x + i) + load(y + i);
        largest = max_u(largest, bits_of(v));
        store(x + i, v);
    }
    if (i < n) {
        const vec v = load_tail(x + i, n - i, 0.0f) + load_tail(y + i, n - i, 0.0f);
        largest = max_u(largest, bits_of(v));
        store_tail(x + i, n - i, v);
    }
    return max_lanes_u(largest);
}

static uint32_t absmax(const float *x, int64_t n) {
    vecu largest = {0};
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) largest = max_u(largest, bits_of(load(x + i)));
    if (i < n) largest = max_u(largest, bits_of(load_tail(x + i, n - i, 0.0f)));
    return max_lanes_u(largest);
}

static void scale_values(const float *x, float factor, int64_t n, float *y) {
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) store(y + i, load(x + i) * factor);
    for (; i < n; i++) y[i] = x[i] * factor;
}

static void widen_bf16(const uint16_t *x, int64_t n, float *y) {
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) store(y + i, load_bf16(x + i));
    if (i < n) store_tail(y + i, n - i, load_bf16_tail(x + i, n - i));
}

KERNEL vech narrow(vec v) {
    const vecu u = (vecu)v;
    const vecu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    const vecu nan = (vecu)(bits_of(v) > QNI_NONFINITE_BITS);
    return __builtin_convertvector((rounded & ~nan) | (((u >> 16) | 0x40) & nan), vech);
}

static void narrow_bf16(const float *x, int64_t n, uint16_t *y) {
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) {
        const vech h = narrow(load(x + i));
        memcpy(y + i, &h, sizeof h);
    }
    if (i < n) {
        const vech h = narrow(load_tail(x + i, n - i, 0.0f));
        memcpy(y + i, &h, (size_t)(n - i) * sizeof *y);
    }
}

static void round_bf16(const float *x, int64_t n, float *y) {
    int64_t i = 0;
    for (; i + QNI_LANES <= n; i += QNI_LANES) store(y + i, widen(narrow(load(x + i))));
    if (i < n) store_tail(y + i, n - i, widen(narrow(load_tail(x + i, n - i, 0.0f))));
}

#include "tensor/kernels_vector_backward.h"

#define QNI_VECTOR_KERNELS(which, packed_kernels, sign_kernels)                                              \
    {                                                                                                        \
        .isa = (which), .packed = (packed_kernels), .signs = (sign_kernels), .gemm_f32 = qni_gemm_f32_dnnl,  \
        .dot_f32 = dot_f32, .dot_bf16 = dot_bf16, .rms_norm = rms_norm, .rope = rope, .swiglu = swiglu,      \
        .softmax = softmax, .max = max_value, .exp_sum = exp_sum, .exp_in_place = exp_in_place, .add = add,  \
        .absmax = absmax, .scale = scale_values, .rms_norm_backward = rms_norm_backward,                     \
        .swiglu_backward = swiglu_backward, .softmax_backward = softmax_backward, .divergence = divergence,  \
        .widen_bf16 = widen_bf16, .narrow_bf16 = narrow_bf16, .round_bf16 = round_bf16,                      \
    }
