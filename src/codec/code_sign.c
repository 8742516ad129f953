/* sign: one bit a weight, least significant first, 1 is +1 and 0 is -1. */
#include "codec/code_ops.h"

#include <string.h>

#include "base/banned.h"

#define SIGN(b, k) ((b) >> (k)&1 ? 1 : -1)
#define ENTRY(b)                                                                                             \
    { SIGN(b, 0), SIGN(b, 1), SIGN(b, 2), SIGN(b, 3), SIGN(b, 4), SIGN(b, 5), SIGN(b, 6), SIGN(b, 7) }
#define ENTRIES4(b)  ENTRY(b), ENTRY((b) + 1), ENTRY((b) + 2), ENTRY((b) + 3)
#define ENTRIES16(b) ENTRIES4(b), ENTRIES4((b) + 4), ENTRIES4((b) + 8), ENTRIES4((b) + 12)
#define ENTRIES64(b) ENTRIES16(b), ENTRIES16((b) + 16), ENTRIES16((b) + 32), ENTRIES16((b) + 48)

static const int8_t signs_of_byte[256][8] = {ENTRIES64(0), ENTRIES64(64), ENTRIES64(128), ENTRIES64(192)};

static int64_t sign_bytes(int64_t cols) {
    return cols / 8 + (cols % 8 != 0);
}

static uint8_t pack_byte(const int8_t *q, int64_t n) {
    unsigned byte = 0;
    for (int64_t k = 0; k < n; k++) byte |= (unsigned)(q[k] > 0) << k;
    return (uint8_t)byte;
}

static void sign_pack(const int8_t *q, int64_t cols, uint8_t *out) {
    int64_t n_full = cols / 8;
    for (int64_t i = 0; i < n_full; i++) out[i] = pack_byte(q + 8 * i, 8);
    if (cols % 8) out[n_full] = pack_byte(q + 8 * n_full, cols % 8);
}

static void sign_unpack(const uint8_t *codes, int64_t cols, int8_t *q) {
    int64_t n_full = cols / 8;
    for (int64_t i = 0; i < n_full; i++) memcpy(q + 8 * i, signs_of_byte[codes[i]], 8);
    if (cols % 8) memcpy(q + 8 * n_full, signs_of_byte[codes[n_full]], (size_t)(cols % 8));
}

static int64_t sign_find_illegal(const uint8_t *codes, int64_t cols) {
    int64_t rest = cols % 8;
    return rest && codes[cols / 8] >> rest ? cols : -1;
}

const qni_code_ops qni_code_sign = {
    .name = "sign",
    .role = QN_ROLE_BINARY,
    .max = 1,
    .zero_scale_ok = true,
    .bytes = sign_bytes,
    .pack = sign_pack,
    .unpack = sign_unpack,
    .find_illegal = sign_find_illegal,
    .rule = "padding bits must be 0",
};
