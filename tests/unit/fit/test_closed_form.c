/* The closed forms against exhaustive search, against the plain reference, and at the edges of fp16. */
#include "fit/fit_reference.h"

#include "test_data.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLS = 4096, N_EXHAUSTIVE = 8 };

/* Rounding a scale to fp16 moves it by at most 2^-11 of itself; the error, a parabola in s of curvature sum h
 * q^2, rises by at most that squared. */
static const double scale_rounding = 0x1p-11;
/* Sums of squares of at most 4096 terms taken in double from differences rounded to float. */
static const double sum_rounding = 1e-6;

static qn_fit_scratch scratch;
static uint64_t random_state = 7;

static double uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static float normal(void) {
    return (float)(sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()));
}

/* Kinds of rows: normal, heavy tails, few distinct values (ties), two clusters (several fixed points), zeros
 * mixed in. */
enum { N_KINDS = 5 };
static void fill(int kind, float *w, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float x = normal();
        switch (kind) {
        case 0:
            w[i] = 0.02f * x;
            break;
        case 1:
            w[i] = 0.02f * x * x * x;
            break;
        case 2:
            w[i] = 0.125f * rintf(2 * x);
            break;
        case 3:
            w[i] = (uniform() < 0.1 ? 3.0f : 0.4f) * (1 + 0.05f * x) * (uniform() < 0.5 ? 1.0f : -1.0f);
            break;
        default:
            w[i] = uniform() < 0.6 ? 0 : 1e-3f * x;
        }
    }
}

static void fill_weights(float *h, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double u = uniform();
        h[i] = u < 0.1 ? 0 : (float)exp(6 * u - 3);
    }
}

/* The least error of w over all 2^n or 3^n codes, each with its own best scale, and sum h q^2 of the best. */
static double exhaustive_error(qn_code code, const float *w, const float *h, int64_t n) {
    int64_t n_codes = 1, base = code == QN_CODE_SIGN ? 2 : 3;
    double energy = 0, gain = 0;
    for (int64_t i = 0; i < n; i++) {
        n_codes *= base;
        energy += (double)(h ? h[i] : 1) * (double)w[i] * (double)w[i];
    }
    for (int64_t c = 0; c < n_codes; c++) {
        double wq = 0, qq = 0;
        for (int64_t i = 0, rest = c; i < n; i++, rest /= base) {
            double q = base == 2 ? (rest % 2 ? 1 : -1) : (double)(rest % 3 - 1), hi = (double)(h ? h[i] : 1);
            wq += hi * (double)w[i] * q;
            qq += hi * q * q;
        }
        if (wq > 0 && wq * wq / qq > gain) gain = wq * wq / qq;
    }
    return energy - gain;
}

/* How much the error of the best code may rise when its scale is rounded: sum h q^2 (s 2^-11)^2 <= sum h w^2
 * 2^-22. */
static double rounding_allowance(const float *w, const float *h, int64_t n) {
    double energy = 0;
    for (int64_t i = 0; i < n; i++) energy += (double)(h ? h[i] : 1) * (double)w[i] * (double)w[i];
    return energy * (scale_rounding * scale_rounding + 1e-12);
}

static void check_against_exhaustive(qn_code code, const float *w, const float *h, int64_t n) {
    double exact = exhaustive_error(code, w, h, n), scale, reference;
    double allowance = rounding_allowance(w, h, n);
    double fitted =
        qn_fit_row((qn_codec){code, 0, QN_SCALE_F16}, QN_FIT_OPTIMAL, w, h, n, &scratch, NULL, NULL);
    qn_status status = code == QN_CODE_SIGN ? qni_reference_sign(w, h, n, &scale, &reference)
                                            : qni_reference_ternary(w, h, n, &scale, &reference);
    assert_int_equal(status, QN_OK);
    double exactness = 1e-12 * (exact + allowance) + 1e-6 * allowance; /* double sums of ten terms */
    if (fabs(reference - exact) > exactness) fail_msg("reference %.17g, exhaustive %.17g", reference, exact);
    if (fitted < exact - exactness - sum_rounding * exact || fitted > exact * (1 + sum_rounding) + allowance)
        fail_msg("fitted %.17g, exhaustive %.17g", fitted, exact);
}

