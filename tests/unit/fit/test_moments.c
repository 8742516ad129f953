/* Streamed second moments against a plain loop in double. */
#include "quern/fit/moments.h"

#include "expect_error.h"
#include "quern/base/rng.h"
#include "test_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLS = 520, MAX_TOKENS = 2500 };

/* A sum of 1024 f32 products is off by at most 1024 roundings of half an ulp of sum |a b|, and by far less when they are
 * random; the mean is rounded once more. */
static const double chunk_rounding = 1024 * 0x1p-24;

static float *draw(uint64_t seed, int64_t n) {
    qn_rng rng;
    float *x = malloc((size_t)n * sizeof *x);
    qn_rng_seed(&rng, seed);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(qn_rng_normal(&rng) + 0.25);
    return x;
}

static void expect_mean(const float *mean, const float *a, const float *b, int64_t n, int64_t cols) {
    for (int64_t i = 0; i < cols; i++) {
        for (int64_t j = 0; j < cols; j++) {
            double sum = 0, size = 0;
            for (int64_t t = 0; t < n; t++) {
                const double product = (double)a[t * cols + i] * (double)b[t * cols + j];
                sum += product;
                size += fabs(product);
            }
            assert_true(fabs((double)mean[i * cols + j] - sum / (double)n) <=
                        chunk_rounding * size / (double)n);
        }
    }
}

static float *mean_of(const qn_moment *moment) {
    const int64_t cols = moment->cols;
    float *mean = malloc((size_t)(cols * cols) * sizeof *mean);
    qn_moment_mean(moment, mean);
    return mean;
}

static void add(qn_moment *moment, const float *a, const float *b, int64_t n, int n_threads) {
    const qn_context ctx = {.n_threads = n_threads};
    assert_ok(qn_moment_add(moment, a, b, n, &ctx, err));
}

static void init(qn_moment *moment, qn_moment_kind kind, int64_t cols) {
    assert_ok(qn_moment_init(moment, kind, cols, err));
}

static void test_mean_is_that_of_a_plain_loop(void **state) {
    (void)state;
    static const int64_t widths[] = {1, 5, 256, 257, MAX_COLS};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        const int64_t cols = widths[w], n = cols > 256 ? 300 : MAX_TOKENS;
        float *a = draw(1, n * cols), *b = draw(2, n * cols);
        qn_moment symmetric = {0}, cross = {0};
        init(&symmetric, QN_MOMENT_SYMMETRIC, cols);
        init(&cross, QN_MOMENT_CROSS, cols);
        add(&symmetric, a, a, n, 2);
        add(&cross, a, b, n, 2);
        float *h = mean_of(&symmetric), *c = mean_of(&cross);
        expect_mean(h, a, a, n, cols);
        expect_mean(c, a, b, n, cols);
        for (int64_t i = 0; i < cols; i++)
            for (int64_t j = 0; j < i; j++) assert_true(h[i * cols + j] == h[j * cols + i]);
        qn_moment_release(&symmetric);
        qn_moment_release(&cross);
        free(a);
        free(b);
        free(h);
        free(c);
    }
}

static void test_diagonal_is_that_of_the_matrix(void **state) {
    (void)state;
    enum { COLS = 70, TOKENS = 1100 };
    float *x = draw(3, COLS * TOKENS), mean[COLS];
    qn_moment moment = {0};
    init(&moment, QN_MOMENT_DIAGONAL, COLS);
    add(&moment, x, x, TOKENS, 2);
    qn_moment_mean(&moment, mean);
    for (int64_t c = 0; c < COLS; c++) {
        double sum = 0;
        for (int64_t t = 0; t < TOKENS; t++) sum += (double)x[t * COLS + c] * (double)x[t * COLS + c];
        assert_true(mean[c] == (float)(sum * (1.0 / TOKENS)));
    }
    qn_moment_release(&moment);
    free(x);
}

static void test_threads_and_calls_change_no_bit(void **state) {
    (void)state;
    enum { COLS = 300, TOKENS = 3 * QN_MOMENT_CHUNK + 17 };
    float *x = draw(4, COLS * TOKENS);
    qn_moment once = {0}, pieces = {0};
    init(&once, QN_MOMENT_SYMMETRIC, COLS);
    init(&pieces, QN_MOMENT_SYMMETRIC, COLS);
    add(&once, x, x, TOKENS, 1);
    add(&pieces, x, x, QN_MOMENT_CHUNK, 3);
    const float *rest = x + COLS * QN_MOMENT_CHUNK;
    add(&pieces, rest, rest, TOKENS - QN_MOMENT_CHUNK, 2);
    assert_int_equal(once.n_tokens, pieces.n_tokens);
    assert_memory_equal(once.sums, pieces.sums, (size_t)once.n_sums * sizeof *once.sums);
    qn_moment_release(&once);
    qn_moment_release(&pieces);
    free(x);
}

