/* Codecs: how a row of weights is stored in few bits, and exactly how many.
 *
 *   code       values          stored codes                       decoded weight
 *   sign       -1, +1          1 bit, LSB first, 1 means +1        scale * q
 *   ternary    -1, 0, +1       base 3, five a byte (least          scale * q
 *                              significant digit first, digit q+1)
 *   q4         -7 .. +7        two's complement nibbles, two a     scale * q
 *                              byte, even column in the low nibble
 *
 * Every `group_size` consecutive columns of a row share one fp16 scale; the last group may be shorter; group_size 0
 * means one scale for the whole row. Each row starts on a byte boundary; the padding at its end holds digit 0 of
 * the code (bit 0, digit value 0 (q = -1), nibble 0) and is checked. A decoded weight is the exact f32 product of
 * the fp16 scale and the small integer.
 *
 * Letters: R rows, C columns, G groups = ceil(C / group_size). */
#ifndef QUERN_CODEC_CODEC_H
#define QUERN_CODEC_CODEC_H

#include "quern/base/status.h"
#include "quern/tensor/dtype.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_code { QN_CODE_NONE, QN_CODE_SIGN, QN_CODE_TERNARY, QN_CODE_Q4, QN_CODE_COUNT } qn_code;

typedef struct qn_codec {
    qn_code code;
    int32_t group_size; /* columns per scale; 0: the whole row */
} qn_codec;

QN_API const char *qn_code_name(qn_code code);      /* "sign", "ternary", "q4"; "none" for any other number */
QN_API qn_code qn_code_from_name(const char *name); /* QN_CODE_NONE for any other name */
QN_API int qn_code_max(qn_code code);               /* largest |q|: 1, 1, 7 */

QN_API int64_t qn_codec_groups(qn_codec codec, int64_t cols);     /* G, scales per row */
QN_API int64_t qn_codec_code_bytes(qn_codec codec, int64_t cols); /* of one row's codes with their padding */
QN_API int64_t qn_codec_row_bytes(qn_codec codec, int64_t cols);  /* codes and fp16 scales of one row */

/* Packs q[cols] (each within the code's range; sign has no 0) into out[qn_codec_code_bytes]. */
QN_API void qn_codec_pack_row(qn_codec codec, const int8_t *q, int64_t cols, uint8_t *out);

/* Unpacks the integers of one row. Illegal codes (a base-3 byte above 242, q4 -8, non-zero padding) give
 * QN_E_VALUE with the column in the message. */
QN_NODISCARD QN_API qn_status qn_codec_unpack_row(qn_codec codec, const uint8_t *codes, int64_t cols,
                                                  int8_t *q, qn_error *err);

/* out[cols] = scale * q for one row whose codes are known to be legal. */
QN_API void qn_codec_decode_row(qn_codec codec, const uint8_t *codes, const uint16_t *scales, int64_t cols,
                                float *out);

/* An encoded matrix "rowmix": most rows in the native code, a few rescue rows in q4.
 *
 * The arrays are borrowed (from a mapped payload, at any address: the scales need not be aligned) or owned through
 * `owned`; `slot` is derived by qn_encoded_bind. */
typedef struct qn_encoded {
    int64_t rows, cols;
    qn_codec native;
    qn_codec rescue; /* {QN_CODE_Q4, 128} in this version; code NONE when no row is rescued */
    int64_t n_rescue_rows;
    const uint8_t *rescue_mask;    /* [ceil(R/8)] LSB first, 1 = rescued; NULL when n_rescue_rows == 0 */
    const uint8_t *codes;          /* [R - n_rescue_rows][native code bytes], native rows in order */
    const uint16_t *scales;        /* [R - n_rescue_rows][G native] fp16 bits */
    const uint8_t *rescue_codes;   /* [n_rescue_rows][rescue code bytes] */
    const uint16_t *rescue_scales; /* [n_rescue_rows][G rescue] fp16 bits */
    int32_t *slot; /* [R] row r lies at native index slot[r], or at rescue index ~slot[r]; owned */
    void *owned;   /* one block behind the arrays above, or NULL when they are borrowed */
} qn_encoded;

