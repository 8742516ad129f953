#include "recipe/rotation.h"

#include "quern/codec/codec.h"

#include "base/banned.h"

int32_t qni_rotation_of(int64_t wanted, int64_t cols) {
    return wanted > 1 && cols % wanted == 0 ? (int32_t)wanted : 0;
}

static void transpose(float *h, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < i; j++) {
            const float kept = h[i * n + j];
            h[i * n + j] = h[j * n + i];
            h[j * n + i] = kept;
        }
    }
}

/* The upper triangle wins: what two roundings made different is one number again. */
static void mirror(float *h, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) h[i * n + j] = h[j * n + i];
}

void qni_rotate_metric(float *h, int64_t cols, int32_t block) {
    if (block == 0) return;
    qn_hadamard_rows(h, cols, cols, block, false);
    transpose(h, cols);
    qn_hadamard_rows(h, cols, cols, block, false);
    mirror(h, cols);
}
