/* Encoded matrices: where the parts lie, decoding against the definition of the format, and everything bind must refuse. */
#include "quern/codec/codec.h"

#include "test_data.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 37, COLS = 1504, MAX_SIDE = 1504 };

static const qn_codec ternary = {QN_CODE_TERNARY, 64, QN_SCALE_F16};
static const qn_codec ternary_log = {QN_CODE_TERNARY, 64, QN_SCALE_LOG6};
static const qn_codec sign_log = {QN_CODE_SIGN, 0, QN_SCALE_LOG6};
static const qn_codec q4 = {QN_CODE_Q4, 128, QN_SCALE_F16};
static const qn_codec q4_log = {QN_CODE_Q4, 128, QN_SCALE_LOG6};

static uint32_t random_state = 1;

static uint32_t next_random(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static int8_t random_q(qn_code code) {
    if (code == QN_CODE_SIGN) return next_random() % 2 ? 1 : -1;
    const int max = qn_code_max(code);
    return (int8_t)((int)(next_random() % (uint32_t)(2 * max + 1)) - max);
}

/* ------------------------------------------------------------------------------------------- making */

/* Random codes and scales for every plane, and lines dealt to the bands at random. */
static void fill(const qn_encoded *e, const qn_encoded_arrays *a) {
    int64_t left[QN_MAX_BANDS], n_lines = qn_encoded_lines(e);
    for (int b = 0; b < e->n_bands; b++) left[b] = e->bands[b].n_lines;
    for (int64_t line = 0; e->n_bands > 1 && line < n_lines; line++) {
        int64_t pick = next_random() % (n_lines - line);
        int b = 0;
        while (pick >= left[b]) pick -= left[b++];
        left[b]--;
        qn_mask_set(a->mask, e->n_bands, line, b);
    }
    for (int64_t c = 0; e->column_scaled && c < e->cols; c++) {
        const uint16_t factor = (uint16_t)(0x3800 + next_random() % 0x800); /* 0.5 .. 2 */
        memcpy(a->column_scales + 2 * c, &factor, sizeof factor);
    }
    for (int b = 0; b < e->n_bands; b++) {
        const qn_codec codec = e->bands[b].codec;
        const int64_t rows = qn_band_rows(e, b), cols = qn_band_cols(e, b);
        const int64_t n_scales = rows * qn_codec_groups(codec, cols);
        for (int p = 0; p < e->bands[b].n_planes; p++) {
            const qn_plane_arrays *plane = &a->planes[b][p];
            uint16_t *scales = malloc(2 * (size_t)n_scales);
            int8_t q[MAX_SIDE];
            for (int64_t i = 0; i < n_scales; i++)
                scales[i] =
                    (uint16_t)(codec.scale == QN_SCALE_F16 ? 1 + next_random() % 0x7bff : next_random() % 64);
            qn_scales_pack(codec.scale, scales, n_scales, plane->scales);
            free(scales);
            if (codec.scale == QN_SCALE_LOG6)
                qn_log6_grid_pack(0.01f * (float)(b + p + 1), 1.05f, plane->grid);
            for (int64_t row = 0; row < rows; row++) {
                for (int64_t c = 0; c < cols; c++) q[c] = random_q(codec.code);
                qn_codec_pack_row(codec, q, cols, plane->codes + row * qn_codec_code_bytes(codec, cols));
            }
        }
    }
}

static qn_encoded make(qn_encoded shape, qn_encoded_arrays *arrays) {
    assert_int_equal(qn_encoded_alloc(&shape, arrays, NULL), QN_OK);
    fill(&shape, arrays);
    return shape;
}

/* Three bands of 5, 2 and the rest. */
static qn_encoded three_bands(qn_axis axis, qn_codec native, qn_codec rescue) {
    const int64_t n = axis == QN_AXIS_ROWS ? ROWS : COLS;
    return (qn_encoded){.rows = ROWS,
                        .cols = COLS,
                        .axis = axis,
                        .n_bands = 3,
                        .bands = {{native, 1, n - 7, {{0}}}, {native, 2, 5, {{0}}}, {rescue, 1, 2, {{0}}}}};
}

/* ------------------------------------------------------------------------------------------- oracle */

/* Walks the block byte by byte as docs/format.md describes it, without the library's help. */
typedef struct reader {
    const uint8_t *at;
} reader;

static int digit(qn_code code, const uint8_t *bytes, int64_t col) {
    int power = 1;
    if (code == QN_CODE_SIGN) return bytes[col / 8] >> (col % 8) & 1 ? 1 : -1;
    if (code == QN_CODE_Q4) return ((bytes[col / 2] >> 4 * (col % 2) & 15) ^ 8) - 8;
    for (int64_t k = 0; k < col % 5; k++) power *= 3;
    return bytes[col / 5] / power % 3 - 1;
}

static float table_value(const uint8_t *grid, int k) {
    float base, ratio;
    memcpy(&base, grid, 4);
    memcpy(&ratio, grid + 4, 4);
    double t = (double)base;
    for (int i = 0; i < k; i++) t *= (double)ratio;
    return qn_f16_to_f32(qn_f32_to_f16((float)t));
}

static int six_bits(const uint8_t *stream, int64_t index) {
    int k = 0;
    for (int bit = 0; bit < 6; bit++) {
        const int64_t at = 6 * index + bit;
        k |= (stream[at / 8] >> at % 8 & 1) << bit;
    }
    return k;
}

/* One plane at reader R, added to (or put into) dense[stored rows][stored cols]; moves R behind it. */
static void read_plane(reader *r, qn_codec codec, int64_t rows, int64_t cols, bool add, float *dense) {
    const int per_byte = codec.code == QN_CODE_SIGN ? 8 : codec.code == QN_CODE_TERNARY ? 5 : 2;
    const int64_t size = codec.group_size ? codec.group_size : cols, groups = (cols + size - 1) / size;
    const int64_t row_bytes = (cols + per_byte - 1) / per_byte;
    const uint8_t *grid = r->at;
    if (codec.scale == QN_SCALE_LOG6) r->at += 8;
    const uint8_t *scales = r->at;
    r->at += codec.scale == QN_SCALE_LOG6 ? (6 * rows * groups + 7) / 8 : 2 * rows * groups;
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            const int64_t s = i * groups + j / size;
            const float scale = codec.scale == QN_SCALE_LOG6
                                    ? table_value(grid, six_bits(scales, s))
                                    : qn_f16_to_f32((uint16_t)(scales[2 * s] | scales[2 * s + 1] << 8));
            const float value = scale * (float)digit(codec.code, r->at + i * row_bytes, j);
            dense[i * cols + j] = add ? dense[i * cols + j] + value : value;
        }
    }
    r->at += rows * row_bytes;
}

