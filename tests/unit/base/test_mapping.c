#include "base/mapping.h"

#include "test_data.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int setup(void **state) {
    *state = make_temporary_folder();
    return 0;
}

static int teardown(void **state) {
    remove_tree(*state);
    free(*state);
    return 0;
}

static void test_a_file_is_mapped(void **state) {
    qn_error err = {0};
    qni_mapping mapping = {0};
    char *path = path_in(*state, "f");
    write_test_file(*state, "f", "content", 7);
    assert_int_equal(qni_mapping_open(path, &mapping, &err), QN_OK);
    assert_int_equal(mapping.n_bytes, 7);
    assert_memory_equal(mapping.data, "content", 7);
    qni_mapping_release(&mapping);
    qni_mapping_release(&mapping);
    assert_null(mapping.data);
    free(path);
}

static void test_an_empty_file_has_no_data(void **state) {
    qn_error err = {0};
    qni_mapping mapping = {.n_bytes = 9};
    char *path = path_in(*state, "empty");
    write_test_file(*state, "empty", "", 0);
    assert_int_equal(qni_mapping_open(path, &mapping, &err), QN_OK);
    assert_null(mapping.data);
    assert_int_equal(mapping.n_bytes, 0);
    qni_mapping_release(&mapping);
    free(path);
}

static void assert_unmappable(const char *path, const char *reason) {
    qn_error err = {0};
    qni_mapping mapping = {.n_bytes = 9};
    assert_int_equal(qni_mapping_open(path, &mapping, &err), QN_E_IO);
    assert_non_null(strstr(err.message, path));
    if (!strstr(err.message, reason)) fail_msg("'%s' lacks '%s'", err.message, reason);
    assert_int_equal(mapping.n_bytes, 9);
}

static void test_anything_else_is_an_error(void **state) {
    char *fifo = path_in(*state, "fifo");
    char *absent = path_in(*state, "absent");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_unmappable(fifo, "special file");
    assert_unmappable(absent, "No such file");
    assert_unmappable(*state, "a folder");
    assert_unmappable("/dev/null", "special file");
    free(fifo);
    free(absent);
}

/* What is forgotten is read again, whole pages or not. */
static void test_forgotten_pages_come_back(void **state) {
    enum { N = 3 * 65536 + 77 };
    qn_error err = {0};
    qni_mapping mapping = {0};
    uint8_t *bytes = malloc(N);
    char *path = path_in(*state, "pages");
    for (int i = 0; i < N; i++) bytes[i] = (uint8_t)(i * 7 + i / 251);
    write_test_file(*state, "pages", bytes, N);
    assert_int_equal(qni_mapping_open(path, &mapping, &err), QN_OK);
    assert_memory_equal(mapping.data, bytes, N);
    qni_mapping_forget(mapping.data, 0);
    qni_mapping_forget(mapping.data + 4097, 65537);
    qni_mapping_forget(mapping.data + N - 1, 1);
    assert_memory_equal(mapping.data, bytes, N);
    qni_mapping_forget(mapping.data, N);
    assert_memory_equal(mapping.data, bytes, N);
    qni_mapping_release(&mapping);
    free(bytes);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_file_is_mapped),
        cmocka_unit_test(test_an_empty_file_has_no_data),
        cmocka_unit_test(test_anything_else_is_an_error),
        cmocka_unit_test(test_forgotten_pages_come_back),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
