#include "quern/fit/schedule.h"

#include "expect_error.h"

#include <math.h>

static void assert_close(double got, double expected) {
    if (fabs(got - expected) > 1e-15) fail_msg("%.17g, expected %.17g", got, expected);
}

static void test_warmup_then_cosine_to_the_last_step(void **state) {
    const qn_schedule s = {QN_SCHEDULE_COSINE, 0.4, 0.1, 4, 13};
    (void)state;
    assert_ok(qn_schedule_check(&s, err));
    for (int step = 0; step < 4; step++) assert_close(qn_schedule_rate(&s, step), 0.1 * (step + 1));
    assert_close(qn_schedule_rate(&s, 4), 0.4);
    assert_close(qn_schedule_rate(&s, 8), 0.4 * 0.55); /* half way: the mean of peak and last */
    assert_close(qn_schedule_rate(&s, 12), 0.04);
    for (int step = 5; step < 13; step++)
        assert_true(qn_schedule_rate(&s, step) < qn_schedule_rate(&s, step - 1));
}

static void test_constant_after_warmup(void **state) {
    const qn_schedule s = {QN_SCHEDULE_CONSTANT, 0.5, 0.1, 2, 100};
    (void)state;
    assert_close(qn_schedule_rate(&s, 0), 0.25);
    for (int step = 1; step < 100; step++) assert_close(qn_schedule_rate(&s, step), 0.5);
}

static void test_short_runs(void **state) {
    const qn_schedule one = {QN_SCHEDULE_COSINE, 0.5, 0.1, 0, 1};
    const qn_schedule warm = {QN_SCHEDULE_COSINE, 0.5, 0.1, 3, 3};
    const qn_schedule last = {QN_SCHEDULE_COSINE, 0.5, 0.1, 2, 3};
    (void)state;
    assert_close(qn_schedule_rate(&one, 0), 0.05);
    assert_close(qn_schedule_rate(&warm, 2), 0.5);
    assert_close(qn_schedule_rate(&last, 2), 0.05);
}

static void test_names(void **state) {
    qn_schedule_kind kind = QN_SCHEDULE_CONSTANT;
    (void)state;
    assert_ok(qn_schedule_from_name("cosine", &kind, err));
    assert_int_equal(kind, QN_SCHEDULE_COSINE);
    assert_string_equal(qn_schedule_name(kind), "cosine");
    assert_string_equal(qn_schedule_name(QN_SCHEDULE_CONSTANT), "constant");
    assert_error(qn_schedule_from_name("linear", &kind, err), QN_E_ARGUMENT, "'linear'|constant or cosine");
    assert_int_equal(kind, QN_SCHEDULE_COSINE);
}

static void test_nonsense_is_refused(void **state) {
    const qn_schedule good = {QN_SCHEDULE_COSINE, 0.5, 0.1, 2, 10};
    qn_schedule s = good;
    (void)state;
    s.peak = 0;
    assert_error(qn_schedule_check(&s, err), QN_E_ARGUMENT, "learning rate 0");
    s.peak = (double)NAN;
    assert_error(qn_schedule_check(&s, err), QN_E_ARGUMENT, "learning rate");
    s = good;
    s.min_ratio = 1.5;
    assert_error(qn_schedule_check(&s, err), QN_E_ARGUMENT, "1.5");
    s = good;
    s.warmup_steps = 11;
    assert_error(qn_schedule_check(&s, err), QN_E_ARGUMENT, "11 steps of warm-up out of 10");
    s = good;
    s.total_steps = 0;
    s.warmup_steps = 0;
    assert_error(qn_schedule_check(&s, err), QN_E_ARGUMENT, "out of 0");
    s = good;
    s.kind = (qn_schedule_kind)7;
    assert_error(qn_schedule_check(&s, err), QN_E_ARGUMENT, "kind 7");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_warmup_then_cosine_to_the_last_step),
        cmocka_unit_test(test_constant_after_warmup),
        cmocka_unit_test(test_short_runs),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_nonsense_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