/* The stored matrix (before the rotation) out of the block. */
static void decode_plainly(const qn_encoded *e, float *out) {
    const bool by_rows = e->axis == QN_AXIS_ROWS;
    const int64_t n_lines = by_rows ? e->rows : e->cols;
    const int bits = e->n_bands == 3 ? 2 : e->n_bands - 1;
    const uint8_t *mask = e->data, *factors = mask + (n_lines * bits + 7) / 8;
    reader r = {factors + (e->column_scaled ? 2 * e->cols : 0)};
    float *dense = malloc(sizeof *dense * (size_t)(e->rows * e->cols));
    for (int b = 0; b < e->n_bands; b++) {
        const qn_band *band = &e->bands[b];
        const bool sideways = !by_rows && band->codec.code == QN_CODE_Q4;
        const int64_t rows = by_rows || sideways ? band->n_lines : e->rows;
        const int64_t cols = by_rows ? e->cols : sideways ? e->rows : band->n_lines;
        for (int p = 0; p < band->n_planes; p++) read_plane(&r, band->codec, rows, cols, p > 0, dense);
        for (int64_t line = 0, k = 0; line < n_lines; line++) {
            int found = 0;
            for (int bit = 0; bit < bits; bit++) {
                const int64_t at = bits * line + bit;
                found |= (mask[at / 8] >> at % 8 & 1) << bit;
            }
            if (found != b) continue;
            for (int64_t i = 0; by_rows && i < e->cols; i++) out[line * e->cols + i] = dense[k * cols + i];
            for (int64_t i = 0; !by_rows && i < e->rows; i++)
                out[i * e->cols + line] = sideways ? dense[k * cols + i] : dense[i * cols + k];
            k++;
        }
    }
    assert_ptr_equal(r.at, e->data + qn_encoded_bytes(e));
    for (int64_t i = 0; e->column_scaled && i < e->rows * e->cols; i++) {
        const uint8_t *factor = factors + 2 * (i % e->cols);
        out[i] *= qn_f16_to_f32((uint16_t)(factor[0] | factor[1] << 8));
    }
    free(dense);
}

