#include "fit/panel.h"

#include "base/alloc.h"
#include "base/smaller.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define QNI_PANEL_X86 1
#else
#define QNI_PANEL_X86 0
#endif

#include "base/banned.h"

/* Rows of x that stay in the first-level cache while every strip passes over them: 32 KiB. */
enum { CHUNK_F32 = 128, CHUNK_F64 = 64 };

/* One strip over DEPTH rows: a tile of 6 x N_VECTORS registers, for all 64 columns of x in turn. Meanwhile the strip that comes
 * NEXT is fetched: a piece of a strip is too short for the processor to guess the following one. */
#define DEFINE_STRIP_KERNEL(name, target_set, real, vector, lanes, n_vectors, load, store, splat, fma)       \
    __attribute__((target(target_set))) static void name(const real *m, int64_t depth, const real *x,        \
                                                         real *out, const real *next) {                      \
        for (int t = 0; t < QNI_LANES; t += (lanes) * (n_vectors)) {                                         \
            vector sum[QNI_STRIP][n_vectors];                                                                \
            for (int i = 0; i < QNI_STRIP; i++) {                                                            \
                for (int v = 0; v < (n_vectors); v++)                                                        \
                    sum[i][v] = load(out + i * QNI_LANES + t + v * (lanes));                                 \
            }                                                                                                \
            for (int64_t k = 0; k < depth; k++) {                                                            \
                if (t == 0) __builtin_prefetch(next + k * QNI_STRIP);                                        \
                vector row[n_vectors];                                                                       \
                for (int v = 0; v < (n_vectors); v++) row[v] = load(x + k * QNI_LANES + t + v * (lanes));    \
                for (int i = 0; i < QNI_STRIP; i++) {                                                        \
                    const vector factor = splat(m[k * QNI_STRIP + i]);                                       \
                    for (int v = 0; v < (n_vectors); v++) sum[i][v] = fma(factor, row[v], sum[i][v]);        \
                }                                                                                            \
            }                                                                                                \
            for (int i = 0; i < QNI_STRIP; i++) {                                                            \
                for (int v = 0; v < (n_vectors); v++)                                                        \
                    store(out + i * QNI_LANES + t + v * (lanes), sum[i][v]);                                 \
            }                                                                                                \
        }                                                                                                    \
    }

