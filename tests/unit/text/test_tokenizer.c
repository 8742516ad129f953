/* The public tokenizer interface, on a tokenizer made here. */
#include "small_tokenizer.h"

#include <stdlib.h>
#include <string.h>

static void check_encoding(const qn_tokenizer *tokenizer, const char *text, size_t n_bytes,
                           const int32_t *expected, int64_t n) {
    qn_error err = {0};
    qn_ids got = {0};
    if (qn_tokenizer_encode(tokenizer, text, n_bytes, &got, &err) != QN_OK) fail_msg("%s", err.message);
    assert_int_equal(got.n, n);
    assert_memory_equal(got.ids, expected, (size_t)n * sizeof *expected);
    qn_ids_release(&got);
}

#define CHECK_ENCODING(tokenizer, text, ...)                                                                 \
    check_encoding(tokenizer, text, sizeof(text) - 1, (const int32_t[]){__VA_ARGS__},                        \
                   sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void test_merges_apply_by_rank(void **state) {
    (void)state;
    qn_tokenizer *t = open_small_tokenizer();
    check_encoding(t, "", 0, NULL, 0);
    CHECK_ENCODING(t, "low", SMALL_LOW);
    CHECK_ENCODING(t, "lower", SMALL_LOWER);
    CHECK_ENCODING(t, " lower", SMALL_SPACE_LOW, SMALL_ER); /* the space merges first */
    CHECK_ENCODING(t, "newlow ne", SMALL_NE, 'w', SMALL_LOW, ' ', SMALL_NE);
    CHECK_ENCODING(t, "l ow", 'l', ' ', 'o', 'w'); /* pieces are not joined */
    CHECK_ENCODING(t, "a\0b", 'a', 0, 'b');
    qn_tokenizer_free(t);
}

static void test_encoding_appends(void **state) {
    (void)state;
    qn_tokenizer *t = open_small_tokenizer();
    qn_ids ids = {0};
    qn_error err = {0};
    assert_int_equal(qn_tokenizer_encode(t, "low", 3, &ids, &err), QN_OK);
    assert_int_equal(qn_tokenizer_encode(t, "x", 1, &ids, &err), QN_OK);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.ids[0], SMALL_LOW);
    assert_int_equal(ids.ids[1], 'x');
    qn_ids_release(&ids);
    qn_ids_release(&ids);
    assert_null(ids.ids);
    qn_tokenizer_free(t);
    qn_tokenizer_free(NULL);
}

static void test_added_tokens_are_cut_from_raw_text(void **state) {
    (void)state;
    qn_tokenizer *t = open_small_tokenizer();
    CHECK_ENCODING(t, "low<|end|>low", SMALL_LOW, SMALL_END, SMALL_LOW);
    CHECK_ENCODING(t, "<|end|><|end|>", SMALL_END, SMALL_END);
    CHECK_ENCODING(t, "<|end|<tool>", '<', '|', 'e', 'n', 'd', '|', SMALL_TOOL);
    CHECK_ENCODING(t, "<|END|>", '<', '|', 'E', 'N', 'D', '|', '>');
    CHECK_ENCODING(t, "<tool>\xCC\xB8", SMALL_TOOL, 0xCC, 0xB8); /* NFC would join > and U+0338 */
    CHECK_ENCODING(t, ">\xCC\xB8", 0xE2, 0x89, 0xAF);
    qn_tokenizer_free(t);
}

static json_t *another_token(int id, const char *content) {
    return json_pack("{si ss sb sb sb sb sb}", "id", id, "content", content, "single_word", 0, "lstrip", 0,
                     "rstrip", 0, "normalized", 0, "special", 0);
}

static void test_the_leftmost_longest_added_token_wins(void **state) {
    (void)state;
    json_t *root = small_tokenizer_json();
    json_t *added = json_object_get(root, "added_tokens");
    json_array_append_new(added, another_token(SMALL_N, "<x>y"));
    json_array_append_new(added, another_token(SMALL_N + 1, "<x>yz"));
    json_array_append_new(added, another_token(SMALL_N + 2, "x>yz!!"));
    qn_tokenizer *t = NULL;
    qn_error err = {0};
    assert_int_equal(open_json(root, &t, &err), QN_OK);
    CHECK_ENCODING(t, "<x>yz!!", SMALL_N + 1, '!', '!');
    CHECK_ENCODING(t, "<x>y!!", SMALL_N, '!', '!');
    CHECK_ENCODING(t, "ax>yz!!", 'a', SMALL_N + 2);
    CHECK_ENCODING(t, "<x>", '<', 'x', '>');
    qn_tokenizer_free(t);
}

