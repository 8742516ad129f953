/* Fitting one group of a row: the columns that share a scale. Private to the closed forms. */
#ifndef QUERN_SRC_FIT_GROUP_FIT_H
#define QUERN_SRC_FIT_GROUP_FIT_H

#include "quern/fit/closed_form.h"

/* What one fit needs beside its inputs. The arrays hold the longest group. */
typedef struct qni_group_work {
    float *values; /* [cols rounded up to a lane block] magnitudes, residuals */
    float *pairs;  /* [2 * (cols + 1)] pairs (|w|, h) for sorting */
    int8_t *q;     /* [cols] codes of a candidate */
} qni_group_work;

/* Fits w[0..n) with weights h[0..n) or NULL: writes the codes and returns the fp16 bits of the scale. */
typedef uint16_t qni_group_fit(const float *w, const float *h, int64_t n, const qni_group_work *work,
                               int8_t *q);

qni_group_fit qni_fit_sign, qni_fit_sign_published, qni_fit_ternary, qni_fit_ternary_published, qni_fit_q4,
    qni_fit_q4_published;

/* qni_fit_ternary of eight groups of n columns one after the other, n a multiple of 8, each with weights 1; the same bits. The
 * arrays of WORK hold all eight. */
void qni_fit_ternary_eight(const float *w, int64_t n, const qni_group_work *work, int8_t *q,
                           uint16_t *scales);

/* qni_fit_ternary of every group of a row with weights 1; the same bits. W holds bf16 numbers only, and GROUP_SIZE is at most
 * QNI_SORTED_LONGEST (ternary_sorted.h). */
void qni_fit_ternary_sorted(const float *w, int64_t cols, int64_t group_size, int8_t *q, uint16_t *scales);

/* The stored form of scale s >= 0: nearest fp16, kept within [2^-24, 65504]; 0 stays 0. */
uint16_t qni_scale_bits(double s);

/* sum h (w - s q)^2 in double. */
double qni_group_error(const float *w, const float *h, int64_t n, const int8_t *q, uint16_t scale_bits,
                       const qni_group_work *work);

/* sum w^2. */
double qni_sum_squares(const float *w, int64_t n);

/* sum |w|, sum h |w|, sum h. */
typedef struct qni_magnitudes {
    double plain, weighted, h;
    float max; /* largest |w| */
} qni_magnitudes;
qni_magnitudes qni_sum_magnitudes(const float *w, const float *h, int64_t n);

#endif