static void test_no_code_and_scale_is_better(void **state) {
    (void)state;
    float w[N_EXHAUSTIVE + 2], h[N_EXHAUSTIVE + 2];
    for (int trial = 0; trial < 120; trial++) {
        int64_t n = trial % 12 == 0 ? N_EXHAUSTIVE + 2 : 1 + trial % N_EXHAUSTIVE;
        fill(trial % N_KINDS, w, n);
        fill_weights(h, n);
        for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
            check_against_exhaustive(code, w, NULL, n);
            check_against_exhaustive(code, w, h, n);
        }
    }
}

/* Groups that are fitted eight at a time against the same groups alone: the same codes, and the same bits of the scales. */
static void test_eight_groups_are_each_as_alone(void **state) {
    (void)state;
    static const int32_t sizes[] = {8, 24, 64, 128, 192};
    static float w[MAX_COLS];
    static int8_t q[MAX_COLS], alone_q[MAX_COLS];
    static uint16_t scales[MAX_COLS], alone[MAX_COLS];
    for (int trial = 0; trial < 400; trial++) {
        const int32_t n = sizes[trial % 5];
        const int64_t cols = 8 * n * (1 + trial % 2) + (trial % 3) * n + trial % 7;
        const qn_codec codec = {QN_CODE_TERNARY, n, QN_SCALE_F16}, whole = {QN_CODE_TERNARY, 0, QN_SCALE_F16};
        fill(trial / 5 % N_KINDS, w, cols);
        if (trial % 11 == 0) memset(w + n, 0, (size_t)n * sizeof *w); /* a group of zeros among others */
        if (trial % 13 == 0) w[2 * n] = 0x1p70f;
        if (trial % 17 == 0)
            for (int32_t i = 0; i < n; i++) w[i] *= 0x1p-30f;
        qn_fit_row_codes(codec, QN_FIT_OPTIMAL, w, NULL, cols, &scratch, q, scales);
        for (int64_t first = 0, g = 0; first < cols; first += n, g++) {
            const int64_t some = cols - first < n ? cols - first : n;
            qn_fit_row_codes(whole, QN_FIT_OPTIMAL, w + first, NULL, some, &scratch, alone_q + first,
                             alone + g);
        }
        assert_memory_equal(q, alone_q, (size_t)cols);
        assert_memory_equal(scales, alone, (size_t)((cols + n - 1) / n) * sizeof *scales);
    }
}

static void round_to_bf16(float *w, int64_t n) {
    for (int64_t i = 0; i < n; i++) w[i] = qn_bf16_to_f32(qn_f32_to_bf16(w[i]));
}

/* Groups of bf16 numbers, which are sorted sixteen at a time, against the same groups alone, which are not. */
static void test_sorted_groups_are_each_as_alone(void **state) {
    (void)state;
    static const int32_t sizes[] = {1, 2, 5, 16, 31, 32, 33, 64, 100, 128};
    static float w[MAX_COLS];
    static int8_t q[MAX_COLS], alone_q[MAX_COLS];
    static uint16_t scales[MAX_COLS], alone[MAX_COLS];
    for (int trial = 0; trial < 2000; trial++) {
        const int32_t n = sizes[trial % 10];
        const int64_t cols = n * (1 + trial % 19) + (trial % 7 * n) / 7;
        const qn_codec codec = {QN_CODE_TERNARY, n, QN_SCALE_F16}, whole = {QN_CODE_TERNARY, 0, QN_SCALE_F16};
        fill(trial / 10 % N_KINDS, w, cols);
        if (trial % 3 == 0) w[cols / 2] *= 0x1p20f; /* beside which the others vanish in a sum of floats */
        if (trial % 13 == 0) w[cols - 1] = -0x1p70f;
        for (int32_t i = 0; i < n && trial % 11 < 2; i++) w[i] *= trial % 11 ? 0x1p-30f : 0.0f;
        round_to_bf16(w, cols);
        qn_fit_row_codes(codec, QN_FIT_OPTIMAL, w, NULL, cols, &scratch, q, scales);
        for (int64_t first = 0, g = 0; first < cols; first += n, g++) {
            const int64_t some = cols - first < n ? cols - first : n;
            qn_fit_row_codes(whole, QN_FIT_OPTIMAL, w + first, NULL, some, &scratch, alone_q + first,
                             alone + g);
        }
        assert_memory_equal(q, alone_q, (size_t)cols);
        assert_memory_equal(scales, alone, (size_t)((cols + n - 1) / n) * sizeof *scales);
    }
}

