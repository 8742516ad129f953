#include "quern/model/generate.h"
#include "test_data.h"

#include <math.h>
#include <string.h>

enum { V = 6 };
static const float k_logits[V] = {0.0f, 2.0f, 1.0f, 2.0f, -3.0f, 1.0f};

static int32_t draw(const float *logits, const qn_sampling *sampling, qn_rng *rng) {
    int32_t id = -1;
    assert_int_equal(qn_sample(logits, V, sampling, rng, &id, NULL), QN_OK);
    assert_in_range(id, 0, V - 1);
    return id;
}

/* How often each id came in 20 000 draws. */
static void count(const qn_sampling *sampling, double share[V]) {
    enum { DRAWS = 20000 };
    qn_rng rng;
    qn_rng_seed(&rng, 1);
    memset(share, 0, V * sizeof *share);
    for (int i = 0; i < DRAWS; i++) share[draw(k_logits, sampling, &rng)] += 1.0 / DRAWS;
}

/* KEPT ids share the softmax at temperature T; five standard deviations of 20 000 draws are below 0.018. */
static void expect_shares(const qn_sampling *sampling, const int kept[V]) {
    double share[V], total = 0.0;
    count(sampling, share);
    for (int i = 0; i < V; i++) total += kept[i] ? exp((double)k_logits[i] / sampling->temperature) : 0.0;
    for (int i = 0; i < V; i++) {
        const double want = kept[i] ? exp((double)k_logits[i] / sampling->temperature) / total : 0.0;
        if (!kept[i]) assert_true(share[i] == 0.0);
        assert_true(fabs(share[i] - want) <= 0.018);
    }
}

static void test_greedy_takes_the_lowest_of_the_largest(void **state) {
    (void)state;
    qn_rng rng;
    qn_rng_seed(&rng, 1);
    const qn_sampling greedy = {.top_p = 1.0};
    assert_int_equal(draw(k_logits, &greedy, &rng), 1);
}

static void test_distribution(void **state) {
    (void)state;
    static const int all[V] = {1, 1, 1, 1, 1, 1}, top_two[V] = {0, 1, 0, 1, 0, 0},
                     top_four[V] = {0, 1, 1, 1, 0, 1};
    static const int first_only[V] = {0, 1, 0, 0, 0, 0};
    expect_shares(&(qn_sampling){.temperature = 1.0, .top_p = 1.0}, all);
    expect_shares(&(qn_sampling){.temperature = 2.5, .top_p = 1.0}, all);
    expect_shares(&(qn_sampling){.temperature = 1.0, .top_k = 2, .top_p = 1.0}, top_two);
    expect_shares(&(qn_sampling){.temperature = 1.0, .top_k = 3, .top_p = 1.0},
                  top_four); /* a tie is kept whole */
    expect_shares(&(qn_sampling){.temperature = 1.0, .top_k = 100, .top_p = 1.0}, all);
    expect_shares(&(qn_sampling){.temperature = 1.0, .top_p = 1e-9}, first_only);
    /* Probabilities 0.345 0.345 0.127 0.127 0.047 0.002: 0.6 needs the first two, 0.8 one more. */
    static const int top_three[V] = {0, 1, 1, 1, 0, 0};
    expect_shares(&(qn_sampling){.temperature = 1.0, .top_p = 0.6}, top_two);
    expect_shares(&(qn_sampling){.temperature = 1.0, .top_p = 0.8}, top_three);
    expect_shares(&(qn_sampling){.temperature = 1.0, .top_k = 2, .top_p = 0.4}, first_only);
}

static void test_same_seed_same_ids(void **state) {
    (void)state;
    const qn_sampling sampling = {.temperature = 0.8, .top_p = 0.95};
    qn_rng a, b;
    qn_rng_seed(&a, 7);
    qn_rng_seed(&b, 7);
    for (int i = 0; i < 200; i++)
        assert_int_equal(draw(k_logits, &sampling, &a), draw(k_logits, &sampling, &b));
}

static void test_extreme_logits(void **state) {
    (void)state;
    const float huge[V] = {-1e30f, 3e38f, 0.0f, -3e38f, 1e20f, 0.0f};
    const qn_sampling sampling = {.temperature = 0.01, .top_p = 1.0};
    qn_rng rng;
    qn_rng_seed(&rng, 1);
    for (int i = 0; i < 50; i++) assert_int_equal(draw(huge, &sampling, &rng), 1);
}

static void test_bad_arguments(void **state) {
    (void)state;
    static const qn_sampling bad[] = {{.temperature = -1.0, .top_p = 1.0},
                                      {.temperature = (double)NAN, .top_p = 1.0},
                                      {.temperature = 1.0, .top_p = 0.0},
                                      {.temperature = 1.0, .top_p = 1.5},
                                      {.temperature = 1.0, .top_k = -1, .top_p = 1.0}};
    float logits[V];
    qn_rng rng;
    int32_t id = 42;
    qn_rng_seed(&rng, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(qn_sample(k_logits, V, &bad[i], &rng, &id, NULL), QN_E_ARGUMENT);
    const qn_sampling good = {.temperature = 1.0, .top_p = 1.0};
    assert_int_equal(qn_sample(k_logits, 0, &good, &rng, &id, NULL), QN_E_ARGUMENT);
    memcpy(logits, k_logits, sizeof logits);
    logits[4] = NAN;
    assert_int_equal(qn_sample(logits, V, &good, &rng, &id, NULL), QN_E_VALUE);
    assert_int_equal(id, 42);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_the_lowest_of_the_largest),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_same_seed_same_ids),
        cmocka_unit_test(test_extreme_logits),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
