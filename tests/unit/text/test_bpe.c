/* Merging against the definition, carried out literally. */
#include "quern/base/rng.h"
#include "text/bpe.h"

#include "test_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_LETTERS = 4,
    N_MERGES = 60,
    FIRST_MERGED = N_LETTERS,
    N_IDS = N_LETTERS + N_MERGES,
    MAX_TOKEN_BYTES = 4096
};

/* A vocabulary over a..d whose merges join random earlier tokens: deep, ambiguous, full of overlaps. */
typedef struct random_bpe {
    qni_vocabulary vocabulary;
    qni_bpe bpe;
    int n_merges;
    int32_t left[N_MERGES], right[N_MERGES], merged[N_MERGES];
} random_bpe;

static void spell(const random_bpe *r, int32_t id, char *out, size_t *n_bytes) {
    const qni_token *token = &r->vocabulary.tokens[id];
    memcpy(out, qni_vocabulary_bytes(&r->vocabulary, token), token->n_bytes);
    *n_bytes = token->n_bytes;
}

static void make_random_bpe(random_bpe *r, qn_rng *rng) {
    *r = (random_bpe){0};
    assert_int_equal(qni_vocabulary_init(&r->vocabulary, N_IDS, N_IDS, NULL), QN_OK);
    int32_t n_ids = 0;
    for (; n_ids < N_LETTERS; n_ids++) {
        uint8_t letter = (uint8_t)('a' + n_ids);
        assert_int_equal(qni_vocabulary_add(&r->vocabulary, n_ids, &letter, 1, true, "test", NULL), QN_OK);
    }
    assert_int_equal(qni_bpe_init(&r->bpe, &r->vocabulary, N_MERGES, NULL), QN_OK);
    for (int tries = 0; n_ids < N_IDS && tries < 1000; tries++) {
        static char left[MAX_TOKEN_BYTES], right[MAX_TOKEN_BYTES], whole[2 * MAX_TOKEN_BYTES];
        size_t n_left, n_right;
        int32_t a = (int32_t)qn_rng_interval(rng, (uint64_t)n_ids - 1);
        int32_t b = (int32_t)qn_rng_interval(rng, (uint64_t)n_ids - 1);
        spell(r, a, left, &n_left);
        spell(r, b, right, &n_right);
        if (n_left + n_right > 40) continue;
        memcpy(whole, left, n_left);
        memcpy(whole + n_left, right, n_right);
        if (qni_vocabulary_find(&r->vocabulary, (const uint8_t *)whole, n_left + n_right) >= 0) continue;
        assert_int_equal(qni_vocabulary_add(&r->vocabulary, n_ids, (const uint8_t *)whole, n_left + n_right,
                                            true, "test", NULL),
                         QN_OK);
        assert_int_equal(
            qni_bpe_add_merge(&r->bpe, (uint32_t)r->n_merges, left, n_left, right, n_right, "test", NULL),
            QN_OK);
        r->left[r->n_merges] = a;
        r->right[r->n_merges] = b;
        r->merged[r->n_merges++] = n_ids++;
    }
}

static void release_random_bpe(random_bpe *r) {
    qni_bpe_release(&r->bpe);
    qni_vocabulary_release(&r->vocabulary);
}

/* The definition: the lowest rank anywhere, at its leftmost place, again and again. */
static size_t merge_literally(const random_bpe *r, int32_t *ids, size_t n) {
    for (int m = 0; m < r->n_merges; m++) {
        for (size_t i = 0; i + 1 < n; i++) {
            if (ids[i] != r->left[m] || ids[i + 1] != r->right[m]) continue;
            ids[i] = r->merged[m];
            memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
            n--;
            m = -1; /* a merge may make room for one of lower rank */
            break;
        }
    }
    return n;
}

static void check_piece(const random_bpe *r, qni_bpe_scratch *scratch, const uint8_t *piece, size_t n_bytes,
                        const char *what) {
    int32_t *expected = calloc(n_bytes, sizeof *expected);
    qn_ids got = {0};
    for (size_t i = 0; i < n_bytes; i++) expected[i] = piece[i] - 'a';
    size_t n = merge_literally(r, expected, n_bytes);
    assert_int_equal(qni_bpe_encode(&r->bpe, scratch, piece, n_bytes, &got, NULL), QN_OK);
    if ((size_t)got.n != n || memcmp(got.ids, expected, n * sizeof *expected) != 0) {
        fail_msg("%s: \"%.*s\": %lld ids, expected %zu", what, (int)n_bytes, (const char *)piece,
                 (long long)got.n, n);
    }
    qn_ids_release(&got);
    free(expected);
}