static void test_invalid_utf8_becomes_replacement_characters(void **state) {
    (void)state;
    qn_tokenizer *t = open_small_tokenizer();
    CHECK_ENCODING(t,
                   "a\xFF"
                   "b",
                   'a', 0xEF, 0xBF, 0xBD, 'b');
    CHECK_ENCODING(t, "\xE2\x82", 0xEF, 0xBF, 0xBD); /* one maximal invalid part */
    CHECK_ENCODING(t, "\xED\xA0\x80", 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD);
    qn_tokenizer_free(t);
}

static void check_text(const qn_tokenizer *tokenizer, const int32_t *ids, int64_t n, bool skip_special,
                       const char *expected, size_t n_expected) {
    char *text = NULL;
    size_t n_bytes = 0;
    qn_error err = {0};
    if (qn_tokenizer_decode(tokenizer, ids, n, skip_special, &text, &n_bytes, &err) != QN_OK)
        fail_msg("%s", err.message);
    assert_int_equal(n_bytes, n_expected);
    assert_memory_equal(text, expected, n_expected + 1);
    free(text);
}

static void test_decoding_joins_bytes_before_it_repairs_them(void **state) {
    (void)state;
    qn_tokenizer *t = open_small_tokenizer();
    const int32_t ids[] = {SMALL_SPACE_LOW, 0xC3, 0xA9, SMALL_END, SMALL_TOOL, 0xC3, 0};
    check_text(t, ids, 7, false, " low\xC3\xA9<|end|><tool>\xEF\xBF\xBD\0", 23);
    check_text(t, ids, 7, true, " low\xC3\xA9<tool>\xEF\xBF\xBD\0", 16);
    check_text(t, ids, 0, false, "", 0);
    qn_tokenizer_free(t);
}

static void test_decoding_refuses_unknown_ids(void **state) {
    (void)state;
    qn_tokenizer *t = open_small_tokenizer();
    const int32_t wrong[] = {-1, SMALL_N, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        char *text = NULL;
        size_t n_bytes = 77;
        qn_error err = {0};
        assert_int_equal(qn_tokenizer_decode(t, &wrong[i], 1, false, &text, &n_bytes, &err), QN_E_VALUE);
        assert_null(text);
        assert_int_equal(n_bytes, 77);
        assert_non_null(strstr(err.message, "not in the vocabulary"));
    }
    qn_tokenizer_free(t);
}

static void test_tokens_can_be_looked_up(void **state) {
    (void)state;
    qn_tokenizer *t = open_small_tokenizer();
    const uint8_t *bytes = NULL;
    size_t n_bytes = 0;
    assert_int_equal(qn_tokenizer_vocab_size(t), SMALL_N);
    assert_int_equal(qn_tokenizer_token_id(t, "<|end|>"), SMALL_END);
    assert_int_equal(qn_tokenizer_token_id(t, " low"), SMALL_SPACE_LOW);
    assert_int_equal(qn_tokenizer_token_id(t, "lo we"), -1);
    assert_true(qn_tokenizer_token_bytes(t, SMALL_SPACE_LOW, &bytes, &n_bytes));
    assert_int_equal(n_bytes, 4);
    assert_memory_equal(bytes, " low", 4);
    assert_true(qn_tokenizer_token_bytes(t, SMALL_TOOL, &bytes, &n_bytes));
    assert_memory_equal(bytes, "<tool>", 6);
    assert_false(qn_tokenizer_token_bytes(t, SMALL_N, &bytes, &n_bytes));
    assert_false(qn_tokenizer_token_bytes(t, -1, &bytes, &n_bytes));
    assert_int_equal(strncmp(qn_tokenizer_name(t), "bpe:", 4), 0);
    assert_int_equal(strlen(qn_tokenizer_name(t)), 16);
    qn_tokenizer_free(t);
}

static void test_byte_tokenizer(void **state) {
    (void)state;
    qn_tokenizer *t = NULL;
    qn_error err = {0};
    assert_int_equal(qn_tokenizer_open("byte", &t, &err), QN_OK);
    assert_string_equal(qn_tokenizer_name(t), "byte");
    assert_int_equal(qn_tokenizer_vocab_size(t), 257);
    CHECK_ENCODING(t, "a\0\xC3\xA9", 98, 1, 0xC4, 0xAA);
    CHECK_ENCODING(t, "e\xCC\x81", 'e' + 1, 0xCD, 0x82); /* no normalisation */
    CHECK_ENCODING(t, "\xFF", 0xF0, 0xC0, 0xBE);
    check_text(t, (const int32_t[]){98, 0, 99, 256}, 4, false, "ab\xEF\xBF\xBD", 5);
    assert_int_equal(qn_tokenizer_token_id(t, "a"), 98);
    qn_tokenizer_free(t);
}

