/* Ids and texts of the reference tokenizer stack, over the shared golden cases. */
#include "quern/text/tokenizer.h"

#include "test_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PATH = 256 };

static qn_tokenizer *open_golden(const char *folder) {
    qn_error err = {0};
    qn_tokenizer *tokenizer = NULL;
    char *path = require_test_data(folder);
    if (qn_tokenizer_open(path, &tokenizer, &err) != QN_OK) fail_msg("%s: %s", path, err.message);
    free(path);
    return tokenizer;
}

static void check_ids(const qn_tokenizer *tokenizer, const char *text, size_t n_bytes, const json_t *expected,
                      const char *where) {
    qn_error err = {0};
    qn_ids got = {0};
    if (qn_tokenizer_encode(tokenizer, text, n_bytes, &got, &err) != QN_OK)
        fail_msg("%s: %s", where, err.message);
    if (got.n != (int64_t)json_array_size(expected)) {
        fail_msg("%s: %lld ids, expected %zu, of \"%s\"", where, (long long)got.n, json_array_size(expected),
                 text);
    }
    for (int64_t i = 0; i < got.n; i++) {
        long long want = json_integer_value(json_array_get(expected, (size_t)i));
        if (got.ids[i] != want)
            fail_msg("%s: id %lld is %d, expected %lld", where, (long long)i, got.ids[i], want);
    }
    qn_ids_release(&got);
}

/* The next line of a JSON lines file as a value, or NULL at the end. */
static json_t *next_case(char **cursor, const char *name, int number) {
    char *line = *cursor;
    if (!*line) return NULL;
    char *end = strchr(line, '\n');
    assert_non_null(end);
    *cursor = end + 1;
    json_error_t error;
    json_t *value = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, &error);
    if (!value) fail_msg("%s:%d: %s", name, number, error.text);
    return value;
}

static void check_cases(const char *cases, const char *folder, const char *only_tokenizer) {
    qn_tokenizer *tokenizer = open_golden(folder);
    char *path = require_test_data(cases);
    char *text = load_file(path, NULL), *cursor = text;
    int n = 0, n_checked = 0;
    for (json_t *value; (value = next_case(&cursor, cases, ++n)); json_decref(value)) {
        const char *which = json_string_value(json_object_get(value, "tokenizer"));
        if (which && only_tokenizer && strcmp(which, only_tokenizer) != 0) continue;
        char where[MAX_PATH];
        snprintf(where, sizeof where, "%s:%d", cases, n);
        const json_t *string = json_object_get(value, "text");
        check_ids(tokenizer, json_string_value(string), json_string_length(string),
                  json_object_get(value, "ids"), where);
        n_checked++;
    }
    assert_true(n_checked > 0);
    free(text);
    free(path);
    qn_tokenizer_free(tokenizer);
}

#define GOLDEN "golden/tokenizer/"

static void test_qwen3_cases_give_the_reference_ids(void **state) {
    static const char *const kinds[] = {"edge", "natural", "random", "scripts", "special"};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        char cases[MAX_PATH];
        snprintf(cases, sizeof cases, GOLDEN "cases-qwen3-%s.jsonl", kinds[i]);
        check_cases(cases, GOLDEN "qwen3", NULL);
    }
}

static void test_small_tokenizers_give_the_reference_ids(void **state) {
    (void)state;
    check_cases(GOLDEN "cases-small.jsonl", GOLDEN "small", NULL);
    check_cases(GOLDEN "cases-qwen3_5-small.jsonl", GOLDEN "qwen3_5-small", NULL);
}

static void test_recent_unicode_gives_the_reference_ids(void **state) {
    static const char *const names[] = {"qwen3", "small", "qwen3_5-small"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char folder[MAX_PATH];
        snprintf(folder, sizeof folder, GOLDEN "%s", names[i]);
        check_cases(GOLDEN "cases-unicode-recent.jsonl", folder, names[i]);
    }
}