/* Roles of stored bytes as the contract's manifest names them. */
typedef enum qn_role {
    QN_ROLE_BINARY,
    QN_ROLE_TERNARY,
    QN_ROLE_RESCUE,
    QN_ROLE_SCALE,
    QN_ROLE_SIDE,
    QN_ROLE_METADATA,
    QN_ROLE_COUNT
} qn_role;
/* "binary", "ternary", "rescue_q4", "scale", "side", "metadata" */
QN_API const char *qn_role_name(qn_role role);

/* The stored arrays of an encoded matrix, as the payload file names them: tensor NAME + suffix.
 *   .codes U8 [R-r, b]   .scales F16 [R-r, G]   .rescue_mask U8 [ceil(R/8)]   .rescue_codes U8 [r, b4]
 *   .rescue_scales F16 [r, G4]
 * Matrices without rescue rows have the first two only; matrices with nothing but rescue rows lack those two. */
typedef struct qn_part {
    const char *suffix; /* static string */
    qn_role role;
    qn_view view; /* data NULL when only the layout was asked for */
} qn_part;
enum { QN_MAX_PARTS = 8 };

/* Lists the parts of E in file order; the data pointers may be NULL. Returns their number. */
QN_API int qn_encoded_parts(const qn_encoded *e, qn_part parts[QN_MAX_PARTS]);

/* Exact bytes of all parts. */
QN_API int64_t qn_encoded_bytes(const qn_encoded *e);

/* The same arrays as qn_encoded's, writable; for whoever fills a fresh matrix. */
typedef struct qn_encoded_arrays {
    uint8_t *rescue_mask, *codes, *rescue_codes;
    uint16_t *scales, *rescue_scales;
} qn_encoded_arrays;

/* Allocates the arrays for the given rows, cols, native, rescue and n_rescue_rows (all other fields of *e are
 * overwritten, and rescue becomes {QN_CODE_NONE, 0} when no row is rescued), zero-filled, as one block owned by *e, and
 * hands out writable pointers to them. The caller fills them and then calls qn_encoded_bind. */
QN_NODISCARD QN_API qn_status qn_encoded_alloc(qn_encoded *e, qn_encoded_arrays *arrays, qn_error *err);

/* Checks everything a hostile file could break and derives `slot`: mask bits against n_rescue_rows, padding bits,
 * every code legal, every scale finite and > 0 (exactly 0 is allowed in sign and ternary, for a group whose weights are
 * all zero; never in q4). A matrix without rescued rows has rescue {QN_CODE_NONE, 0}. NAME is for messages. On failure
 * *e is unchanged. Cost: one pass over the codes. */
QN_NODISCARD QN_API qn_status qn_encoded_bind(qn_encoded *e, const char *name, qn_error *err);

/* Frees slot and owned; idempotent; a zeroed struct is fine. */
QN_API void qn_encoded_release(qn_encoded *e);

/* out[n_rows][cols] = dequantised rows [row0, row0 + n_rows), f32. Requires a bound E. Thread-safe. */
QN_API void qn_encoded_decode_rows(const qn_encoded *e, int64_t row0, int64_t n_rows, float *out);

/* A weight as the model sees it: a dense view, or an encoded matrix. The model asks for rows and does not care. */
typedef enum qn_weight_kind { QN_WEIGHT_NONE, QN_WEIGHT_DENSE, QN_WEIGHT_ENCODED } qn_weight_kind;

typedef struct qn_weight {
    qn_weight_kind kind;
    qn_view dense;      /* kind DENSE: [R, C] or [C], F32, F16 or BF16 */
    qn_encoded encoded; /* kind ENCODED: bound */
} qn_weight;

QN_API int64_t qn_weight_rows(const qn_weight *w); /* 1 for a vector */
QN_API int64_t qn_weight_cols(const qn_weight *w);

/* out[n_rows][cols] f32. Never fails: dense dtypes were checked when the weight was made. Thread-safe. */
QN_API void qn_weight_decode_rows(const qn_weight *w, int64_t row0, int64_t n_rows, float *out);

#ifdef __cplusplus
}
#endif
#endif
