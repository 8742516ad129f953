/* Document sets from .txt, .jsonl and folders. */
#include "quern/text/documents.h"
#include "small_tokenizer.h"

#include <stdlib.h>
#include <string.h>

static qn_status open_in(const char *folder, const char *name, qn_documents *out, qn_error *err) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return qn_documents_open(path, out, err);
}

/* Writes TEXT as NAME and checks the documents read from it: pairs of text and length. */
static void check_file(const char *name, const char *text, size_t n_bytes, const char *const *expected,
                       const size_t *n_expected, int64_t n) {
    char *folder = make_temporary_folder();
    qn_documents set = {0};
    qn_error err = {0};
    write_text(folder, name, text, n_bytes);
    if (open_in(folder, name, &set, &err) != QN_OK) fail_msg("%s", err.message);
    assert_int_equal(set.n, n);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(set.documents[i].n_bytes, n_expected[i]);
        assert_memory_equal(set.documents[i].text, expected[i], n_expected[i]);
    }
    qn_documents_release(&set);
    qn_documents_release(&set);
    assert_null(set.documents);
    remove_tree(folder);
    free(folder);
}

#define CHECK_FILE(name, text, n, expected, lengths)                                                         \
    check_file(name, text, sizeof(text) - 1, (const char *const[])expected, (const size_t[])lengths, n)
#define LIST(...)                                                                                            \
    { __VA_ARGS__ }

static void test_txt_is_split_at_separator_lines(void **state) {
    (void)state;
    CHECK_FILE("a.txt", "one\ntwo\n", 1, LIST("one\ntwo\n"), LIST(8));
    CHECK_FILE("a.txt", "one\n<|endoftext|>\ntwo", 2, LIST("one\n", "two"), LIST(4, 3));
    CHECK_FILE("a.txt", "one\n<|endoftext|>\ntwo\n<|endoftext|>\n", 2, LIST("one\n", "two\n"), LIST(4, 4));
    CHECK_FILE("a.txt", "one\n<|endoftext|>", 1, LIST("one\n"), LIST(4));
    CHECK_FILE("a.txt", "one\n<|endoftext|>\n<|endoftext|>\ntwo", 3, LIST("one\n", "", "two"), LIST(4, 0, 3));
    CHECK_FILE("a.txt", "x<|endoftext|>\n <|endoftext|>\n<|endoftext|>\r\n", 1,
               LIST("x<|endoftext|>\n <|endoftext|>\n<|endoftext|>\r\n"),
               LIST(45)); /* none is a line of its own */
    CHECK_FILE("noextension", "one\n<|endoftext|>\ntwo", 2, LIST("one\n", "two"), LIST(4, 3));
    CHECK_FILE("a.txt", "\n", 1, LIST("\n"), LIST(1));
    CHECK_FILE("a.txt",
               "\xEF\xBB\xBF"
               "a\0b\xFF",
               1,
               LIST("\xEF\xBB\xBF"
                    "a\0b\xEF\xBF\xBD"),
               LIST(9));
    CHECK_FILE("a.txt", "a\u2028<|endoftext|>\u2028b", 1, LIST("a\u2028<|endoftext|>\u2028b"), LIST(21));
}

static void test_jsonl_holds_objects_or_strings(void **state) {
    (void)state;
    CHECK_FILE(
        "a.jsonl",
        "{\"text\": \"one\", \"id\": 123456789012345678901234567890}\n\n  \r\n\"two\"\r\n{\"text\":\"\"}", 3,
        LIST("one", "two", ""), LIST(3, 3, 0));
    CHECK_FILE("a.ndjson", "\"a\\u0000b\\n\"\n", 1, LIST("a\0b\n"), LIST(4));
    CHECK_FILE("a.JSONL", "\"\xE2\x80\xA8\\ud83d\\ude00\"\n", 1, LIST("\xE2\x80\xA8\U0001F600"), LIST(7));
    CHECK_FILE("a.jsonl", "\"a\xFF\"\n", 1, LIST("a\xEF\xBF\xBD"), LIST(4));
}

