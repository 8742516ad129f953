#include "quern/tensor/dtype.h"
#include "quern/base/rng.h"

#include "test_data.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The value of a format with N_EXPONENT and N_MANTISSA bits, straight from its definition. */
static double decode(uint32_t bits, int n_exponent, int n_mantissa) {
    const int bias = (1 << (n_exponent - 1)) - 1;
    const int exponent = (int)(bits >> n_mantissa) & ((1 << n_exponent) - 1);
    const double mantissa = (double)(bits & ((1u << n_mantissa) - 1));
    const double sign = bits >> (n_exponent + n_mantissa) ? -1.0 : 1.0;
    if (exponent == (1 << n_exponent) - 1) return mantissa != 0.0 ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias - n_mantissa);
    return sign * ldexp(mantissa + ldexp(1, n_mantissa), exponent - bias - n_mantissa);
}

typedef struct format {
    int n_exponent, n_mantissa;
    float (*widen)(uint16_t);
    uint16_t (*narrow)(float);
} format;

static const format F16 = {5, 10, qn_f16_to_f32, qn_f32_to_f16};
static const format BF16 = {8, 7, qn_bf16_to_f32, qn_f32_to_bf16};

static void check_all_codes(const format *f) {
    for (uint32_t code = 0; code < 65536; code++) {
        double expected = decode(code, f->n_exponent, f->n_mantissa);
        float value = f->widen((uint16_t)code);
        if (isnan(expected)) {
            assert_true(isnan(value));
            assert_true(isnan(f->widen(f->narrow(value))));
            continue;
        }
        if ((double)value != expected || !signbit(value) != !signbit(expected)) fail_msg("code %04x", code);
        if (f->narrow(value) != code) fail_msg("code %04x came back as %04x", code, f->narrow(value));
    }
}

static void test_all_codes_widen_exactly_and_come_back(void **state) {
    (void)state;
    check_all_codes(&F16);
    check_all_codes(&BF16);
}

/* Between two neighbouring codes: below the middle down, above it up, the middle itself to the even code. */
static void check_rounding(const format *f, uint16_t infinity) {
    for (uint16_t code = 0; code < infinity; code++) {
        const double low = decode(code, f->n_exponent, f->n_mantissa);
        const double high = code + 1 < infinity ? decode(code + 1u, f->n_exponent, f->n_mantissa)
                                                : 2 * low - decode(code - 1u, f->n_exponent, f->n_mantissa);
        const float middle = (float)((low + high) / 2);
        const int even = code + (code & 1);
        const int got[3] = {f->narrow(nextafterf(middle, 0.0f)), f->narrow(middle),
                            f->narrow(nextafterf(middle, INFINITY))};
        if ((double)middle != (low + high) / 2) continue; /* the middle of the last BF16 pair leaves F32 */
        if (got[0] != code || got[1] != even || got[2] != code + 1) {
            fail_msg("above code %04x: got %04x %04x %04x", code, got[0], got[1], got[2]);
        }
        assert_int_equal(f->narrow(-middle), even | 0x8000);
    }
}

static void test_narrowing_rounds_to_nearest_even(void **state) {
    (void)state;
    check_rounding(&F16, 0x7c00);
    check_rounding(&BF16, 0x7f80);
}

