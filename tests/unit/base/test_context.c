#include "quern/base/context.h"

#include "test_data.h"

#include <stdio.h>
#include <string.h>

typedef struct record {
    qn_progress progress;
    qn_log_level level;
    char message[2048];
    int n_calls;
    bool cancel;
} record;

static void on_progress(void *user, const qn_progress *progress) {
    record *r = user;
    r->progress = *progress;
    r->n_calls++;
}

static void on_log(void *user, qn_log_level level, const char *message) {
    record *r = user;
    r->level = level;
    (void)snprintf(r->message, sizeof r->message, "%s", message);
    r->n_calls++;
}

static bool is_cancelled(void *user) {
    return ((record *)user)->cancel;
}

static void test_a_null_or_zeroed_context_is_silent(void **state) {
    (void)state;
    const qn_context zeroed = {0};
    const qn_context *contexts[] = {NULL, &zeroed};
    for (int i = 0; i < 2; i++) {
        qn_report_progress(contexts[i], "stage", 1, 2);
        qn_log(contexts[i], QN_LOG_INFO, "%d", 1);
        assert_int_equal(qn_check_cancelled(contexts[i], NULL), QN_OK);
        assert_true(qn_context_threads(contexts[i]) >= 1);
    }
}

static void test_callbacks_get_what_is_reported(void **state) {
    (void)state;
    record seen = {0};
    qn_context ctx = {.n_threads = 3, .on_progress = on_progress, .on_log = on_log, .user = &seen};
    assert_int_equal(qn_context_threads(&ctx), 3);
    qn_report_progress(&ctx, "score: layers", 4, 28);
    assert_string_equal(seen.progress.stage, "score: layers");
    assert_int_equal(seen.progress.done, 4);
    assert_int_equal(seen.progress.total, 28);
    qn_log(&ctx, QN_LOG_WARNING, "%s is %d", "x", 5);
    assert_int_equal(seen.level, QN_LOG_WARNING);
    assert_string_equal(seen.message, "x is 5");
    assert_int_equal(seen.n_calls, 2);
}

static void test_long_log_lines_are_cut(void **state) {
    (void)state;
    record seen = {0};
    qn_context ctx = {.on_log = on_log, .user = &seen};
    qn_log(&ctx, QN_LOG_DEBUG, "%5000d", 1);
    assert_true(strlen(seen.message) > 500);
}

static void test_cancelling(void **state) {
    (void)state;
    qn_error err = {0};
    record seen = {0};
    qn_context ctx = {.is_cancelled = is_cancelled, .user = &seen};
    assert_int_equal(qn_check_cancelled(&ctx, &err), QN_OK);
    seen.cancel = true;
    assert_int_equal(qn_check_cancelled(&ctx, &err), QN_E_CANCELLED);
    assert_int_equal(err.code, QN_E_CANCELLED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_null_or_zeroed_context_is_silent),
        cmocka_unit_test(test_callbacks_get_what_is_reported),
        cmocka_unit_test(test_long_log_lines_are_cut),
        cmocka_unit_test(test_cancelling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
