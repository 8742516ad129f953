#include "quern/base/rng.h"
#include "quern/base/sha256.h"

#include "test_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* From numpy 2.4.6: PCG64(seed).state and random_raw(3). */
static const struct {
    uint64_t seed, state_high, state_low, increment_high, increment_low, raw[3];
} NUMPY[] = {
    {0,
     0x1aa1b5345996452d,
     0x09585eb7a69561e3,
     0x418ddadb3af71a82,
     0x588133bc447873a9,
     {0xa30febcfd9c2825f, 0x4510bdf882d9d721, 0x0a7d3da94ecde8b8}},
    {1,
     0x9c5b484bfedb756c,
     0x2a6e7d6f320fbc7e,
     0x922af2da2645f895,
     0xa19857b95740937b,
     {0x8306bdf37922e4ff, 0xf35196bbc152a866, 0x24e7a4f608ec18cd}},
    {0xffffffff,
     0x4c233832246aa48c,
     0xc57a3ce19c86ba9a,
     0xda9580daf0fe872c,
     0xad12d969e7b701fb,
     {0x407f5fa930d8fd9f, 0x3814b22eb9684802, 0x498b7dcee8d8dc95}},
    {0x100000000,
     0x24d060cf1520dbdd,
     0x21bbf7fbff1ac5d4,
     0x77ff3ed86c5c5633,
     0x7b62eea7340ca9c7,
     {0xe3c5ebe285ac1625, 0x8ea09968fe31dbcc, 0xcd084ff84d8de9be}},
    {UINT64_MAX,
     0xddc419442aebde79,
     0x4d8b0a3b048acdb0,
     0x37762aacb3cc854f,
     0x4ed623c7d18951ed,
     {0xae163a7a8c47568f, 0xd86659f5f3382359, 0x1e52b195bc2d24a}},
};

static void test_states_and_outputs_are_numpys(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof NUMPY / sizeof NUMPY[0]; i++) {
        qn_rng rng;
        qn_rng_seed(&rng, NUMPY[i].seed);
        assert_int_equal(rng.state[1], NUMPY[i].state_high);
        assert_int_equal(rng.state[0], NUMPY[i].state_low);
        assert_int_equal(rng.increment[1], NUMPY[i].increment_high);
        assert_int_equal(rng.increment[0], NUMPY[i].increment_low);
        for (int k = 0; k < 3; k++) assert_int_equal(qn_rng_next_u64(&rng), NUMPY[i].raw[k]);
    }
}

static void test_uniform_and_permutation_are_numpys(void **state) {
    (void)state;
    /* numpy: default_rng(42).random(3), then .permutation(12) */
    const double uniform[] = {0x1.8c43f79a2db24p-1, 0x1.c16959869e47ep-2, 0x1.b79a2584ddb42p-1};
    const int64_t order[] = {4, 8, 2, 6, 10, 9, 7, 3, 0, 1, 5, 11};
    int64_t drawn[12];
    qn_rng rng;
    qn_rng_seed(&rng, 42);
    for (int i = 0; i < 3; i++) assert_true(qn_rng_uniform(&rng) == uniform[i]);
    qn_rng_permutation(&rng, 12, drawn);
    assert_memory_equal(drawn, order, sizeof order);
}

