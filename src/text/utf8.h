/* UTF-8: reading valid text, writing it, and making any bytes valid. */
#ifndef QUERN_SRC_TEXT_UTF8_H
#define QUERN_SRC_TEXT_UTF8_H

#include "quern/base/status.h"
#include "text/buffer.h"

#include <stddef.h>
#include <stdint.h>

enum { QNI_UTF8_MAX_BYTES = 4 };

/* Reads the character at TEXT, which must be valid UTF-8; returns its length in bytes. */
static inline size_t qni_utf8_read(const uint8_t *text, uint32_t *code_point) {
    uint32_t lead = text[0];
    if (lead < 0x80) {
        *code_point = lead;
        return 1;
    }
    if (lead < 0xE0) {
        *code_point = (lead & 0x1F) << 6 | (text[1] & 0x3Fu);
        return 2;
    }
    if (lead < 0xF0) {
        *code_point = (lead & 0x0F) << 12 | (text[1] & 0x3Fu) << 6 | (text[2] & 0x3Fu);
        return 3;
    }
    *code_point = (lead & 0x07) << 18 | (text[1] & 0x3Fu) << 12 | (text[2] & 0x3Fu) << 6 | (text[3] & 0x3Fu);
    return 4;
}

/* Writes CODE_POINT (a valid one) to out; returns the length in bytes. */
static inline size_t qni_utf8_write(uint32_t code_point, uint8_t out[QNI_UTF8_MAX_BYTES]) {
    if (code_point < 0x80) {
        out[0] = (uint8_t)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (uint8_t)(0xC0 | code_point >> 6);
        out[1] = (uint8_t)(0x80 | (code_point & 0x3F));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (uint8_t)(0xE0 | code_point >> 12);
        out[1] = (uint8_t)(0x80 | (code_point >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (code_point & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | code_point >> 18);
    out[1] = (uint8_t)(0x80 | (code_point >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (code_point >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (code_point & 0x3F));
    return 4;
}

/* The length of the longest valid prefix. */
size_t qni_utf8_valid_prefix(const uint8_t *text, size_t n_bytes);

/* Appends TEXT to *out with each maximal invalid sequence replaced by U+FFFD: what Python's errors="replace"
 * and the Unicode standard (chapter 3, "U+FFFD substitution of maximal subparts") do. */
QN_NODISCARD qn_status qni_utf8_append_repaired(qni_buffer *out, const uint8_t *text, size_t n_bytes,
                                                qn_error *err);

#endif