static void test_ignore_merges_takes_whole_tokens(void **state) {
    (void)state;
    json_t *root = small_tokenizer_json();
    json_object_set_new(json_object_get(json_object_get(root, "model"), "vocab"), "wl",
                        json_integer(SMALL_N));
    qn_tokenizer *t = NULL;
    qn_error err = {0};
    assert_int_equal(open_json(json_incref(root), &t, &err),
                     QN_E_FORMAT); /* ids of added tokens leave a gap */
    json_array_clear(json_object_get(root, "added_tokens"));
    assert_int_equal(open_json(json_incref(root), &t, &err), QN_OK);
    CHECK_ENCODING(t, "wl", 'w', 'l'); /* no merge makes it */
    qn_tokenizer_free(t);
    json_object_set_new(json_object_get(root, "model"), "ignore_merges", json_true());
    assert_int_equal(open_json(root, &t, &err), QN_OK);
    CHECK_ENCODING(t, "wl", SMALL_N);
    CHECK_ENCODING(t, "wlow", 'w', SMALL_LOW);
    qn_tokenizer_free(t);
}

static void test_a_byte_without_token_is_an_error_that_changes_nothing(void **state) {
    (void)state;
    json_t *root = small_tokenizer_json();
    json_object_del(json_object_get(json_object_get(root, "model"), "vocab"), "x");
    json_array_clear(json_object_get(root, "added_tokens"));
    qn_tokenizer *t = NULL;
    qn_error err = {0};
    qn_ids ids = {0};
    assert_int_equal(open_json(root, &t, &err), QN_OK);
    assert_int_equal(qn_tokenizer_encode(t, "low", 3, &ids, &err), QN_OK);
    assert_int_equal(qn_tokenizer_encode(t, "low x", 5, &ids, &err), QN_E_VALUE);
    assert_non_null(strstr(err.message, "0x78"));
    assert_int_equal(ids.n, 1);
    qn_ids_release(&ids);
    qn_tokenizer_free(t);
}

/* Many threads encode with one tokenizer and all get what one thread gets. */
static void test_encoding_is_thread_safe(void **state) {
    (void)state;
    enum { N_RUNS = 16, N_REPEATS = 400 };
    static const char text[] = "lower newlow <|end|> e\xCC\x81 123 low's ";
    qn_tokenizer *t = open_small_tokenizer();
    char *long_text = malloc(N_REPEATS * sizeof text);
    size_t n = 0;
    for (int i = 0; i < N_REPEATS; i++, n += sizeof text - 1) memcpy(long_text + n, text, sizeof text - 1);
    qn_ids expected = {0};
    int n_equal = 0;
    assert_int_equal(qn_tokenizer_encode(t, long_text, n, &expected, NULL), QN_OK);
#pragma omp parallel for num_threads(4) reduction(+ : n_equal)
    for (int run = 0; run < N_RUNS; run++) {
        qn_ids got = {0};
        if (qn_tokenizer_encode(t, long_text, n, &got, NULL) == QN_OK && got.n == expected.n) {
            n_equal += memcmp(got.ids, expected.ids, (size_t)got.n * sizeof *got.ids) == 0;
        }
        qn_ids_release(&got);
    }
    assert_int_equal(n_equal, N_RUNS);
    qn_ids_release(&expected);
    free(long_text);
    qn_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_apply_by_rank),
        cmocka_unit_test(test_encoding_appends),
        cmocka_unit_test(test_added_tokens_are_cut_from_raw_text),
        cmocka_unit_test(test_the_leftmost_longest_added_token_wins),
        cmocka_unit_test(test_invalid_utf8_becomes_replacement_characters),
        cmocka_unit_test(test_decoding_joins_bytes_before_it_repairs_them),
        cmocka_unit_test(test_decoding_refuses_unknown_ids),
        cmocka_unit_test(test_tokens_can_be_looked_up),
        cmocka_unit_test(test_byte_tokenizer),
        cmocka_unit_test(test_ignore_merges_takes_whole_tokens),
        cmocka_unit_test(test_a_byte_without_token_is_an_error_that_changes_nothing),
        cmocka_unit_test(test_encoding_is_thread_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
