/* The leak check finds a planted passage where it is, and nothing where nothing is. */
#include "quern/text/leak_check.h"

#include "expect_error.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TEXTS = 40, N = QN_LEAK_NGRAM };

static const char k_passage[] = "the quick brown fox jumps over the lazy dog";

/* Text of LENGTH letters that repeats no N letters of another seed: drawn from an alphabet of 26. */
static char *random_text(uint64_t seed, size_t length) {
    char *text = malloc(length + 1);
    for (size_t i = 0; i < length; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        text[i] = (char)('a' + (seed >> 33) % 26);
    }
    text[length] = 0;
    return text;
}

typedef struct text_set {
    qn_document items[MAX_TEXTS];
    char *owned[MAX_TEXTS];
    qn_documents documents;
} text_set;

static void add_text(text_set *set, char *text) {
    const int64_t i = set->documents.n++;
    set->owned[i] = text;
    set->items[i] = (qn_document){text, strlen(text)};
    set->documents.documents = set->items;
}

static void add_copy(text_set *set, const char *text) {
    add_text(set, strcpy(malloc(strlen(text) + 1), text));
}

/* BEFORE and AFTER letters around the passage. */
static void add_planted(text_set *set, uint64_t seed, size_t before, size_t after) {
    char *head = random_text(seed, before), *tail = random_text(seed + 1, after);
    char *text = malloc(before + after + sizeof k_passage);
    strcat(strcat(strcpy(text, head), k_passage), tail);
    add_text(set, text);
    free(head);
    free(tail);
}

static void clear(text_set *set) {
    for (int64_t i = 0; i < set->documents.n; i++) free(set->owned[i]);
    *set = (text_set){0};
}

static qn_leak_report check(const text_set *calibration, const text_set *evaluation) {
    qn_tokenizer *tokenizer = NULL;
    qn_leak_report report = {0};
    assert_ok(qn_tokenizer_open("byte", &tokenizer, err));
    assert_ok(qn_leak_check(&calibration->documents, &evaluation->documents, tokenizer, N, &report, err));
    qn_tokenizer_free(tokenizer);
    return report;
}

static void test_a_planted_passage_is_found(void **state) {
    (void)state;
    text_set calibration = {0}, evaluation = {0};
    for (uint64_t i = 0; i < 5; i++) add_text(&calibration, random_text(i, 700));
    add_planted(&calibration, 50, 300, 200);
    for (uint64_t i = 0; i < 3; i++) add_text(&evaluation, random_text(100 + i, 500));
    add_planted(&evaluation, 150, 90, 400);
    const qn_leak_report r = check(&calibration, &evaluation);
    const int64_t inside = (int64_t)sizeof k_passage - N;
    assert_int_equal(r.n_documents, 4);
    assert_int_equal(r.n_documents_found, 1);
    assert_int_equal(r.n_documents_leaked, 0);
    assert_int_equal(r.n_found, inside);
    assert_int_equal(r.n_ngrams, 3 * (500 - N + 1) + (90 + 400 + (int64_t)sizeof k_passage - 1 - N + 1));
    assert_true(r.share == (double)r.n_found / (double)r.n_ngrams);
    assert_int_equal(r.worst_document, 3);
    assert_string_equal(r.example, k_passage);
    clear(&calibration);
    clear(&evaluation);
}

static void test_its_absence_is_too(void **state) {
    (void)state;
    text_set calibration = {0}, evaluation = {0};
    for (uint64_t i = 0; i < 5; i++) add_text(&calibration, random_text(i, 700));
    add_planted(&evaluation, 150, 90, 400);
    const qn_leak_report r = check(&calibration, &evaluation);
    assert_int_equal(r.n_found, 0);
    assert_int_equal(r.worst_document, -1);
    assert_string_equal(r.example, "");
    assert_ok(qn_leak_judge(&r, false, NULL, err));
    clear(&calibration);
    clear(&evaluation);
}

static void test_ngrams_end_with_their_document(void **state) {
    (void)state;
    text_set calibration = {0}, evaluation = {0};
    add_copy(&calibration, "the quick br");
    add_copy(&calibration, "own fox jump");
    add_copy(&evaluation, "the quick brown fox jump");
    assert_int_equal(check(&calibration, &evaluation).n_found, 0);
    clear(&calibration);
    clear(&evaluation);
}

