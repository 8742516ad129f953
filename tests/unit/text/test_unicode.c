/* Character sets, UTF-8 repair and normalisation. */
#include "text/char_class.h"
#include "text/nfc.h"
#include "text/utf8.h"

#include "test_data.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_ranges(const json_t *expected, unsigned char_class) {
    size_t n;
    const qni_code_range *ranges = qni_char_class_ranges(char_class, &n);
    assert_int_equal(n, json_array_size(expected));
    for (size_t i = 0; i < n; i++) {
        const json_t *range = json_array_get(expected, i);
        assert_int_equal(ranges[i].first, json_integer_value(json_array_get(range, 0)));
        assert_int_equal(ranges[i].last, json_integer_value(json_array_get(range, 1)));
    }
}

static void test_character_sets_are_those_of_the_reference(void **state) {
    (void)state;
    char *path = require_test_data("golden/tokenizer/unicode-reference.json");
    json_t *facts = load_json(path);
    check_ranges(json_object_get(facts, "L"), QNI_LETTER);
    check_ranges(json_object_get(facts, "M"), QNI_MARK);
    check_ranges(json_object_get(facts, "N"), QNI_NUMBER);
    check_ranges(json_object_get(facts, "White_Space"), QNI_SPACE);
    json_decref(facts);
    free(path);
}

static void test_class_table_agrees_with_the_ranges(void **state) {
    static const unsigned flags[] = {QNI_LETTER,   QNI_MARK,         QNI_NUMBER,    QNI_SPACE,
                                     QNI_LINE_END, QNI_NFC_FOLLOWER, QNI_NFC_LEADER};
    (void)state;
    uint8_t *classes = qni_char_classes_new();
    assert_non_null(classes);
    for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++) {
        size_t n, r = 0;
        const qni_code_range *ranges = qni_char_class_ranges(flags[f], &n);
        for (uint32_t c = 0; c < QNI_N_CODE_POINTS; c++) {
            while (r < n && ranges[r].last < c) r++;
            bool is_in = r < n && ranges[r].first <= c;
            if (is_in != ((classes[c] & flags[f]) != 0)) fail_msg("U+%04X, flag %u", c, flags[f]);
        }
    }
    free(classes);
}

/* ---- UTF-8 ---- */

#define FFFD "\xEF\xBF\xBD"

/* Expected: Python's bytes.decode("utf-8", "replace"). */
static const struct {
    const char *bytes;
    size_t n;
    const char *expected;
} REPAIRS[] = {
    {"", 0, ""},
    {"plain ASCII text", 16, "plain ASCII text"},
    {"\xEF\xBB\xBF"
     "x",
     4, "\xEF\xBB\xBFx"}, /* a byte order mark stays */
    {"\x80", 1, FFFD},
    {"\xC0\xAF", 2, FFFD FFFD},
    {"\xC1\xBF", 2, FFFD FFFD},
    {"\xC2", 1, FFFD},
    {"\xC2"
     "a",
     2, FFFD "a"},
    {"\xE0\x80\x80", 3, FFFD FFFD FFFD},
    {"\xE0\xA0", 2, FFFD},
    {"\xE0\xA0"
     "a",
     3, FFFD "a"},
    {"\xED\xA0\x80", 3, FFFD FFFD FFFD},
    {"\xED\x9F\xBF", 3, "\xED\x9F\xBF"},
    {"\xF0\x80\x80\x80", 4, FFFD FFFD FFFD FFFD},
    {"\xF0\x90\x80", 3, FFFD},
    {"\xF0\x90"
     "a",
     3, FFFD "a"},
    {"\xF4\x8F\xBF\xBF", 4, "\xF4\x8F\xBF\xBF"},
    {"\xF4\x90\x80\x80", 4, FFFD FFFD FFFD FFFD},
    {"\xF5\x80", 2, FFFD FFFD},
    {"\xFF\xFE", 2, FFFD FFFD},
    {"12345678\xFF"
     "12345678\xE2\x82",
     19, "12345678" FFFD "12345678" FFFD},
    {"\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64", 12, FFFD FFFD FFFD "b" FFFD "c" FFFD FFFD "d"},
};

static void test_invalid_sequences_are_replaced_as_python_does(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof REPAIRS / sizeof REPAIRS[0]; i++) {
        qni_buffer out = {0};
        /* An exact copy, so that reading past its end is seen by the sanitizer. */
        uint8_t *copy = malloc(REPAIRS[i].n + 1);
        assert_non_null(copy);
        memcpy(copy, REPAIRS[i].bytes, REPAIRS[i].n);
        assert_int_equal(qni_utf8_append_repaired(&out, copy, REPAIRS[i].n, NULL), QN_OK);
        size_t n_expected = strlen(REPAIRS[i].expected);
        if (out.n != n_expected || (out.n && memcmp(out.data, REPAIRS[i].expected, out.n) != 0)) {
            fail_msg("case %zu", i);
        }
        assert_int_equal(qni_utf8_valid_prefix(out.data, out.n), out.n);
        qni_buffer_release(&out);
        free(copy);
    }
}

