/* Protocols: parsing, the windows they cut, and the reference's counts. */
#include "quern/text/windows.h"
#include "small_tokenizer.h"

#include <stdlib.h>
#include <string.h>

static void test_protocols_are_parsed_and_spelled(void **state) {
    static const struct {
        const char *text, *canonical;
        qn_protocol_kind kind;
        int64_t window, stride;
    } cases[] = {
        {"heldout", "heldout:512", QN_PROTOCOL_HELDOUT, 0, 0},
        {"llama-512", "llama-512", QN_PROTOCOL_LLAMA_512, 512, 512},
        {"window:128", "window:128", QN_PROTOCOL_WINDOW, 128, 128},
        {"stride:512:256", "stride:512:256", QN_PROTOCOL_STRIDE, 512, 256},
        {"stride:2:1", "stride:2:1", QN_PROTOCOL_STRIDE, 2, 1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qn_protocol p = qn_protocol_default();
        char text[64];
        p.max_windows = 9;
        assert_int_equal(qn_protocol_parse(cases[i].text, &p, NULL), QN_OK);
        assert_int_equal(p.kind, cases[i].kind);
        assert_int_equal(p.window, cases[i].window);
        assert_int_equal(p.stride, cases[i].stride);
        assert_int_equal(p.max_windows, 9);
        assert_int_equal(p.max_tokens, 512);
        qn_protocol_format(&p, text, sizeof text);
        assert_string_equal(text, cases[i].canonical);
    }
}

static void test_wrong_protocols_are_refused(void **state) {
    static const char *const wrong[] = {"",
                                        "held",
                                        "heldout:512",
                                        "llama-256",
                                        "window",
                                        "window:",
                                        "window:0",
                                        "window:1",
                                        "window:-5",
                                        "window: 5",
                                        "window:5x",
                                        "stride:5",
                                        "stride:5:",
                                        "stride:5:6",
                                        "stride:5:0",
                                        "stride:1:1",
                                        "stride:4:2:",
                                        "WINDOW:5",
                                        "window:99999999999999999999"};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        qn_protocol p = {.window = 77};
        qn_error err = {0};
        assert_int_equal(qn_protocol_parse(wrong[i], &p, &err), QN_E_ARGUMENT);
        assert_int_equal(p.window, 77);
        assert_non_null(strstr(err.message, "heldout"));
    }
}

/* A set of documents that points at literals. */
static qn_documents literal_documents(qn_document *documents, const char *const *texts, int64_t n) {
    for (int64_t i = 0; i < n; i++) documents[i] = (qn_document){texts[i], strlen(texts[i])};
    return (qn_documents){.documents = documents, .n = n};
}

static qn_tokenizer *open_byte(void) {
    qn_tokenizer *tokenizer = NULL;
    assert_int_equal(qn_tokenizer_open("byte", &tokenizer, NULL), QN_OK);
    return tokenizer;
}

static qn_windows make(const char *protocol, int64_t max_windows, const char *join,
                       const qn_documents *documents, const qn_tokenizer *tokenizer) {
    qn_protocol p = qn_protocol_default();
    qn_windows windows = {0};
    qn_error err = {0};
    assert_int_equal(qn_protocol_parse(protocol, &p, NULL), QN_OK);
    p.max_windows = max_windows;
    p.join = join;
    if (qn_windows_make(documents, tokenizer, &p, &windows, &err) != QN_OK)
        fail_msg("%s: %s", protocol, err.message);
    return windows;
}

static void check_windows(const qn_windows *got, const qn_window *expected, int64_t n, int64_t target_bytes,
                          int64_t docs_scored, int64_t docs_skipped) {
    int64_t n_targets = 0;
    assert_int_equal(got->n_windows, n);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(got->windows[i].first, expected[i].first);
        assert_int_equal(got->windows[i].n_ids, expected[i].n_ids);
        assert_int_equal(got->windows[i].first_target, expected[i].first_target);
        assert_true(expected[i].first + expected[i].n_ids <= got->n_ids);
        n_targets += expected[i].n_ids - expected[i].first_target;
    }
    assert_int_equal(got->n_targets, n_targets);
    assert_int_equal(got->target_bytes, target_bytes);
    assert_int_equal(got->docs_scored, docs_scored);
    assert_int_equal(got->docs_skipped, docs_skipped);
}