static void check_decoded(const qn_tokenizer *tokenizer, const int32_t *ids, int64_t n, bool skip_special,
                          const json_t *expected, int number) {
    qn_error err = {0};
    char *text = NULL;
    size_t n_bytes = 0;
    if (qn_tokenizer_decode(tokenizer, ids, n, skip_special, &text, &n_bytes, &err) != QN_OK) {
        fail_msg("line %d: %s", number, err.message);
    }
    if (n_bytes != json_string_length(expected) || memcmp(text, json_string_value(expected), n_bytes) != 0) {
        fail_msg("line %d: decoded \"%s\", expected \"%s\"", number, text, json_string_value(expected));
    }
    free(text);
}

static void test_decoding_gives_the_reference_texts(void **state) {
    (void)state;
    qn_tokenizer *tokenizer = open_golden(GOLDEN "qwen3");
    char *path = require_test_data(GOLDEN "decode-qwen3.jsonl");
    char *text = load_file(path, NULL), *cursor = text;
    int number = 0;
    for (json_t *value; (value = next_case(&cursor, path, ++number)); json_decref(value)) {
        const json_t *list = json_object_get(value, "ids");
        int32_t ids[4096];
        int64_t n = (int64_t)json_array_size(list);
        assert_true(n <= 4096);
        for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
        check_decoded(tokenizer, ids, n, false, json_object_get(value, "text"), number);
        check_decoded(tokenizer, ids, n, true, json_object_get(value, "text_no_special"), number);
    }
    assert_int_equal(number - 1, 200);
    free(text);
    free(path);
    qn_tokenizer_free(tokenizer);
}

/* vocab.json and merges.txt alone: the reference's class adds <|endoftext|> after the vocabulary. */
static void test_vocab_and_merges_give_the_same_ids(void **state) {
    (void)state;
    qn_tokenizer *tokenizer = open_golden("data/qwen3-tokenizer");
    assert_int_equal(qn_tokenizer_vocab_size(tokenizer), 151644);
    assert_int_equal(qn_tokenizer_token_id(tokenizer, "<|endoftext|>"), 151643);
    assert_int_equal(qn_tokenizer_token_id(tokenizer, "<|im_start|>"), -1);
    qn_tokenizer_free(tokenizer);
    check_cases(GOLDEN "cases-qwen3-natural.jsonl", "data/qwen3-tokenizer", NULL);
    check_cases(GOLDEN "cases-qwen3-scripts.jsonl", "data/qwen3-tokenizer", NULL);
}

static const char VECTOR_SEPARATOR[] = "\n__ggml_vocab_test__\n";

static void test_foreign_vectors_give_the_listed_ids(void **state) {
    (void)state;
    qn_tokenizer *tokenizer = open_golden(GOLDEN "qwen3");
    char *input_path = require_test_data("data/tokenizer-vectors/llama.cpp-qwen2.inp");
    char *output_path = require_test_data("data/tokenizer-vectors/llama.cpp-qwen2.out");
    char *input = load_file(input_path, NULL), *output = load_file(output_path, NULL);
    char *text = input, *line = output;
    int n = 0;
    for (char *end; (end = strstr(text, VECTOR_SEPARATOR)); text = end + sizeof VECTOR_SEPARATOR - 1, n++) {
        json_t *ids = json_array();
        char *line_end = line;
        for (; *line && *line != '\n'; line = line_end) {
            long id = strtol(line, &line_end, 10);
            if (line_end == line) break;
            json_array_append_new(ids, json_integer(id));
        }
        line = strchr(line, '\n');
        line = line ? line + 1 : output + strlen(output);
        check_ids(tokenizer, text, (size_t)(end - text), ids, "llama.cpp-qwen2.inp");
        json_decref(ids);
    }
    assert_true(n >= 46);
    free(input);
    free(output);
    free(input_path);
    free(output_path);
    qn_tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen3_cases_give_the_reference_ids),
        cmocka_unit_test(test_small_tokenizers_give_the_reference_ids),
        cmocka_unit_test(test_recent_unicode_gives_the_reference_ids),
        cmocka_unit_test(test_decoding_gives_the_reference_texts),
        cmocka_unit_test(test_vocab_and_merges_give_the_same_ids),
        cmocka_unit_test(test_foreign_vectors_give_the_listed_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