static void test_every_code_point_survives_writing_and_reading(void **state) {
    (void)state;
    for (uint32_t c = 0; c < QNI_N_CODE_POINTS; c++) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        uint8_t bytes[QNI_UTF8_MAX_BYTES];
        uint32_t back;
        size_t n = qni_utf8_write(c, bytes);
        assert_int_equal(qni_utf8_valid_prefix(bytes, n), n);
        assert_int_equal(qni_utf8_read(bytes, &back), n);
        assert_int_equal(back, c);
    }
}

/* ---- normalisation ---- */

static const struct {
    const char *text, *expected;
} NORMAL_FORMS[] = {
    {"", ""},
    {"plain", "plain"},
    {"\u00e9t\u00e9", "\u00e9t\u00e9"},
    {"e\u0301te\u0301", "\u00e9t\u00e9"},
    {"\u212b", "\u00c5"},              /* a singleton */
    {"a\u0323\u0302", "\u1ead"},       /* two marks, in order */
    {"a\u0302\u0323", "\u1ead"},       /* out of order */
    {"a\u0315\u0300", "\u00e0\u0315"}, /* the later mark is not blocked */
    {"\u1100\u1161\u11a8", "\uac01"},  /* Hangul */
    {"\uac00\u11a8", "\uac01"},
    {"\u0958", "\u0915\u093c"},                       /* excluded from composition */
    {"\u0301x", "\u0301x"},                           /* a mark without a base */
    {"\u4e2d\u0301", "\u4e2d\u0301"},                 /* a base that never composes */
    {"\U00011935\U00011930", "\U00011935\U00011930"}, /* composed by Unicode 13, not by the reference */
    {"a\u08e3\u0898", "a\u08e3\u0898"},               /* U+0898 is younger than Unicode 9: not reordered */
    {"x\U00010d24\u0316", "x\U00010d24\u0316"},
    {"\u0898\u0301\u0316", "\u0898\u0316\u0301"}, /* but the older marks after it are */
};

static void test_normal_forms(void **state) {
    (void)state;
    uint8_t *classes = qni_char_classes_new();
    qni_buffer scratch = {0};
    for (size_t i = 0; i < sizeof NORMAL_FORMS / sizeof NORMAL_FORMS[0]; i++) {
        const uint8_t *out, *text = (const uint8_t *)NORMAL_FORMS[i].text;
        size_t n_out;
        assert_int_equal(qni_nfc(classes, text, strlen(NORMAL_FORMS[i].text), &scratch, &out, &n_out, NULL),
                         QN_OK);
        if (n_out != strlen(NORMAL_FORMS[i].expected) || memcmp(out, NORMAL_FORMS[i].expected, n_out) != 0) {
            fail_msg("case %zu: \"%.*s\"", i, (int)n_out, (const char *)out);
        }
    }
    qni_buffer_release(&scratch);
    free(classes);
}

static void test_later_marks_do_not_move(void **state) {
    (void)state;
    char *path = require_test_data("golden/tokenizer/unicode-reference.json");
    json_t *facts = load_json(path);
    json_t *ranges = json_object_get(facts, "nfc_ccc_zero_in_reference");
    uint8_t *classes = qni_char_classes_new();
    for (size_t i = 0; i < json_array_size(ranges); i++) {
        const json_t *range = json_array_get(ranges, i);
        for (json_int_t c = json_integer_value(json_array_get(range, 0));
             c <= json_integer_value(json_array_get(range, 1)); c++) {
            assert_int_equal(classes[c] & (QNI_NFC_FOLLOWER | QNI_NFC_LEADER), 0);
        }
    }
    free(classes);
    json_decref(facts);
    free(path);
}

/* A megabyte of marks that all have to move: quadratic sorting would take hours. */
static void test_long_runs_of_marks_are_sorted(void **state) {
    enum { N_PAIRS = 250000 };
    (void)state;
    uint8_t *classes = qni_char_classes_new(), *text = malloc(4 * N_PAIRS + 1);
    qni_buffer scratch = {0};
    text[0] = 'x';
    for (size_t i = 0; i < N_PAIRS; i++)
        memcpy(text + 1 + 4 * i, "\u0301\u0316", 4); /* classes 230 and 220 */
    const uint8_t *out;
    size_t n_out;
    assert_int_equal(qni_nfc(classes, text, 4 * N_PAIRS + 1, &scratch, &out, &n_out, NULL), QN_OK);
    assert_int_equal(n_out, 4 * N_PAIRS + 1);
    assert_memory_equal(out + 1, "\u0316", 2);
    assert_memory_equal(out + 1 + 2 * (N_PAIRS - 1), "\u0316\u0301", 4);
    assert_memory_equal(out + n_out - 2, "\u0301", 2);
    qni_buffer_release(&scratch);
    free(text);
    free(classes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_character_sets_are_those_of_the_reference),
        cmocka_unit_test(test_class_table_agrees_with_the_ranges),
        cmocka_unit_test(test_invalid_sequences_are_replaced_as_python_does),
        cmocka_unit_test(test_every_code_point_survives_writing_and_reading),
        cmocka_unit_test(test_normal_forms),
        cmocka_unit_test(test_later_marks_do_not_move),
        cmocka_unit_test(test_long_runs_of_marks_are_sorted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
