#include "quern/base/status.h"
#include "quern/base/version.h"

#include "test_data.h"

#include <errno.h>
#include <string.h>

static void test_fail_fills_the_error_and_returns_the_code(void **state) {
    (void)state;
    qn_error err = {0};
    assert_int_equal(qn_fail(&err, QN_E_SHAPE, "%s: %d rows", "w", 3), QN_E_SHAPE);
    assert_int_equal(err.code, QN_E_SHAPE);
    assert_int_equal(err.sys_errno, 0);
    assert_string_equal(err.message, "w: 3 rows");
    assert_int_equal(qn_fail(NULL, QN_E_VALUE, "nobody listens"), QN_E_VALUE);
}

static void test_fail_errno_appends_the_reason(void **state) {
    (void)state;
    qn_error err = {0};
    errno = ENOSPC;
    assert_int_equal(qn_fail_errno(&err, "%s: cannot write", "out"), QN_E_IO);
    assert_int_equal(err.sys_errno, ENOSPC);
    assert_string_equal(err.message, "out: cannot write: No space left on device");
    assert_int_equal(errno, ENOSPC);
}

static void test_long_messages_are_cut(void **state) {
    (void)state;
    qn_error err = {0};
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    errno = EIO;
    qn_fail_errno(&err, "%s", text);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
}

static void test_a_message_may_quote_the_one_it_replaces(void **state) {
    (void)state;
    qn_error err = {0};
    qn_fail(&err, QN_E_IO, "inner");
    qn_fail(&err, QN_E_IO, "outer: %s", err.message);
    assert_string_equal(err.message, "outer: inner");
}

static void test_names_and_texts(void **state) {
    (void)state;
    assert_string_equal(qn_status_name(QN_OK), "QN_OK");
    assert_string_equal(qn_status_name(QN_E_CANCELLED), "QN_E_CANCELLED");
    assert_string_equal(qn_status_text(QN_E_IO), "operating-system I/O failure");
    assert_string_equal(qn_status_name((qn_status)77), "unknown status");
    assert_string_equal(qn_status_text((qn_status)-77), "unknown status");
    assert_string_equal(qn_version(), QN_VERSION);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_fills_the_error_and_returns_the_code),
        cmocka_unit_test(test_fail_errno_appends_the_reason),
        cmocka_unit_test(test_long_messages_are_cut),
        cmocka_unit_test(test_a_message_may_quote_the_one_it_replaces),
        cmocka_unit_test(test_names_and_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
