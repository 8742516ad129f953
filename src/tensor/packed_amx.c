/* Packed products with AMX. Reached only on processors that have AMX-BF16 (isa.c), which all have AVX-512 BF16. */
#include "tensor/kernels.h"
#include "tensor/ops_cpu.h"

#include <immintrin.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "base/banned.h"

#define KERNEL static inline __attribute__((always_inline))

enum {
    HALF = 16,                      /* rows of a tile register */
    LANES = 16,                     /* f32 or pairs of bf16 in a row of one */
    TILE_VALUES = HALF * 2 * LANES, /* bf16 of a tile */
    PART_VALUES = 2 * TILE_VALUES,  /* of both halves of a panel, one step of the depth */
    TILE_ROW_BYTES = 64,
    B_BYTES =
        1
        << 17, /* of the panels of B that stay in a level-2 cache beside a block of A, and of those that come next */
    LINE_BYTES = 64,
    STEP_LINES = PART_VALUES * 2 / LINE_BYTES /* of a part */
};

/* ---- packing ---- */

typedef struct lines {
    __m512i first[HALF],
        second[HALF]; /* places 0..15 and 16..31 of the depth: of a row each, or a place each */
} lines;

KERNEL __mmask16 first_lanes(int64_t n) {
    return (__mmask16)(n >= LANES ? 0xffff : n > 0 ? (1u << n) - 1 : 0);
}

/* Up to 16 rows from X, up to 32 places deep; zeros beyond. */
KERNEL void load_lines(const float *x, int64_t ld, int64_t rows, int64_t depth, bool across, lines *out) {
    const __mmask16 first = first_lanes(across ? rows : depth),
                    second = first_lanes(across ? rows : depth - LANES);
    const int64_t n_first = across ? depth : rows, n_second = across ? depth - LANES : rows;
    const int64_t apart = across ? LANES * ld : LANES;
    for (int64_t i = 0; i < HALF; i++) {
        out->first[i] = _mm512_maskz_loadu_epi32(i < n_first ? first : 0, x + i * ld);
        out->second[i] = _mm512_maskz_loadu_epi32(i < n_second ? second : 0, x + i * ld + apart);
    }
}

/* Sixteen vectors of sixteen to their transpose: pairs, quadruples, then quarters of vectors change places. */
KERNEL void transpose(__m512i r[HALF]) {
    __m512i t[HALF];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* The low halves of FIRST's places and the high ones of SECOND's: FIRST >> 16 | SECOND & 0xffff0000. */
KERNEL __m512i pair(__m512i first, __m512i second) {
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    return _mm512_ternarylogic_epi32(_mm512_srli_epi32(first, 16), second, high, 0xf8);
}

/* The nearest bf16, as f32; to even where two are, and NaN for NaN. */
KERNEL __m512i nearest_bf16(__m512i x) {
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x)), 16);
}

/* A nearest bf16, as f32; NaN may become anything, but then what is left is NaN. */
KERNEL __m512i leading_part(__m512i x) {
    const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32((int)0xffff0000);
    return _mm512_and_si512(_mm512_add_epi32(x, half), high);
}

KERNEL __m512i rest(__m512i x, __m512i part) {
    return (__m512i)_mm512_sub_ps((__m512)x, (__m512)part);
}

/* One row of pairs in each part. */
KERNEL void store_pairs(__m512i first, __m512i second, int parts, uint16_t *out) {
    if (parts == QNI_PARTS_BF16) {
        _mm512_storeu_si512(out, pair(nearest_bf16(first), nearest_bf16(second)));
        return;
    }
    for (int p = 0; p < QNI_PARTS_F32 - 1; p++) {
        const __m512i a = leading_part(first), b = leading_part(second);
        _mm512_storeu_si512(out + (ptrdiff_t)p * PART_VALUES, pair(a, b));
        first = rest(first, a);
        second = rest(second, b);
    }
    _mm512_storeu_si512(out + (ptrdiff_t)(QNI_PARTS_F32 - 1) * PART_VALUES, pair(first, second));
}

