/* q4: two's complement nibbles, even column in the low nibble; -8 is not a code. */
#include "base/clones.h"
#include "codec/code_ops.h"

#include "base/banned.h"

static int64_t q4_bytes(int64_t cols) {
    return cols / 2 + cols % 2;
}

static int8_t low_nibble(uint8_t byte) {
    return (int8_t)(((byte & 15) ^ 8) - 8);
}

static int8_t high_nibble(uint8_t byte) {
    return (int8_t)(((byte >> 4) ^ 8) - 8);
}

QNI_CLONES
static void q4_pack(const int8_t *q, int64_t cols, uint8_t *out) {
    int64_t n_full = cols / 2;
    for (int64_t i = 0; i < n_full; i++) out[i] = (uint8_t)((q[2 * i] & 15) | (q[2 * i + 1] & 15) << 4);
    if (cols % 2) out[n_full] = (uint8_t)(q[cols - 1] & 15);
}

QNI_CLONES
static void q4_unpack(const uint8_t *codes, int64_t cols, int8_t *q) {
    int64_t n_full = cols / 2;
    for (int64_t i = 0; i < n_full; i++) {
        q[2 * i] = low_nibble(codes[i]);
        q[2 * i + 1] = high_nibble(codes[i]);
    }
    if (cols % 2) q[cols - 1] = low_nibble(codes[n_full]);
}

QNI_CLONES
static bool has_minus_8(const uint8_t *codes, int64_t n) {
    unsigned found = 0;
    for (int64_t i = 0; i < n; i++)
        found |= (unsigned)((codes[i] & 0x0f) == 0x08) | (unsigned)((codes[i] & 0xf0) == 0x80);
    return found != 0;
}

static int64_t q4_find_illegal(const uint8_t *codes, int64_t cols) {
    int64_t n = q4_bytes(cols);
    if (has_minus_8(codes, n)) {
        int64_t i = 0;
        while (!has_minus_8(codes + i, 1)) i++;
        int64_t col = 2 * i + (low_nibble(codes[i]) != -8);
        return col < cols ? col : cols;
    }
    return cols % 2 && codes[n - 1] >> 4 ? cols : -1;
}

const qni_code_ops qni_code_q4 = {
    .name = "q4",
    .role = QN_ROLE_RESCUE,
    .max = 7,
    .zero_scale_ok = false,
    .bytes = q4_bytes,
    .pack = q4_pack,
    .unpack = q4_unpack,
    .find_illegal = q4_find_illegal,
    .rule = "codes must lie in -7..7 and the padding nibble must be 0",
};
