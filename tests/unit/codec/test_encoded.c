/* Encoded matrices: allocation, layout of the parts, decoding of mixed rows, and everything bind must refuse.
 */
#include "quern/codec/codec.h"

#include "test_data.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 11, COLS = 150, N_RESCUE = 3 };

static bool is_rescued(int64_t row) {
    return row == 0 || row == 7 || row == 10;
}

static int8_t q_at(qn_code code, int64_t row, int64_t col) {
    int64_t x = row * 31 + col * 7;
    if (code == QN_CODE_SIGN) return x % 3 ? 1 : -1;
    if (code == QN_CODE_TERNARY) return (int8_t)(x % 3 - 1);
    return (int8_t)(x % 15 - 7);
}

static uint16_t scale_at(int64_t row, int64_t group) {
    return (uint16_t)(0x2c00 + 16 * row + group);
}

static void fill_row(qn_codec codec, int64_t row, uint8_t *codes, uint16_t *scales, int64_t index) {
    int8_t q[COLS];
    for (int64_t c = 0; c < COLS; c++) q[c] = q_at(codec.code, row, c);
    qn_codec_pack_row(codec, q, COLS, codes + index * qn_codec_code_bytes(codec, COLS));
    int64_t n_groups = qn_codec_groups(codec, COLS);
    for (int64_t g = 0; g < n_groups; g++) scales[index * n_groups + g] = scale_at(row, g);
}

/* A matrix of ROWS x COLS with three rescued rows, filled but not bound. */
static qn_encoded make_mixed(qn_code native, qn_encoded_arrays *arrays) {
    qn_encoded e = {.rows = ROWS,
                    .cols = COLS,
                    .native = {native, 64},
                    .rescue = {QN_CODE_Q4, 128},
                    .n_rescue_rows = N_RESCUE};
    assert_int_equal(qn_encoded_alloc(&e, arrays, NULL), QN_OK);
    for (int64_t row = 0, n_native = 0, n_rescue = 0; row < ROWS; row++) {
        if (is_rescued(row)) {
            arrays->rescue_mask[row / 8] |= (uint8_t)(1 << row % 8);
            fill_row(e.rescue, row, arrays->rescue_codes, arrays->rescue_scales, n_rescue++);
        } else {
            fill_row(e.native, row, arrays->codes, arrays->scales, n_native++);
        }
    }
    return e;
}

static void check_decoded(const qn_encoded *e, int64_t row0, int64_t n_rows) {
    float *out = malloc((size_t)(n_rows * COLS) * sizeof *out);
    qn_encoded_decode_rows(e, row0, n_rows, out);
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t row = row0 + i;
        qn_codec codec = is_rescued(row) ? e->rescue : e->native;
        for (int64_t c = 0; c < COLS; c++) {
            float scale = qn_f16_to_f32(scale_at(row, c / codec.group_size));
            assert_true(out[i * COLS + c] == scale * (float)q_at(codec.code, row, c));
        }
    }
    free(out);
}

static void test_mixed_rows_decode(void **state) {
    (void)state;
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_Q4; code++) {
        qn_encoded_arrays arrays;
        qn_encoded e = make_mixed(code, &arrays);
        qn_error err = {0};
        assert_int_equal(qn_encoded_bind(&e, "w", &err), QN_OK);
        check_decoded(&e, 0, ROWS);
        check_decoded(&e, 6, 3);
        assert_int_equal(qn_encoded_bind(&e, "w", &err), QN_OK); /* twice is fine */
        qn_encoded_release(&e);
        qn_encoded_release(&e);
    }
}

static void test_scales_may_lie_at_any_address(void **state) {
    (void)state;
    qn_encoded_arrays arrays;
    qn_encoded e = make_mixed(QN_CODE_TERNARY, &arrays);
    int64_t n_bytes = 2 * (ROWS - N_RESCUE) * qn_codec_groups(e.native, COLS);
    uint8_t *shifted = malloc((size_t)n_bytes + 1);
    memcpy(shifted + 1, arrays.scales, (size_t)n_bytes);
    e.scales = (const uint16_t *)(const void *)(shifted + 1);
    assert_int_equal(qn_encoded_bind(&e, "w", NULL), QN_OK);
    check_decoded(&e, 0, ROWS);
    qn_encoded_release(&e);
    free(shifted);
}