static void check_decoding(qn_encoded shape) {
    static float want[ROWS * COLS], got[ROWS * COLS];
    static const int64_t ranges[][2] = {{0, ROWS}, {0, 1}, {1, 1}, {5, 32}, {3, 33}, {ROWS - 1, 1}, {7, 0}};
    qn_encoded_arrays arrays;
    qn_encoded e = make(shape, &arrays);
    qn_error err = {0};
    if (qn_encoded_bind(&e, "w", &err) != QN_OK) fail_msg("%s", err.message);
    decode_plainly(&e, want);
    if (e.hadamard) qn_hadamard_rows(want, ROWS, COLS, e.hadamard, true);
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        const int64_t row0 = ranges[i][0], n = ranges[i][1];
        qn_encoded_decode_rows(&e, row0, n, got);
        assert_memory_equal(got, want + row0 * COLS, sizeof(float) * (size_t)(n * COLS));
    }
    assert_int_equal(qn_encoded_bind(&e, "w", &err), QN_OK); /* twice is fine */

    /* The same block, borrowed, at an odd address. */
    uint8_t *copy = malloc((size_t)qn_encoded_bytes(&e) + 1);
    memcpy(copy + 1, e.data, (size_t)qn_encoded_bytes(&e));
    qn_encoded borrowed = shape;
    qn_encoded_attach(&borrowed, copy + 1);
    assert_int_equal(qn_encoded_bind(&borrowed, "w", NULL), QN_OK);
    qn_encoded_decode_rows(&borrowed, 0, ROWS, got);
    assert_memory_equal(got, want, sizeof want);
    qn_encoded_release(&borrowed);
    free(copy);
    qn_encoded_release(&e);
    qn_encoded_release(&e);
}

static void test_decoding(void **state) {
    (void)state;
    for (int axis = QN_AXIS_ROWS; axis <= QN_AXIS_COLUMNS; axis++) {
        check_decoding(three_bands((qn_axis)axis, ternary, q4));
        check_decoding(three_bands((qn_axis)axis, ternary_log, q4_log));
        check_decoding(three_bands((qn_axis)axis, sign_log, q4));
        qn_encoded turned = three_bands((qn_axis)axis, ternary_log, q4);
        turned.hadamard = 32;
        check_decoding(turned);
        turned.column_scaled = true;
        check_decoding(turned);
        qn_encoded two = three_bands((qn_axis)axis, ternary, q4_log);
        two.n_bands = 2;
        two.bands[0].n_lines = 3;
        two.bands[1] = (qn_band){q4_log, 1, qn_encoded_lines(&two) - 3, {{0}}};
        check_decoding(two);
    }
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_Q4; code++) {
        const qn_band band = {{code, 100, QN_SCALE_LOG6}, 1, ROWS, {{0}}};
        check_decoding((qn_encoded){.rows = ROWS, .cols = COLS, .n_bands = 1, .bands = {band}});
        check_decoding(
            (qn_encoded){.rows = ROWS, .cols = COLS, .column_scaled = true, .n_bands = 1, .bands = {band}});
    }
}

/* ------------------------------------------------------------------------------------------- shape */

static void test_parts(void **state) {
    (void)state;
    const qn_encoded e = three_bands(QN_AXIS_COLUMNS, ternary_log, q4);
    const struct {
        qn_part_kind kind;
        int band, plane;
        qn_role role;
        int64_t offset, n_bytes, n_weights;
    } want[] = {
        {QN_PART_MASK, 0, 0, QN_ROLE_SIDE, 0, COLS / 4, 0},
        {QN_PART_GRID, 0, 0, QN_ROLE_SCALE, 0, 8, 0},
        {QN_PART_SCALES, 0, 0, QN_ROLE_SCALE, 0, (6 * ROWS * 24 + 7) / 8, 0}, /* 1497 columns: 24 groups */
        {QN_PART_CODES, 0, 0, QN_ROLE_TERNARY, 0, ROWS * 300, ROWS * (COLS - 7)},
        {QN_PART_GRID, 1, 0, QN_ROLE_SCALE, 0, 8, 0},
        {QN_PART_SCALES, 1, 0, QN_ROLE_SCALE, 0, (6 * ROWS + 7) / 8, 0},
        {QN_PART_CODES, 1, 0, QN_ROLE_TERNARY, 0, ROWS, ROWS * 5},
        {QN_PART_GRID, 1, 1, QN_ROLE_SCALE, 0, 8, 0},
        {QN_PART_SCALES, 1, 1, QN_ROLE_SCALE, 0, (6 * ROWS + 7) / 8, 0},
        {QN_PART_CODES, 1, 1, QN_ROLE_RESIDUAL, 0, ROWS, 0},
        {QN_PART_SCALES, 2, 0, QN_ROLE_SCALE, 0, 2 * 2, 0},
        {QN_PART_CODES, 2, 0, QN_ROLE_RESCUE, 0, 2 * 19, ROWS * 2},
    };
    qn_part parts[QN_MAX_PARTS];
    int64_t offset = 0;
    assert_int_equal(qn_encoded_parts(&e, parts), sizeof want / sizeof want[0]);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        assert_int_equal(parts[i].kind, want[i].kind);
        assert_int_equal(parts[i].band, want[i].band);
        assert_int_equal(parts[i].plane, want[i].plane);
        assert_int_equal(parts[i].role, want[i].role);
        assert_int_equal(parts[i].n_bytes, want[i].n_bytes);
        assert_int_equal(parts[i].n_weights, want[i].n_weights);
        assert_int_equal(parts[i].stored_bytes, want[i].n_bytes);
        assert_int_equal(parts[i].offset, offset);
        offset += parts[i].n_bytes;
    }
    assert_int_equal(qn_encoded_bytes(&e), offset);
}

