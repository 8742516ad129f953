/* Codecs: how weights are stored in few bits, and exactly how many.
 *
 *   code       values          stored codes                       decoded weight
 *   sign       -1, +1          1 bit, LSB first, 1 means +1        scale * q
 *   ternary    -1, 0, +1       base 3, five a byte (least          scale * q
 *                              significant digit first, digit q+1)
 *   q4         -7 .. +7        two's complement nibbles, two a     scale * q
 *                              byte, even column in the low nibble
 *
 * Every `group_size` consecutive columns of a stored row share one scale; the last group may be shorter; group_size 0
 * means one scale for the whole row. Each row of codes starts on a byte boundary; the padding at its end holds digit 0 of
 * the code (bit 0, digit value 0 (q = -1), nibble 0) and is checked. A decoded weight is the exact f32 product of
 * an fp16 scale and a small integer.
 *
 *   scale      stored as                                           value
 *   f16        fp16 bits, little endian                            that number
 *   log6       6-bit numbers k in one bit stream over the whole    t_k of the plane's table, t_0 = base,
 *              plane, least significant bit first; padding 0       t_{k+1} = t_k * ratio (qn_log6_table)
 *
 * Letters: R rows, C columns, G groups = ceil(C / group_size). */
#ifndef QUERN_CODEC_CODEC_H
#define QUERN_CODEC_CODEC_H

#include "quern/base/status.h"
#include "quern/tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_code { QN_CODE_NONE, QN_CODE_SIGN, QN_CODE_TERNARY, QN_CODE_Q4, QN_CODE_COUNT } qn_code;
typedef enum qn_scale_code { QN_SCALE_F16, QN_SCALE_LOG6, QN_SCALE_COUNT } qn_scale_code;

typedef struct qn_codec {
    qn_code code;
    int32_t group_size; /* columns per scale; 0: the whole row */
    qn_scale_code scale;
} qn_codec;

QN_API const char *qn_code_name(qn_code code);      /* "sign", "ternary", "q4"; "none" for any other number */
QN_API qn_code qn_code_from_name(const char *name); /* QN_CODE_NONE for any other name */
QN_API int qn_code_max(qn_code code);               /* largest |q|: 1, 1, 7 */

QN_API const char *qn_scale_code_name(qn_scale_code scale);     /* "f16", "log6"; "?" for any other number */
QN_API qn_scale_code qn_scale_code_from_name(const char *name); /* QN_SCALE_COUNT for any other name */

QN_API int64_t qn_codec_groups(qn_codec codec, int64_t cols);     /* G, scales per row */
QN_API int64_t qn_codec_code_bytes(qn_codec codec, int64_t cols); /* of one row's codes with their padding */

/* Of one row: codes and fp16 scales. */
QN_API int64_t qn_codec_row_bytes(qn_codec codec, int64_t cols);

/* Packs q[cols] (each within the code's range; sign has no 0) into out[qn_codec_code_bytes]. */
QN_API void qn_codec_pack_row(qn_codec codec, const int8_t *q, int64_t cols, uint8_t *out);

/* Unpacks the integers of one row. Illegal codes (a base-3 byte above 242, q4 -8, non-zero padding) give
 * QN_E_VALUE with the column in the message. */
QN_NODISCARD QN_API qn_status qn_codec_unpack_row(qn_codec codec, const uint8_t *codes, int64_t cols,
                                                  int8_t *q, qn_error *err);

/* out[cols] = scale * q for one row whose codes are known to be legal; scales are fp16 bits, whatever codec.scale says. */
QN_API void qn_codec_decode_row(qn_codec codec, const uint8_t *codes, const uint16_t *scales, int64_t cols,
                                float *out);

/* Bytes of n scales of one plane. */
QN_API int64_t qn_scales_bytes(qn_scale_code scale, int64_t n);

/* Scales as stored: values[n] are fp16 bits (f16), or numbers k < 64 (log6). OUT and SCALES may lie at any address. A log6
 * stream has no byte boundaries between rows: pack a whole plane at once, or parts that begin at a multiple of four. */
