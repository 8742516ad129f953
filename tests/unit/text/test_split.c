/* Pre-tokenisation: the matcher by hand against PCRE2, and what expressions may hold. */
#include "quern/base/rng.h"
#include "text/char_class.h"
#include "text/split.h"
#include "text/utf8.h"

#include "test_data.h"

#include <stdlib.h>
#include <string.h>

static uint8_t *classes;

static int make_classes(void **state) {
    (void)state;
    classes = qni_char_classes_new();
    return classes ? 0 : -1;
}

static int free_classes(void **state) {
    (void)state;
    free(classes);
    return 0;
}

static void open_splitter(qni_splitter *splitter, const char *expression, bool by_hand) {
    qn_error err = {0};
    if (qni_splitter_init(splitter, classes, expression, by_hand, "test", &err) != QN_OK)
        fail_msg("%s", err.message);
}

static size_t next_end(qni_split *split, size_t first) {
    qn_error err = {0};
    size_t end = first;
    if (qni_split_next(split, first, &end, &err) != QN_OK) fail_msg("%s", err.message);
    assert_true(end > first && end <= split->n_bytes);
    return end;
}

/* Checks the pieces of TEXT, joined by '|', and that PCRE2 gives the same. */
static void check_pieces(const char *expression, const char *text, const char *expected) {
    for (int by_hand = 0; by_hand < 2; by_hand++) {
        qni_splitter splitter;
        qni_split split = {0};
        qni_buffer got = {0};
        open_splitter(&splitter, expression, by_hand);
        assert_int_equal(qni_split_start(&split, &splitter, (const uint8_t *)text, strlen(text), NULL),
                         QN_OK);
        for (size_t first = 0, end; first < strlen(text); first = end) {
            end = next_end(&split, first);
            if (first > 0) assert_int_equal(qni_buffer_append(&got, "|", 1, NULL), QN_OK);
            assert_int_equal(qni_buffer_append(&got, text + first, end - first, NULL), QN_OK);
        }
        assert_int_equal(qni_buffer_append(&got, "", 1, NULL), QN_OK);
        assert_string_equal((const char *)got.data, expected);
        qni_buffer_release(&got);
        qni_split_release(&split);
        qni_splitter_release(&splitter);
    }
}

static void test_pieces_of_qwen2(void **state) {
    (void)state;
    const char *e = QNI_QWEN2_EXPRESSION;
    check_pieces(e, "Hello, world!  It's  3x42\n\n ok ", "Hello|,| world|!| | It|'s| | |3|x|4|2|\n\n| ok| ");
    check_pieces(e, "I'LL we'Ve a'd'x 'T", "I|'LL| we|'Ve| a|'d|'x| '|T");
    check_pieces(e, "it'\u017fx", "it|'\u017f|x"); /* the long s folds to s */
    check_pieces(e, "a  \r\n \t b", "a|  \r\n| \t| b");
    check_pieces(e, "e\u0301t", "e|\u0301t"); /* a mark is no letter, but may lead letters */
    check_pieces(e, "\u3000\u3000x", "\u3000|\u3000x");
    check_pieces(e, "...\r\n\r\nx", "...\r\n\r\n|x");
    check_pieces(e, " ", " ");
    check_pieces(e, "'", "'");
    check_pieces(e, "'r", "'r");
}

static void test_pieces_of_qwen3_5(void **state) {
    (void)state;
    const char *e = QNI_QWEN3_5_EXPRESSION;
    check_pieces(e, "e\u0301t\u00e9", "e\u0301t\u00e9");
    check_pieces(e, " \u0301", " \u0301");
    check_pieces(e, "1\u0301!", "1|\u0301|!");
}

static void test_pieces_of_other_expressions(void **state) {
    (void)state;
    check_pieces(QNI_GPT2_EXPRESSION, "It's 1234 a_b  c", "It|'s| 1234| a|_|b| | c");
    check_pieces("\\p{N}{1,3}", "1234567abc8",
                 "123|456|7|abc|8"); /* what lies between matches is a piece too */
    check_pieces("[a-c\\-]+|\\S", "ab-\u4e2dd e", "ab-|\u4e2d|d| |e");
    check_pieces(NULL, "one piece", "one piece");
}

