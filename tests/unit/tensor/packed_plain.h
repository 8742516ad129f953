/* The packed kernels in plain C: what a matrix unit's are compared with, and what stands in for one where there is none. */
#ifndef QUERN_TESTS_UNIT_TENSOR_PACKED_PLAIN_H
#define QUERN_TESTS_UNIT_TENSOR_PACKED_PLAIN_H

#include "quern/tensor/dtype.h"
#include "tensor/kernels.h"

#include <string.h>

enum { PLAIN_HALF = 16, PLAIN_PART = QNI_PACKED_ROWS * QNI_PACKED_STEP };

static inline int64_t plain_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* Where the value of ROW at PLACE has its first part; the others follow PLAIN_PART apart. */
static inline int64_t plain_index(const qni_packing *p, int64_t row, int64_t place) {
    const int64_t n_steps = plain_ceil_div(p->depth, QNI_PACKED_STEP);
    const int64_t step = row / QNI_PACKED_ROWS * n_steps + place / QNI_PACKED_STEP;
    const int64_t half = row % QNI_PACKED_ROWS / PLAIN_HALF, line = row % PLAIN_HALF,
                  pair = place % PLAIN_HALF, high = place % QNI_PACKED_STEP / PLAIN_HALF;
    const int64_t within = p->right ? pair * 2 * PLAIN_HALF + 2 * line : line * 2 * PLAIN_HALF + 2 * pair;
    return step * p->parts * PLAIN_PART + half * PLAIN_PART / 2 + within + high;
}

static inline float plain_value(const qni_packing *p, int64_t row, int64_t place) {
    if (row >= p->rows || place >= p->depth) return 0.0f;
    return p->values[p->across ? place * p->ld + row : row * p->ld + place];
}

/* A nearest bf16; half way, the larger. */
static inline float plain_leading_part(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x8000) & 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline void plain_pack_value(const qni_packing *p, int64_t row, int64_t place, uint16_t *out) {
    float left = plain_value(p, row, place);
    uint16_t *at = out + plain_index(p, row, place);
    for (int i = 0; i < p->parts; i++, at += PLAIN_PART) {
        const float part = p->parts == QNI_PARTS_F32 && i < 2 ? plain_leading_part(left) : left;
        *at = qn_f32_to_bf16(part);
        left -= part;
    }
}

static inline void plain_pack(const qni_packing *p, int64_t task, uint16_t *out) {
    const int64_t first = task * QNI_PACKED_ROWS; /* a panel and a step are equally long */
    const int64_t rows = plain_ceil_div(p->rows, QNI_PACKED_ROWS) * QNI_PACKED_ROWS,
                  depth = plain_ceil_div(p->depth, QNI_PACKED_STEP) * QNI_PACKED_STEP;
    const int64_t row0 = p->across ? 0 : first, row_end = p->across ? rows : first + QNI_PACKED_ROWS,
                  place0 = p->across ? first : 0, place_end = p->across ? first + QNI_PACKED_STEP : depth;
    for (int64_t r = row0; r < row_end; r++)
        for (int64_t place = place0; place < place_end; place++) plain_pack_value(p, r, place, out);
}

static inline double plain_packed(const qni_packing *p, const uint16_t *packed, int64_t row, int64_t place) {
    const uint16_t *at = packed + plain_index(p, row, place);
    double sum = 0.0;
    for (int i = 0; i < p->parts; i++, at += PLAIN_PART) sum += (double)qn_bf16_to_f32(*at);
    return sum;
}

static inline void plain_multiply(const qni_packed_product *p) {
    const qni_packing b = {.rows = p->n, .depth = p->a.depth, .right = true, .parts = p->a.parts};
    memset(p->scratch, 0xff, QNI_PACKED_SCRATCH_BYTES); /* it is the product's to use */
    for (int64_t i = 0; i < p->a.rows; i++) {
        for (int64_t j = 0; j < p->n; j++) {
            float *c = p->c + i * p->ldc + j;
            double sum = p->accumulate ? (double)*c : 0.0;
            for (int64_t l = 0; l < b.depth; l++) {
                const float x = plain_value(&p->a, i, l);
                sum += (double)(b.parts == QNI_PARTS_BF16 ? qn_bf16_to_f32(qn_f32_to_bf16(x)) : x) *
                       plain_packed(&b, p->b, j, l);
            }
            *c = (float)sum;
        }
    }
}

static const qni_packed_kernels k_packed_plain = {.pack = plain_pack, .multiply = plain_multiply};

#endif