static void test_bad_lines_are_named(void **state) {
    static const struct {
        const char *text, *message;
        qn_status code;
    } cases[] = {
        {"\"ok\"\n{\"text\": true}\n", "a.jsonl:2: \"text\" is a boolean", QN_E_FORMAT},
        {"\"ok\"\n\n{\"txt\": \"x\"}\n", "a.jsonl:3: \"text\" is nothing", QN_E_FORMAT},
        {"[\"x\"]\n", "a.jsonl:1: the line is an array", QN_E_FORMAT},
        {"\"ok\"\n{\"text\": \"x\"\n", "a.jsonl:2: not valid JSON", QN_E_FORMAT},
        {"\"x\" \"y\"\n", "a.jsonl:1: not valid JSON", QN_E_FORMAT},
        {"\"\\ud800\"\n", "a.jsonl:1: not valid JSON", QN_E_FORMAT},
        {"\n \n", "no document", QN_E_VALUE},
        {"", "no document", QN_E_VALUE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *folder = make_temporary_folder();
        qn_documents set = {.n = 77};
        qn_error err = {0};
        write_text(folder, "a.jsonl", cases[i].text, strlen(cases[i].text));
        qn_status status = open_in(folder, "a.jsonl", &set, &err);
        if (status != cases[i].code || !strstr(err.message, cases[i].message)) {
            fail_msg("case %zu: %s, \"%s\"", i, qn_status_name(status), err.message);
        }
        assert_int_equal(set.n, 77);
        remove_tree(folder);
        free(folder);
    }
}

static void test_folders_are_read_in_name_order(void **state) {
    (void)state;
    char *folder = make_temporary_folder();
    qn_documents set = {0};
    qn_error err = {0};
    assert_int_equal(qn_documents_open(folder, &set, &err), QN_E_VALUE);
    write_text(folder, "b.txt", "two", 3);
    write_text(folder, "B.txt", "one", 3);
    write_text(folder, "c.txt", "three\n<|endoftext|>\nfour", 24);
    write_text(folder, "a.txt", "", 0);
    write_text(folder, "ignored.jsonl", "\"x\"", 3);
    assert_int_equal(qn_documents_open(folder, &set, &err), QN_OK);
    assert_int_equal(set.n, 4);
    assert_memory_equal(set.documents[0].text, "one", 3);
    assert_memory_equal(set.documents[1].text, "two", 3);
    assert_memory_equal(set.documents[2].text, "three\n", 6);
    assert_memory_equal(set.documents[3].text, "four", 4);
    qn_documents_release(&set);
    remove_tree(folder);
    assert_int_equal(qn_documents_open(folder, &set, &err), QN_E_IO);
    assert_non_null(strstr(err.message, folder));
    free(folder);
}

static void test_digest_is_of_documents_joined_by_a_blank_line(void **state) {
    (void)state;
    char *folder = make_temporary_folder();
    qn_documents set = {0};
    char expected[QN_SHA256_HEX];
    write_text(folder, "a.jsonl", "\"one\"\n\"\"\n\"two\\n\"", 16);
    assert_int_equal(open_in(folder, "a.jsonl", &set, NULL), QN_OK);
    assert_int_equal(qn_sha256_of_memory("one\n\n\n\ntwo\n", 11, expected, NULL), QN_OK);
    assert_string_equal(set.sha256, expected);
    qn_documents_release(&set);
    remove_tree(folder);
    free(folder);
}

static void test_the_teachers_texts(void **state) {
    (void)state;
    char *path = require_test_data("teacher/text/dev.txt");
    qn_documents set = {0};
    qn_error err = {0};
    int64_t n_bytes = 0;
    if (qn_documents_open(path, &set, &err) != QN_OK) fail_msg("%s", err.message);
    assert_int_equal(set.n, 127);
    for (int64_t i = 0; i < set.n; i++) n_bytes += (int64_t)set.documents[i].n_bytes;
    assert_int_equal(n_bytes, 1458346); /* both figures are in the README of the teacher */
    qn_documents_release(&set);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_txt_is_split_at_separator_lines),
        cmocka_unit_test(test_jsonl_holds_objects_or_strings),
        cmocka_unit_test(test_bad_lines_are_named),
        cmocka_unit_test(test_folders_are_read_in_name_order),
        cmocka_unit_test(test_digest_is_of_documents_joined_by_a_blank_line),
        cmocka_unit_test(test_the_teachers_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
