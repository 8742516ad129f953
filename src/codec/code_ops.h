/* What a code has to provide. A new code is one file that defines its row, and that row in the table of
 * codec.c. */
#ifndef QUERN_SRC_CODEC_CODE_OPS_H
#define QUERN_SRC_CODEC_CODE_OPS_H

#include "quern/codec/codec.h"

#include <string.h>

/* Columns that start on a byte boundary in every code: a multiple of 8, 5 and 2, and of the usual group
 * sizes. */
enum { QNI_CODE_CHUNK = 1280 };

typedef struct qni_code_ops {
    const char *name;
    qn_role role;       /* of the stored codes */
    int max;            /* largest |q| */
    bool zero_scale_ok; /* a group without any weight may have scale 0 */

    int64_t (*bytes)(int64_t cols); /* of one row's codes */
    void (*pack)(const int8_t *q, int64_t cols, uint8_t *out);
    void (*unpack)(const uint8_t *codes, int64_t cols, int8_t *q); /* legal codes only; writes q[0..cols) */

    /* The first column whose code is illegal, COLS when only the padding is wrong, -1 when the row is legal.
     */
    int64_t (*find_illegal)(const uint8_t *codes, int64_t cols);
    const char *rule; /* what find_illegal checks, for messages */
} qni_code_ops;

/* Scales lie in mapped files, at any address. */
static inline uint16_t qni_load_scale(const uint16_t *scales, int64_t index) {
    uint16_t bits;
    memcpy(&bits, (const uint8_t *)scales + 2 * index, sizeof bits);
    return bits;
}

extern const qni_code_ops qni_code_sign, qni_code_ternary, qni_code_q4;

/* NULL for QN_CODE_NONE and numbers that are no code. */
const qni_code_ops *qni_code_ops_of(qn_code code);

/* Rows, columns, codecs and rescued rows of E fit together and no byte count overflows. */
QN_NODISCARD qn_status qni_encoded_check_shape(const qn_encoded *e, const char *name, qn_error *err);

#endif