/* Documents shorter than n are searched whole, the shortest not at all. */
static void test_short_documents(void **state) {
    (void)state;
    text_set calibration = {0}, evaluation = {0};
    add_planted(&calibration, 1, 30, 30);
    add_copy(&evaluation, "brown fox");   /* 9, there */
    add_copy(&evaluation, "brown fix");   /* 9, not there */
    add_copy(&evaluation, "over the la"); /* 11, there */
    add_copy(&evaluation, "the quic");    /* 8, there */
    add_copy(&evaluation, "the qui");     /* 7 */
    add_copy(&evaluation, "");
    const qn_leak_report r = check(&calibration, &evaluation);
    assert_int_equal(r.n_documents, 4);
    assert_int_equal(r.n_documents_left, 2);
    assert_int_equal(r.n_documents_leaked, 3);
    assert_int_equal(r.n_ngrams, 4);
    assert_int_equal(r.n_found, 3);
    clear(&calibration);
    clear(&evaluation);
}

/* Against a search by hand, with a small alphabet so that n-grams repeat on both sides. */
static void test_counts_are_those_of_a_plain_search(void **state) {
    (void)state;
    text_set calibration = {0}, evaluation = {0};
    int64_t found = 0;
    for (uint64_t i = 0; i < 6; i++) {
        add_text(&calibration, random_text(i, 900));
        add_text(&evaluation, random_text(60 + i, 300));
    }
    for (int64_t d = 0; d < 6; d++) {
        for (char *c = calibration.owned[d]; *c; c++) *c = "ab"[*c % 2];
        for (char *c = evaluation.owned[d]; *c; c++) *c = "ab"[*c % 2];
    }
    for (int64_t d = 0; d < 6; d++) {
        for (size_t at = 0; at + N <= evaluation.items[d].n_bytes; at++) {
            char ngram[N + 1] = {0};
            bool there = false;
            memcpy(ngram, evaluation.owned[d] + at, N);
            for (int64_t c = 0; c < 6; c++) there = there || strstr(calibration.owned[c], ngram);
            found += there;
        }
    }
    assert_true(found > 100 && found < 6 * 288);
    assert_int_equal(check(&calibration, &evaluation).n_found, found);
    clear(&calibration);
    clear(&evaluation);
}

/* ---- the verdict ---- */

static void count_warning(void *user, qn_log_level level, const char *message) {
    assert_int_equal(level, QN_LOG_WARNING);
    assert_non_null(strstr(message, "calibration text"));
    ++*(int *)user;
}

static void test_the_verdict(void **state) {
    (void)state;
    int warnings = 0;
    const qn_context ctx = {.on_log = count_warning, .user = &warnings};
    qn_leak_report r = {.n = N, .n_documents = 100, .share = 0.005, .worst_share = 0.1, .example = "abc"};
    assert_ok(qn_leak_judge(&r, false, &ctx, err));
    assert_int_equal(warnings, 0);
    r.share = 0.02;
    assert_ok(qn_leak_judge(&r, false, &ctx, err));
    assert_int_equal(warnings, 1);
    r.share = 0.0;
    r.n_documents_leaked = 1;
    assert_ok(qn_leak_judge(&r, false, &ctx, err));
    assert_int_equal(warnings, 2);
    r.n_documents_leaked = 6;
    assert_error(qn_leak_judge(&r, false, &ctx, err), QN_E_REJECTED, "6 of 100 documents|'abc'|--allow-leak");
    r.n_documents_leaked = 0;
    r.share = 0.06;
    assert_error(qn_leak_judge(&r, false, &ctx, err), QN_E_REJECTED, "6.00 %|13-grams");
    assert_int_equal(warnings, 2);
    assert_ok(qn_leak_judge(&r, true, &ctx, err));
    assert_int_equal(warnings, 3);
}

static void test_bad_arguments_and_empty_sets(void **state) {
    (void)state;
    const text_set none = {0};
    qn_leak_report r = check(&none, &none);
    assert_int_equal(r.n_ngrams, 0);
    assert_true(r.share == 0.0);
    assert_error(qn_leak_check(&none.documents, &none.documents, NULL, 7, &r, err), QN_E_ARGUMENT,
                 "7-grams|8");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_planted_passage_is_found),         cmocka_unit_test(test_its_absence_is_too),
        cmocka_unit_test(test_ngrams_end_with_their_document),     cmocka_unit_test(test_short_documents),
        cmocka_unit_test(test_counts_are_those_of_a_plain_search), cmocka_unit_test(test_the_verdict),
        cmocka_unit_test(test_bad_arguments_and_empty_sets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