#define CHECK_WINDOWS(got, bytes, scored, skipped, ...)                                                      \
    check_windows(got, (const qn_window[]){__VA_ARGS__},                                                     \
                  sizeof((const qn_window[]){__VA_ARGS__}) / sizeof(qn_window), bytes, scored, skipped)

static void test_heldout_takes_each_document_alone(void **state) {
    static const char *const texts[] = {"", "a", "ab", "0123456789"};
    (void)state;
    qn_document storage[4];
    qn_documents documents = literal_documents(storage, texts, 4);
    qn_tokenizer *t = open_byte();
    qn_protocol p = qn_protocol_default();
    qn_windows w = {0};
    p.max_tokens = 6;
    assert_int_equal(qn_windows_make(&documents, t, &p, &w, NULL), QN_OK);
    CHECK_WINDOWS(&w, 6, 2, 2, {0, 2, 1}, {2, 6, 1});
    assert_int_equal(w.n_ids, 8);
    assert_int_equal(w.ids[2], '0' + 1);
    assert_int_equal(w.ids[7], '5' + 1);
    qn_windows_release(&w);
    qn_windows_release(&w);
    assert_null(w.ids);
    qn_tokenizer_free(t);
}

static void test_joined_windows_are_disjoint(void **state) {
    static const char *const texts[] = {"01234", "56789", "abc"};
    (void)state;
    qn_document storage[3];
    qn_documents documents = literal_documents(storage, texts, 3);
    qn_tokenizer *t = open_byte();
    qn_windows w = make("window:4", 0, NULL, &documents, t);
    CHECK_WINDOWS(&w, 9, 3, 0, {0, 4, 1}, {4, 4, 1}, {8, 4, 1}); /* the thirteenth id is the tail */
    qn_windows_release(&w);
    w = make("window:4", 1, NULL, &documents, t);
    CHECK_WINDOWS(&w, 3, 1, 2, {0, 4, 1});
    qn_windows_release(&w);
    w = make("window:4", 99, NULL, &documents, t);
    assert_int_equal(w.n_windows, 3);
    qn_windows_release(&w);
    qn_tokenizer_free(t);
}

static void test_join_token_follows_each_document(void **state) {
    static const char *const texts[] = {"low", " lower", "x<|end|>"};
    (void)state;
    qn_document storage[3];
    qn_documents documents = literal_documents(storage, texts, 3);
    qn_tokenizer *t = open_small_tokenizer();
    qn_windows w = make("window:8", 0, "<|end|>", &documents, t);
    const int32_t expected[] = {SMALL_LOW, SMALL_END, SMALL_SPACE_LOW, SMALL_ER,
                                SMALL_END, 'x',       SMALL_END,       SMALL_END};
    assert_int_equal(w.n_ids, 8);
    assert_memory_equal(w.ids, expected, sizeof expected);
    /* Targets: all but the first id. Text: " lower" and the document "x<|end|>", whose last token is text. */
    CHECK_WINDOWS(&w, 6 + 8, 3, 0, {0, 8, 1});
    qn_windows_release(&w);
    w = make("window:2", 1, "<|end|>", &documents, t);
    CHECK_WINDOWS(&w, 0, 1, 2, {0, 2, 1});
    assert_int_equal(w.n_ids, 2); /* later documents were not encoded */
    qn_windows_release(&w);

    qn_protocol p = qn_protocol_default();
    qn_error err = {0};
    assert_int_equal(qn_protocol_parse("window:2", &p, NULL), QN_OK);
    p.join = "<|nothing|>";
    assert_int_equal(qn_windows_make(&documents, t, &p, &w, &err), QN_E_VALUE);
    assert_non_null(strstr(err.message, "<|nothing|>"));
    qn_tokenizer_free(t);
}