static void test_same_shape(void **state) {
    (void)state;
    const qn_encoded a = three_bands(QN_AXIS_COLUMNS, ternary_log, q4);
    qn_encoded b = a;
    assert_true(qn_encoded_same_shape(&a, &b));
    b.bands[1].codec.scale = QN_SCALE_F16;
    assert_false(qn_encoded_same_shape(&a, &b));
    b = a;
    b.hadamard = 32;
    assert_false(qn_encoded_same_shape(&a, &b));
    b = a;
    b.bands[0].n_lines--;
    assert_false(qn_encoded_same_shape(&a, &b));
    b = a;
    b.n_bands = 2;
    assert_false(qn_encoded_same_shape(&a, &b));
    b = a;
    b.stream_bytes = 1000;
    assert_false(qn_encoded_same_shape(&a, &b));
    b = a;
    b.column_scaled = true;
    assert_false(qn_encoded_same_shape(&a, &b));
    b = qn_encoded_shape(&b);
    assert_true(b.column_scaled && b.bands[2].n_lines == a.bands[2].n_lines);
}

static void test_mask_bits(void **state) {
    (void)state;
    uint8_t mask[4] = {0};
    for (int64_t line = 0; line < 16; line++) qn_mask_set(mask, 3, line, (int)(line % 3));
    for (int64_t line = 0; line < 16; line++) assert_int_equal(qn_mask_get(mask, 3, line), line % 3);
    assert_int_equal(mask[0], 0 | 1 << 2 | 2 << 4 | 0 << 6);
    memset(mask, 0, sizeof mask);
    qn_mask_set(mask, 2, 9, 1);
    assert_int_equal(mask[1], 2);
    assert_int_equal(qn_mask_get(NULL, 1, 5), 0);
}

/* ------------------------------------------------------------------------------------------- damage */

/* One way to break a good matrix, and words the message must have. */
typedef struct damage {
    void (*break_it)(qn_encoded *e, qn_encoded_arrays *arrays);
    const char *expected;
} damage;

#define BREAK(name, statement)                                                                               \
    static void name(qn_encoded *e, qn_encoded_arrays *a) {                                                  \
        (void)e, (void)a;                                                                                    \
        statement;                                                                                           \
    }