QN_API void qn_scales_pack(qn_scale_code scale, const uint16_t *values, int64_t n, uint8_t *out);
QN_API void qn_scales_unpack(qn_scale_code scale, const uint8_t *scales, int64_t n, uint16_t *values);

/* The values of a log6 plane: t_0 = base, t_{k+1} = t_k * ratio in double, each rounded to f32 and then to fp16 (nearest
 * even both times), which any IEEE arithmetic reproduces bit for bit. False, OUT unspecified, unless base and ratio are
 * finite, base > 0, ratio >= 1 and every rounded value lies in (0, 65504]. */
enum { QN_LOG6_VALUES = 64, QN_LOG6_GRID_BYTES = 8 };
QN_API bool qn_log6_table(float base, float ratio, float out[QN_LOG6_VALUES]);
QN_API void qn_log6_grid_pack(float base, float ratio, uint8_t out[QN_LOG6_GRID_BYTES]);

/* An encoded matrix [R, C]. It is cut along one axis into lines (its rows or its columns), and each line belongs to one of
 * up to three bands; all lines of a band share one codec. Within a band lines keep their order, and groups run over
 * consecutive columns of the band: no group mixes codes. A band of two planes holds two codes for each weight, which
 * decodes to s1 q1 + s2 q2 (two exact products and one f32 addition).
 *
 * Stored geometry of a band of N lines, [stored rows, stored columns]:
 *   axis rows                     [N, C]
 *   axis columns, sign, ternary   [R, N]
 *   axis columns, q4              [N, R]   each column along itself, so that one scale serves group_size rows of it
 *
 * With `column_scaled` every column c of the stored matrix has a factor of its own, and decoding multiplies: f32 product of
 * the weight above and the fp16 factor, rounded to f32.
 *
 * All bytes are one block, parts in this order without any alignment:
 *   mask                     only with two bands (1 bit a line) or three (2 bits), least significant first: the line's band;
 *                            padding bits 0
 *   column scales            only with column_scaled: [C] fp16
 *   for each band and plane  grid (log6 only: f32 base, f32 ratio), scales [stored rows, G], codes [stored rows, bytes]
 *
 * With `hadamard` B the codes stand for W S (qn_hadamard_rows), and decoding multiplies by S^T.
 *
 * A file may hold a zlib stream instead of the block, where that is smaller (qn_encoded_deflate). In memory the block is
 * always as above. */
typedef enum qn_axis { QN_AXIS_ROWS, QN_AXIS_COLUMNS } qn_axis;
enum { QN_MAX_BANDS = 3, QN_MAX_PLANES = 2 };

typedef struct qn_plane {
    const uint8_t *grid, *scales, *codes; /* in the block; grid NULL without log6 */
    float values[QN_LOG6_VALUES];         /* log6: derived from the grid by qn_encoded_bind */
} qn_plane;

typedef struct qn_band {
    qn_codec codec;  /* of all its planes */
    int n_planes;    /* 1 or 2; q4: 1 */
    int64_t n_lines; /* at least 1; all bands together: the lines of the matrix */
    qn_plane planes[QN_MAX_PLANES];
} qn_band;

/* The fields up to stream_bytes, without the planes, make up the shape; a shape without data is valid wherever only sizes are asked for.
 * The block is borrowed (from a mapped payload) or owned through `owned`. */
typedef struct qn_encoded {
    int64_t rows, cols;
    qn_axis axis; /* one band: rows */
    int32_t
        hadamard; /* columns of a rotated block: a power of two above 1 that divides cols; 0: not rotated */
    bool column_scaled;
    int n_bands; /* 1 .. QN_MAX_BANDS */
    qn_band bands[QN_MAX_BANDS];
    int64_t
        stream_bytes; /* of the zlib stream that a file holds: less than the block; 0: it holds the block */
    const uint8_t *data;          /* the block */
    const uint8_t *mask;          /* in the block; NULL for one band */
    const uint8_t *column_scales; /* in the block; NULL without column_scaled */
    float *column_values;         /* [C] derived by qn_encoded_bind, owned; NULL without column_scaled */
    int32_t
        *index;  /* derived by qn_encoded_bind, owned. Axis rows: [R] 4 * i + b, the row is line i of band b.
                       Axis columns: [C] the columns of band 0, then of band 1, then of band 2 */
    void *owned; /* the block, or NULL when it is borrowed */
} qn_encoded;

