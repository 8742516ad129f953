#include "base/unnamed.h"

#include "expect_error.h"
#include "test_data.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Pieces are read back from where they were written, in any order; nothing stands in the folder meanwhile. */
static void test_pieces_come_back(void **state) {
    (void)state;
    char *folder = make_temporary_folder(), piece[3];
    int fd;
    assert_int_equal(setenv("TMPDIR", folder, 1), 0);
    assert_ok(qni_unnamed_open(&fd, err));
    assert_int_equal(count_entries(folder), 0);
    assert_ok(qni_unnamed_write(fd, 6, "ghi", 3, "a piece", err));
    assert_ok(qni_unnamed_write(fd, 0, "abcdef", 6, "a piece", err));
    assert_ok(qni_unnamed_read(fd, 5, piece, 3, "a piece", err));
    assert_memory_equal(piece, "fgh", 3);
    assert_error(qni_unnamed_read(fd, 7, piece, 3, "a piece", err), QN_E_IO, "a piece");
    (void)close(fd);
    remove_tree(folder);
    free(folder);
}

static void test_errors_name_the_cause(void **state) {
    (void)state;
    int fd;
    assert_int_equal(setenv("TMPDIR", "/nowhere/at all", 1), 0);
    assert_error(qni_unnamed_open(&fd, err), QN_E_IO, "TMPDIR");
    assert_error(qni_unnamed_write(-1, 0, "a", 1, "a piece", err), QN_E_IO, "a piece");
    assert_error(qni_unnamed_read(-1, 0, (char[1]){0}, 1, "a piece", err), QN_E_IO, "a piece");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_come_back),
        cmocka_unit_test(test_errors_name_the_cause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