BREAK(name_a_fourth_band, a->mask[0] |= 3)
BREAK(flip_mask, a->mask[3] ^= 1)
BREAK(illegal_digit, a->planes[0][0].codes[2 * 300 + 4] = 243)
BREAK(illegal_residual, a->planes[1][1].codes[3] = 255)
BREAK(minus_eight, a->planes[2][0].codes[20] = 0x80)
BREAK(infinite_scale, memcpy(a->planes[2][0].scales + 2, "\x00\x7c", 2))
BREAK(nan_scale, memcpy(a->planes[2][0].scales, "\x01\x7e", 2))
BREAK(negative_scale, memcpy(a->planes[2][0].scales, "\x00\xbc", 2))
BREAK(zero_q4_scale, memset(a->planes[2][0].scales, 0, 2))
BREAK(falling_grid, qn_log6_grid_pack(0.5f, 0.99f, a->planes[0][0].grid))
BREAK(grid_beyond_f16, qn_log6_grid_pack(1000, 1.1f, a->planes[1][0].grid))
BREAK(scale_padding, a->planes[1][1].scales[27] |= 0x80)
BREAK(no_data, e->data = NULL)
BREAK(line_too_many, e->bands[1].n_lines++)
BREAK(line_too_few, e->bands[2].n_lines--)
BREAK(empty_band, e->bands[0].n_lines = 0)
BREAK(unknown_code, e->bands[0].codec.code = QN_CODE_COUNT)
BREAK(unknown_scale, e->bands[0].codec.scale = QN_SCALE_COUNT)
BREAK(negative_group, e->bands[2].codec.group_size = -1)
BREAK(q4_in_two_planes, e->bands[2].n_planes = 2)
BREAK(no_plane, e->bands[0].n_planes = 0)
BREAK(four_bands, e->n_bands = 4)
BREAK(no_band, e->n_bands = 0)
BREAK(strange_axis, e->axis = (qn_axis)2)
BREAK(impossible_size, e->cols = INT64_MAX / 4)
BREAK(odd_block, e->hadamard = 48)
BREAK(block_too_large, e->hadamard = 64)
BREAK(single_column_band, (e->n_bands = 1, e->bands[0].n_lines = COLS))

static void test_damage_is_named(void **state) {
    (void)state;
    static const damage cases[] = {
        {name_a_fourth_band, "the mask puts"},
        {flip_mask, "the mask puts"},
        {illegal_digit, "illegal ternary code at row 2, column 20 of band 0, plane 0"},
        {illegal_residual, "illegal ternary code at row 3, column 0 of band 1, plane 1"},
        {minus_eight, "illegal q4 code at row 1, column 3 of band 2, plane 0"},
        {infinite_scale, "at [1, 0] of band 2, plane 0"},
        {nan_scale, "at [0, 0] of band 2"},
        {negative_scale, "scale 0xbc00 (-1) at [0, 0]"},
        {zero_q4_scale, "positive"},
        {falling_grid, "base 0.5 and ratio 0.99 of band 0, plane 0"},
        {grid_beyond_f16, "of band 1, plane 0"},
        {scale_padding, "padding bits of the scales of band 1, plane 1"},
        {no_data, "without data"},
        {line_too_many, "band 2 has 2 of 1504 lines; 1 are left"},
        {line_too_few, "1 of 1504 lines lie in no band"},
        {empty_band, "band 0 has 0"},
        {unknown_code, "band 0 has code 4"},
        {unknown_scale, "scale code 2"},
        {negative_group, "group size -1"},
        {q4_in_two_planes, "band 2 (q4) has 2 planes, expected 1 to 1"},
        {no_plane, "0 planes"},
        {four_bands, "4 bands"},
        {no_band, "0 bands"},
        {strange_axis, "axis 2"},
        {impossible_size, "not a possible matrix"},
        {odd_block, "rotated blocks of 48"},
        {block_too_large, "rotated blocks of 64 of 1504"},
        {single_column_band, "columns with several"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qn_encoded_arrays arrays;
        qn_encoded e = make(three_bands(QN_AXIS_COLUMNS, ternary_log, q4), &arrays);
        qn_error err = {0};
        cases[i].break_it(&e, &arrays);
        assert_int_not_equal(qn_encoded_bind(&e, "layer.weight", &err), QN_OK);
        if (!strstr(err.message, cases[i].expected))
            fail_msg("'%s' lacks '%s'", err.message, cases[i].expected);
        if (!strstr(err.message, "layer.weight")) fail_msg("'%s' does not name the tensor", err.message);
        assert_null(e.index);
        qn_encoded_release(&e);
    }
}

static void test_column_scales_are_checked(void **state) {
    (void)state;
    static const uint16_t bad[] = {0, 0x8001, 0xbc00, 0x7c00, 0x7e00};
    qn_encoded shape = three_bands(QN_AXIS_COLUMNS, ternary_log, q4), e;
    shape.column_scaled = true;
    qn_encoded_arrays arrays;
    qn_part parts[QN_MAX_PARTS];
    e = make(shape, &arrays);
    assert_int_equal(qn_encoded_parts(&e, parts), 13);
    assert_int_equal(parts[1].kind, QN_PART_COLUMN_SCALES);
    assert_int_equal(parts[1].role, QN_ROLE_SCALE);
    assert_int_equal(parts[1].n_bytes, 2 * COLS);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        qn_error err = {0};
        memcpy(arrays.column_scales + 2 * 1234, &bad[i], 2);
        assert_int_equal(qn_encoded_bind(&e, "w", &err), QN_E_VALUE);
        assert_non_null(strstr(err.message, "of column 1234"));
    }
    qn_encoded_release(&e);
}