/* Sorted groups against every code there is, with scales that fp16 holds to 11 bits. */
static void test_sorted_groups_are_exact(void **state) {
    (void)state;
    const float above_subnormal = 1024;
    float w[N_EXHAUSTIVE];
    for (int trial = 0; trial < 200; trial++) {
        const int32_t n = 1 + trial % N_EXHAUSTIVE;
        const qn_codec codec = {QN_CODE_TERNARY, n, QN_SCALE_F16};
        fill(trial / N_EXHAUSTIVE % N_KINDS, w, n);
        for (int32_t i = 0; i < n; i++) w[i] *= above_subnormal;
        round_to_bf16(w, n);
        const double exact = exhaustive_error(QN_CODE_TERNARY, w, NULL, n);
        const double fitted = qn_fit_row(codec, QN_FIT_OPTIMAL, w, NULL, n, &scratch, NULL, NULL);
        if (fitted > exact * (1 + sum_rounding) + rounding_allowance(w, NULL, n))
            fail_msg("fitted %.17g, exhaustive %.17g", fitted, exact);
    }
}

/* Every fast group fit must find the support the sort finds. */
static void check_against_reference(qn_codec codec, const float *w, const float *h, int64_t cols) {
    static uint16_t scales[MAX_COLS];
    int64_t group = codec.group_size ? codec.group_size : cols;
    double expected = 0;
    double fitted = qn_fit_row(codec, QN_FIT_OPTIMAL, w, h, cols, &scratch, NULL, scales);
    for (int64_t first = 0, g = 0; first < cols; first += group, g++) {
        int64_t n = cols - first < group ? cols - first : group;
        const float *group_h = h ? h + first : NULL;
        double scale;
        qn_status status = codec.code == QN_CODE_SIGN
                               ? qni_reference_sign(w + first, group_h, n, &scale, NULL)
                               : qni_reference_ternary(w + first, group_h, n, &scale, NULL);
        assert_int_equal(status, QN_OK);
        double rounded = scale > 0 ? fmax((double)qn_f16_to_f32(qn_f32_to_f16((float)scale)), 0x1p-24) : 0;
        if ((double)qn_f16_to_f32(scales[g]) != rounded)
            fail_msg("group %lld: scale %.9g, sorted %.9g", (long long)g, (double)qn_f16_to_f32(scales[g]),
                     scale);
        expected += qni_reference_error(codec.code, w + first, group_h, n, rounded);
    }
    assert_true(fabs(fitted - expected) <= sum_rounding * expected + DBL_MIN);
}

static void test_fast_equals_sorted(void **state) {
    (void)state;
    static float w[MAX_COLS], h[MAX_COLS];
    const int32_t groups[] = {0, 1, 7, 32, 64, 100, 128};
    for (int trial = 0; trial < 60; trial++) {
        int64_t cols = trial % 3 ? 1 + (int64_t)(uniform() * 700) : MAX_COLS;
        fill(trial % 4, w, cols); /* the fifth kind has groups of zeros, which the sort has no scale for */
        fill_weights(h, cols);
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
            for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
                check_against_reference((qn_codec){code, groups[g], QN_SCALE_F16}, w, NULL, cols);
                if (groups[g] != 1)
                    check_against_reference((qn_codec){code, groups[g], QN_SCALE_F16}, w, h, cols);
            }
        }
    }
}

/* The error returned is that of what is stored: decode it and measure. */
static double stored_error(qn_codec codec, const float *w, const float *h, const int8_t *q,
                           const uint16_t *scales, int64_t cols) {
    static uint8_t codes[MAX_COLS];
    static float decoded[MAX_COLS];
    double error = 0;
    qn_codec_pack_row(codec, q, cols, codes);
    qn_codec_decode_row(codec, codes, scales, cols, decoded);
    for (int64_t i = 0; i < cols; i++) {
        double d = (double)w[i] - (double)decoded[i];
        error += (double)(h ? h[i] : 1) * d * d;
    }
    return error;
}

