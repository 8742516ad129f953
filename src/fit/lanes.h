/* Sums in eight lanes of double, element i in lane i mod 8, the lanes added in one fixed order: the same bits
 * from every instruction set and compiler, so these loops may be cloned per vector width. Conversions between
 * bytes and floats are left to plain loops, which gcc 12 vectorises; its vector conversions of that kind are
 * scalar. */
#ifndef QUERN_SRC_FIT_LANES_H
#define QUERN_SRC_FIT_LANES_H

#include <stdint.h>
#include <string.h>

enum { QNI_LANES8 = 8 };

typedef float qni_f4 __attribute__((vector_size(16)));
typedef int32_t qni_i4 __attribute__((vector_size(16)));
typedef double qni_d2 __attribute__((vector_size(16)));
typedef double qni_d4 __attribute__((vector_size(32)));
typedef float qni_f8 __attribute__((vector_size(32)));
typedef int32_t qni_i8 __attribute__((vector_size(32)));
typedef double qni_d8 __attribute__((vector_size(64)));

#define QNI_LANE_INLINE static inline __attribute__((always_inline))

/* Loads p[i..i + 8), with zeros behind the end n. */
QNI_LANE_INLINE void qni_load_f8(qni_f8 *out, const float *p, int64_t i, int64_t n) {
    if (n - i >= QNI_LANES8) {
        memcpy(out, p + i, sizeof *out);
    } else {
        *out = (qni_f8){0};
        memcpy(out, p + i, (size_t)(n - i) * sizeof *p);
    }
}

/* |x| of every lane. */
QNI_LANE_INLINE void qni_abs_f8(qni_f8 *x) {
    *x = (qni_f8)((qni_i8)*x & INT32_MAX);
}

/* x where the lane of MASK is -1, 0 where it is 0. */
QNI_LANE_INLINE void qni_keep_f8(qni_f8 *x, const qni_i8 *mask) {
    *x = (qni_f8)((qni_i8)*x & *mask);
}

/* The larger of both in every lane; no lane may be NaN. */
QNI_LANE_INLINE void qni_max_f8(qni_f8 *max, const qni_f8 *x) {
    qni_i8 larger = *x > *max;
    *max = (qni_f8)(((qni_i8)*x & larger) | ((qni_i8)*max & ~larger));
}

/* The largest lane of non-negative numbers. */
QNI_LANE_INLINE float qni_top_f8(const qni_f8 *x) {
    float top = 0;
    for (int k = 0; k < QNI_LANES8; k++) top = (*x)[k] > top ? (*x)[k] : top;
    return top;
}

QNI_LANE_INLINE void qni_widen(qni_d8 *out, const qni_f8 *x) {
    float narrow[QNI_LANES8];
    double wide[QNI_LANES8];
    memcpy(narrow, x, sizeof narrow);
    for (int k = 0; k < QNI_LANES8; k++) wide[k] = (double)narrow[k];
    memcpy(out, wide, sizeof wide);
}

QNI_LANE_INLINE double qni_sum_d8(const qni_d8 *x) {
    qni_d4 half = __builtin_shufflevector(*x, *x, 0, 1, 2, 3) + __builtin_shufflevector(*x, *x, 4, 5, 6, 7);
    qni_d2 pair = __builtin_shufflevector(half, half, 0, 1) + __builtin_shufflevector(half, half, 2, 3);
    return pair[0] + pair[1];
}

QNI_LANE_INLINE float qni_sum_f8(const qni_f8 *x) {
    qni_f4 half = __builtin_shufflevector(*x, *x, 0, 1, 2, 3) + __builtin_shufflevector(*x, *x, 4, 5, 6, 7);
    half += __builtin_shufflevector(half, half, 2, 3, 0, 1);
    return half[0] + half[1];
}

QNI_LANE_INLINE int32_t qni_sum_i8(const qni_i8 *x) {
    qni_i4 half = __builtin_shufflevector(*x, *x, 0, 1, 2, 3) + __builtin_shufflevector(*x, *x, 4, 5, 6, 7);
    half += __builtin_shufflevector(half, half, 2, 3, 0, 1);
    return half[0] + half[1];
}

#endif
