#include "text/utf8.h"

#include <string.h>

#include "base/banned.h"

/* Length of the sequence at text[0..n): positive when valid, else minus the length of the maximal invalid
 * part. */
static int sequence_length(const uint8_t *text, size_t n) {
    uint8_t lead = text[0];
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint8_t low = 0x80,
            high = 0xBF; /* bounds of the second byte: no overlong forms, surrogates or > U+10FFFF */
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n || text[i] < low || text[i] > high) return -i;
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

size_t qni_utf8_valid_prefix(const uint8_t *text, size_t n_bytes) {
    size_t i = 0;
    while (i < n_bytes) {
        uint64_t word;
        if (n_bytes - i >= sizeof word) {
            memcpy(&word, text + i, sizeof word);
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                i += sizeof word;
                continue;
            }
        }
        int length = sequence_length(text + i, n_bytes - i);
        if (length < 0) return i;
        i += (size_t)length;
    }
    return i;
}

qn_status qni_utf8_append_repaired(qni_buffer *out, const uint8_t *text, size_t n_bytes, qn_error *err) {
    static const uint8_t replacement[] = {0xEF, 0xBF, 0xBD};
    while (n_bytes > 0) {
        size_t n_valid = qni_utf8_valid_prefix(text, n_bytes);
        QN_TRY(qni_buffer_append(out, text, n_valid, err));
        text += n_valid;
        n_bytes -= n_valid;
        if (n_bytes == 0) break;
        size_t n_invalid = (size_t)-sequence_length(text, n_bytes);
        QN_TRY(qni_buffer_append(out, replacement, sizeof replacement, err));
        text += n_invalid;
        n_bytes -= n_invalid;
    }
    return QN_OK;
}
