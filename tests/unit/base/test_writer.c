#include "base/aside.h"
#include "quern/base/writer.h"

#include "test_data.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BIG_BYTES = 3 << 20 };

static int setup(void **state) {
    *state = make_temporary_folder();
    return 0;
}

static int teardown(void **state) {
    remove_tree(*state);
    free(*state);
    return 0;
}

static void assert_content(const char *path, const char *expected) {
    char *text = load_file(path, NULL);
    assert_string_equal(text, expected);
    free(text);
}

static void test_nothing_stands_before_commit(void **state) {
    qn_error err = {0};
    qn_writer *writer = NULL;
    char hex[QN_SHA256_HEX], expected[QN_SHA256_HEX];
    char *path = path_in(*state, "out");
    assert_int_equal(qn_writer_open(path, &writer, &err), QN_OK);
    assert_int_equal(qn_writer_write(writer, "ab", 2, &err), QN_OK);
    assert_int_equal(qn_writer_write(writer, NULL, 0, &err), QN_OK);
    assert_int_equal(qn_writer_write(writer, "c", 1, &err), QN_OK);
    assert_int_equal(qn_writer_bytes(writer), 3);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(qn_writer_commit(writer, hex, &err), QN_OK);
    assert_content(path, "abc");
    assert_int_equal(qn_sha256_of_memory("abc", 3, expected, &err), QN_OK);
    assert_string_equal(hex, expected);
    assert_int_equal(count_entries(*state), 1);
    free(path);
}

static void test_abandon_keeps_the_old_file(void **state) {
    qn_error err = {0};
    qn_writer *writer = NULL;
    char *path = path_in(*state, "out");
    assert_int_equal(qn_write_file(path, "old", 3, &err), QN_OK);
    assert_int_equal(qn_writer_open(path, &writer, &err), QN_OK);
    assert_int_equal(qn_writer_write(writer, "new", 3, &err), QN_OK);
    qn_writer_abandon(writer);
    qn_writer_abandon(NULL);
    assert_content(path, "old");
    assert_int_equal(count_entries(*state), 1);
    assert_int_equal(qn_write_file(path, "newer", 5, &err), QN_OK);
    assert_content(path, "newer");
    free(path);
}

static void test_pieces_of_every_size_arrive(void **state) {
    qn_error err = {0};
    qn_writer *writer = NULL;
    size_t n_read, written = 0;
    char hex[QN_SHA256_HEX], file_hex[QN_SHA256_HEX];
    char *path = path_in(*state, "big");
    uint8_t *data = malloc(BIG_BYTES);
    assert_non_null(data);
    for (size_t i = 0; i < BIG_BYTES; i++) data[i] = (uint8_t)(i * 2654435761u >> 13);
    assert_int_equal(qn_writer_open(path, &writer, &err), QN_OK);
    for (size_t piece = 1; written < BIG_BYTES; piece = piece * 7 + 3) {
        size_t n = piece < BIG_BYTES - written ? piece : BIG_BYTES - written;
        assert_int_equal(qn_writer_write(writer, data + written, n, &err), QN_OK);
        written += n;
    }
    assert_int_equal(qn_writer_commit(writer, hex, &err), QN_OK);
    char *back = load_file(path, &n_read);
    assert_int_equal(n_read, BIG_BYTES);
    assert_memory_equal(back, data, BIG_BYTES);
    assert_int_equal(qn_sha256_of_file(path, file_hex, NULL, &err), QN_OK);
    assert_string_equal(hex, file_hex);
    free(back);
    free(data);
    free(path);
}

static void test_mode_follows_the_umask(void **state) {
    struct stat info;
    char *path = path_in(*state, "mode"), *folder = path_in(*state, "dir"), *temporary = NULL;
    mode_t old = umask(027);
    assert_int_equal(qn_write_file(path, "x", 1, NULL), QN_OK);
    assert_int_equal(qn_folder_begin(folder, &temporary, NULL), QN_OK);
    umask(old);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0640);
    assert_int_equal(stat(temporary, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0750);
    qn_folder_abandon(temporary);
    free(temporary);
    free(folder);
    free(path);
}

static void assert_cannot_open(const char *path, const char *reason) {
    qn_error err = {0};
    qn_writer *writer = NULL;
    assert_int_equal(qn_writer_open(path, &writer, &err), QN_E_IO);
    assert_null(writer);
    assert_non_null(strstr(err.message, path));
    if (!strstr(err.message, reason)) fail_msg("'%s' lacks '%s'", err.message, reason);
}

static void test_impossible_paths_are_refused_at_once(void **state) {
    char *below_nothing = path_in(*state, "absent/out");
    char *below_file = path_in(*state, "file/out");
    char *file = path_in(*state, "file");
    assert_int_equal(qn_write_file(file, "", 0, NULL), QN_OK);
    assert_cannot_open(below_nothing, "No such file");
    assert_cannot_open(below_file, "Not a directory");
    assert_cannot_open(*state, "a folder");
    assert_cannot_open("/dev/full", "special file");
    assert_cannot_open("/proc/quern-out", "cannot create");
    free(below_nothing);
    free(below_file);
    free(file);
}

