/* One sequence of a teacher cache as bytes: which ids stay, what their probabilities become, ties, edges, and the size of
 * a large vocabulary's. */
#include "expect_error.h"
#include "fit/teacher_cache_code.h"
#include "quern/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static const qni_kernels *kernels;

static int get_kernels(void **state) {
    (void)state;
    return qni_kernels_get(&kernels, NULL) == QN_OK ? 0 : -1;
}

/* A sequence of logits through the code and back. */
typedef struct trip {
    qni_cache_code code;
    int64_t n, k;
    size_t n_bytes;
    uint8_t *bytes;
    qn_teacher_rows rows;
} trip;

/* All positions are drawn from U on. */
static trip make_sampled_trip(const float *logits, int64_t n, int64_t vocab, int64_t k, int64_t n_samples,
                              double u) {
    trip t = {.n = n, .k = k};
    float *used = malloc(sizeof *used * (size_t)vocab), *largest = malloc(sizeof *largest * (size_t)k);
    int32_t *ids = malloc(sizeof *ids * (size_t)k), *samples = malloc(sizeof *ids * (size_t)(n_samples + 1));
    const qni_cache_work work = {.largest = largest, .ids = ids, .samples = samples};
    qni_cache_code_init(&t.code, vocab, k, n_samples);
    assert_true(qni_cache_code_bytes(&t.code, n, &t.n_bytes));
    t.bytes = malloc(t.n_bytes);
    for (int64_t i = 0; i < n; i++) {
        memcpy(used, logits + i * vocab, sizeof *used * (size_t)vocab);
        qni_cache_code_row(&t.code, kernels, used, u, &work, n, i, t.bytes);
    }
    assert_ok(qn_teacher_rows_alloc(n, k, n_samples, &t.rows, err));
    assert_true(qni_cache_code_read(&t.code, t.bytes, n, &t.rows, 0));
    free(used);
    free(largest);
    free(ids);
    free(samples);
    return t;
}

static trip make_trip(const float *logits, int64_t n, int64_t vocab, int64_t k) {
    return make_sampled_trip(logits, n, vocab, k, 0, 0.0);
}

static void release(trip *t) {
    free(t->bytes);
    qn_teacher_rows_release(&t->rows);
}

static float *random_logits(int64_t n, int64_t vocab, double scale) {
    float *logits = malloc(sizeof *logits * (size_t)(n * vocab));
    qn_rng rng;
    qn_rng_seed(&rng, (uint64_t)vocab);
    for (int64_t i = 0; i < n * vocab; i++) logits[i] = (float)(scale * qn_rng_normal(&rng));
    return logits;
}

/* Half a step of the grid at so many nats, and what dividing by the sum moves: less than half the largest step that holds mass. */
static double tolerance(double nats) {
    return 0.5 * (2.0 * sqrt(24.0 * nats) / 255.0 + 24.0 / (255.0 * 255.0)) + 0.02;
}

static void check_position(const trip *t, int64_t position, const float *logits) {
    const int32_t *ids = t->rows.ids + position * t->k;
    const float *log_probs = t->rows.log_probs + position * t->k;
    double sum = 0.0, rest = 0.0, mass = exp((double)t->rows.tail_log_prob[position]);
    float least = INFINITY;
    int64_t at = 0;
    for (int64_t i = 0; i < t->code.vocab; i++) sum += exp((double)logits[i]);
    for (int64_t i = 0; i < t->k; i++) {
        const double want = log(sum) - (double)logits[ids[i]];
        assert_true(i == 0 || ids[i] > ids[i - 1]);
        if (!(fabs(want + (double)log_probs[i]) <= tolerance(want)))
            fail_msg("position %lld, id %d: %.6g nats, want %.6g", (long long)position, ids[i],
                     -(double)log_probs[i], want);
        mass += exp((double)log_probs[i]);
        least = fminf(least, logits[ids[i]]);
    }
    assert_true(fabs(mass - 1.0) <= 1e-6);
    for (int64_t i = 0; i < t->code.vocab; i++) {
        if (at < t->k && ids[at] == i) {
            at++;
            continue;
        }
        assert_true(logits[i] <= least);
        rest += exp((double)logits[i]) / sum;
    }
    if (t->k == t->code.vocab)
        assert_true(t->rows.tail_log_prob[position] == -INFINITY);
    else
        assert_true(fabs(log(rest) - (double)t->rows.tail_log_prob[position]) <= tolerance(-log(rest)));
}

static void test_the_largest_stay_within_half_a_step(void **state) {
    static const int64_t sizes[][2] = {{2, 1}, {37, 5}, {256, 64}, {257, 64}, {300, 300}, {70000, 128}};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        enum { N = 3 };
        float *logits = random_logits(N, sizes[i][0], 2.0);
        trip t = make_trip(logits, N, sizes[i][0], sizes[i][1]);
        for (int64_t p = 0; p < N; p++) check_position(&t, p, logits + p * sizes[i][0]);
        release(&t);
        free(logits);
    }
}

static void test_of_equal_logits_the_first_stay(void **state) {
    float logits[200] = {0};
    (void)state;
    logits[150] = 1.0f;
    trip t = make_trip(logits, 1, 200, 4);
    static const int32_t want[] = {0, 1, 2, 150};
    assert_memory_equal(t.rows.ids, want, sizeof want);
    release(&t);
}

