/* QN_ISA is honoured or refused, never ignored. The choice is made once a process, so each case is a child.
 */
#include "quern/tensor/isa.h"
#include "test_data.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* In a child with QN_ISA=VALUE (NULL: unset): 0 when it is selected, 1 when refused with a message that names
 * it. */
static int select_in_child(const char *value) {
    const pid_t child = fork();
    if (child == 0) {
        qn_isa isa = QN_ISA_REF;
        qn_error err = {0};
        if (value) {
            setenv("QN_ISA", value, 1);
        } else {
            unsetenv("QN_ISA");
        }
        const qn_status status = qn_isa_select(&isa, &err);
        const qn_status again = qn_isa_select(&isa, NULL);
        if (status != again) _exit(4);
        if (status == QN_OK) _exit(value && strcmp(qn_isa_name(isa), value) != 0 ? 2 : 0);
        _exit(status == QN_E_ARGUMENT && strstr(err.message, "QN_ISA") && strstr(err.message, value) ? 1 : 3);
    }
    int code = 0;
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_true(WIFEXITED(code));
    return WEXITSTATUS(code);
}

static void test_default_is_usable(void **state) {
    (void)state;
    assert_int_equal(select_in_child(NULL), 0);
}

static void test_reference_can_always_be_forced(void **state) {
    (void)state;
    assert_int_equal(select_in_child("ref"), 0);
}

static void test_unknown_names_are_refused(void **state) {
    (void)state;
    assert_int_equal(select_in_child("avx1024"), 1);
    assert_int_equal(select_in_child(""), 1);
    assert_int_equal(select_in_child("AVX2"), 1);
}

static void test_foreign_sets_are_refused(void **state) {
    (void)state;
#if defined(__x86_64__)
    assert_int_equal(select_in_child("neon"), 1);
    assert_int_equal(select_in_child("avx2"),
                     __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 0 : 1);
    assert_int_equal(select_in_child("avx512"), __builtin_cpu_supports("avx512vl") ? 0 : 1);
#else
    assert_int_equal(select_in_child("avx2"), 1);
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_default_is_usable),
        cmocka_unit_test(test_reference_can_always_be_forced),
        cmocka_unit_test(test_unknown_names_are_refused),
        cmocka_unit_test(test_foreign_sets_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