static void test_strided_windows_score_each_id_once(void **state) {
    static const char *const texts[] = {"0123456789"};
    (void)state;
    qn_document storage[1];
    qn_documents documents = literal_documents(storage, texts, 1);
    qn_tokenizer *t = open_byte();
    qn_windows w = make("stride:4:2", 0, NULL, &documents, t);
    CHECK_WINDOWS(&w, 9, 1, 0, {0, 4, 1}, {2, 4, 2}, {4, 4, 2}, {6, 4, 2});
    qn_windows_release(&w);
    w = make("stride:4:3", 0, NULL, &documents, t);
    CHECK_WINDOWS(&w, 9, 1, 0, {0, 4, 1}, {3, 4, 1}, {6, 4, 1});
    qn_windows_release(&w);
    w = make("stride:6:3", 0, NULL, &documents, t);
    CHECK_WINDOWS(&w, 9, 1, 0, {0, 6, 1}, {3, 6, 3}, {6, 4, 3}); /* the last window is shorter */
    qn_windows_release(&w);
    w = make("stride:4:4", 0, NULL, &documents, t);
    CHECK_WINDOWS(&w, 7, 1, 0, {0, 4, 1}, {4, 4, 1}, {8, 2, 1});
    qn_windows_release(&w);
    w = make("stride:3:3", 0, NULL, &documents, t);
    CHECK_WINDOWS(&w, 6, 1, 0, {0, 3, 1}, {3, 3, 1}, {6, 3, 1}); /* a last window of one id has no target */
    qn_windows_release(&w);
    w = make("stride:64:8", 0, NULL, &documents, t);
    CHECK_WINDOWS(&w, 9, 1, 0, {0, 10, 1});
    qn_windows_release(&w);
    w = make("stride:4:2", 2, NULL, &documents, t);
    CHECK_WINDOWS(&w, 5, 1, 0, {0, 4, 1}, {2, 4, 2});
    qn_windows_release(&w);
    qn_tokenizer_free(t);
}

static void test_nothing_to_score_is_an_error(void **state) {
    static const char *const texts[] = {"", "a"};
    static const char *const protocols[] = {"heldout", "llama-512", "window:4", "stride:4:2"};
    (void)state;
    qn_document storage[2];
    qn_documents documents = literal_documents(storage, texts, 2);
    qn_tokenizer *t = open_byte();
    for (size_t i = 0; i < 4; i++) {
        qn_protocol p = qn_protocol_default();
        qn_windows w = {.n_ids = 77};
        qn_error err = {0};
        assert_int_equal(qn_protocol_parse(protocols[i], &p, NULL), QN_OK);
        assert_int_equal(qn_windows_make(&documents, t, &p, &w, &err), QN_E_VALUE);
        assert_non_null(strstr(err.message, "nothing to score"));
        assert_int_equal(w.n_ids, 77);
        p.max_tokens = p.window = 1;
        assert_int_equal(qn_windows_make(&documents, t, &p, &w, &err), QN_E_ARGUMENT);
    }
    qn_tokenizer_free(t);
}

/* ---- the reference's figures ---- */

static void check_document_ids(const qn_windows *w, const json_t *expected) {
    int64_t window = 0;
    for (size_t d = 0; d < json_array_size(json_object_get(expected, "doc_ids")); d++) {
        const json_t *ids = json_array_get(json_object_get(expected, "doc_ids"), d);
        size_t n = json_array_size(ids) < 512 ? json_array_size(ids) : 512;
        if (n < 2) continue;
        assert_true(window < w->n_windows);
        const qn_window *at = &w->windows[window++];
        assert_int_equal(at->n_ids, n);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(w->ids[at->first + (int64_t)i], json_integer_value(json_array_get(ids, i)));
        }
    }
    assert_int_equal(window, w->n_windows);
}

static void check_joined(const char *protocol, const char *key, const json_t *expected,
                         const qn_documents *text, const qn_tokenizer *tokenizer) {
    const json_t *part = json_object_get(expected, key), *first = json_object_get(expected, "text_first_ids");
    int64_t n = (int64_t)json_array_size(json_object_get(part, "windows"));
    qn_windows w =
        make(protocol, n, NULL, text, tokenizer); /* the byte model used the first 3 000 tokens only */
    assert_int_equal(w.n_windows, n);
    assert_int_equal(w.n_targets,
                     json_integer_value(json_object_get(json_object_get(part, "fp64"), "targets")));
    assert_true(w.n_ids >= json_integer_value(json_object_get(part, "tokens")));
    for (size_t i = 0; i < json_array_size(first); i++) {
        assert_int_equal(w.ids[i], json_integer_value(json_array_get(first, i)));
    }
    qn_windows_release(&w);
}

