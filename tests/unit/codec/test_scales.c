/* Scales as stored, the log6 grid, and the rotation. */
#include "quern/codec/codec.h"

#include "test_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_names(void **state) {
    (void)state;
    for (int s = 0; s < QN_SCALE_COUNT; s++)
        assert_int_equal(qn_scale_code_from_name(qn_scale_code_name((qn_scale_code)s)), s);
    assert_string_equal(qn_scale_code_name(QN_SCALE_COUNT), "?");
    assert_int_equal(qn_scale_code_from_name("f32"), QN_SCALE_COUNT);
}

static void test_six_bit_stream(void **state) {
    (void)state;
    const uint16_t four[4] = {1, 2, 63, 32};
    const uint8_t bytes[3] = {0x81, 0xf0, 0x83};
    uint8_t out[3];
    qn_scales_pack(QN_SCALE_LOG6, four, 4, out);
    assert_memory_equal(out, bytes, 3);

    for (int64_t n = 0; n < 40; n++) {
        const int64_t n_bytes = qn_scales_bytes(QN_SCALE_LOG6, n);
        uint16_t values[40], back[40];
        uint8_t *packed = malloc((size_t)n_bytes + 1); /* one byte of guard */
        for (int64_t i = 0; i < n; i++) values[i] = (uint16_t)((7 * i + 3) % 64);
        packed[n_bytes] = 0xa5;
        qn_scales_pack(QN_SCALE_LOG6, values, n, packed);
        qn_scales_unpack(QN_SCALE_LOG6, packed, n, back);
        assert_int_equal(n_bytes, (6 * n + 7) / 8);
        assert_int_equal(packed[n_bytes], 0xa5);
        assert_memory_equal(values, back, 2 * (size_t)n);
        if (6 * n % 8) assert_int_equal(packed[n_bytes - 1] >> 6 * n % 8, 0);
        free(packed);
    }
}

static void test_f16_scales_at_an_odd_address(void **state) {
    (void)state;
    const uint16_t values[3] = {0x3c00, 0x0001, 0x7bff};
    uint16_t back[3];
    uint8_t bytes[8];
    qn_scales_pack(QN_SCALE_F16, values, 3, bytes + 1);
    qn_scales_unpack(QN_SCALE_F16, bytes + 1, 3, back);
    assert_int_equal(qn_scales_bytes(QN_SCALE_F16, 3), 6);
    assert_int_equal(bytes[1] | bytes[2] << 8, 0x3c00);
    assert_memory_equal(values, back, sizeof values);
}

static void test_log6_table(void **state) {
    (void)state;
    float table[QN_LOG6_VALUES];
    assert_true(qn_log6_table(0.5f, 1.0f, table));
    for (int k = 0; k < QN_LOG6_VALUES; k++) assert_true(table[k] == 0.5f);

    const float base = 0.0123f, ratio = 1.0625f;
    assert_true(qn_log6_table(base, ratio, table));
    double t = (double)base;
    for (int k = 0; k < QN_LOG6_VALUES; k++, t *= (double)ratio) {
        /* The nearest fp16 number: within half a unit of 2^-11 relative. */
        assert_true(fabs((double)table[k] - t) <= t * 0x1p-11);
        assert_true(table[k] == qn_f16_to_f32(qn_f32_to_f16(table[k])));
    }
}

static void test_impossible_grids(void **state) {
    (void)state;
    float table[QN_LOG6_VALUES];
    const float grids[][2] = {{0, 1.1f},        {-1, 1.1f},     {NAN, 1.1f}, {INFINITY, 1},
                              {1, 0.999f},      {1, NAN},       {1, 1e30f},  {1, INFINITY},
                              {0x1p-26f, 1.0f}, {65504, 1.01f}, {1, 1.2f}};
    for (size_t i = 0; i < sizeof grids / sizeof grids[0]; i++)
        assert_false(qn_log6_table(grids[i][0], grids[i][1], table));
    assert_true(qn_log6_table(65504, 1, table));
    assert_true(qn_log6_table(0x1p-24f, 1, table));
}

/* ------------------------------------------------------------------------------------------- rotation */

/* (-1)^popcount(i & j): the Walsh-Hadamard matrix by its definition. */
static double walsh(int64_t i, int64_t j) {
    return __builtin_popcountll((unsigned long long)(i & j)) % 2 ? -1 : 1;
}

static double sign_of(int64_t column) {
    uint64_t h = (uint64_t)column * 2654435761u % 4294967296u;
    h ^= h / 32768;
    h = h * 2246822519u % 4294967296u;
    return h >= 2147483648u ? -1 : 1;
}

enum { COLS = 96, BLOCK = 32 };
/* Sums of 32 terms below 1 in f32, in another order: 2^-24 times the terms and the levels, with room. */
static const double TOLERANCE = 1e-5;

static void test_forward_is_the_definition(void **state) {
    (void)state;
    float x[COLS], y[COLS];
    for (int j = 0; j < COLS; j++) y[j] = x[j] = (float)sin(j + 1.0);
    qn_hadamard_rows(y, 1, COLS, BLOCK, false);
    for (int j = 0; j < COLS; j++) {
        const int first = j / BLOCK * BLOCK;
        double want = 0;
        for (int i = 0; i < BLOCK; i++)
            want += (double)x[first + i] * sign_of(first + i) * walsh(i, j - first);
        assert_true(fabs(want / sqrt(BLOCK) - (double)y[j]) < TOLERANCE);
    }
}

static void test_rotation_is_orthogonal(void **state) {
    (void)state;
    static float rows[3 * COLS], turned[3 * COLS];
    for (int i = 0; i < 3 * COLS; i++) rows[i] = (float)cos(1.7 * i);
    for (int32_t block = 2; block <= 32; block *= 2) {
        memcpy(turned, rows, sizeof rows);
        qn_hadamard_rows(turned, 3, COLS, block, false);
        for (int a = 0; a < 3; a++) {
            for (int b = 0; b < 3; b++) {
                double before = 0, after = 0;
                for (int j = 0; j < COLS; j++) {
                    before += (double)rows[a * COLS + j] * (double)rows[b * COLS + j];
                    after += (double)turned[a * COLS + j] * (double)turned[b * COLS + j];
                }
                assert_true(fabs(before - after) < COLS * TOLERANCE);
            }
        }
        qn_hadamard_rows(turned, 3, COLS, block, true);
        for (int i = 0; i < 3 * COLS; i++) assert_true(fabsf(turned[i] - rows[i]) < (float)TOLERANCE);
    }
}

static void test_signs_differ_between_blocks(void **state) {
    (void)state;
    int n_minus = 0, n_changes = 0;
    for (int j = 0; j < 1024; j++) {
        n_minus += sign_of(j) < 0;
        n_changes += sign_of(j) != sign_of(j + 1024);
    }
    assert_in_range(n_minus, 448, 576); /* four standard deviations of fair coins */
    assert_in_range(n_changes, 448, 576);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_six_bit_stream),
        cmocka_unit_test(test_f16_scales_at_an_odd_address),
        cmocka_unit_test(test_log6_table),
        cmocka_unit_test(test_impossible_grids),
        cmocka_unit_test(test_forward_is_the_definition),
        cmocka_unit_test(test_rotation_is_orthogonal),
        cmocka_unit_test(test_signs_differ_between_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