/* One id has all the mass f32 knows of, or a logit that dwarfs the others. */
static void test_certainty(void **state) {
    float logits[300] = {0};
    (void)state;
    logits[77] = 500.0f;
    trip t = make_trip(logits, 1, 300, 2);
    assert_int_equal(t.rows.ids[0], 0);
    assert_int_equal(t.rows.ids[1], 77);
    assert_true(fabsf(t.rows.log_probs[1]) <= 1e-9f && t.rows.log_probs[0] <= -23.9f &&
                t.rows.tail_log_prob[0] == -INFINITY);
    release(&t);
}

static void test_ids_beyond_the_vocabulary_are_refused(void **state) {
    float *logits = random_logits(2, 300, 1.0);
    (void)state;
    trip t = make_trip(logits, 2, 300, 8);
    t.bytes[2 * 8 + 3] = 1; /* the high byte of a gap: 256 more */
    t.bytes[2 * 8 + 4] = 1;
    assert_false(qni_cache_code_read(&t.code, t.bytes, 2, &t.rows, 0));
    release(&t);
    free(logits);
}

/* Over all places where the comb of points may lie, each id beside the largest is drawn as often as its probability says, and
 * the mean log-probability that is kept is that of what was drawn. */
static void test_samples_are_without_bias(void **state) {
    enum { VOCAB = 300, K = 10, M = 7, PLACES = 4000 };
    float *logits = random_logits(1, VOCAB, 2.0);
    double drawn[VOCAB] = {0}, sum = 0.0, rest = 1.0;
    (void)state;
    for (int i = 0; i < VOCAB; i++) sum += exp((double)logits[i]);
    for (int place = 0; place < PLACES; place++) {
        trip t = make_sampled_trip(logits, 1, VOCAB, K, M, (place + 0.5) / PLACES);
        double mean = 0.0;
        for (int i = 0; i < M; i++) {
            drawn[t.rows.sample_ids[i]] += 1.0 / PLACES;
            mean += ((double)logits[t.rows.sample_ids[i]] - log(sum)) / M;
        }
        /* Half a step of the code of all others' mass. */
        assert_true(fabs(mean - (double)t.rows.sample_log_prob[0]) <= tolerance(2.0));
        if (place == 0)
            for (int i = 0; i < K; i++) {
                rest -= exp((double)logits[t.rows.ids[i]]) / sum;
                drawn[t.rows.ids[i]] = (double)NAN; /* never drawn */
            }
        release(&t);
    }
    for (int i = 0; i < VOCAB; i++) {
        const double want = M * exp((double)logits[i]) / sum / rest;
        if (!isnan(drawn[i]))
            assert_true(fabs(drawn[i] - want) <= 2.0 / PLACES); /* at both ends of its stretch */
    }
    free(logits);
}

/* Heavy ids are drawn more than once, ids far apart need all bytes of a gap; without mass beside the largest nothing is drawn. */
static void test_samples_at_the_edges(void **state) {
    enum { VOCAB = 70000, M = 4 };
    float *logits = calloc(VOCAB, sizeof *logits);
    (void)state;
    for (int i = 0; i < VOCAB; i++) logits[i] = -60.0f;
    logits[5] = 9.0f;
    logits[100] = 2.0f;
    logits[VOCAB - 1] = 2.0f;
    trip t = make_sampled_trip(logits, 1, VOCAB, 1, M, 0.5);
    static const int32_t want[M] = {100, 100, VOCAB - 1, VOCAB - 1};
    assert_memory_equal(t.rows.sample_ids, want, sizeof want);
    release(&t);
    logits[5] = 500.0f;
    t = make_sampled_trip(logits, 1, VOCAB, 1, M, 0.5);
    assert_true(t.rows.tail_log_prob[0] == -INFINITY);
    release(&t);
    free(logits);
}

/* Logits as a language model's over a large vocabulary: log of a power law over the ranks, which wander with noise. */
static void test_a_large_vocabulary_takes_little(void **state) {
    enum { N = 64, VOCAB = 151936, K = 128, SAMPLES = 32 };
    float *logits = random_logits(N, VOCAB, 2.0);
    (void)state;
    for (int64_t i = 0; i < (int64_t)N * VOCAB; i++)
        logits[i] -= 1.3f * logf((float)(i % VOCAB * 7919 % VOCAB + 3));
    trip t = make_sampled_trip(logits, N, VOCAB, K, SAMPLES, 0.5);
    assert_int_equal(t.code.n_planes, 3);
    for (int64_t p = 0; p < N; p += 13) check_position(&t, p, logits + p * VOCAB);
    uLongf n_deflated = compressBound(t.n_bytes);
    uint8_t *deflated = malloc(n_deflated);
    assert_int_equal(compress2(deflated, &n_deflated, t.bytes, t.n_bytes, 6), Z_OK);
    const double bytes = (double)n_deflated / N;
    print_message("V %d, k %d, %d samples: %.1f bytes a token, %.0f times smaller than f32 logits\n", VOCAB,
                  K, SAMPLES, bytes, 4.0 * VOCAB / bytes);
    assert_true(4.0 * VOCAB / bytes >= 50.0);
    free(deflated);
    release(&t);
    free(logits);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_largest_stay_within_half_a_step),
        cmocka_unit_test(test_of_equal_logits_the_first_stay),
        cmocka_unit_test(test_certainty),
        cmocka_unit_test(test_ids_beyond_the_vocabulary_are_refused),
        cmocka_unit_test(test_samples_are_without_bias),
        cmocka_unit_test(test_samples_at_the_edges),
        cmocka_unit_test(test_a_large_vocabulary_takes_little),
    };
    return cmocka_run_group_tests(tests, get_kernels, NULL);
}