static void test_overflow_and_nan(void **state) {
    (void)state;
    assert_int_equal(qn_f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(qn_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(qn_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(qn_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(qn_f32_to_f16(FLT_MIN), 0);
    assert_int_equal(qn_f32_to_bf16(FLT_MAX), 0x7f80);
    assert_int_equal(qn_f32_to_bf16(-INFINITY), 0xff80);
    const uint32_t nans[] = {0x7fc00000, 0x7f800001, 0xffffffff, 0x7fbfffff, 0xff800001};
    for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++) {
        assert_true(isnan(qn_f16_to_f32(qn_f32_to_f16(from_bits(nans[i])))));
        assert_true(isnan(qn_bf16_to_f32(qn_f32_to_bf16(from_bits(nans[i])))));
    }
}

#if defined(__FLT16_MANT_DIG__) && !defined(__clang__)
static void test_narrowing_agrees_with_the_compilers_half(void **state) {
    (void)state;
    qn_rng rng;
    qn_rng_seed(&rng, 16);
    for (int i = 0; i < 2000000; i++) {
        float value = from_bits(qn_rng_next_u32(&rng));
        __extension__ _Float16 half = (_Float16)value;
        uint16_t bits;
        memcpy(&bits, &half, sizeof bits);
        if (!isnan(value) && qn_f32_to_f16(value) != bits)
            fail_msg("%a: %04x, not %04x", (double)value, qn_f32_to_f16(value), bits);
    }
}
#endif

static void test_names_and_sizes(void **state) {
    (void)state;
    assert_int_equal(qn_dtype_from_name("BF16"), QN_DTYPE_BF16);
    assert_int_equal(qn_dtype_from_name("bf16"), QN_DTYPE_NONE);
    assert_int_equal(qn_dtype_from_name("?"), QN_DTYPE_NONE);
    assert_int_equal(qn_dtype_bytes(QN_DTYPE_F64), 8);
    assert_int_equal(qn_dtype_bytes(QN_DTYPE_NONE), 0);
    assert_int_equal(qn_dtype_bytes((qn_dtype)1000), 0);
    assert_string_equal(qn_dtype_name((qn_dtype)1000), "?");
    for (int i = 1; i < QN_DTYPE_COUNT; i++) {
        assert_int_equal(qn_dtype_from_name(qn_dtype_name((qn_dtype)i)), i);
        assert_true(qn_dtype_bytes((qn_dtype)i) > 0);
    }
}

static void test_element_counts(void **state) {
    (void)state;
    qn_view scalar = {0}, matrix = {.n_dims = 2, .shape = {3, 5}};
    qn_view empty = {.n_dims = 2, .shape = {0, 5}}, huge = {.n_dims = 2, .shape = {INT64_MAX, 2}};
    assert_int_equal(qn_view_elements(&scalar), 1);
    assert_int_equal(qn_view_elements(&matrix), 15);
    assert_int_equal(qn_view_elements(&empty), 0);
    assert_int_equal(qn_view_elements(&huge), -1);
}

enum { N = 1037 }; /* no multiple of a vector */

/* A view of N random finite elements that starts on an odd address; *values are what it must widen to. */
static qn_view make_view(qn_dtype dtype, uint8_t *bytes, float *values) {
    qn_rng rng;
    qn_rng_seed(&rng, 1000 + (uint64_t)dtype);
    for (int i = 0; i < N; i++) {
        double x = qn_rng_normal(&rng);
        float f = (float)x;
        uint16_t half = dtype == QN_DTYPE_F16 ? qn_f32_to_f16(f) : qn_f32_to_bf16(f);
        uint8_t *to = bytes + 1 + (size_t)i * qn_dtype_bytes(dtype);
        switch (dtype) {
        case QN_DTYPE_F64:
            memcpy(to, &x, sizeof x);
            values[i] = f;
            break;
        case QN_DTYPE_F32:
            memcpy(to, &f, sizeof f);
            values[i] = f;
            break;
        case QN_DTYPE_F16:
            memcpy(to, &half, sizeof half);
            values[i] = qn_f16_to_f32(half);
            break;
        default:
            memcpy(to, &half, sizeof half);
            values[i] = qn_bf16_to_f32(half);
        }
    }
    return (qn_view){.data = bytes + 1, .dtype = dtype, .n_dims = 2, .shape = {17, 61}};
}

static const qn_dtype REAL_DTYPES[] = {QN_DTYPE_F64, QN_DTYPE_F32, QN_DTYPE_F16, QN_DTYPE_BF16};

static void test_views_widen_any_range(void **state) {
    (void)state;
    static const int64_t ranges[][2] = {{0, N}, {1, N - 1}, {5, 31}, {N, 0}, {N - 1, 1}, {0, 0}};
    static uint8_t bytes[8 * N + 1];
    static float values[N], out[N + 1];
    qn_error err = {0};
    for (size_t d = 0; d < 4; d++) {
        qn_view view = make_view(REAL_DTYPES[d], bytes, values);
        for (size_t r = 0; r < sizeof ranges / sizeof ranges[0]; r++) {
            const int64_t first = ranges[r][0], n = ranges[r][1];
            out[n] = 12345.0f;
            assert_int_equal(qn_view_to_f32(&view, first, n, out, &err), QN_OK);
            assert_memory_equal(out, values + first, (size_t)n * sizeof *out);
            assert_true(out[n] == 12345.0f);
        }
    }
}

static void test_every_half_widens_the_same_in_bulk(void **state) {
    (void)state;
    static uint16_t codes[65536];
    static float out[65536];
    for (uint32_t i = 0; i < 65536; i++) codes[i] = (uint16_t)i;
    qn_view view = {.data = codes, .dtype = QN_DTYPE_F16, .n_dims = 1, .shape = {65536}};
    assert_int_equal(qn_view_to_f32(&view, 0, 65536, out, NULL), QN_OK);
    for (uint32_t i = 0; i < 65536; i++)
        assert_int_equal(to_bits(out[i]), to_bits(qn_f16_to_f32((uint16_t)i)));
    view.dtype = QN_DTYPE_BF16;
    assert_int_equal(qn_view_to_f32(&view, 0, 65536, out, NULL), QN_OK);
    for (uint32_t i = 0; i < 65536; i++) assert_int_equal(to_bits(out[i]), i << 16);
}

static void test_bad_ranges_and_dtypes_are_refused(void **state) {
    (void)state;
    qn_error err = {0};
    float out[4] = {7, 7, 7, 7};
    const float data[4] = {0};
    qn_view view = {.data = data, .dtype = QN_DTYPE_F32, .n_dims = 1, .shape = {4}};
    static const int64_t ranges[][2] = {{-1, 2}, {0, 5}, {4, 1}, {0, -1}, {5, 0}, {INT64_MAX, INT64_MAX}};
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        assert_int_equal(qn_view_to_f32(&view, ranges[i][0], ranges[i][1], out, &err), QN_E_ARGUMENT);
        assert_int_equal(qn_view_find_nonfinite(&view, ranges[i][0], ranges[i][1]), -1);
    }
    view.dtype = QN_DTYPE_U8;
    assert_int_equal(qn_view_to_f32(&view, 0, 4, out, &err), QN_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "U8"));
    assert_true(out[0] == 7);
}

/* One bad element at each place is found there, and not when the range leaves it out. */
static void test_the_first_bad_element_is_found(void **state) {
    (void)state;
    static const int64_t places[] = {0, 1, 500, N - 1};
    static const uint64_t bad[][4] = {
        {0x7ff0000000000000, 0x7f800000, 0x7c00, 0x7f80},
        {0xfff8000000000001, 0xffc00001, 0xfe01, 0xffc1},
    };
    static uint8_t bytes[8 * N + 1];
    static float values[N];
    for (size_t d = 0; d < 4; d++) {
        const size_t size = qn_dtype_bytes(REAL_DTYPES[d]);
        for (size_t p = 0; p < 4; p++) {
            qn_view view = make_view(REAL_DTYPES[d], bytes, values);
            assert_int_equal(qn_view_find_nonfinite(&view, 0, N), -1);
            memcpy(bytes + 1 + (size_t)places[p] * size, &bad[p % 2][d], size);
            assert_int_equal(qn_view_find_nonfinite(&view, 0, N), places[p]);
            assert_int_equal(qn_view_find_nonfinite(&view, places[p], 1), places[p]);
            assert_int_equal(qn_view_find_nonfinite(&view, places[p] + 1, N - places[p] - 1), -1);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_codes_widen_exactly_and_come_back),
        cmocka_unit_test(test_narrowing_rounds_to_nearest_even),
        cmocka_unit_test(test_overflow_and_nan),
#if defined(__FLT16_MANT_DIG__) && !defined(__clang__)
        cmocka_unit_test(test_narrowing_agrees_with_the_compilers_half),
#endif
        cmocka_unit_test(test_names_and_sizes),
        cmocka_unit_test(test_element_counts),
        cmocka_unit_test(test_views_widen_any_range),
        cmocka_unit_test(test_every_half_widens_the_same_in_bulk),
        cmocka_unit_test(test_bad_ranges_and_dtypes_are_refused),
        cmocka_unit_test(test_the_first_bad_element_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
