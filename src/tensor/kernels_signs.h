/* Products with signs (signs.h), for kernels_vector.h: a row of a tile is two registers. */
#include "tensor/signs.h"

#include <stddef.h>

enum {
    SIGN_VECTORS = 2,
    SIGN_TOKENS = SIGN_VECTORS * QNI_LANES,
    SIGN_ROW_SHIFT = QNI_LANES == 16  ? 7
                     : QNI_LANES == 8 ? 6
                                      : 5 /* of the bytes of a row */
};
_Static_assert(SIGN_TOKENS * sizeof(float) == 1 << SIGN_ROW_SHIFT, "bytes of a row");

/* Lanes of both in turns: of their low halves, and of their high ones. */
#if QNI_LANES == 16
#define ZIP_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_HIGH(a, b)                                                                                       \
    __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif QNI_LANES == 8
#define ZIP_LOW(a, b)  __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define ZIP_LOW(a, b)  __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* A square of lanes to its transpose: as many perfect shuffles as a lane's number has bits. */
KERNEL void transpose_square(vec v[QNI_LANES]) {
    for (int n = 1; n < QNI_LANES; n *= 2) {
        vec w[QNI_LANES];
        for (int i = 0; i < QNI_LANES / 2; i++) {
            w[2 * i] = ZIP_LOW(v[i], v[i + QNI_LANES / 2]);
            w[2 * i + 1] = ZIP_HIGH(v[i], v[i + QNI_LANES / 2]);
        }
        memcpy(v, w, sizeof w);
    }
}

static void sign_gather(const float *x, int64_t ld, int64_t n_tokens, int64_t n, float *rows) {
    for (int64_t c = 0; c < n; c += QNI_LANES) {
        const int64_t width = n - c < QNI_LANES ? n - c : QNI_LANES;
        for (int64_t t = 0; t < SIGN_TOKENS; t += QNI_LANES) {
            vec v[QNI_LANES];
            for (int64_t i = 0; i < QNI_LANES; i++) {
                const float *from = x + (t + i) * ld + c;
                v[i] = t + i >= n_tokens    ? splat(0.0f)
                       : width == QNI_LANES ? load(from)
                                            : load_tail(from, width, 0.0f);
            }
            transpose_square(v);
            for (int64_t i = 0; i < width; i++) store(rows + (c + i) * SIGN_TOKENS + t, v[i]);
        }
    }
}

static void sign_scatter(const float *rows, int64_t n, int64_t n_tokens, bool add, float *y, int64_t ld) {
    for (int64_t c = 0; c < n; c += QNI_LANES) {
        const int64_t width = n - c < QNI_LANES ? n - c : QNI_LANES;
        for (int64_t t = 0; t < n_tokens; t += QNI_LANES) {
            vec v[QNI_LANES];
            for (int64_t i = 0; i < QNI_LANES; i++)
                v[i] = i < width ? load(rows + (c + i) * SIGN_TOKENS + t) : splat(0.0f);
            transpose_square(v);
            for (int64_t i = 0; i < QNI_LANES && t + i < n_tokens; i++) {
                float *to = y + (t + i) * ld + c;
                if (width == QNI_LANES)
                    store(to, add ? load(to) + v[i] : v[i]);
                else
                    store_tail(to, width, add ? load_tail(to, width, 0.0f) + v[i] : v[i]);
            }
        }
    }
}

/* Bits 0 and 1 of a sum's number are the signs of its first two values. */
KERNEL void tabulate_quad(const vec x[4], float *sums) {
    const vec low[4] = {-x[0] - x[1], x[0] - x[1], x[1] - x[0], x[0] + x[1]};
    const vec high[4] = {-x[2] - x[3], x[2] - x[3], x[3] - x[2], x[2] + x[3]};
    for (int i = 0; i < QNI_SIGN_SUMS; i++)
        store(sums + (ptrdiff_t)i * SIGN_TOKENS, low[i & 3] + high[i >> 2]);
}