/* The half panel whose rows begin at ROW, one step of the depth from PLACE. */
KERNEL void pack_half(const qni_packing *p, int64_t row, int64_t place, bool across, bool right, int parts,
                      uint16_t *out) {
    lines v;
    load_lines(p->values + (across ? place * p->ld + row : row * p->ld + place), p->ld, p->rows - row,
               p->depth - place, across, &v);
    if (across != right) { /* lines are rows where pairs are wanted, or the other way round */
        transpose(v.first);
        transpose(v.second);
    }
    for (int i = 0; i < HALF; i++)
        store_pairs(v.first[i], v.second[i], parts, out + (ptrdiff_t)i * 2 * LANES);
}

/* Panels and steps, and where they go: PANEL_VALUES apart. */
typedef struct area {
    int64_t panel, n_panels, step, n_steps, panel_values;
} area;

KERNEL void pack_one(const qni_packing *p, const area *r, int64_t i, int64_t s, bool across, bool right,
                     int parts, uint16_t *out) {
    uint16_t *at = out + i * r->panel_values + s * parts * PART_VALUES;
    for (int half = 0; half < 2; half++)
        pack_half(p, (r->panel + i) * QNI_PACKED_ROWS + (int64_t)half * HALF, (r->step + s) * QNI_PACKED_STEP,
                  across, right, parts, at + (ptrdiff_t)half * TILE_VALUES);
}

/* In the order in which the values are stored. */
KERNEL void pack_in_order(const qni_packing *p, const area *r, bool across, bool right, int parts,
                          uint16_t *out) {
    const int64_t n_outer = across ? r->n_steps : r->n_panels, n_inner = across ? r->n_panels : r->n_steps;
    for (int64_t i = 0; i < n_outer; i++)
        for (int64_t j = 0; j < n_inner; j++)
            pack_one(p, r, across ? j : i, across ? i : j, across, right, parts, out);
}

KERNEL void pack_parts(const qni_packing *p, const area *r, bool across, bool right, uint16_t *out) {
    if (p->parts == QNI_PARTS_BF16) {
        pack_in_order(p, r, across, right, QNI_PARTS_BF16, out);
    } else {
        pack_in_order(p, r, across, right, QNI_PARTS_F32, out);
    }
}

static void pack_area(const qni_packing *p, const area *r, uint16_t *out) {
    if (p->across) {
        p->right ? pack_parts(p, r, true, true, out) : pack_parts(p, r, true, false, out);
    } else {
        p->right ? pack_parts(p, r, false, true, out) : pack_parts(p, r, false, false, out);
    }
}

static void pack(const qni_packing *p, int64_t task, uint16_t *out) {
    const int64_t n_steps = qni_ceil_div(p->depth, QNI_PACKED_STEP);
    const int64_t step_values = (int64_t)p->parts * PART_VALUES;
    area r = {.n_panels = 1, .n_steps = n_steps, .panel_values = n_steps * step_values};
    if (p->across) {
        r.step = task;
        r.n_steps = 1;
        r.n_panels = qni_ceil_div(p->rows, QNI_PACKED_ROWS);
        pack_area(p, &r, out + task * step_values);
    } else {
        r.panel = task;
        pack_area(p, &r, out + task * r.panel_values);
    }
}

/* ---- products ---- */

/* What LDTILECFG reads (Intel SDM, volume 1, chapter 18). */
typedef struct tile_shapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;
_Static_assert(sizeof(tile_shapes) == 64, "as LDTILECFG reads it");

#define EIGHT(n)                                                                                             \
    { n, n, n, n, n, n, n, n }
/* Constant, because gcc 12 believes that only the first bytes of it are read. */
static const tile_shapes k_shapes = {.palette = 1, .row_bytes = EIGHT(TILE_ROW_BYTES), .rows = EIGHT(HALF)};

/* Tile registers: 0 to 3 are sums, 4 and 5 the two halves of a panel of A, 6 and 7 those of B. */
#define LOAD_A(part)                                                                                         \
    _tile_loadd(4, a + (part)*PART_VALUES, TILE_ROW_BYTES);                                                  \
    _tile_loadd(5, a + (part)*PART_VALUES + TILE_VALUES, TILE_ROW_BYTES)
#define LOAD_B(part)                                                                                         \
    _tile_loadd(6, b + (part)*PART_VALUES, TILE_ROW_BYTES);                                                  \
    _tile_loadd(7, b + (part)*PART_VALUES + TILE_VALUES, TILE_ROW_BYTES)