/* A limit on the file size fails a write as a full disk does. */
static void with_file_limit(rlim_t bytes, void (*body)(const char *folder), const char *folder) {
    struct rlimit old, low;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    low = (struct rlimit){.rlim_cur = bytes, .rlim_max = old.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    body(folder);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
}

static void fail_in_write(const char *folder) {
    qn_error err = {0};
    qn_writer *writer = NULL;
    char *path = path_in(folder, "full"), *data = calloc(1, BIG_BYTES);
    assert_non_null(data);
    assert_int_equal(qn_writer_open(path, &writer, &err), QN_OK);
    assert_int_equal(qn_writer_write(writer, data, BIG_BYTES, &err), QN_E_IO);
    assert_int_equal(err.sys_errno, EFBIG);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(qn_writer_commit(writer, NULL, &err), QN_E_IO);
    assert_int_equal(qn_write_file(path, data, BIG_BYTES, &err), QN_E_IO);
    free(data);
    free(path);
}

static void fail_in_commit(const char *folder) {
    qn_error err = {0};
    qn_writer *writer = NULL;
    char hex[QN_SHA256_HEX] = "untouched", data[5000] = {0};
    char *path = path_in(folder, "full");
    assert_int_equal(qn_writer_open(path, &writer, &err), QN_OK);
    assert_int_equal(qn_writer_write(writer, data, sizeof data, &err), QN_OK);
    assert_int_equal(qn_writer_commit(writer, hex, &err), QN_E_IO);
    assert_string_equal(hex, "untouched");
    free(path);
}

static void test_a_full_disk_leaves_nothing(void **state) {
    with_file_limit(1 << 20, fail_in_write, *state);
    assert_int_equal(count_entries(*state), 0);
    with_file_limit(4096, fail_in_commit, *state);
    assert_int_equal(count_entries(*state), 0);
}

static void fill_folder(const char *temporary) {
    char *inner = path_in(temporary, "sub"), *file = path_in(inner, "f");
    assert_int_equal(mkdir(inner, 0777), 0);
    assert_int_equal(qn_write_file(file, "x", 1, NULL), QN_OK);
    free(file);
    free(inner);
}

static void test_sweeping_takes_what_was_made_aside_and_nothing_else(void **state) {
    static const char *const kept[] = {
        "a", "a.tmp-", "a.tmp-0123456", "a.tmp-0123456g", ".tmp-01234567", "b.tmp-01234567"};
    char *folder = make_temporary_folder();
    const int n_kept = sizeof kept / sizeof *kept;
    (void)state;
    for (int i = 0; i < n_kept; i++) write_test_file(folder, kept[i], "x", 1);
    write_test_file(folder, "a.tmp-01234567", "x", 1);
    write_test_file(folder, "a.tmp-89abcdef/file", "x", 1);
    qni_aside_sweep(folder, "a");
    assert_int_equal(count_entries(folder), n_kept);
    qni_aside_sweep(folder, NULL);
    assert_int_equal(count_entries(folder), n_kept - 1);
    remove_tree(folder);
    qni_aside_sweep(folder, NULL); /* nothing to sweep */
    free(folder);
}

static void test_a_folder_appears_at_once(void **state) {
    qn_error err = {0};
    char *path = path_in(*state, "model/"), *temporary = NULL, *file = path_in(*state, "model/sub/f");
    assert_int_equal(qn_folder_begin(path, &temporary, &err), QN_OK);
    fill_folder(temporary);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(qn_folder_commit(temporary, path, &err), QN_OK);
    assert_content(file, "x");
    assert_int_equal(count_entries(*state), 1);
    free(temporary);
    free(file);
    free(path);
}

static void test_an_empty_folder_is_replaced_and_a_full_one_is_not(void **state) {
    qn_error err = {0};
    char *path = path_in(*state, "model"), *temporary = NULL;
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(qn_folder_begin(path, &temporary, &err), QN_OK);
    fill_folder(temporary);
    assert_int_equal(qn_folder_commit(temporary, path, &err), QN_OK);
    free(temporary);
    temporary = NULL;
    assert_int_equal(qn_folder_begin(path, &temporary, &err), QN_E_IO);
    assert_null(temporary);
    assert_non_null(strstr(err.message, "holds files"));
    assert_int_equal(count_entries(*state), 1);
    free(path);
}

static void test_a_folder_filled_meanwhile_is_not_overwritten(void **state) {
    qn_error err = {0};
    char *path = path_in(*state, "model"), *temporary = NULL, *user = path_in(*state, "model/mine");
    assert_int_equal(qn_folder_begin(path, &temporary, &err), QN_OK);
    fill_folder(temporary);
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(qn_write_file(user, "mine", 4, &err), QN_OK);
    assert_int_equal(qn_folder_commit(temporary, path, &err), QN_E_IO);
    qn_folder_abandon(temporary);
    assert_content(user, "mine");
    assert_int_equal(count_entries(*state), 1);
    free(temporary);
    free(user);
    free(path);
}

static void test_impossible_folders_are_refused(void **state) {
    qn_error err = {0};
    char *file = path_in(*state, "file"), *below = path_in(*state, "file/out"), *temporary = NULL;
    assert_int_equal(qn_write_file(file, "", 0, NULL), QN_OK);
    assert_int_equal(qn_folder_begin(file, &temporary, &err), QN_E_IO);
    assert_non_null(strstr(err.message, "no folder"));
    assert_int_equal(qn_folder_begin(below, &temporary, &err), QN_E_IO);
    assert_int_equal(qn_folder_begin("/proc/quern-out", &temporary, &err), QN_E_IO);
    assert_null(temporary);
    qn_folder_abandon(NULL);
    free(file);
    free(below);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing_stands_before_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abandon_keeps_the_old_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pieces_of_every_size_arrive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mode_follows_the_umask, setup, teardown),
        cmocka_unit_test_setup_teardown(test_impossible_paths_are_refused_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_full_disk_leaves_nothing, setup, teardown),
        cmocka_unit_test(test_sweeping_takes_what_was_made_aside_and_nothing_else),
        cmocka_unit_test_setup_teardown(test_a_folder_appears_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_empty_folder_is_replaced_and_a_full_one_is_not, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_folder_filled_meanwhile_is_not_overwritten, setup, teardown),
        cmocka_unit_test_setup_teardown(test_impossible_folders_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