static void test_error_is_that_of_the_stored_row(void **state) {
    (void)state;
    static float w[MAX_COLS], h[MAX_COLS];
    static int8_t q[MAX_COLS];
    static uint16_t scales[MAX_COLS];
    for (int trial = 0; trial < 60; trial++) {
        int64_t cols = 1 + (int64_t)(uniform() * 600);
        qn_codec codec = {(qn_code)(QN_CODE_SIGN + trial % 3), trial % 2 ? 128 : 0, QN_SCALE_F16};
        fill(trial % N_KINDS, w, cols);
        fill_weights(h, cols);
        for (int rule = QN_FIT_OPTIMAL; rule <= QN_FIT_PUBLISHED; rule++) {
            for (int weighted = 0; weighted < 2; weighted++) {
                const float *weights = weighted ? h : NULL;
                double error = qn_fit_row(codec, (qn_fit_rule)rule, w, weights, cols, &scratch, q, scales);
                double stored = stored_error(codec, w, weights, q, scales, cols);
                assert_true(fabs(error - stored) <= sum_rounding * stored + DBL_MIN);
                assert_true(error ==
                            qn_fit_row(codec, (qn_fit_rule)rule, w, weights, cols, &scratch, NULL, NULL));
            }
        }
    }
}

static void test_optimal_is_never_worse_than_published(void **state) {
    (void)state;
    float w[256], h[256];
    for (int trial = 0; trial < 300; trial++) {
        fill(trial % N_KINDS, w, 256);
        fill_weights(h, 256);
        for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_Q4; code++) {
            for (int weighted = 0; weighted < 2; weighted++) {
                const float *weights = weighted ? h : NULL;
                qn_codec codec = {code, 64, QN_SCALE_F16};
                double optimal = qn_fit_row(codec, QN_FIT_OPTIMAL, w, weights, 256, &scratch, NULL, NULL);
                double published = qn_fit_row(codec, QN_FIT_PUBLISHED, w, weights, 256, &scratch, NULL, NULL);
                /* both scales are rounded, so a tie may fall either way */
                assert_true(optimal <= published + rounding_allowance(w, weights, 256));
            }
        }
    }
}

/* A scan of 2000 scales, each refitted, is as good as it gets for q4; the ten clips must come close on
 * weights as models have them. The tolerance is on the sum over the groups: 1 % of the error, about 0.01 % of
 * the energy. */
static void test_q4_is_close_to_a_fine_scan(void **state) {
    (void)state;
    double scanned = 0, fitted = 0;
    float w[128];
    for (int trial = 0; trial < 100; trial++) {
        fill(0, w, 128);
        fitted += qn_fit_row((qn_codec){QN_CODE_Q4, 128, QN_SCALE_F16}, QN_FIT_OPTIMAL, w, NULL, 128,
                             &scratch, NULL, NULL);
        float max = 0;
        for (int i = 0; i < 128; i++) max = fmaxf(max, fabsf(w[i]));
        double best = DBL_MAX;
        for (int k = 1; k <= 2000; k++) {
            best = fmin(best, qni_reference_error(QN_CODE_Q4, w, NULL, 128, (double)max / 7 * (k / 2000.0)));
        }
        scanned += best;
    }
    if (fitted > 1.01 * scanned) fail_msg("q4 error %.6g, fine scan %.6g", fitted, scanned);
}

static void test_published_rules(void **state) {
    (void)state;
    const float w[5] = {1, -2, 0.25f, 0, -0.5f};
    int8_t q[5];
    uint16_t scale;
    const int8_t sign[5] = {1, -1, 1, 1, -1}, ternary[5] = {1, -1, 0, 0, 0}, q4[5] = {4, -7, 1, 0, -2};
    qn_fit_row((qn_codec){QN_CODE_SIGN, 0, QN_SCALE_F16}, QN_FIT_PUBLISHED, w, NULL, 5, &scratch, q, &scale);
    assert_memory_equal(q, sign, 5);
    assert_int_equal(scale, qn_f32_to_f16(0.75f));
    /* mean 0.75, threshold 0.525: 1 and 2 are kept */
    qn_fit_row((qn_codec){QN_CODE_TERNARY, 0, QN_SCALE_F16}, QN_FIT_PUBLISHED, w, NULL, 5, &scratch, q,
               &scale);
    assert_memory_equal(q, ternary, 5);
    assert_int_equal(scale, qn_f32_to_f16(1.5f));
    qn_fit_row((qn_codec){QN_CODE_Q4, 0, QN_SCALE_F16}, QN_FIT_PUBLISHED, w, NULL, 5, &scratch, q, &scale);
    assert_memory_equal(q, q4, 5);
    assert_int_equal(scale, qn_f32_to_f16(2.0f / 7));
}

