/* Serial kernels, one table an instruction set. Every kernel works on one thread and allocates nothing; a
 * result depends only on the arguments and the table. kernels_ref.c is the plain truth that tests compare the
 * others against. */
#ifndef QUERN_SRC_TENSOR_KERNELS_H
#define QUERN_SRC_TENSOR_KERNELS_H

#include "quern/tensor/isa.h"
#include "tensor/packed.h"
#include "tensor/signs.h"

#include <stdbool.h>
#include <stdint.h>

/* C [m, n] = op(A) [m, k] op(B) [k, n] (+ C when accumulate); row-major, op transposes when trans_* is set.
 * The leading dimensions are those of the stored (untransposed) matrices. Returns 0, or the library's error
 * number. */
typedef int (*qni_gemm_f32_kernel)(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                                   const float *a, int64_t lda, const float *b, int64_t ldb, bool accumulate,
                                   float *c, int64_t ldc);

typedef struct qni_kernels {
    qn_isa isa;
    /* Products on a matrix unit (AMX), in bf16 and in f32. Where this is NULL, f32 products are oneDNN's, and operands in bf16 are
     * rounded and multiplied in f32: on Sapphire Rapids the AVX-512 bf16 dot product gives half the rate of f32 FMA. */
    const qni_packed_kernels *packed;
    qni_gemm_f32_kernel gemm_f32;

    /* Products in f32 with matrices that are sums of signs; NULL where dense ones serve. */
    const qni_sign_kernels *signs;

    /* sum_i x[i] w[i]; the second form widens bf16 weights on the fly. */
    float (*dot_f32)(const float *x, const float *w, int64_t n);
    float (*dot_bf16)(const float *x, const uint16_t *w, int64_t n);

    /* y[i] = w[i] * (x[i] / sqrt(mean(x^2) + eps)); y may be x. */
    void (*rms_norm)(const float *x, const float *w, double eps, int64_t n, float *y);

    /* Half-split rotation in place: (a, b) = (x[i], x[i + half]) -> (a c - b s, b c + a s), i < half. */
    void (*rope)(float *x, const float *cosine, const float *sine, int64_t half);

    /* gate[i] = silu(gate[i]) * up[i]. Returns the bits of the largest |product|. */
    uint32_t (*swiglu)(float *gate, const float *up, int64_t n);

    /* s[i] = exp(scale * (s[i] - max s)) in place; returns the sum. */
    float (*softmax)(float *s, int64_t n, float scale);

    /* Gradients; d... is the derivative of the loss with respect to ...
     *
     * dx[i] (+)= r w[i] dy[i] - x[i] r^3 mean(w dy x) with r = 1 / sqrt(mean(x^2) + eps), added where ADD
     * says so; dw[i] += dy[i] x[i] r. dx may be dy. */
    void (*rms_norm_backward)(const float *x, const float *w, double eps, int64_t n, const float *dy,
                              bool add, float *dx, float *dw);

    /* Of y = silu(gate) * up: gate becomes its gradient, up its gradient, and dy becomes y. */
    void (*swiglu_backward)(float *gate, float *up, float *dy, int64_t n);

    /* Of p = e / sum e, given exponentials E and the gradient DP: e becomes p, dp becomes
     * factor * p * (dp - sum p dp), the gradient of what was exponentiated with FACTOR. */
    void (*softmax_backward)(float *e, float *dp, int64_t n, float inverse_sum, float factor);

    /* sum_i q[i] log(q[i] / p[i]) with p = exp(s - log_sum_s), q = exp(t - log_sum_t); then
     * s[i] = p_factor * p[i] - q_factor * q[i]. */
    double (*divergence)(float *s, const float *t, int64_t n, double log_sum_s, double log_sum_t,
                         float p_factor, float q_factor);

    /* Largest element; sum of exp(s[i] - shift). */
    float (*max)(const float *s, int64_t n);
    double (*exp_sum)(const float *s, int64_t n, float shift);

    /* s[i] = exp(s[i] - shift) in place; returns the sum. */
    double (*exp_in_place)(float *s, int64_t n, float shift);

    /* x[i] += y[i]; returns the bits of the largest |sum|. */
    uint32_t (*add)(float *x, const float *y, int64_t n);

    /* The bits of the largest |x[i]|; as floats are ordered like their bits, a value >= QNI_NONFINITE_BITS
     * says that some x[i] is infinite or NaN. */
    uint32_t (*absmax)(const float *x, int64_t n);

    /* y[i] = factor * x[i]. */
    void (*scale)(const float *x, float factor, int64_t n, float *y);

    /* bf16 -> f32 (exact) and f32 -> bf16 (round to nearest even, NaN stays NaN). */
    void (*widen_bf16)(const uint16_t *x, int64_t n, float *y);
    void (*narrow_bf16)(const float *x, int64_t n, uint16_t *y);

    /* y[i] = x[i] rounded to bf16, kept as f32; y may be x. */
    void (*round_bf16)(const float *x, int64_t n, float *y);
} qni_kernels;

#define QNI_NONFINITE_BITS UINT32_C(0x7f800000)

extern const qni_kernels qni_kernels_ref;
#if defined(__x86_64__)
extern const qni_kernels qni_kernels_avx2, qni_kernels_avx512, qni_kernels_amx;
extern const qni_packed_kernels qni_packed_amx;
#elif defined(__aarch64__)
extern const qni_kernels qni_kernels_neon;
#endif

/* The table of the selected instruction set (qn_isa_select). */
QN_NODISCARD qn_status qni_kernels_get(const qni_kernels **out, qn_error *err);

/* The f32 product through oneDNN, on the calling thread only (tile_gemm.h says how that is arranged). */
int qni_gemm_f32_dnnl(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
                      int64_t lda, const float *b, int64_t ldb, bool accumulate, float *c, int64_t ldc);

#endif