static void test_short_and_long_pieces_follow_the_definition(void **state) {
    static const size_t lengths[] = {1, 2, 3, 5, 8, 22, 23, 24, 47, 48, 49, 50, 64, 200, 600};
    (void)state;
    qn_rng rng;
    qn_rng_seed(&rng, 7);
    for (int vocabulary = 0; vocabulary < 40; vocabulary++) {
        random_bpe r;
        qni_bpe_scratch plain = {0}, cached = {0};
        make_random_bpe(&r, &rng);
        assert_int_equal(qni_bpe_scratch_enable_cache(&cached, NULL), QN_OK);
        for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
            uint8_t piece[600];
            for (size_t i = 0; i < lengths[l]; i++)
                piece[i] = (uint8_t)('a' + qn_rng_interval(&rng, N_LETTERS - 1));
            check_piece(&r, &plain, piece, lengths[l], "plain");
            check_piece(&r, &cached, piece, lengths[l], "first time");
            check_piece(&r, &cached, piece, lengths[l], "from the cache");
        }
        qni_bpe_scratch_release(&plain);
        qni_bpe_scratch_release(&cached);
        release_random_bpe(&r);
    }
}

/* More different pieces than the cache has lines, twice over: what is overwritten must not come back wrong.
 */
static void test_a_full_cache_stays_right(void **state) {
    (void)state;
    qn_rng rng;
    qn_rng_seed(&rng, 8);
    random_bpe r;
    qni_bpe_scratch cached = {0};
    make_random_bpe(&r, &rng);
    assert_int_equal(qni_bpe_scratch_enable_cache(&cached, NULL), QN_OK);
    for (int i = 0; i < 40000; i++) {
        uint8_t piece[12];
        for (size_t k = 0; k < sizeof piece; k++)
            piece[k] = (uint8_t)('a' + qn_rng_interval(&rng, N_LETTERS - 1));
        check_piece(&r, &cached, piece, 8 + (size_t)qn_rng_interval(&rng, 4), "full cache");
    }
    qni_bpe_scratch_release(&cached);
    release_random_bpe(&r);
}

/* Quadratic merging of a megabyte would take minutes; the test has a time limit. */
static void test_a_megabyte_in_one_piece(void **state) {
    enum { N = 1 << 20 };
    (void)state;
    qn_rng rng;
    qn_rng_seed(&rng, 9);
    random_bpe r;
    qni_bpe_scratch scratch = {0};
    qn_ids got = {0};
    uint8_t *piece = malloc(N);
    make_random_bpe(&r, &rng);
    for (size_t i = 0; i < N; i++) piece[i] = (uint8_t)('a' + qn_rng_interval(&rng, N_LETTERS - 1));
    assert_int_equal(qni_bpe_encode(&r.bpe, &scratch, piece, N, &got, NULL), QN_OK);
    size_t n_bytes = 0;
    for (int64_t i = 0; i < got.n; i++) n_bytes += r.vocabulary.tokens[got.ids[i]].n_bytes;
    assert_int_equal(n_bytes, N);
    assert_true(got.n < N);
    qn_ids_release(&got);
    qni_bpe_scratch_release(&scratch);
    release_random_bpe(&r);
    free(piece);
}

/* The reference keeps the later of two merges of one pair. */
static void test_the_later_of_equal_merges_counts(void **state) {
    static const char *const tokens[] = {"a", "b", "c", "ab", "bc"};
    (void)state;
    qni_vocabulary vocabulary;
    qni_bpe bpe;
    qni_bpe_scratch scratch = {0};
    qn_ids got = {0};
    assert_int_equal(qni_vocabulary_init(&vocabulary, 5, 5, NULL), QN_OK);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(qni_vocabulary_add(&vocabulary, i, (const uint8_t *)tokens[i], strlen(tokens[i]),
                                            true, "test", NULL),
                         QN_OK);
    }
    assert_int_equal(qni_bpe_init(&bpe, &vocabulary, 3, NULL), QN_OK);
    assert_int_equal(qni_bpe_add_merge(&bpe, 0, "a", 1, "b", 1, "test", NULL), QN_OK);
    assert_int_equal(qni_bpe_add_merge(&bpe, 1, "b", 1, "c", 1, "test", NULL), QN_OK);
    assert_int_equal(qni_bpe_add_merge(&bpe, 2, "a", 1, "b", 1, "test", NULL), QN_OK);
    assert_int_equal(qni_bpe_encode(&bpe, &scratch, (const uint8_t *)"abc", 3, &got, NULL), QN_OK);
    assert_int_equal(got.n, 2);
    assert_int_equal(got.ids[0], 0);
    assert_int_equal(got.ids[1], 4);
    qn_ids_release(&got);
    qni_bpe_scratch_release(&scratch);
    qni_bpe_release(&bpe);
    qni_vocabulary_release(&vocabulary);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_and_long_pieces_follow_the_definition),
        cmocka_unit_test(test_a_full_cache_stays_right),
        cmocka_unit_test(test_a_megabyte_in_one_piece),
        cmocka_unit_test(test_the_later_of_equal_merges_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
