#include "quern/base/sha256.h"

#include "test_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* FIPS 180-2, appendix B, and the empty message. */
static const char EMPTY[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char ABC[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char MILLION_A[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

static void test_published_digests(void **state) {
    (void)state;
    char hex[QN_SHA256_HEX];
    qn_error err = {0};
    assert_int_equal(qn_sha256_of_memory("abc", 3, hex, &err), QN_OK);
    assert_string_equal(hex, ABC);
    assert_int_equal(qn_sha256_of_memory(NULL, 0, hex, &err), QN_OK);
    assert_string_equal(hex, EMPTY);
}

static void test_pieces_hash_as_the_whole(void **state) {
    (void)state;
    char piece[1000], hex[QN_SHA256_HEX];
    qn_sha256 *hash = NULL;
    memset(piece, 'a', sizeof piece);
    assert_int_equal(qn_sha256_new(&hash, NULL), QN_OK);
    for (int i = 0; i < 1000; i++) qn_sha256_update(hash, piece, sizeof piece);
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    qn_sha256_free(NULL);
    assert_string_equal(hex, MILLION_A);
}

static void test_files(void **state) {
    (void)state;
    char hex[QN_SHA256_HEX] = "untouched";
    qn_error err = {0};
    uint64_t n_bytes = 0;
    char *folder = make_temporary_folder(), *path = NULL;
    assert_true(asprintf(&path, "%s/a", folder) > 0);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    for (int i = 0; i < 1000000; i++) fputc('a', file);
    fclose(file);
    assert_int_equal(qn_sha256_of_file(path, hex, &n_bytes, &err), QN_OK);
    assert_string_equal(hex, MILLION_A);
    assert_int_equal(n_bytes, 1000000);
    assert_int_equal(qn_sha256_of_file(path, hex, NULL, &err), QN_OK);
    n_bytes = 3;
    assert_int_equal(qn_sha256_of_file(folder, hex, &n_bytes, &err), QN_E_IO);
    assert_int_equal(qn_sha256_of_file("/nonexistent/x", hex, &n_bytes, &err), QN_E_IO);
    assert_non_null(strstr(err.message, "/nonexistent/x"));
    assert_int_equal(n_bytes, 3);
    assert_string_equal(hex, MILLION_A);
    remove_tree(folder);
    free(folder);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_digests),
        cmocka_unit_test(test_pieces_hash_as_the_whole),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
