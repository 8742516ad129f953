#include "base/memory.h"

#include "test_data.h"

#include <unistd.h>

static void test_some_memory_is_available_and_no_more_than_there_is(void **state) {
    (void)state;
    const int64_t all = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    const int64_t available = qni_available_bytes();
    assert_true(available > INT64_C(1) << 20); /* this test runs, after all */
    assert_true(available <= all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_some_memory_is_available_and_no_more_than_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
