/* The signed, normalised Walsh-Hadamard transform of blocks of columns. */
#include "quern/codec/codec.h"

#include "base/clones.h"

#include <math.h>

#include "base/banned.h"

static float sign_of_column(uint32_t column) {
    uint32_t h = column * 0x9E3779B1u;
    h ^= h >> 15;
    h *= 0x85EBCA77u;
    return h >> 31 ? -1.0f : 1.0f;
}

QNI_CLONES
static void butterflies(float *x, int64_t n) {
    for (int64_t half = 1; half < n; half *= 2) {
        for (int64_t first = 0; first < n; first += 2 * half) {
            float *low = x + first, *high = low + half;
            for (int64_t i = 0; i < half; i++) {
                const float a = low[i], b = high[i];
                low[i] = a + b;
                high[i] = a - b;
            }
        }
    }
}

QNI_CLONES
static void apply_signs(float *row, int64_t cols) {
    for (int64_t j = 0; j < cols; j++) row[j] *= sign_of_column((uint32_t)j);
}

QNI_CLONES
static void scale_row(float *row, int64_t cols, float factor) {
    for (int64_t j = 0; j < cols; j++) row[j] *= factor;
}

void qn_hadamard_rows(float *rows, int64_t n_rows, int64_t cols, int32_t block, bool inverse) {
    const float factor = (float)(1 / sqrt((double)block));
    for (int64_t i = 0; i < n_rows; i++) {
        float *row = rows + i * cols;
        if (!inverse) apply_signs(row, cols);
        for (int64_t first = 0; first < cols; first += block) butterflies(row + first, block);
        scale_row(row, cols, factor);
        if (inverse) apply_signs(row, cols);
    }
}
