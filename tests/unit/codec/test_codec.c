/* One row: the bytes docs/format.md asks for, round trips at every length, and illegal codes. */
#include "quern/codec/codec.h"

#include "test_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLS = 3000 };

static const qn_code all_codes[] = {QN_CODE_SIGN, QN_CODE_TERNARY, QN_CODE_Q4};
enum { N_CODES = sizeof all_codes / sizeof all_codes[0] };

static uint32_t random_state = 1;

static uint32_t next_random(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static int8_t random_q(qn_code code) {
    int max = qn_code_max(code);
    if (code == QN_CODE_SIGN) return next_random() % 2 ? 1 : -1;
    return (int8_t)((int)(next_random() % (uint32_t)(2 * max + 1)) - max);
}

static void fill_random(qn_code code, int8_t *q, int64_t cols) {
    for (int64_t c = 0; c < cols; c++) q[c] = random_q(code);
}

/* The column's code by the definition of the format, bit by bit: the oracle of the table-driven code. */
static int plain_digit(qn_code code, const uint8_t *bytes, int64_t col) {
    int power = 1;
    switch (code) {
    case QN_CODE_SIGN:
        return bytes[col / 8] >> (col % 8) & 1 ? 1 : -1;
    case QN_CODE_TERNARY:
        for (int64_t k = 0; k < col % 5; k++) power *= 3;
        return bytes[col / 5] / power % 3 - 1;
    default:
        return ((bytes[col / 2] >> 4 * (col % 2) & 15) ^ 8) - 8;
    }
}

static void test_names_and_limits(void **state) {
    (void)state;
    assert_string_equal(qn_code_name(QN_CODE_SIGN), "sign");
    assert_string_equal(qn_code_name(QN_CODE_TERNARY), "ternary");
    assert_string_equal(qn_code_name(QN_CODE_Q4), "q4");
    assert_string_equal(qn_code_name(QN_CODE_NONE), "none");
    assert_string_equal(qn_code_name(QN_CODE_COUNT), "none");
    for (int i = 0; i < N_CODES; i++)
        assert_int_equal(qn_code_from_name(qn_code_name(all_codes[i])), all_codes[i]);
    assert_int_equal(qn_code_from_name("Sign"), QN_CODE_NONE);
    assert_int_equal(qn_code_max(QN_CODE_SIGN), 1);
    assert_int_equal(qn_code_max(QN_CODE_TERNARY), 1);
    assert_int_equal(qn_code_max(QN_CODE_Q4), 7);
    assert_string_equal(qn_role_name(QN_ROLE_RESCUE), "rescue_q4");
    assert_string_equal(qn_role_name(QN_ROLE_COUNT), "?");
}

static void test_sizes(void **state) {
    (void)state;
    assert_int_equal(qn_codec_code_bytes((qn_codec){.code = QN_CODE_SIGN, .group_size = 64}, 1025), 129);
    assert_int_equal(qn_codec_code_bytes((qn_codec){.code = QN_CODE_TERNARY, .group_size = 64}, 1024), 205);
    assert_int_equal(qn_codec_code_bytes((qn_codec){.code = QN_CODE_Q4, .group_size = 128}, 7), 4);
    assert_int_equal(qn_codec_groups((qn_codec){.code = QN_CODE_SIGN, .group_size = 0}, 1000), 1);
    assert_int_equal(qn_codec_groups((qn_codec){.code = QN_CODE_SIGN, .group_size = 128}, 1024), 8);
    assert_int_equal(qn_codec_groups((qn_codec){.code = QN_CODE_SIGN, .group_size = 128}, 1025), 9);
    assert_int_equal(qn_codec_groups((qn_codec){.code = QN_CODE_NONE, .group_size = 0}, 1025), 0);
    assert_int_equal(qn_codec_row_bytes((qn_codec){.code = QN_CODE_Q4, .group_size = 128}, 1024), 512 + 16);
}

static void test_bytes_are_those_of_the_format(void **state) {
    (void)state;
    const int8_t sign[10] = {1, -1, -1, 1, -1, -1, -1, 1, -1, 1};
    const int8_t ternary[7] = {-1, 0, 1, 1, -1, 1, 0};
    const int8_t q4[3] = {7, -7, -1};
    uint8_t out[2];
    qn_codec_pack_row((qn_codec){.code = QN_CODE_SIGN, .group_size = 0}, sign, 10, out);
    assert_int_equal(out[0], 0x89);
    assert_int_equal(out[1], 0x02);
    qn_codec_pack_row((qn_codec){.code = QN_CODE_TERNARY, .group_size = 0}, ternary, 7, out);
    assert_int_equal(out[0], 0 + 1 * 3 + 2 * 9 + 2 * 27 + 0 * 81);
    assert_int_equal(out[1], 2 + 1 * 3);
    qn_codec_pack_row((qn_codec){.code = QN_CODE_Q4, .group_size = 0}, q4, 3, out);
    assert_int_equal(out[0], 0x97);
    assert_int_equal(out[1], 0x0f);
}

static void check_round_trip(qn_code code, int64_t cols) {
    qn_codec codec = {.code = code};
    int64_t n = qn_codec_code_bytes(codec, cols);
    int8_t *q = malloc((size_t)cols), *back = malloc((size_t)cols); /* exact sizes: ASan sees any overrun */
    uint8_t *bytes = malloc((size_t)n);
    fill_random(code, q, cols);
    qn_codec_pack_row(codec, q, cols, bytes);
    assert_int_equal(qn_codec_unpack_row(codec, bytes, cols, back, NULL), QN_OK);
    assert_memory_equal(q, back, (size_t)cols);
    for (int64_t c = 0; c < cols; c++) assert_int_equal(plain_digit(code, bytes, c), q[c]);
    free(bytes);
    free(back);
    free(q);
}

static void test_round_trip_at_every_length(void **state) {
    (void)state;
    for (int i = 0; i < N_CODES; i++) {
        for (int64_t cols = 1; cols <= 90; cols++) check_round_trip(all_codes[i], cols);
        check_round_trip(all_codes[i], MAX_COLS);
    }
}

static void check_decode(qn_codec codec, int64_t cols) {
    static int8_t q[MAX_COLS];
    static uint8_t bytes[MAX_COLS];
    static uint16_t scales[MAX_COLS];
    float *out = malloc((size_t)cols * sizeof *out);
    fill_random(codec.code, q, cols);
    qn_codec_pack_row(codec, q, cols, bytes);
    int64_t n_groups = qn_codec_groups(codec, cols);
    for (int64_t g = 0; g < n_groups; g++) scales[g] = (uint16_t)(1 + next_random() % 0x7bff);
    qn_codec_decode_row(codec, bytes, scales, cols, out);
    for (int64_t c = 0; c < cols; c++) {
        float scale = qn_f16_to_f32(scales[codec.group_size ? c / codec.group_size : 0]);
        assert_true(out[c] == scale * (float)q[c]); /* exact: 11 bits times 3 */
    }
    free(out);
}

static void test_decode_is_the_exact_product(void **state) {
    (void)state;
    const int32_t group_sizes[] = {0, 1, 3, 32, 64, 100, 128, 4096};
    const int64_t lengths[] = {1, 2, 5, 8, 64, 127, 129, 1279, 1280, 1281, 2561, MAX_COLS};
    for (int i = 0; i < N_CODES; i++) {
        for (size_t g = 0; g < sizeof group_sizes / sizeof *group_sizes; g++) {
            for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++) {
                check_decode((qn_codec){.code = all_codes[i], .group_size = group_sizes[g]}, lengths[n]);
            }
        }
    }
}

