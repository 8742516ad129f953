/* Matrices as sums of signs, and products with them that look sums up.
 *
 * A low-bit matrix W [N, K] is cut into groups of columns. In a group W = sum over planes of s_p[n] * (sum over layers of +1 or
 * -1): a sign code has one layer, a trit q two, [q > 0] and [q >= 0] as signs, with half the scale. Columns in no such code (4-bit rescue)
 * are kept as numbers beside the groups.
 *
 * Four signs have 16 sums with four values x. A product makes the 16 sums of each four inputs once for a tile of tokens, and
 * then adds one of them where a dense product has four multiply-adds: the method of Arlazarov, Dinic, Kronrod and Faradzhev (1970), known as
 * that of the four Russians; for low-bit weights Wei et al., "T-MAC" (2024). The same the other way round gives
 * dx = dy W, with the four signs taken down a column and dy times the scale of its row. With two
 * layers there are two additions in place of four multiply-adds, which pays in large matrices alone.
 *
 * Rounding: sums of four, of sixteen fours, then over blocks of 64 with their scale, in order, all in f32; as exact as a dense product. A
 * result depends on the kernels' width, not on the number of threads, nor on which tokens share a tile. */
#ifndef QUERN_SRC_TENSOR_SIGNS_H
#define QUERN_SRC_TENSOR_SIGNS_H

#include "quern/base/status.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    QNI_SIGN_BLOCK = 64, /* signs of a word, and values of a set of tables */
    QNI_SIGN_QUADS = QNI_SIGN_BLOCK / 4,
    QNI_SIGN_SUMS = 16, /* of a quad */
    QNI_SIGN_PLANES = 2
};

typedef struct qni_sign_plane {
    int64_t scales, words; /* where they begin */
} qni_sign_plane;

typedef struct qni_sign_group {
    int64_t first, n; /* of its places; a multiple of QNI_SIGN_BLOCK */
    int n_planes, n_layers;
    qni_sign_plane planes[QNI_SIGN_PLANES];
} qni_sign_group;

/* Rows are rounded up to whole blocks; a place is a column, or K where a group is filled up. All arrays are owned. */
typedef struct qni_signs {
    int64_t rows, cols, padded_rows;
    qni_sign_group *groups;
    int64_t n_groups;
    int32_t *places; /* [n_places] the columns of all groups */
    int64_t n_places, n_scales, n_words;
    float *scales; /* a plane's [padded_rows] */
    uint64_t *along,
        *across;   /* a plane's [block of places][layer][padded_rows], and [block of rows][layer][places] */
    int32_t *rest; /* [n_rest] columns kept as numbers: */
    float *dense, *transposed; /* [rows][n_rest], [n_rest][padded_rows] */
    int64_t n_rest;
} qni_signs;

/* Room for a matrix [ROWS, COLS] of up to MAX_GROUPS groups and MAX_PLACES places. Then every column is added once, in a group or in the
 * rest, and the arrays are made. On failure *out is to be released. */
QN_NODISCARD qn_status qni_signs_init(int64_t rows, int64_t cols, int64_t max_groups, int64_t max_places,
                                      qni_signs *out, qn_error *err);
/* N of COLUMNS from FIRST on; of all columns where it is NULL. */
void qni_signs_add_group(qni_signs *s, const int64_t *columns, int64_t first, int64_t n, int n_planes,
                         int n_layers);
void qni_signs_add_rest(qni_signs *s, const int64_t *columns, int64_t n);
QN_NODISCARD qn_status qni_signs_make(qni_signs *s, qn_error *err);
void qni_signs_release(qni_signs *s);

/* Places that n columns of a group take. */
int64_t qni_sign_places(int64_t n);

/* Codes q [up to QNI_SIGN_BLOCK rows from ROW on][N columns], LD apart, of a plane: -1 and 1, and 0 where there are two layers.
 * Row blocks may be set by several threads. */
void qni_signs_set_codes(qni_signs *s, const qni_sign_group *group, int plane, int64_t row, const int8_t *q,
                         int64_t ld, int64_t n);

/* ---- serial kernels, one table an instruction set ---- */

/* Of a tile: n_tokens tokens side by side in each of its rows. */
typedef struct qni_sign_kernels {
    int n_tokens;

    /* Rows [N] of a tile from up to n_tokens of X, zeros for those that are not there; and back, put or added. */
    void (*gather)(const float *x, int64_t ld, int64_t n_tokens, int64_t n, float *rows);
    void (*scatter)(const float *rows, int64_t n, int64_t n_tokens, bool add, float *y, int64_t ld);

    /* The sums of a block of rows: rows PLACES[i], or the first ones, times SCALES[i]. One of the two is NULL.
     * tables [QNI_SIGN_QUADS][QNI_SIGN_SUMS] rows. */
    void (*tabulate)(const float *rows, const int32_t *places, const float *scales, float *tables);

    /* Row i, or PLACES[i], of N += what the layers' words pick, times SCALES[i] unless NULL. Layers are LD words apart. */
    void (*add_sums)(const float *tables, const uint64_t *words, int n_layers, int64_t ld,
                     const float *scales, const int32_t *places, int64_t n, float *rows);

    /* rows_out[i or places_out[i]] += sum_j w[i][j] rows_in[j or places_in[j]]; w is LD apart. */
    void (*add_dense)(const float *w, int64_t ld, const float *rows_in, const int32_t *places_in,
                      int64_t n_in, const int32_t *places_out, int64_t n_out, float *rows_out);
} qni_sign_kernels;

#endif