static void test_zero_groups(void **state) {
    (void)state;
    const float w[4] = {0, -0.0f, 0, 0}, h[4] = {1, 0, 2, 3};
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_Q4; code++) {
        for (int rule = QN_FIT_OPTIMAL; rule <= QN_FIT_PUBLISHED; rule++) {
            int8_t q[4];
            uint16_t scale = 77;
            assert_true(qn_fit_row((qn_codec){code, 0, QN_SCALE_F16}, (qn_fit_rule)rule, w, h, 4, &scratch, q,
                                   &scale) == 0);
            assert_int_equal(scale, code == QN_CODE_Q4 ? 1 : 0); /* a q4 scale is always positive */
            for (int i = 0; i < 4; i++) assert_int_equal(q[i], code == QN_CODE_SIGN ? 1 : 0);
        }
    }
}

static void test_scales_stay_within_fp16(void **state) {
    (void)state;
    const float sizes[] = {1e-45f, 1e-30f, 1e-9f, 2e-8f, 7e4f, 1e6f, 1e19f, 1e30f, 3e38f};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        float w[40], h[40];
        for (int i = 0; i < 40; i++) {
            w[i] = sizes[k] * (i % 2 ? 1.0f : -0.5f);
            h[i] = i % 3 ? 3e38f : 1e-40f;
        }
        for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_Q4; code++) {
            for (int rule = QN_FIT_OPTIMAL; rule <= QN_FIT_PUBLISHED; rule++) {
                for (int weighted = 0; weighted < 2; weighted++) {
                    int8_t q[40];
                    uint16_t scale;
                    double error = qn_fit_row((qn_codec){code, 0, QN_SCALE_F16}, (qn_fit_rule)rule, w,
                                              weighted ? h : NULL, 40, &scratch, q, &scale);
                    assert_true(isfinite(error));
                    assert_true(scale >= 1 && scale < 0x7c00);
                    for (int i = 0; i < 40; i++) assert_true(abs(q[i]) <= qn_code_max(code));
                }
            }
        }
    }
}

static void test_weights_without_a_say_are_left_out(void **state) {
    (void)state;
    float w[70], none[70] = {0}, where_zero[70];
    fill(0, w, 70);
    w[3] = 0;
    for (int i = 0; i < 70; i++) where_zero[i] = i == 3 ? 2.0f : 0;
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
        int8_t q[70], plain[70];
        uint16_t scale, plain_scale;
        qn_codec codec = {code, 0, QN_SCALE_F16};
        qn_fit_row(codec, QN_FIT_OPTIMAL, w, NULL, 70, &scratch, plain, &plain_scale);
        assert_true(qn_fit_row(codec, QN_FIT_OPTIMAL, w, none, 70, &scratch, q, &scale) == 0);
        assert_int_equal(scale, plain_scale);
        assert_memory_equal(q, plain, 70);
        qn_fit_row(codec, QN_FIT_OPTIMAL, w, where_zero, 70, &scratch, q, &scale);
        assert_int_equal(scale, plain_scale);
    }
}

static int make_scratch(void **state) {
    (void)state;
    return qn_fit_scratch_init(&scratch, MAX_COLS, NULL);
}

static int drop_scratch(void **state) {
    (void)state;
    qn_fit_scratch_release(&scratch);
    qn_fit_scratch_release(&scratch);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_code_and_scale_is_better),
        cmocka_unit_test(test_fast_equals_sorted),
        cmocka_unit_test(test_error_is_that_of_the_stored_row),
        cmocka_unit_test(test_optimal_is_never_worse_than_published),
        cmocka_unit_test(test_q4_is_close_to_a_fine_scan),
        cmocka_unit_test(test_published_rules),
        cmocka_unit_test(test_zero_groups),
        cmocka_unit_test(test_scales_stay_within_fp16),
        cmocka_unit_test(test_weights_without_a_say_are_left_out),
        cmocka_unit_test(test_eight_groups_are_each_as_alone),
        cmocka_unit_test(test_sorted_groups_are_each_as_alone),
        cmocka_unit_test(test_sorted_groups_are_exact),
    };
    return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