static void test_padding_of_the_mask(void **state) {
    (void)state;
    qn_encoded_arrays arrays;
    qn_encoded e = make(three_bands(QN_AXIS_ROWS, ternary, q4), &arrays);
    qn_error err = {0};
    arrays.mask[9] |= 0x80; /* 37 lines take 74 bits */
    assert_int_equal(qn_encoded_bind(&e, "w", &err), QN_E_FORMAT);
    assert_non_null(strstr(err.message, "padding bits of the mask"));
    qn_encoded_release(&e);
}

static void test_zero_scale_of_a_native_group_is_legal(void **state) {
    (void)state;
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_Q4; code++) {
        qn_encoded_arrays arrays;
        const qn_band band = {{code, 64, QN_SCALE_F16}, 1, ROWS, {{0}}};
        qn_encoded e = make((qn_encoded){.rows = ROWS, .cols = COLS, .n_bands = 1, .bands = {band}}, &arrays);
        memset(arrays.planes[0][0].scales, 0, 2);
        assert_int_equal(qn_encoded_bind(&e, "w", NULL), code == QN_CODE_Q4 ? QN_E_VALUE : QN_OK);
        arrays.planes[0][0].scales[1] = 0x80; /* -0 */
        assert_int_equal(qn_encoded_bind(&e, "w", NULL), QN_E_VALUE);
        qn_encoded_release(&e);
    }
}

static void test_alloc_refuses_impossible_shapes(void **state) {
    (void)state;
    qn_encoded e = {.rows = INT64_MAX / 2, .cols = 64, .n_bands = 1, .bands = {{ternary, 1, 1, {{0}}}}};
    qn_encoded_arrays arrays;
    assert_int_equal(qn_encoded_alloc(&e, &arrays, NULL), QN_E_SHAPE);
    e.rows = 0;
    assert_int_equal(qn_encoded_alloc(&e, &arrays, NULL), QN_E_SHAPE);
    assert_null(e.owned);
}

static void test_weights_of_both_kinds(void **state) {
    (void)state;
    const uint16_t bf16[6] = {0x3f80, 0xbf80, 0x4000, 0x3f00, 0x0000, 0xc040};
    const float expected[6] = {1, -1, 2, 0.5f, 0, -3};
    qn_weight dense = {.kind = QN_WEIGHT_DENSE, .dense = {bf16, QN_DTYPE_BF16, 2, {3, 2}}};
    qn_weight vector = {.kind = QN_WEIGHT_DENSE, .dense = {bf16, QN_DTYPE_BF16, 1, {6}}};
    qn_weight none = {0};
    static float out[ROWS * COLS], again[COLS];
    assert_int_equal(qn_weight_rows(&dense), 3);
    assert_int_equal(qn_weight_cols(&dense), 2);
    assert_int_equal(qn_weight_rows(&vector), 1);
    assert_int_equal(qn_weight_cols(&vector), 6);
    assert_int_equal(qn_weight_rows(&none), 0);
    qn_weight_decode_rows(&dense, 1, 2, out);
    assert_memory_equal(out, expected + 2, 4 * sizeof(float));

    qn_encoded_arrays arrays;
    qn_weight encoded = {.kind = QN_WEIGHT_ENCODED,
                         .encoded = make(three_bands(QN_AXIS_COLUMNS, ternary, q4), &arrays)};
    assert_int_equal(qn_encoded_bind(&encoded.encoded, "w", NULL), QN_OK);
    assert_int_equal(qn_weight_rows(&encoded), ROWS);
    assert_int_equal(qn_weight_cols(&encoded), COLS);
    qn_encoded_decode_rows(&encoded.encoded, 0, ROWS, out);
    qn_weight_decode_rows(&encoded, 1, 1, again);
    assert_memory_equal(again, out + COLS, sizeof again);
    qn_encoded_release(&encoded.encoded);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_same_shape),
        cmocka_unit_test(test_mask_bits),
        cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_column_scales_are_checked),
        cmocka_unit_test(test_padding_of_the_mask),
        cmocka_unit_test(test_zero_scale_of_a_native_group_is_legal),
        cmocka_unit_test(test_alloc_refuses_impossible_shapes),
        cmocka_unit_test(test_weights_of_both_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