static void sign_tabulate(const float *rows, const int32_t *places, const float *scales, float *tables) {
    for (int q = 0; q < QNI_SIGN_QUADS; q++, tables += QNI_SIGN_SUMS * SIGN_TOKENS) {
        for (int t = 0; t < SIGN_TOKENS; t += QNI_LANES) {
            vec x[4];
            for (int i = 0; i < 4; i++) {
                const int64_t at = 4 * q + i;
                x[i] = load(rows + (places ? places[at] : at) * SIGN_TOKENS + t);
                if (scales) x[i] *= splat(scales[at]);
            }
            tabulate_quad(x, tables + t);
        }
    }
}

/* The bytes in front of the sum that the quad's four signs pick. */
KERNEL uint64_t sum_offset(uint64_t word, int quad) {
    const uint64_t moved =
        4 * quad < SIGN_ROW_SHIFT ? word << (SIGN_ROW_SHIFT - 4 * quad) : word >> (4 * quad - SIGN_ROW_SHIFT);
    return moved & (uint64_t)(QNI_SIGN_SUMS - 1) << SIGN_ROW_SHIFT;
}

KERNEL void add_quad(const float *tables, uint64_t word, int quad, vec sum[SIGN_VECTORS]) {
    const char *table = (const char *)(tables + (ptrdiff_t)quad * QNI_SIGN_SUMS * SIGN_TOKENS);
    const float *picked = (const float *)(const void *)(table + sum_offset(word, quad));
    for (int v = 0; v < SIGN_VECTORS; v++) sum[v] += load(picked + (ptrdiff_t)v * QNI_LANES);
}

/* Four quads at a time: gcc 12 keeps the offsets of more than it has registers for. Even and odd ones have sums of their own, so
 * that additions need not wait for one another. */
KERNEL void add_word(const float *tables, uint64_t word, vec even[SIGN_VECTORS], vec odd[SIGN_VECTORS]) {
#pragma GCC unroll 1
    for (int q = 0; q < QNI_SIGN_QUADS; q += 4) {
        add_quad(tables, word, 0, even);
        add_quad(tables, word, 1, odd);
        add_quad(tables, word, 2, even);
        add_quad(tables, word, 3, odd);
        word >>= 16;
        tables += (ptrdiff_t)4 * QNI_SIGN_SUMS * SIGN_TOKENS;
    }
}

static void sign_add_sums(const float *tables, const uint64_t *words, int n_layers, int64_t ld,
                          const float *scales, const int32_t *places, int64_t n, float *rows) {
    for (int64_t i = 0; i < n; i++) {
        float *row = rows + (places ? places[i] : i) * SIGN_TOKENS;
        const vec scale = splat(scales ? scales[i] : 1.0f);
        vec even[SIGN_VECTORS] = {0}, odd[SIGN_VECTORS] = {0};
        for (int layer = 0; layer < n_layers; layer++) add_word(tables, words[layer * ld + i], even, odd);
        for (int v = 0; v < SIGN_VECTORS; v++) {
            float *to = row + (ptrdiff_t)v * QNI_LANES;
            store(to, load(to) + scale * (even[v] + odd[v]));
        }
    }
}

static void sign_add_dense(const float *w, int64_t ld, const float *rows_in, const int32_t *places_in,
                           int64_t n_in, const int32_t *places_out, int64_t n_out, float *rows_out) {
    for (int64_t i = 0; i < n_out; i++, w += ld) {
        float *row = rows_out + (places_out ? places_out[i] : i) * SIGN_TOKENS;
        vec sum[SIGN_VECTORS];
        for (int v = 0; v < SIGN_VECTORS; v++) sum[v] = load(row + (ptrdiff_t)v * QNI_LANES);
        for (int64_t j = 0; j < n_in; j++) {
            const float *in = rows_in + (places_in ? places_in[j] : j) * SIGN_TOKENS;
            for (int v = 0; v < SIGN_VECTORS; v++)
                sum[v] += splat(w[j]) * load(in + (ptrdiff_t)v * QNI_LANES);
        }
        for (int v = 0; v < SIGN_VECTORS; v++) store(row + (ptrdiff_t)v * QNI_LANES, sum[v]);
    }
}

static const qni_sign_kernels k_sign_kernels = {.n_tokens = SIGN_TOKENS,
                                                .gather = sign_gather,
                                                .scatter = sign_scatter,
                                                .tabulate = sign_tabulate,
                                                .add_sums = sign_add_sums,
                                                .add_dense = sign_add_dense};