QN_API int64_t qn_encoded_lines(const qn_encoded *e);       /* R or C, by the axis */
QN_API int64_t qn_band_rows(const qn_encoded *e, int band); /* stored rows */
QN_API int64_t qn_band_cols(const qn_encoded *e, int band); /* stored columns */

/* Whether a shape is possible: sizes, axis, bands, codecs and rotation fit together and no byte count overflows.
 * QN_E_SHAPE or QN_E_FORMAT; NAME is for messages. */
QN_NODISCARD QN_API qn_status qn_encoded_check_shape(const qn_encoded *e, const char *name, qn_error *err);
/* The shape alone, without data. */
QN_API qn_encoded qn_encoded_shape(const qn_encoded *e);
QN_API bool qn_encoded_same_shape(const qn_encoded *a, const qn_encoded *b);

/* Roles of stored bytes as the contract's manifest names them. */
typedef enum qn_role {
    QN_ROLE_BINARY,
    QN_ROLE_TERNARY,
    QN_ROLE_RESCUE,
    QN_ROLE_RESIDUAL, /* codes of second planes */
    QN_ROLE_SCALE,    /* scales, of columns too, and grids */
    QN_ROLE_SIDE,     /* masks, vectors */
    QN_ROLE_METADATA,
    QN_ROLE_COUNT
} qn_role;
/* "binary", "ternary", "rescue_q4", "residual", "scale", "side", "metadata" */
QN_API const char *qn_role_name(qn_role role);

/* One contiguous part of the block. */
typedef enum qn_part_kind {
    QN_PART_MASK,
    QN_PART_COLUMN_SCALES,
    QN_PART_GRID,
    QN_PART_SCALES,
    QN_PART_CODES
} qn_part_kind;
typedef struct qn_part {
    qn_part_kind kind;
    int band, plane; /* 0 for mask and column scales */
    qn_role role;
    int64_t offset, n_bytes; /* in the block */
    int64_t stored_bytes;    /* in a file: n_bytes, or a share of the stream; they add up to it */
    int64_t
        n_weights; /* weights this part stands for: those of the band for the codes of a first plane, else 0 */
} qn_part;
enum { QN_MAX_PARTS = 2 + 3 * QN_MAX_BANDS * QN_MAX_PLANES };

/* Lists the parts of a shape in block order. Returns their number. */
QN_API int qn_encoded_parts(const qn_encoded *e, qn_part parts[QN_MAX_PARTS]);

/* Exact bytes of the block. */
QN_API int64_t qn_encoded_bytes(const qn_encoded *e);

/* Bytes that a file holds: those of the block, or stream_bytes. */
QN_API int64_t qn_encoded_stored_bytes(const qn_encoded *e);

/* Writable pointers into a fresh block; those of absent parts are NULL. */
typedef struct qn_plane_arrays {
    uint8_t *grid, *scales, *codes;
} qn_plane_arrays;
typedef struct qn_encoded_arrays {
    uint8_t *mask, *column_scales;
    qn_plane_arrays planes[QN_MAX_BANDS][QN_MAX_PLANES];
} qn_encoded_arrays;

/* Allocates the block for the shape of *e, zero-filled and owned by *e, and hands out writable pointers into it. The caller
 * fills them (qn_mask_set, qn_codec_pack_row, qn_scales_pack, qn_log6_grid_pack) and then calls qn_encoded_bind. On failure
 * *e is unchanged. */
QN_NODISCARD QN_API qn_status qn_encoded_alloc(qn_encoded *e, qn_encoded_arrays *arrays, qn_error *err);

/* Points the shape *e at a borrowed block DATA [qn_encoded_bytes]. */
QN_API void qn_encoded_attach(qn_encoded *e, const uint8_t *data);