static void test_parts_and_bytes(void **state) {
    (void)state;
    qn_encoded_arrays arrays;
    qn_encoded e = make_mixed(QN_CODE_TERNARY, &arrays);
    qn_part parts[QN_MAX_PARTS];
    const char *const suffixes[] = {".codes", ".scales", ".rescue_mask", ".rescue_codes", ".rescue_scales"};
    const qn_role roles[] = {QN_ROLE_TERNARY, QN_ROLE_SCALE, QN_ROLE_SIDE, QN_ROLE_RESCUE, QN_ROLE_SCALE};
    assert_int_equal(qn_encoded_parts(&e, parts), 5);
    for (int i = 0; i < 5; i++) {
        assert_string_equal(parts[i].suffix, suffixes[i]);
        assert_int_equal(parts[i].role, roles[i]);
        assert_non_null(parts[i].view.data);
    }
    assert_int_equal(parts[0].view.shape[1], 30);
    assert_int_equal(parts[1].view.shape[1], 3);
    assert_int_equal(parts[2].view.n_dims, 1);
    assert_int_equal(parts[2].view.shape[0], 2);
    assert_int_equal(parts[3].view.shape[0], 3);
    assert_int_equal(parts[4].view.shape[1], 2);
    assert_int_equal(qn_encoded_bytes(&e), 8 * (30 + 6) + 2 + 3 * (75 + 4));
    qn_encoded_release(&e);

    /* The layout is known before there is data; without rescued rows there are two parts, with nothing else
     * three. */
    qn_encoded plan = {.rows = 8, .cols = 16, .native = {QN_CODE_SIGN, 0}};
    assert_int_equal(qn_encoded_parts(&plan, parts), 2);
    assert_int_equal(qn_encoded_bytes(&plan), 8 * 2 + 8 * 2);
    plan.rescue = (qn_codec){QN_CODE_Q4, 128};
    plan.n_rescue_rows = 8;
    assert_int_equal(qn_encoded_parts(&plan, parts), 3);
    assert_string_equal(parts[0].suffix, ".rescue_mask");
}

static void test_only_rescued_rows(void **state) {
    (void)state;
    qn_encoded e = {.rows = 2,
                    .cols = COLS,
                    .native = {QN_CODE_SIGN, 0},
                    .rescue = {QN_CODE_Q4, 128},
                    .n_rescue_rows = 2};
    qn_encoded_arrays arrays;
    assert_int_equal(qn_encoded_alloc(&e, &arrays, NULL), QN_OK);
    arrays.rescue_mask[0] = 3;
    for (int64_t row = 0; row < 2; row++)
        fill_row(e.rescue, row, arrays.rescue_codes, arrays.rescue_scales, row);
    assert_int_equal(qn_encoded_bind(&e, "w", NULL), QN_OK);
    float out[2 * COLS];
    qn_encoded_decode_rows(&e, 0, 2, out);
    assert_true(out[COLS] == qn_f16_to_f32(scale_at(1, 0)) * (float)q_at(QN_CODE_Q4, 1, 0));
    qn_encoded_release(&e);
}

/* One way to break a good matrix, and words the message must have. */
typedef struct damage {
    void (*break_it)(qn_encoded *e, qn_encoded_arrays *arrays);
    const char *expected;
} damage;

static void mark_one_more_row(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->rescue_mask[0] |= 2;
}
static void move_a_mark_to_the_padding(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->rescue_mask[1] |= 0x80;
}
static void illegal_digit(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->codes[2 * 30 + 4] = 243;
}
static void minus_eight(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->rescue_codes[75] = 0x80;
}
static void infinite_scale(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->scales[4] = 0x7c00;
}
static void nan_scale(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->scales[23] = 0x7e01;
}
static void negative_scale(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->scales[0] = 0xbc00;
}
static void negative_zero_scale(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->scales[0] = 0x8000;
}
static void zero_rescue_scale(qn_encoded *e, qn_encoded_arrays *a) {
    (void)e;
    a->rescue_scales[5] = 0;
}
static void missing_codes(qn_encoded *e, qn_encoded_arrays *a) {
    (void)a;
    e->codes = NULL;
}
static void too_many_rescued(qn_encoded *e, qn_encoded_arrays *a) {
    (void)a;
    e->n_rescue_rows = ROWS + 1;
}
static void unknown_code(qn_encoded *e, qn_encoded_arrays *a) {
    (void)a;
    e->native.code = QN_CODE_COUNT;
}
static void negative_group(qn_encoded *e, qn_encoded_arrays *a) {
    (void)a;
    e->rescue.group_size = -1;
}
static void impossible_size(qn_encoded *e, qn_encoded_arrays *a) {
    (void)a;
    e->cols = INT64_MAX / 4;
}
static void rescue_code_without_rows(qn_encoded *e, qn_encoded_arrays *a) {
    (void)a;
    e->n_rescue_rows = 0;
}