static void test_streams_are_numpys_spawn_keys(void **state) {
    /* numpy: PCG64(SeedSequence(seed, spawn_key=(purpose, index))).random_raw(3) */
    static const struct {
        uint64_t seed;
        uint32_t purpose, index;
        uint64_t raw[3];
    } cases[] = {
        {0, 0, 0, {0x90ac79b30468d47c, 0xef788bcae8d45db2, 0x7ad90eede6fe489f}},
        {1, 2, 3, {0x16ea9876ece040d8, 0x3a8a08020a7699c4, 0xf26231c755dc139b}},
        {UINT64_MAX, 1, UINT32_MAX, {0x5c50348332e1371d, 0xcad7a10922542998, 0xcc8bd2ba42bb3c74}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qn_rng rng;
        qn_rng_seed_stream(&rng, cases[i].seed, cases[i].purpose, cases[i].index);
        for (int k = 0; k < 3; k++) assert_true(qn_rng_next_u64(&rng) == cases[i].raw[k]);
    }
}

static void test_u32_draws_use_both_halves_low_first(void **state) {
    (void)state;
    qn_rng rng;
    qn_rng_seed(&rng, 0);
    assert_int_equal(qn_rng_next_u32(&rng), 0xd9c2825f);
    assert_int_equal(qn_rng_next_u32(&rng), 0xa30febcf);
    assert_int_equal(qn_rng_next_u32(&rng), 0x82d9d721);
}

static void test_intervals_stay_inside_and_reach_both_ends(void **state) {
    (void)state;
    qn_rng rng;
    int seen[6] = {0};
    qn_rng_seed(&rng, 3);
    for (int i = 0; i < 1000; i++) {
        uint64_t value = qn_rng_interval(&rng, 5);
        assert_in_range(value, 0, 5);
        seen[value]++;
    }
    for (int i = 0; i < 6; i++) assert_true(seen[i] > 0);
    assert_int_equal(qn_rng_interval(&rng, 0), 0);
    const uint64_t wide = (UINT64_C(1) << 40) + 1;
    for (int i = 0; i < 100; i++) assert_true(qn_rng_interval(&rng, wide) <= wide);
    (void)qn_rng_interval(&rng, UINT64_MAX);
}

static void test_normal_moments(void **state) {
    (void)state;
    enum { N = 200000 };
    double sum = 0, squares = 0;
    qn_rng rng;
    qn_rng_seed(&rng, 11);
    for (int i = 0; i < N; i++) {
        double x = qn_rng_normal(&rng);
        assert_true(isfinite(x));
        sum += x;
        squares += x * x;
    }
    const double six_sigma_mean = 6.0 / sqrt(N), six_sigma_square = 6.0 * sqrt(2.0 / N);
    assert_true(fabs(sum / N) < six_sigma_mean);
    assert_true(fabs(squares / N - 1.0) < six_sigma_square);
}

static void test_empty_and_single_permutations(void **state) {
    (void)state;
    qn_rng rng;
    int64_t one = -1;
    qn_rng_seed(&rng, 1);
    qn_rng_permutation(&rng, 0, NULL);
    qn_rng_permutation(&rng, 1, &one);
    assert_int_equal(one, 0);
}

static uint64_t hex_value(const char *text, size_t from, size_t n) {
    char digits[17] = {0};
    memcpy(digits, text + from, n);
    return strtoull(digits, NULL, 16);
}

static void check_golden_case(const json_t *entry) {
    const char *key_state = json_string_value(json_object_get(entry, "pcg64_state_hex"));
    const char *key_increment = json_string_value(json_object_get(entry, "pcg64_inc_hex"));
    qn_rng rng, raw;
    char hex[QN_SHA256_HEX];
    int64_t n = (int64_t)json_number_value(json_object_get(entry, "n"));
    int64_t *order = malloc((size_t)n * sizeof *order);

    assert_non_null(order);
    qn_rng_seed(&rng, hex_value(json_string_value(json_object_get(entry, "seed_hex")), 0, 16));
    raw = rng;
    assert_int_equal(rng.state[1], hex_value(key_state, 0, 16));
    assert_int_equal(rng.state[0], hex_value(key_state, 16, 16));
    assert_int_equal(rng.increment[1], hex_value(key_increment, 0, 16));
    assert_int_equal(rng.increment[0], hex_value(key_increment, 16, 16));

    size_t i;
    json_t *value;
    json_array_foreach(json_object_get(entry, "first_raw_hex"), i, value) {
        assert_int_equal(qn_rng_next_u64(&raw), hex_value(json_string_value(value), 0, 16));
    }
    qn_rng_permutation(&rng, n, order);
    json_array_foreach(json_object_get(entry, "first"), i, value) {
        assert_int_equal(order[i], (int64_t)json_number_value(value));
    }
    assert_int_equal(qn_sha256_of_memory(order, (size_t)n * sizeof *order, hex, NULL), QN_OK);
    assert_string_equal(hex, json_string_value(json_object_get(entry, "sha256_int64_le")));
    free(order);
}

static void test_golden_permutations(void **state) {
    (void)state;
    char *path = require_test_data("golden/scoring/permutations.json");
    json_error_t error;
    /* Seeds above 2^63 are no JSON integers for jansson; the text beside them is used instead. */
    json_t *cases = json_load_file(path, JSON_DECODE_INT_AS_REAL, &error);
    if (!cases) fail_msg("%s: %s", path, error.text);
    assert_true(json_array_size(cases) > 0);
    size_t i;
    json_t *entry;
    json_array_foreach(cases, i, entry) check_golden_case(entry);
    json_decref(cases);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states_and_outputs_are_numpys),
        cmocka_unit_test(test_uniform_and_permutation_are_numpys),
        cmocka_unit_test(test_streams_are_numpys_spawn_keys),
        cmocka_unit_test(test_u32_draws_use_both_halves_low_first),
        cmocka_unit_test(test_intervals_stay_inside_and_reach_both_ends),
        cmocka_unit_test(test_normal_moments),
        cmocka_unit_test(test_empty_and_single_permutations),
        cmocka_unit_test(test_golden_permutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
