/* A fitted matrix before it is packed: bands of lines, each band in a code of its own.
 *
 * A matrix W [R, C] is cut along one axis into lines (its rows, or its columns); line_band says which band a line belongs
 * to, and lines keep their order within a band. A plane is one array of codes with its scales; a weight of a two-plane
 * band is s1 q1 + s2 q2. Every `group_size` consecutive columns of a stored row share a scale, the last group may be
 * shorter, and 0 means the whole row; on the column axis these are consecutive *band* columns.
 *
 *   axis      band of N lines       stored rows x cols
 *   rows      any code              N x C
 *   columns   sign, ternary         R x N
 *   columns   q4                    N x R: transposed, a scale for every group_size rows of a column
 *
 * Scales are fp16 bits. With log6_scales each of them is one of 64 values, and scale_codes holds its number k: fp16(base *
 * ratio^k), the power by repeated multiplication in double. */
#ifndef QUERN_FIT_BANDS_H
#define QUERN_FIT_BANDS_H

#include "quern/codec/codec.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_band_spec {
    qn_code code;
    int n_planes;       /* 1 or 2; q4: 1 */
    int32_t group_size; /* 0: the whole stored row */
    bool log6_scales;
} qn_band_spec;

/* Which lines are fitted how. line_band [R or C, as the axis says] is borrowed; NULL puts every line into band 0. */
typedef struct qn_band_shape {
    int64_t rows, cols; /* R, C */
    qn_axis axis;
    int n_bands;
    qn_band_spec bands[QN_MAX_BANDS];
    const uint8_t *line_band;
} qn_band_shape;

typedef struct qn_banded_plane {
    int8_t *q;                   /* [stored rows][stored cols] */
    uint16_t *scales;            /* [stored rows][groups] fp16 bits */
    uint8_t *scale_codes;        /* [stored rows][groups], 0..63; NULL without log6_scales */
    float grid_base, grid_ratio; /* of the 64 values; 0 without log6_scales */
} qn_banded_plane;

typedef struct qn_banded_band {
    qn_band_spec spec;
    int64_t n_lines, rows, cols, groups; /* stored rows and cols; scales a stored row */
    qn_banded_plane planes[QN_MAX_PLANES];
} qn_banded_band;

typedef struct qn_banded {
    int64_t rows, cols; /* R, C */
    qn_axis axis;
    int n_bands;
    qn_banded_band bands[QN_MAX_BANDS];
    uint8_t *line_band;      /* [lines] */
    uint16_t *column_scales; /* [C] fp16 bits that multiply the columns of all the above; NULL: none */
} qn_banded;                 /* all arrays owned */

/* Allocates zeroed codes and scales for SHAPE. QN_E_ARGUMENT: a code, number of planes or group size that does not exist,
 * or a line of no band. On failure *out is unchanged. */
QN_NODISCARD QN_API qn_status qn_banded_alloc(const qn_band_shape *shape, qn_banded *out, qn_error *err);

/* Idempotent; a zeroed struct is fine. */
QN_API void qn_banded_release(qn_banded *banded);

/* out[R, C] = the weights the codes and fp16 scales stand for: s1 q1 + s2 q2, products and sum in f32, times the column
 * scale in f32. */
QN_API void qn_banded_decode(const qn_banded *banded, float *out);

/* The bands of a packed shape, with the bands of its lines (borrowed; NULL: all in band 0). */
QN_API qn_band_shape qn_band_shape_of(const qn_encoded *shape, const uint8_t *line_band);

/* Packs BANDED: *out is owned and bound, and decodes to the very weights of qn_banded_decode (before a rotation is undone, where
 * HADAMARD, the columns of a rotated block, is not 0). Every band must have lines (QN_E_ARGUMENT). NAME is for messages. */
QN_NODISCARD QN_API qn_status qn_banded_encode(const qn_banded *banded, int32_t hadamard, const char *name,
                                               qn_encoded *out, qn_error *err);

/* The codes and scales of a bound matrix E; its rotation is left aside. The caller owns *out. */
QN_NODISCARD QN_API qn_status qn_banded_unpack(const qn_encoded *e, qn_banded *out, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