static void expect_illegal(qn_code code, const uint8_t *bytes, int64_t cols, const char *where) {
    int8_t q[16] = {0};
    qn_error err = {0};
    assert_int_equal(qn_codec_unpack_row((qn_codec){.code = code}, bytes, cols, q, &err), QN_E_VALUE);
    if (!strstr(err.message, where)) fail_msg("'%s' lacks '%s'", err.message, where);
    for (int i = 0; i < 16; i++) assert_int_equal(q[i], 0); /* outputs untouched */
}

static void test_illegal_codes_are_refused(void **state) {
    (void)state;
    expect_illegal(QN_CODE_SIGN, (const uint8_t[]){0xff, 0x08}, 11, "column 11 of 11");
    expect_illegal(QN_CODE_TERNARY, (const uint8_t[]){242, 243}, 10, "column 5 of 10");
    expect_illegal(QN_CODE_TERNARY, (const uint8_t[]){242, 9}, 7, "column 7 of 7");
    expect_illegal(QN_CODE_TERNARY, (const uint8_t[]){3}, 1, "column 1 of 1");
    expect_illegal(QN_CODE_Q4, (const uint8_t[]){0x11, 0x18}, 4, "column 2 of 4");
    expect_illegal(QN_CODE_Q4, (const uint8_t[]){0x11, 0x81}, 4, "column 3 of 4");
    expect_illegal(QN_CODE_Q4, (const uint8_t[]){0x11, 0x81}, 3, "column 3 of 3");
    expect_illegal(QN_CODE_Q4, (const uint8_t[]){0x11, 0x11}, 3, "column 3 of 3");
}

static void test_every_legal_byte_is_accepted(void **state) {
    (void)state;
    int8_t q[8];
    for (int b = 0; b < 256; b++) {
        uint8_t byte = (uint8_t)b;
        bool q4_legal = (b & 15) != 8 && b >> 4 != 8;
        assert_int_equal(
            qn_codec_unpack_row((qn_codec){.code = QN_CODE_SIGN, .group_size = 0}, &byte, 8, q, NULL), QN_OK);
        assert_int_equal(
            qn_codec_unpack_row((qn_codec){.code = QN_CODE_TERNARY, .group_size = 0}, &byte, 5, q, NULL),
            b < 243 ? QN_OK : QN_E_VALUE);
        assert_int_equal(
            qn_codec_unpack_row((qn_codec){.code = QN_CODE_Q4, .group_size = 0}, &byte, 2, q, NULL),
            q4_legal ? QN_OK : QN_E_VALUE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_limits),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_bytes_are_those_of_the_format),
        cmocka_unit_test(test_round_trip_at_every_length),
        cmocka_unit_test(test_decode_is_the_exact_product),
        cmocka_unit_test(test_illegal_codes_are_refused),
        cmocka_unit_test(test_every_legal_byte_is_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