#define MULTIPLY                                                                                             \
    _tile_dpbf16ps(0, 4, 6);                                                                                 \
    _tile_dpbf16ps(1, 4, 7);                                                                                 \
    _tile_dpbf16ps(2, 5, 6);                                                                                 \
    _tile_dpbf16ps(3, 5, 7)

/* What the sums of a panel fetch meanwhile: where they go, and a share of the panels of B that come next. */
typedef struct ahead {
    const float *c; /* a row a step */
    int64_t n_rows, ldc;
    const char *b;
    int64_t n_lines; /* a step */
} ahead;

KERNEL void fetch(ahead *next, int64_t step) {
    if (step < next->n_rows) {
        __builtin_prefetch(next->c + step * next->ldc, 1);
        __builtin_prefetch(next->c + step * next->ldc + LANES, 1);
    }
    for (int64_t i = 0; i < next->n_lines; i++, next->b += LINE_BYTES) _mm_prefetch(next->b, _MM_HINT_T1);
}

/* C = 32 x 32 sums over N_STEPS of the depth. The part products of a step stand in an order that changes one side at a time. */
KERNEL void multiply_panels(const uint16_t *a, const uint16_t *b, int64_t n_steps, int parts, ahead *next,
                            float *c, int64_t ldc) {
    const size_t row_bytes = (size_t)ldc * sizeof *c;
    float *lower = c + HALF * ldc;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < n_steps; s++) {
        fetch(next, s);
        LOAD_A(0);
        if (parts == QNI_PARTS_F32) {
            LOAD_B(2);
            MULTIPLY;
            LOAD_B(1);
            MULTIPLY;
            LOAD_A(1);
            MULTIPLY;
            LOAD_B(0);
            MULTIPLY;
            LOAD_A(2);
            MULTIPLY;
            LOAD_A(0);
            MULTIPLY;
        } else {
            LOAD_B(0);
            MULTIPLY;
        }
        a += (ptrdiff_t)parts * PART_VALUES;
        b += (ptrdiff_t)parts * PART_VALUES;
    }
    _tile_stored(0, c, row_bytes);
    _tile_stored(1, c + LANES, row_bytes);
    _tile_stored(2, lower, row_bytes);
    _tile_stored(3, lower + LANES, row_bytes);
}

/* M x N of such sums, put into C or added to it. Sums that start at zero in each block of the depth round off less. */
KERNEL void multiply_aside(const uint16_t *a, const uint16_t *b, int64_t n_steps, int parts, ahead *next,
                           bool add, int64_t m, int64_t n, float *c, int64_t ldc) {
    float sums[QNI_PACKED_ROWS * QNI_PACKED_ROWS] __attribute__((aligned(64)));
    const __mmask16 first = first_lanes(n), second = first_lanes(n - LANES), kept = add ? 0xffff : 0;
    multiply_panels(a, b, n_steps, parts, next, sums, QNI_PACKED_ROWS);
    for (int64_t i = 0; i < m; i++) {
        const float *row = sums + i * QNI_PACKED_ROWS;
        float *to = c + i * ldc;
        const __m512 before = _mm512_maskz_loadu_ps(first & kept, to),
                     before_second = _mm512_maskz_loadu_ps(second & kept, to + LANES);
        _mm512_mask_storeu_ps(to, first, _mm512_add_ps(before, _mm512_load_ps(row)));
        _mm512_mask_storeu_ps(to + LANES, second, _mm512_add_ps(before_second, _mm512_load_ps(row + LANES)));
    }
}

/* Rows of A and columns of B and C, steps of the depth; A's are packed in the scratch. */
typedef struct block {
    int64_t i, i_end, j, j_end, step, n_steps;
} block;

/* While a panel of A passes its share of the block's panels of B is fetched from those that follow. */
KERNEL ahead ahead_of(const qni_packed_product *p, const block *r, int64_t i, const uint16_t *b,
                      int64_t b_values, int parts) {
    const int64_t n_panels = qni_ceil_div(r->i_end - r->i, QNI_PACKED_ROWS);
    const int64_t n_lines = r->j_end < p->n ? qni_ceil_div((int64_t)parts * STEP_LINES, n_panels) : 0;
    const int64_t apart = qni_ceil_div(r->j_end - r->j, QNI_PACKED_ROWS) * b_values;
    const int64_t done = (i - r->i) / QNI_PACKED_ROWS * r->n_steps * n_lines;
    return (ahead){.ldc = p->ldc,
                   .n_rows = qni_min(QNI_PACKED_ROWS, r->i_end - i),
                   .b = n_lines ? (const char *)(b + apart) + done * LINE_BYTES : NULL,
                   .n_lines = n_lines};
}

