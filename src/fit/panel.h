/* Products over a panel of 64 right-hand columns: the one loop in which calibrated fits spend their time.
 *
 *   out[j][t] += sum over k of M[k][j] * x[k][t],   t = 0..63
 *
 * M lies in strips of six columns, each strip [depth][6]; x and out have rows of 64 values. Every sum is one chain of fused
 * multiply-adds in the order of k, so the bits do not depend on how a product is cut up or on the instruction set. */
#ifndef QUERN_SRC_FIT_PANEL_H
#define QUERN_SRC_FIT_PANEL_H

#include "quern/base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    QNI_STRIP = 6,  /* columns of a strip */
    QNI_LANES = 64, /* t: rows of the fitted matrix that are worked on together */
    QNI_BLOCK = 48, /* columns of a block of a sequential loop; whole strips */
    QNI_BLOCK_STRIPS = QNI_BLOCK / QNI_STRIP
};

/* A matrix [depth, cols] f32 in strips; columns beyond the last are zero. */
typedef struct qni_strips {
    int64_t cols, n_strips;
    int64_t *depth; /* [n_strips] rows that strip s holds */
    float **strip;  /* [n_strips] into `values` */
    float *values;
} qni_strips;

/* Depth of the strip whose last column is COL. */
typedef int64_t qni_strip_depth(const void *user, int64_t col);

/* Zeroed strips. */
QN_NODISCARD qn_status qni_strips_alloc(qni_strips *strips, int64_t cols, qni_strip_depth *depth,
                                        const void *user, qn_error *err);
void qni_strips_release(qni_strips *strips);

static inline float *qni_strips_at(const qni_strips *strips, int64_t row, int64_t col) {
    return strips->strip[col / QNI_STRIP] + row * QNI_STRIP + col % QNI_STRIP;
}

/* Fills every strip with M[k][j] = scale * source[order[k]][order[j]] (- subtracted[..] where not NULL); order NULL: as it
 * stands. Both sources are [cols, cols]. */
void qni_strips_fill(qni_strips *strips, const float *source, const float *subtracted, const int64_t *order,
                     float scale, int n_threads);

/* out[n_strips * 6][64] += strips [first_strip, + n_strips) times rows [k0, k1) of the product; x points at row k0. */
void qni_panel_add(const qni_strips *strips, int64_t first_strip, int64_t n_strips, int64_t k0, int64_t k1,
                   const float *x, float *out);

/* The same of bare strips in double: strip i is m[i] + 6 * k0. */
void qni_panel_add_f64(const double *const *m, int64_t n_strips, int64_t k0, int64_t k1, const double *x,
                       double *out);

#endif