static void check_scoring(const char *model, const char *tokenizer_folder) {
    char name[128];
    snprintf(name, sizeof name, "golden/scoring/expected-%s.json", model);
    char *expected_path = require_test_data(name),
         *docs_path = require_test_data("golden/scoring/docs.jsonl");
    char *text_path = require_test_data("golden/scoring/text.txt");
    char *folder = tokenizer_folder ? require_test_data(tokenizer_folder) : NULL;
    json_t *expected = load_json(expected_path), *contract = json_object_get(expected, "contract");
    qn_documents docs = {0}, text = {0};
    qn_tokenizer *t = NULL;
    assert_int_equal(qn_documents_open(docs_path, &docs, NULL), QN_OK);
    assert_int_equal(qn_documents_open(text_path, &text, NULL), QN_OK);
    assert_int_equal(qn_tokenizer_open(folder ? folder : "byte", &t, NULL), QN_OK);
    assert_string_equal(docs.sha256, json_string_value(json_object_get(expected, "document_sha256")));

    qn_windows w = make("heldout", 0, NULL, &docs, t);
    assert_int_equal(w.docs_scored, json_integer_value(json_object_get(contract, "scored_docs")));
    assert_int_equal(w.docs_scored + w.docs_skipped, 20);
    assert_int_equal(w.n_targets, json_integer_value(json_object_get(contract, "token_count")));
    check_document_ids(&w, expected);
    qn_windows_release(&w);
    check_joined("llama-512", "llama_512", expected, &text, t);
    check_joined("window:128", "gptq_128", expected, &text, t);

    qn_tokenizer_free(t);
    qn_documents_release(&docs);
    qn_documents_release(&text);
    json_decref(expected);
    free(folder);
    free(text_path);
    free(docs_path);
    free(expected_path);
}

static void test_scoring_counts_are_those_of_the_reference(void **state) {
    (void)state;
    check_scoring("qwen3-tied", "golden/models/qwen3-tied");
    check_scoring("qwen3_5-text", "golden/models/qwen3_5-text");
    check_scoring("qwen3-byte", NULL);
}

/* The protocol of the quality marks: 117 windows of 512 of the teacher's test text, 59 787 targets. The
 * README of the teacher counts 568 604 tokens (an end-of-text token after each document) in 1 110 contexts.
 */
static void test_the_teachers_protocol(void **state) {
    (void)state;
    char *folder = require_test_data("teacher"), *path = require_test_data("teacher/text/test.txt");
    qn_tokenizer *t = NULL;
    qn_documents documents = {0};
    assert_int_equal(qn_tokenizer_open(folder, &t, NULL), QN_OK);
    assert_int_equal(qn_documents_open(path, &documents, NULL), QN_OK);
    qn_windows w = make("window:512", 117, "<|endoftext|>", &documents, t);
    assert_int_equal(w.n_windows, 117);
    assert_int_equal(w.n_targets, 59787);
    assert_true(w.docs_scored < documents.n);
    qn_windows_release(&w);
    w = make("window:512", 0, "<|endoftext|>", &documents, t);
    assert_int_equal(w.n_windows, 1110);
    assert_int_equal(w.n_ids, 568604);
    qn_windows_release(&w);
    qn_documents_release(&documents);
    qn_tokenizer_free(t);
    free(path);
    free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_protocols_are_parsed_and_spelled),
        cmocka_unit_test(test_wrong_protocols_are_refused),
        cmocka_unit_test(test_heldout_takes_each_document_alone),
        cmocka_unit_test(test_joined_windows_are_disjoint),
        cmocka_unit_test(test_join_token_follows_each_document),
        cmocka_unit_test(test_strided_windows_score_each_id_once),
        cmocka_unit_test(test_nothing_to_score_is_an_error),
        cmocka_unit_test(test_scoring_counts_are_those_of_the_reference),
        cmocka_unit_test(test_the_teachers_protocol),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