/* C is written along its rows. */
KERNEL void multiply_block(const qni_packed_product *p, const block *r, int parts) {
    const int64_t step_values = (int64_t)parts * PART_VALUES;
    const int64_t b_values = qni_ceil_div(p->a.depth, QNI_PACKED_STEP) * step_values;
    const bool add = p->accumulate || r->step > 0;
    const uint16_t *a = p->scratch;
    for (int64_t i = r->i; i < r->i_end; i += QNI_PACKED_ROWS, a += r->n_steps * step_values) {
        const int64_t m = qni_min(QNI_PACKED_ROWS, r->i_end - i);
        for (int64_t j = r->j; j < r->j_end; j += QNI_PACKED_ROWS) {
            const uint16_t *b = p->b + j / QNI_PACKED_ROWS * b_values + r->step * step_values;
            const int64_t n = qni_min(QNI_PACKED_ROWS, r->j_end - j);
            float *c = p->c + i * p->ldc + j;
            ahead next = ahead_of(p, r, i, b, b_values, parts);
            next.c = c;
            if (!add && m == QNI_PACKED_ROWS && n == QNI_PACKED_ROWS) {
                multiply_panels(a, b, r->n_steps, parts, &next, c, p->ldc);
            } else {
                multiply_aside(a, b, r->n_steps, parts, &next, add, m, n, c, p->ldc);
            }
        }
    }
}

static void pack_block(const qni_packed_product *p, const block *r) {
    const area rows = {.panel = r->i / QNI_PACKED_ROWS,
                       .n_panels = qni_ceil_div(r->i_end - r->i, QNI_PACKED_ROWS),
                       .step = r->step,
                       .n_steps = r->n_steps,
                       .panel_values = r->n_steps * p->a.parts * PART_VALUES};
    pack_area(&p->a, &rows, p->scratch);
    atomic_signal_fence(memory_order_seq_cst); /* gcc does not know that loads of tiles read memory */
}

/* A block of A past all of B, a few panels at a time. */
static void multiply_rows(const qni_packed_product *p, block r) {
    const int64_t panel_bytes = r.n_steps * p->a.parts * PART_VALUES * (int64_t)sizeof(uint16_t);
    const int64_t fitting = panel_bytes > 0 ? B_BYTES / panel_bytes : 1, n_panels = fitting > 1 ? fitting : 1;
    pack_block(p, &r);
    for (r.j = 0; r.j < p->n; r.j = r.j_end) {
        r.j_end = qni_min(r.j + n_panels * QNI_PACKED_ROWS, p->n);
        if (p->a.parts == QNI_PARTS_BF16) {
            multiply_block(p, &r, QNI_PARTS_BF16);
        } else {
            multiply_block(p, &r, QNI_PARTS_F32);
        }
    }
}

static void multiply(const qni_packed_product *p) {
    const int64_t n_steps = qni_ceil_div(p->a.depth, QNI_PACKED_STEP);
    const int64_t n_blocks = qni_ceil_div(n_steps, qni_packed_depth(p->a.parts) / QNI_PACKED_STEP);
    const int64_t block_steps = n_blocks > 0 ? qni_ceil_div(n_steps, n_blocks) : 1;
    const int64_t block_rows = qni_packed_block_rows(p->a.depth, p->a.parts);
    _tile_loadconfig(&k_shapes);
    for (int64_t i = 0; i < p->a.rows; i += block_rows) {
        for (int64_t s = 0; s == 0 || s < n_steps; s += block_steps) { /* a depth of nothing clears C */
            const block r = {.i = i,
                             .i_end = qni_min(i + block_rows, p->a.rows),
                             .step = s,
                             .n_steps = qni_min(block_steps, n_steps - s)};
            multiply_rows(p, r);
        }
    }
    _tile_release();
}

const qni_packed_kernels qni_packed_amx = {.pack = pack, .multiply = multiply};
