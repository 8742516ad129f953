/* How products are cut into tiles: by the shape alone, and so that oneDNN packs the operands where it can. */
#include "tensor/tile_gemm.h"

#include "test_data.h"

enum { LARGEST = 1024, SMALLEST_SIDE = 256, WIDEST_PACKED = 4096 };

typedef struct sides {
    int64_t m, n;
} sides;

static sides of(int64_t m, int64_t n) {
    qni_tile_gemm gemm = {.m = m, .n = n};
    qni_tile_gemm_cut(&gemm);
    return (sides){gemm.tile_m, gemm.tile_n};
}

static int64_t count(int64_t total, int64_t side) {
    return (total + side - 1) / side;
}

/* oneDNN's rule for AVX2, of the smallest tile of the result. */
static bool all_are_packed(int64_t m, int64_t n, sides s) {
    const int64_t last_m = m - (count(m, s.m) - 1) * s.m, last_n = n - (count(n, s.n) - 1) * s.n;
    return 1.0 / (double)last_m + 1.0 / (double)last_n < 0.0038;
}

static void test_sides_are_positive_and_not_too_large(void **state) {
    (void)state;
    for (int64_t m = 0; m < 5000; m += 37) {
        for (int64_t n = 0; n < 5000; n += 41) {
            const sides s = of(m, n);
            assert_true(s.m > 0 && s.n > 0 && s.m <= 2 * LARGEST && s.n <= LARGEST);
        }
    }
}

static void test_large_results_have_large_tiles(void **state) {
    (void)state;
    const sides square = of(3072, 3072), odd = of(4200, 2100);
    assert_true(square.m == 1024 && square.n == 1024);
    assert_true(count(4200, odd.m) == 5 && count(2100, odd.n) == 3);
    assert_true(odd.m >= 840 && odd.n >= 700 && odd.m < 860 && odd.n < 720); /* even, not 1024 and a rest */
}

/* Fewer tiles than wanted, rather than tiles that are not packed. */
static void test_tiles_are_packed_where_the_result_allows_it(void **state) {
    (void)state;
    static const sides results[] = {{1024, 1024}, {3072, 1024}, {1024, 3072}, {2048, 1024}, {768, 768},
                                    {1536, 512},  {3072, 512},  {5000, 400},  {512, 4096}};
    for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
        const sides r = results[i], s = of(r.m, r.n);
        if (!all_are_packed(r.m, r.n, s))
            fail_msg("%lld x %lld: tiles of %lld x %lld", (long long)r.m, (long long)r.n, (long long)s.m,
                     (long long)s.n);
    }
    assert_int_equal(count(3072, of(3072, 1024).m), QNI_TILES_WANTED);
}

static void test_small_results_have_small_tiles(void **state) {
    (void)state;
    const sides narrow = of(3072, 256), small = of(100, 64);
    assert_true(narrow.m == 256 && narrow.n == 256 && small.m == 256 && small.n == 256);
}

static sides of_packed(int parts, int64_t m, int64_t n, int64_t k) {
    qni_tile_gemm gemm = {.parts = parts, .m = m, .n = n, .k = k};
    qni_tile_gemm_cut(&gemm);
    return (sides){gemm.tile_m, gemm.tile_n};
}

/* Whole panels; no higher than what stays in a cache; tiles enough (whole panels may cost one), unless they would become narrow. */
static void check_packed(int parts, int64_t m, int64_t n, int64_t k) {
    const sides s = of_packed(parts, m, n, k);
    const int64_t n_tiles = count(m, s.m) * count(n, s.n);
    const bool is_good = s.m > 0 && s.n > 0 && s.m % QNI_PACKED_ROWS == 0 && s.n % QNI_PACKED_ROWS == 0 &&
                         s.m <= qni_packed_block_rows(k, parts) && s.n <= WIDEST_PACKED &&
                         (n_tiles >= QNI_TILES_WANTED - 1 || s.n <= SMALLEST_SIDE);
    if (!is_good)
        fail_msg("%d parts, %lld x %lld x %lld: tiles of %lld x %lld", parts, (long long)m, (long long)n,
                 (long long)k, (long long)s.m, (long long)s.n);
}

static void test_packed_tiles_are_panels_that_stay_in_a_cache(void **state) {
    (void)state;
    const sides empty = of_packed(QNI_PARTS_F32, 0, 0, 0);
    assert_true(empty.m > 0 && empty.n > 0);
    for (int64_t k = 1; k < 5000; k *= 3) {
        for (int64_t m = 1; m < 5000; m += 149) {
            for (int64_t n = 1; n < 5000; n += 151) {
                check_packed(QNI_PARTS_BF16, m, n, k);
                check_packed(QNI_PARTS_F32, m, n, k);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sides_are_positive_and_not_too_large),
        cmocka_unit_test(test_large_results_have_large_tiles),
        cmocka_unit_test(test_tiles_are_packed_where_the_result_allows_it),
        cmocka_unit_test(test_small_results_have_small_tiles),
        cmocka_unit_test(test_packed_tiles_are_panels_that_stay_in_a_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