static void test_expressions_that_could_differ_are_refused(void **state) {
    static const struct {
        const char *expression, *message;
    } cases[] = {
        {"\\d+", "\\d"},
        {"\\w", "\\w"},
        {"\\bx", "\\b"},
        {"\\p{Lu}", "\\p{Lu}"},
        {"\\pL", "\\p"},
        {"\\p{L", "\\p"},
        {"a.b", "."},
        {"^a", "^"},
        {"a$", "$"},
        {"(?<=a)b", "(?<="},
        {"(?P<x>a)", "(?P"},
        {"(?>a)", "(?>"},
        {"(*UCP)a", "(*"},
        {"[[:alpha:]]", "["},
        {"[a&&b]", "&&"},
        {"[^\\S]", "\\S"},
        {"[\\P{L}]", "\\P{L}"},
        {"[]a]", "]"},
        {"[abc", "[ without ]"},
        {"(?i:[a])", "[ within"},
        {"(?i:\\p{L})", "\\p{L}"},
        {"(?i:\u00e9)", "(?i"},
        {"a{,3}", "{"},
        {"a{1,3}+", "}+"},
        {"\\x41", "\\x"},
        {"\\", "\\"},
        {"(?i:a(?:b[c]))", "[ wi"},
        {"\\1", "\\1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qni_splitter splitter = {0};
        qn_error err = {0};
        qn_status status = qni_splitter_init(&splitter, classes, cases[i].expression, true, "file", &err);
        if (status != QN_E_UNSUPPORTED || !strstr(err.message, cases[i].message)) {
            fail_msg("%s: %s, \"%s\"", cases[i].expression, qn_status_name(status), err.message);
        }
        assert_null(splitter.expression);
    }
}

/* ---- the two engines on random text ---- */

enum { N_TEXTS = 6000, MAX_CHARACTERS = 40 };

/* Characters where the alternatives part: contractions, spaces, line ends, marks, digits, the far planes. */
static uint32_t random_character(qn_rng *rng) {
    static const uint32_t special[] = {'\'',   '\'',  's',   'S',   't',    'R',    'e',     'V',    'l',
                                       'L',    'm',   'd',   0x17F, 0x212A, ' ',    ' ',     ' ',    '\t',
                                       '\n',   '\r',  0x0B,  0x85,  0xA0,   0x2003, 0x2028,  0x3000, 0x200B,
                                       0xFEFF, 0x301, 0x316, 0x93F, 0x20DD, '0',    '9',     0x663,  0x2167,
                                       0xBD,   '!',   '_',   '-',   0xAA,   0x4E2D, 0x1F600, 0xE0100};
    const uint64_t n_special = sizeof special / sizeof special[0];
    uint64_t kind = qn_rng_interval(rng, 9);
    if (kind < 5) return special[qn_rng_interval(rng, n_special - 1)];
    if (kind < 7) return (uint32_t)qn_rng_interval(rng, 0x7F);
    uint64_t last = kind < 8 ? 0x2FFF : kind < 9 ? 0x1FFFF : QNI_N_CODE_POINTS - 1;
    uint32_t c = (uint32_t)qn_rng_interval(rng, last);
    return c >= 0xD800 && c <= 0xDFFF ? 'x' : c;
}

static size_t random_text(qn_rng *rng, uint8_t *text) {
    size_t n = 0, n_characters = (size_t)qn_rng_interval(rng, MAX_CHARACTERS);
    for (size_t i = 0; i < n_characters; i++) n += qni_utf8_write(random_character(rng), text + n);
    return n;
}

static void compare_engines(const char *expression, uint64_t seed) {
    qni_splitter by_hand, by_pcre2;
    qni_split a = {0}, b = {0};
    qn_rng rng;
    qn_rng_seed(&rng, seed);
    open_splitter(&by_hand, expression, true);
    open_splitter(&by_pcre2, expression, false);
    assert_true(by_hand.letter_flags != 0);
    assert_non_null(by_pcre2.expression);
    for (int t = 0; t < N_TEXTS; t++) {
        uint8_t buffer[MAX_CHARACTERS * QNI_UTF8_MAX_BYTES];
        size_t n = random_text(&rng, buffer);
        uint8_t *text = malloc(n + 1); /* exact, so that the sanitizer sees reads past the end */
        memcpy(text, buffer, n);
        assert_int_equal(qni_split_start(&a, &by_hand, text, n, NULL), QN_OK);
        assert_int_equal(qni_split_start(&b, &by_pcre2, text, n, NULL), QN_OK);
        for (size_t first = 0, end; first < n; first = end) {
            end = next_end(&a, first);
            if (next_end(&b, first) != end)
                fail_msg("seed %llu, text %d, byte %zu", (unsigned long long)seed, t, first);
        }
        free(text);
    }
    qni_split_release(&a);
    qni_split_release(&b);
    qni_splitter_release(&by_hand);
    qni_splitter_release(&by_pcre2);
}

static void test_matcher_by_hand_agrees_with_pcre2(void **state) {
    (void)state;
    compare_engines(QNI_QWEN2_EXPRESSION, 20260101);
    compare_engines(QNI_QWEN3_5_EXPRESSION, 20260102);
}

/* Every code point alone and between letters: the class of each is seen by both engines. */
static void test_engines_agree_on_every_code_point(void **state) {
    static const char *const expressions[] = {QNI_QWEN2_EXPRESSION, QNI_QWEN3_5_EXPRESSION};
    (void)state;
    for (size_t e = 0; e < 2; e++) {
        qni_splitter by_hand, by_pcre2;
        qni_split a = {0}, b = {0};
        open_splitter(&by_hand, expressions[e], true);
        open_splitter(&by_pcre2, expressions[e], false);
        for (uint32_t c = 0; c < 0x32000; c++) {
            if (c >= 0xD800 && c <= 0xDFFF) continue;
            uint8_t text[2 + QNI_UTF8_MAX_BYTES] = {'a'};
            size_t n = 1 + qni_utf8_write(c, text + 1);
            text[n++] = '1';
            assert_int_equal(qni_split_start(&a, &by_hand, text, n, NULL), QN_OK);
            assert_int_equal(qni_split_start(&b, &by_pcre2, text, n, NULL), QN_OK);
            for (size_t first = 0, end; first < n; first = end) {
                end = next_end(&a, first);
                if (next_end(&b, first) != end) fail_msg("U+%04X", c);
            }
        }
        qni_split_release(&a);
        qni_split_release(&b);
        qni_splitter_release(&by_hand);
        qni_splitter_release(&by_pcre2);
    }
}

/* Long runs of one kind: no engine may give up or slow down. */
static void test_long_runs_are_one_piece(void **state) {
    enum { N = 1 << 20 };
    static const char kinds[] = {'a', ' ', '!', '\n'};
    (void)state;
    uint8_t *text = malloc(N);
    for (size_t k = 0; k < sizeof kinds; k++) {
        memset(text, kinds[k], N);
        for (int by_hand = 0; by_hand < 2; by_hand++) {
            qni_splitter splitter;
            qni_split split = {0};
            open_splitter(&splitter, QNI_QWEN2_EXPRESSION, by_hand);
            assert_int_equal(qni_split_start(&split, &splitter, text, N, NULL), QN_OK);
            assert_int_equal(next_end(&split, 0), N);
            qni_split_release(&split);
            qni_splitter_release(&splitter);
        }
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_of_qwen2),
        cmocka_unit_test(test_pieces_of_qwen3_5),
        cmocka_unit_test(test_pieces_of_other_expressions),
        cmocka_unit_test(test_expressions_that_could_differ_are_refused),
        cmocka_unit_test(test_matcher_by_hand_agrees_with_pcre2),
        cmocka_unit_test(test_engines_agree_on_every_code_point),
        cmocka_unit_test(test_long_runs_are_one_piece),
    };
    return cmocka_run_group_tests(tests, make_classes, free_classes);
}
