#include "quern/base/store.h"

#include "test_data.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state) {
    *state = make_temporary_folder();
    return 0;
}

static int teardown(void **state) {
    remove_tree(*state);
    free(*state);
    return 0;
}

static void put(const char *folder, const char *name, const char *text) {
    write_test_file(folder, name, text, strlen(text));
}

static qn_store *open_store(const char *path) {
    qn_error err = {0};
    qn_store *store = NULL;
    if (qn_store_open(path, &store, &err) != QN_OK) fail_msg("%s", err.message);
    return store;
}

static void assert_member(qn_store *store, const char *name, const char *text) {
    qn_error err = {0};
    const uint8_t *data = NULL, *again = NULL;
    size_t n = 0, index = 0;
    if (qn_store_map(store, name, &data, &n, &err) != QN_OK) fail_msg("%s", err.message);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(data, text, n);
    assert_int_equal(qn_store_map(store, name, &again, &n, &err), QN_OK);
    assert_ptr_equal(data, again);
    assert_true(qn_store_find(store, name, &index));
    assert_string_equal(qn_store_name(store, index), name);
    assert_int_equal(qn_store_member_bytes(store, index), n);
}

static void test_members_are_sorted_and_counted(void **state) {
    put(*state, "model.safetensors", "weights");
    put(*state, "config.json", "{}");
    put(*state, "sub/deep/x.txt", "deep");
    put(*state, ".hidden", "h");
    qn_store *store = open_store(*state);
    assert_false(qn_store_is_archive(store));
    assert_string_equal(qn_store_path(store), *state);
    assert_int_equal(qn_store_count(store), 4);
    assert_string_equal(qn_store_name(store, 0), ".hidden");
    assert_string_equal(qn_store_name(store, 1), "config.json");
    assert_string_equal(qn_store_name(store, 2), "model.safetensors");
    assert_string_equal(qn_store_name(store, 3), "sub/deep/x.txt");
    assert_int_equal(qn_store_total_bytes(store), 7 + 2 + 4 + 1);
    assert_false(qn_store_has_symlink(store, NULL));
    assert_member(store, "model.safetensors", "weights");
    assert_member(store, "sub/deep/x.txt", "deep");
    qn_store_close(store);
    qn_store_close(NULL);
}

static void test_absent_members_are_named(void **state) {
    qn_error err = {0};
    const uint8_t *data = NULL;
    size_t n = 5;
    put(*state, "config.json", "{}");
    qn_store *store = open_store(*state);
    assert_int_equal(qn_store_map(store, "model.safetensors", &data, &n, &err), QN_E_IO);
    assert_non_null(strstr(err.message, "model.safetensors"));
    assert_non_null(strstr(err.message, *state));
    assert_false(qn_store_find(store, "config.jso", &n));
    assert_false(qn_store_find(store, "config.json ", NULL));
    assert_int_equal(n, 5);
    qn_store_close(store);
}

static void test_the_root_is_the_first_folder_with_a_config(void **state) {
    put(*state, "readme", "top");
    put(*state, "a-b/config.json", "second");
    put(*state, "a/inner/config.json", "first");
    put(*state, "a/inner/w", "w");
    put(*state, "b/config.json", "third");
    qn_store *store = open_store(*state);
    /* "a" comes before "a-b" as a folder name, though "a-b/" sorts before "a/" as text. */
    assert_int_equal(qn_store_count(store), 2);
    assert_member(store, "config.json", "first");
    assert_member(store, "w", "w");
    assert_int_equal(qn_store_total_bytes(store), 3 + 6 + 5 + 1 + 5);
    qn_store_close(store);

    put(*state, "a/config.json", "shallower");
    store = open_store(*state);
    assert_member(store, "config.json", "shallower");
    assert_member(store, "inner/w", "w");
    qn_store_close(store);

    put(*state, "config.json", "top");
    store = open_store(*state);
    assert_int_equal(qn_store_count(store), 7);
    assert_member(store, "config.json", "top");
    qn_store_close(store);
}

static void test_a_store_without_config_keeps_its_top(void **state) {
    put(*state, "x/y", "1");
    put(*state, "x/config.json.bak", "2");
    qn_store *store = open_store(*state);
    assert_int_equal(qn_store_count(store), 2);
    assert_string_equal(qn_store_name(store, 1), "x/y");
    qn_store_close(store);
}

static void test_links_are_followed_to_files_and_told(void **state) {
    const char *link = NULL;
    char *model = path_in(*state, "model"), *linked = path_in(*state, "model/w");
    char *loop = path_in(*state, "model/loop"), *dead = path_in(*state, "model/dead");
    put(*state, "blobs/1", "blob");
    put(*state, "model/config.json", "{}");
    assert_int_equal(symlink("../blobs/1", linked), 0);
    qn_store *store = open_store(model);
    assert_true(qn_store_has_symlink(store, &link));
    assert_string_equal(link, "w");
    assert_true(qn_store_has_symlink(store, NULL));
    assert_member(store, "w", "blob");
    assert_int_equal(qn_store_total_bytes(store), 6);
    qn_store_close(store);

    assert_int_equal(unlink(linked), 0);
    assert_int_equal(symlink("..", loop), 0);
    assert_int_equal(symlink("nowhere", dead), 0);
    store = open_store(model);
    assert_true(qn_store_has_symlink(store, &link));
    assert_int_equal(qn_store_count(store), 1);
    qn_store_close(store);
    free(model);
    free(linked);
    free(loop);
    free(dead);
}

static void test_a_fifo_is_a_member_that_cannot_be_mapped(void **state) {
    qn_error err = {0};
    const uint8_t *data = NULL;
    size_t n = 0;
    char *fifo = path_in(*state, "pipe");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    qn_store *store = open_store(*state);
    assert_int_equal(qn_store_count(store), 1);
    assert_int_equal(qn_store_map(store, "pipe", &data, &n, &err), QN_E_IO);
    assert_non_null(strstr(err.message, "special file"));
    qn_store_close(store);
    free(fifo);
}

static void test_what_is_no_store_is_refused(void **state) {
    qn_error err = {0};
    qn_store *store = NULL;
    char *text = path_in(*state, "text"), *absent = path_in(*state, "absent");
    put(*state, "text", "this is no archive, but it is long enough to be looked at");
    assert_int_equal(qn_store_open(absent, &store, &err), QN_E_IO);
    assert_int_equal(qn_store_open("/dev/null", &store, &err), QN_E_IO);
    assert_int_equal(qn_store_open(text, &store, &err), QN_E_FORMAT);
    assert_non_null(strstr(err.message, text));
    assert_non_null(strstr(err.message, "zip"));
    assert_null(store);
    free(text);
    free(absent);
}

static void test_endless_nesting_is_refused(void **state) {
    qn_error err = {0};
    qn_store *store = NULL;
    char name[400] = "";
    for (size_t i = 0; i < 100; i++) memcpy(name + 2 * i, "d/", 3);
    memcpy(name + 200, "f", 2);
    put(*state, name, "x");
    assert_int_equal(qn_store_open(*state, &store, &err), QN_E_UNSUPPORTED);
    assert_null(store);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_members_are_sorted_and_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_absent_members_are_named, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_root_is_the_first_folder_with_a_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_store_without_config_keeps_its_top, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links_are_followed_to_files_and_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_fifo_is_a_member_that_cannot_be_mapped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_store_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_endless_nesting_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