static void test_two_halves_merge_into_the_whole(void **state) {
    (void)state;
    enum { COLS = 40, HALF = 2 * QN_MOMENT_CHUNK };
    float *a = draw(5, 2 * HALF * COLS), *b = draw(6, 2 * HALF * COLS);
    qn_moment whole = {0}, first = {0}, second = {0};
    init(&whole, QN_MOMENT_CROSS, COLS);
    init(&first, QN_MOMENT_CROSS, COLS);
    init(&second, QN_MOMENT_CROSS, COLS);
    add(&whole, a, b, 2 * HALF, 2);
    add(&first, a, b, HALF, 2);
    add(&second, a + HALF * COLS, b + HALF * COLS, HALF, 2);
    assert_ok(qn_moment_merge(&first, &second, err));
    assert_int_equal(first.n_tokens, 2 * HALF);
    for (int64_t i = 0; i < whole.n_sums; i++)
        assert_true(fabs(first.sums[i] - whole.sums[i]) <= 1e-12 * (fabs(whole.sums[i]) + 2 * HALF));
    qn_moment_release(&whole);
    qn_moment_release(&first);
    qn_moment_release(&second);
    free(a);
    free(b);
}

static void test_what_does_not_fit_is_refused(void **state) {
    (void)state;
    const float x[4] = {1, 2, 3, 4}, y[4] = {0};
    qn_moment moment = {0}, other = {0};
    assert_error(qn_moment_init(&moment, QN_MOMENT_SYMMETRIC, 0, err), QN_E_ARGUMENT, "moment");
    assert_error(qn_moment_init(&moment, QN_MOMENT_CROSS, INT64_MAX / 2, err), QN_E_NOMEM, "memory");
    init(&moment, QN_MOMENT_SYMMETRIC, 2);
    init(&other, QN_MOMENT_CROSS, 2);
    assert_error(qn_moment_add(&moment, x, y, 2, NULL, err), QN_E_ARGUMENT, "moment");
    assert_error(qn_moment_merge(&moment, &other, err), QN_E_ARGUMENT, "moment");
    float mean[4];
    qn_moment_mean(&moment, mean);
    for (int i = 0; i < 4; i++) assert_true(mean[i] == 0.0f);
    qn_moment_release(&moment);
    qn_moment_release(&other);
    qn_moment_release(&other);
}

/* Shrunk moments are those of the tokens and of COLS * shrinkage more, whose inputs are independent, but for a factor. */
static void test_shrinking_adds_independent_tokens(void **state) {
    (void)state;
    enum { COLS = 7, TOKENS = 5 };
    static const double k_rounding = 0x1p-23; /* of a sum to f32 */
    const double shrinkage = 3.0, more = shrinkage * COLS;
    float *a = draw(5, TOKENS * COLS), *b = draw(6, TOKENS * COLS);
    qn_moment moment = {0}, cross = {0};
    init(&moment, QN_MOMENT_SYMMETRIC, COLS);
    init(&cross, QN_MOMENT_CROSS, COLS);
    add(&moment, b, b, TOKENS, 1);
    add(&cross, a, b, TOKENS, 1);
    float *h = mean_of(&moment), *c = mean_of(&cross), *shrunk = mean_of(&moment), *alone = mean_of(&moment),
          *shrunk_cross = mean_of(&cross);
    qn_moments_shrink(shrunk, shrunk_cross, COLS, TOKENS, shrinkage);
    qn_moments_shrink(alone, NULL, COLS, TOKENS, shrinkage);
    assert_memory_equal(alone, shrunk, COLS * COLS * sizeof *alone);
    for (int i = 0; i < COLS; i++) {
        for (int j = 0; j < COLS; j++) {
            const int at = i * COLS + j;
            const double independent = i == j ? more * (double)h[at] : 0.0; /* sums over those tokens */
            assert_true(fabs((double)shrunk[at] * TOKENS - ((double)h[at] * TOKENS + independent)) <=
                        k_rounding * fabs((double)shrunk[at] * TOKENS));
            assert_true(fabs((double)shrunk_cross[at] * TOKENS - ((double)c[at] * TOKENS + independent)) <=
                        k_rounding * (fabs((double)c[at] * TOKENS) + independent));
        }
    }
    qn_moments_shrink(alone, NULL, COLS, 0, shrinkage); /* of nothing */
    assert_memory_equal(alone, shrunk, COLS * COLS * sizeof *alone);
    free(a), free(b), free(h), free(c), free(shrunk), free(alone), free(shrunk_cross);
    qn_moment_release(&moment);
    qn_moment_release(&cross);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mean_is_that_of_a_plain_loop),
        cmocka_unit_test(test_diagonal_is_that_of_the_matrix),
        cmocka_unit_test(test_threads_and_calls_change_no_bit),
        cmocka_unit_test(test_two_halves_merge_into_the_whole),
        cmocka_unit_test(test_what_does_not_fit_is_refused),
        cmocka_unit_test(test_shrinking_adds_independent_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
