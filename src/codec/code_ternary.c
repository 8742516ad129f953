/* ternary: base 3, five digits a byte, least significant first, digit q + 1; 3^5 = 243 of 256 byte values are
 * used. */
#include "base/clones.h"
#include "codec/code_ops.h"

#include <string.h>

#include "base/banned.h"

enum { DIGITS = 5, N_BYTE_VALUES = 243 };

#define DIGIT(b, power) ((b) / (power) % 3 - 1)
#define ENTRY(b)                                                                                             \
    { DIGIT(b, 1), DIGIT(b, 3), DIGIT(b, 9), DIGIT(b, 27), DIGIT(b, 81) }
#define ENTRIES3(b)  ENTRY(b), ENTRY((b) + 1), ENTRY((b) + 2)
#define ENTRIES9(b)  ENTRIES3(b), ENTRIES3((b) + 3), ENTRIES3((b) + 6)
#define ENTRIES27(b) ENTRIES9(b), ENTRIES9((b) + 9), ENTRIES9((b) + 18)
#define ENTRIES81(b) ENTRIES27(b), ENTRIES27((b) + 27), ENTRIES27((b) + 54)

/* Eight bytes an entry, so that one wide store moves five digits. */
static const int8_t digits_of_byte[N_BYTE_VALUES][8] = {ENTRIES81(0), ENTRIES81(81), ENTRIES81(162)};

static const uint8_t power_of_3[DIGITS] = {1, 3, 9, 27, 81};

static int64_t ternary_bytes(int64_t cols) {
    return cols / DIGITS + (cols % DIGITS != 0);
}

static uint8_t pack_byte(const int8_t *q, int64_t n) {
    unsigned byte = 0;
    for (int64_t k = 0; k < n; k++) byte += (unsigned)(q[k] + 1) * power_of_3[k];
    return (uint8_t)byte;
}

/* pack_byte of five of the eight codes at Q: with a code a byte, digits are (q mod 4 + 1) mod 4, and the fifth byte of the product
 * is their sum times powers of 3, into which none below carries. */
static uint8_t pack_five_of_eight(const int8_t *q) {
    const uint64_t low_bits = UINT64_C(0x0303030303), ones = UINT64_C(0x0101010101);
    const uint64_t powers = UINT64_C(0x0103091b51);
    uint64_t codes;
    memcpy(&codes, q, sizeof codes);
    return (uint8_t)((((codes & low_bits) + ones) & low_bits) * powers >> 32);
}

static void ternary_pack(const int8_t *q, int64_t cols, uint8_t *out) {
    int64_t n_full = cols / DIGITS, i = 0;
    for (; DIGITS * i + 8 <= cols; i++) out[i] = pack_five_of_eight(q + DIGITS * i);
    for (; i < n_full; i++) out[i] = pack_byte(q + DIGITS * i, DIGITS);
    if (cols % DIGITS) out[n_full] = pack_byte(q + DIGITS * n_full, cols % DIGITS);
}

static void ternary_unpack(const uint8_t *codes, int64_t cols, int8_t *q) {
    int64_t i = 0, col = 0;
    /* Eight bytes are stored, the last three of which the next entry overwrites. */
    for (; col + 8 <= cols; i++, col += DIGITS) memcpy(q + col, digits_of_byte[codes[i]], 8);
    for (; col < cols; i++, col += DIGITS) {
        int64_t n = cols - col < DIGITS ? cols - col : DIGITS;
        memcpy(q + col, digits_of_byte[codes[i]], (size_t)n);
    }
}

QNI_CLONES
static bool has_illegal_byte(const uint8_t *codes, int64_t n) {
    unsigned found = 0;
    for (int64_t i = 0; i < n; i++) found |= codes[i] >= N_BYTE_VALUES;
    return found != 0;
}

static int64_t ternary_find_illegal(const uint8_t *codes, int64_t cols) {
    int64_t n = ternary_bytes(cols);
    if (has_illegal_byte(codes, n)) {
        int64_t i = 0;
        while (codes[i] < N_BYTE_VALUES) i++;
        return i * DIGITS;
    }
    int64_t rest = cols % DIGITS;
    return rest && codes[n - 1] >= power_of_3[rest] ? cols : -1;
}

const qni_code_ops qni_code_ternary = {
    .name = "ternary",
    .role = QN_ROLE_TERNARY,
    .max = 1,
    .zero_scale_ok = true,
    .bytes = ternary_bytes,
    .pack = ternary_pack,
    .unpack = ternary_unpack,
    .find_illegal = ternary_find_illegal,
    .rule = "base-3 bytes must be at most 242 and padding digits 0",
};