/* The band of a line. qn_mask_set takes a mask in which the line is still 0; lines share bytes: set them on one thread. */
QN_API void qn_mask_set(uint8_t *mask, int n_bands, int64_t line, int band);
QN_API int qn_mask_get(const uint8_t *mask, int n_bands, int64_t line);

/* The zlib stream (RFC 1950) of the block of E: Huffman codes only, one table for each part of the block (long parts have
 * several), so that a code's bytes are counted apart from its scales. *stream [*n_bytes] is the caller's, to free(); NULL and
 * 0 where no stream is smaller than the block. The bytes depend on the version of zlib. Errors: QN_E_NOMEM. Cost: about
 * 150 MB/s, memory of the block's size. */
QN_NODISCARD QN_API qn_status qn_encoded_deflate(const qn_encoded *e, uint8_t **stream, int64_t *n_bytes,
                                                 qn_error *err);

/* Inflates STREAM [e->stream_bytes] into a block that *e owns, to be bound. QN_E_FORMAT for a stream that is damaged, ends
 * early, goes on behind its end, or holds another number of bytes than the shape takes. On failure *e is unchanged. */
QN_NODISCARD QN_API qn_status qn_encoded_inflate(qn_encoded *e, const uint8_t *stream, const char *name,
                                                 qn_error *err);

/* Checks everything a hostile file could break and derives `index`, `values` and `column_values`: the shape, mask against line counts,
 * padding bits, every code legal, every grid legal, every column scale finite and > 0, every fp16 scale too (exactly 0 is allowed in sign and
 * ternary, for a group whose weights are all zero; never in q4). NAME is for messages. On failure *e is unchanged. Cost:
 * one pass over the codes. */
QN_NODISCARD QN_API qn_status qn_encoded_bind(qn_encoded *e, const char *name, qn_error *err);

/* Frees index, column_values and owned; idempotent; a zeroed struct is fine. */
QN_API void qn_encoded_release(qn_encoded *e);

/* out[n_rows][cols] = dequantised rows [row0, row0 + n_rows), f32. Requires a bound E. Any range; thread-safe. On the
 * column axis 32 rows at a time are the cheapest. */
QN_API void qn_encoded_decode_rows(const qn_encoded *e, int64_t row0, int64_t n_rows, float *out);

/* rows[n_rows][cols] times S, or times S^T = S^-1 with `inverse`, in place. S is block diagonal; on the block of columns
 * [k B, (k+1) B) it is D H / sqrt(B): H the Walsh-Hadamard matrix in natural order, D the signs of the columns j of the
 * whole matrix:
 *   h = j * 0x9E3779B1;  h ^= h >> 15;  h *= 0x85EBCA77  (mod 2^32);  sign -1 where h >= 2^31
 * Forward: signs, butterflies (a, b) -> (a + b, a - b) at distances 1, 2, 4, ..., B/2, one multiplication by the f32
 * nearest to 1/sqrt(B). Inverse: butterflies, the same multiplication, signs. That order fixes every rounding. */
QN_API void qn_hadamard_rows(float *rows, int64_t n_rows, int64_t cols, int32_t block, bool inverse);

/* A weight as the model sees it: a dense view, or an encoded matrix. The model asks for rows and does not care. */
typedef enum qn_weight_kind { QN_WEIGHT_NONE, QN_WEIGHT_DENSE, QN_WEIGHT_ENCODED } qn_weight_kind;

typedef struct qn_weight {
    qn_weight_kind kind;
    qn_view dense;      /* kind DENSE: [R, C] or [C], F32, F16 or BF16 */
    qn_encoded encoded; /* kind ENCODED: bound */
    /* Internal, borrowed, or NULL: a dense matrix once more as sums of signs, which are faster to multiply. */
    const struct qni_signs *signs;
} qn_weight;

QN_API int64_t qn_weight_rows(const qn_weight *w); /* 1 for a vector */
QN_API int64_t qn_weight_cols(const qn_weight *w);

/* out[n_rows][cols] f32. Never fails: dense dtypes were checked when the weight was made. Thread-safe. */
QN_API void qn_weight_decode_rows(const qn_weight *w, int64_t row0, int64_t n_rows, float *out);

#ifdef __cplusplus
}
#endif
#endif