/* Processors without these sets: correct, the same bits, and slow where fma is a library call. */
#define DEFINE_PLAIN_KERNEL(name, real, fma)                                                                 \
    static void name(const real *m, int64_t depth, const real *x, real *out, const real *next) {             \
        (void)next;                                                                                          \
        for (int64_t k = 0; k < depth; k++) {                                                                \
            for (int i = 0; i < QNI_STRIP; i++) {                                                            \
                for (int t = 0; t < QNI_LANES; t++) {                                                        \
                    real *sum = out + i * QNI_LANES + t;                                                     \
                    *sum = fma(m[k * QNI_STRIP + i], x[k * QNI_LANES + t], *sum);                            \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }

typedef void strip_f32(const float *m, int64_t depth, const float *x, float *out, const float *next);
typedef void strip_f64(const double *m, int64_t depth, const double *x, double *out, const double *next);

DEFINE_PLAIN_KERNEL(strip_f32_plain, float, fmaf)
DEFINE_PLAIN_KERNEL(strip_f64_plain, double, fma)
#if QNI_PANEL_X86
DEFINE_STRIP_KERNEL(strip_f32_avx512, "avx512f", float, __m512, 16, 4, _mm512_loadu_ps, _mm512_storeu_ps,
                    _mm512_set1_ps, _mm512_fmadd_ps)
DEFINE_STRIP_KERNEL(strip_f64_avx512, "avx512f", double, __m512d, 8, 4, _mm512_loadu_pd, _mm512_storeu_pd,
                    _mm512_set1_pd, _mm512_fmadd_pd)
DEFINE_STRIP_KERNEL(strip_f32_avx2, "avx2,fma", float, __m256, 8, 2, _mm256_loadu_ps, _mm256_storeu_ps,
                    _mm256_set1_ps, _mm256_fmadd_ps)
DEFINE_STRIP_KERNEL(strip_f64_avx2, "avx2,fma", double, __m256d, 4, 2, _mm256_loadu_pd, _mm256_storeu_pd,
                    _mm256_set1_pd, _mm256_fmadd_pd)
#endif

static strip_f32 *choose_f32(void) {
#if QNI_PANEL_X86
    if (__builtin_cpu_supports("avx512f")) return strip_f32_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return strip_f32_avx2;
#endif
    return strip_f32_plain;
}

static strip_f64 *choose_f64(void) {
#if QNI_PANEL_X86
    if (__builtin_cpu_supports("avx512f")) return strip_f64_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return strip_f64_avx2;
#endif
    return strip_f64_plain;
}

void qni_panel_add(const qni_strips *strips, int64_t first_strip, int64_t n_strips, int64_t k0, int64_t k1,
                   const float *x, float *out) {
    strip_f32 *const kernel = choose_f32();
    for (int64_t k = k0; k < k1; k += CHUNK_F32) {
        const int64_t depth = qni_min(CHUNK_F32, k1 - k);
        float *const *strip = strips->strip + first_strip;
        for (int64_t s = 0; s < n_strips; s++) {
            kernel(strip[s] + k * QNI_STRIP, depth, x + (k - k0) * QNI_LANES, out + s * QNI_STRIP * QNI_LANES,
                   s + 1 < n_strips ? strip[s + 1] + k * QNI_STRIP : strip[0] + (k + depth) * QNI_STRIP);
        }
    }
}

void qni_panel_add_f64(const double *const *m, int64_t n_strips, int64_t k0, int64_t k1, const double *x,
                       double *out) {
    strip_f64 *const kernel = choose_f64();
    for (int64_t k = k0; k < k1; k += CHUNK_F64) {
        const int64_t depth = qni_min(CHUNK_F64, k1 - k);
        for (int64_t s = 0; s < n_strips; s++) {
            kernel(m[s] + k * QNI_STRIP, depth, x + (k - k0) * QNI_LANES, out + s * QNI_STRIP * QNI_LANES,
                   s + 1 < n_strips ? m[s + 1] + k * QNI_STRIP : m[0] + (k + depth) * QNI_STRIP);
        }
    }
}

qn_status qni_strips_alloc(qni_strips *strips, int64_t cols, qni_strip_depth *depth, const void *user,
                           qn_error *err) {
    qni_strips s = {.cols = cols, .n_strips = (cols + QNI_STRIP - 1) / QNI_STRIP};
    int64_t rows = 0;
    s.depth = qni_alloc_array(s.n_strips, sizeof *s.depth);
    s.strip = qni_alloc_array(s.n_strips, sizeof *s.strip);
    if (s.depth && s.strip) {
        for (int64_t i = 0; i < s.n_strips; i++) {
            s.depth[i] = depth(user, qni_min(cols, (i + 1) * QNI_STRIP) - 1);
            rows += s.depth[i];
        }
        s.values = qni_alloc_aligned(rows, QNI_STRIP * sizeof *s.values);
    }
    if (!s.values) {
        qni_strips_release(&s);
        return qni_fail_nomem(err, "the strips of a matrix of inputs");
    }
    memset(s.values, 0, (size_t)rows * QNI_STRIP * sizeof *s.values);
    rows = 0;
    for (int64_t i = 0; i < s.n_strips; i++) {
        s.strip[i] = s.values + rows * QNI_STRIP;
        rows += s.depth[i];
    }
    *strips = s;
    return QN_OK;
}

void qni_strips_release(qni_strips *strips) {
    free(strips->depth);
    free(strips->strip);
    free(strips->values);
    *strips = (qni_strips){0};
}

/* Row k of every strip that is deep enough. A row of the source is read as a whole: it stays in the cache. */
static void fill_row(qni_strips *strips, const float *source, const float *subtracted, const int64_t *order,
                     float scale, int64_t k) {
    const int64_t row = (order ? order[k] : k) * strips->cols;
    for (int64_t s = 0; s < strips->n_strips; s++) {
        if (k >= strips->depth[s]) continue;
        float *out = strips->strip[s] + k * QNI_STRIP;
        for (int64_t j = s * QNI_STRIP; j < qni_min(strips->cols, (s + 1) * QNI_STRIP); j++) {
            const int64_t at = row + (order ? order[j] : j);
            *out++ = scale * (subtracted ? source[at] - subtracted[at] : source[at]);
        }
    }
}

void qni_strips_fill(qni_strips *strips, const float *source, const float *subtracted, const int64_t *order,
                     float scale, int n_threads) {
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t k = 0; k < strips->cols; k++) fill_row(strips, source, subtracted, order, scale, k);
}