static void test_damage_is_named(void **state) {
    (void)state;
    static const damage cases[] = {
        {mark_one_more_row, "marks 4 rows, 3 are stored"},
        {move_a_mark_to_the_padding, "padding bits of .rescue_mask"},
        {illegal_digit, "illegal ternary code at row 2, column 20 of .codes"},
        {minus_eight, "illegal q4 code at row 1, column 1 of .rescue_codes"},
        {infinite_scale, "at [1, 1] of .scales"},
        {nan_scale, "at [7, 2] of .scales"},
        {negative_scale, "scale 0xbc00 (-1) at [0, 0]"},
        {negative_zero_scale, "scale 0x8000"},
        {zero_rescue_scale, "at [2, 1] of .rescue_scales"},
        {missing_codes, ".codes is missing"},
        {too_many_rescued, "12 rescued rows of 11"},
        {unknown_code, "native code"},
        {negative_group, "rescue code"},
        {impossible_size, "not a possible matrix"},
        {rescue_code_without_rows, "expected none/0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qn_encoded_arrays arrays;
        qn_encoded e = make_mixed(QN_CODE_TERNARY, &arrays);
        qn_error err = {0};
        cases[i].break_it(&e, &arrays);
        assert_int_not_equal(qn_encoded_bind(&e, "layer.weight", &err), QN_OK);
        if (!strstr(err.message, cases[i].expected))
            fail_msg("'%s' lacks '%s'", err.message, cases[i].expected);
        if (!strstr(err.message, "layer.weight")) fail_msg("'%s' does not name the tensor", err.message);
        assert_null(e.slot);
        qn_encoded_release(&e);
    }
}

static void test_zero_scale_of_a_native_group_is_legal(void **state) {
    (void)state;
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_Q4; code++) {
        qn_encoded_arrays arrays;
        qn_encoded e = make_mixed(code, &arrays);
        arrays.scales[0] = 0;
        assert_int_equal(qn_encoded_bind(&e, "w", NULL), code == QN_CODE_Q4 ? QN_E_VALUE : QN_OK);
        qn_encoded_release(&e);
    }
}

static void test_alloc_refuses_impossible_sizes(void **state) {
    (void)state;
    qn_encoded e = {.rows = INT64_MAX / 2, .cols = 64, .native = {QN_CODE_SIGN, 64}};
    qn_encoded_arrays arrays;
    assert_int_equal(qn_encoded_alloc(&e, &arrays, NULL), QN_E_SHAPE);
    e.rows = 0;
    assert_int_equal(qn_encoded_alloc(&e, &arrays, NULL), QN_E_SHAPE);
}

static void test_weights_of_both_kinds(void **state) {
    (void)state;
    const uint16_t bf16[6] = {0x3f80, 0xbf80, 0x4000, 0x3f00, 0x0000, 0xc040};
    const float expected[6] = {1, -1, 2, 0.5f, 0, -3};
    qn_weight dense = {.kind = QN_WEIGHT_DENSE, .dense = {bf16, QN_DTYPE_BF16, 2, {3, 2}}};
    qn_weight vector = {.kind = QN_WEIGHT_DENSE, .dense = {bf16, QN_DTYPE_BF16, 1, {6}}};
    qn_weight none = {0};
    float out[ROWS * COLS];
    assert_int_equal(qn_weight_rows(&dense), 3);
    assert_int_equal(qn_weight_cols(&dense), 2);
    assert_int_equal(qn_weight_rows(&vector), 1);
    assert_int_equal(qn_weight_cols(&vector), 6);
    assert_int_equal(qn_weight_rows(&none), 0);
    qn_weight_decode_rows(&dense, 1, 2, out);
    assert_memory_equal(out, expected + 2, 4 * sizeof(float));

    qn_encoded_arrays arrays;
    qn_weight encoded = {.kind = QN_WEIGHT_ENCODED, .encoded = make_mixed(QN_CODE_SIGN, &arrays)};
    assert_int_equal(qn_encoded_bind(&encoded.encoded, "w", NULL), QN_OK);
    assert_int_equal(qn_weight_rows(&encoded), ROWS);
    assert_int_equal(qn_weight_cols(&encoded), COLS);
    qn_weight_decode_rows(&encoded, 1, 1, out);
    assert_true(out[0] == qn_f16_to_f32(scale_at(1, 0)) * (float)q_at(QN_CODE_SIGN, 1, 0));
    qn_encoded_release(&encoded.encoded);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed_rows_decode),
        cmocka_unit_test(test_scales_may_lie_at_any_address),
        cmocka_unit_test(test_parts_and_bytes),
        cmocka_unit_test(test_only_rescued_rows),
        cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_zero_scale_of_a_native_group_is_legal),
        cmocka_unit_test(test_alloc_refuses_impossible_sizes),
        cmocka_unit_test(test_weights_of_both_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
