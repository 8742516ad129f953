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

/* Number I of a 6-bit stream; reads no byte beyond it. */
static inline unsigned qni_log6_get(const uint8_t *stream, int64_t i) {
    const uint8_t *at = stream + 6 * i / 8;
    const int shift = (int)(6 * i % 8);
    unsigned bits = (unsigned)at[0] >> shift;
    if (shift > 2) bits |= (unsigned)at[1] << (8 - shift);
    return bits & 63;
}

/* Scale I of a plane of fp16 scales, which lie at any address. */
static inline uint16_t qni_f16_get(const uint8_t *scales, int64_t i) {
    uint16_t bits;
    memcpy(&bits, scales + 2 * i, sizeof bits);
    return bits;
}

extern const qni_code_ops qni_code_sign, qni_code_ternary, qni_code_q4;

/* NULL for QN_CODE_NONE and numbers that are no code. */
const qni_code_ops *qni_code_ops_of(qn_code code);

#endif
