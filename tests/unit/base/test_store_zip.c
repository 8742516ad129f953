/* Archives as hostile input. libzip writes the plain ones; what it refuses to write is made by patching
 * bytes. */
#include "quern/base/store.h"

#include "test_data.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zip.h>

enum { BIG_BYTES = 5 << 20 };

typedef struct fixture {
    char *folder, *path;
} fixture;

static int setup(void **state) {
    fixture *f = malloc(sizeof *f);
    assert_non_null(f);
    f->folder = make_temporary_folder();
    f->path = path_in(f->folder, "a.zip");
    setenv("TMPDIR", f->folder, 1);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    unsetenv("TMPDIR");
    remove_tree(f->folder);
    free(f->path);
    free(f->folder);
    free(f);
    return 0;
}

static zip_t *create(const fixture *f) {
    int code = 0;
    zip_t *zip = zip_open(f->path, ZIP_CREATE | ZIP_TRUNCATE, &code);
    assert_non_null(zip);
    return zip;
}

/* DATA must outlive finish(). */
static zip_uint64_t add(zip_t *zip, const char *name, const void *data, size_t n, int method) {
    zip_source_t *source = zip_source_buffer(zip, data, n, 0);
    zip_int64_t index = zip_file_add(zip, name, source, ZIP_FL_ENC_UTF_8);
    assert_true(index >= 0);
    assert_int_equal(zip_set_file_compression(zip, (zip_uint64_t)index, method, 0), 0);
    return (zip_uint64_t)index;
}

static zip_uint64_t add_text(zip_t *zip, const char *name, const char *text) {
    return add(zip, name, text, strlen(text), ZIP_CM_STORE);
}

static void finish(zip_t *zip) {
    if (zip_close(zip) != 0) fail_msg("%s", zip_strerror(zip));
}

static void make_simple(const fixture *f, const char *name) {
    zip_t *zip = create(f);
    add_text(zip, "config.json", "{}");
    add_text(zip, name, "content");
    finish(zip);
}

/* Changes the archive: every occurrence of FROM (when COUNT is 0), or the first COUNT, becomes TO. */
static void patch(const fixture *f, const char *from, const char *to, size_t n, int count) {
    size_t size;
    char *data = load_file(f->path, &size);
    int n_found = 0;
    for (size_t at = 0; at + n <= size; at++) {
        if (memcmp(data + at, from, n) != 0 || (count && n_found >= count)) continue;
        memcpy(data + at, to, n);
        n_found++;
    }
    assert_true(n_found > 0);
    write_test_file(f->folder, "a.zip", data, size);
    free(data);
}

static qn_store *open_store(const fixture *f) {
    qn_error err = {0};
    qn_store *store = NULL;
    if (qn_store_open(f->path, &store, &err) != QN_OK) fail_msg("%s", err.message);
    return store;
}

static void assert_refused(const fixture *f, const char *reason) {
    qn_error err = {0};
    qn_store *store = NULL;
    assert_int_equal(qn_store_open(f->path, &store, &err), QN_E_FORMAT);
    assert_null(store);
    assert_non_null(strstr(err.message, f->path));
    if (!strstr(err.message, reason)) fail_msg("'%s' lacks '%s'", err.message, reason);
}

static void assert_member(qn_store *store, const char *name, const void *expected, size_t n_expected) {
    qn_error err = {0};
    const uint8_t *data = NULL, *again = NULL;
    size_t n = 0;
    if (qn_store_map(store, name, &data, &n, &err) != QN_OK) fail_msg("%s", err.message);
    assert_int_equal(n, n_expected);
    if (n > 0) assert_memory_equal(data, expected, n);
    assert_int_equal(qn_store_map(store, name, &again, &n, &err), QN_OK);
    assert_ptr_equal(data, again);
}

static void assert_damaged(const fixture *f, const char *name, const char *reason) {
    qn_error err = {0};
    const uint8_t *data = NULL;
    size_t n = 3;
    qn_store *store = open_store(f);
    assert_int_equal(qn_store_map(store, name, &data, &n, &err), QN_E_FORMAT);
    if (!strstr(err.message, reason)) fail_msg("'%s' lacks '%s'", err.message, reason);
    assert_non_null(strstr(err.message, name));
    assert_null(data);
    assert_int_equal(n, 3);
    qn_store_close(store);
}

static void test_stored_and_deflated_members_are_read(void **state) {
    const fixture *f = *state;
    struct stat info;
    char *big = malloc(BIG_BYTES);
    assert_non_null(big);
    for (size_t i = 0; i < BIG_BYTES; i++) big[i] = (char)(i / 7);
    zip_t *zip = create(f);
    add_text(zip, "model/config.json", "{}");
    add(zip, "model/deflated", big, BIG_BYTES, ZIP_CM_DEFLATE);
    add(zip, "model/stored", big, BIG_BYTES, ZIP_CM_STORE);
    add_text(zip, "model/empty", "");
    add_text(zip, "outside", "x");
    assert_true(zip_dir_add(zip, "model/sub", 0) >= 0);
    finish(zip);

    qn_store *store = open_store(f);
    assert_true(qn_store_is_archive(store));
    assert_false(qn_store_has_symlink(store, NULL));
    assert_int_equal(stat(f->path, &info), 0);
    assert_int_equal(qn_store_total_bytes(store), info.st_size);
    assert_int_equal(qn_store_count(store), 4);
    assert_string_equal(qn_store_name(store, 1), "deflated");
    assert_int_equal(qn_store_member_bytes(store, 1), BIG_BYTES);
    assert_member(store, "config.json", "{}", 2);
    assert_member(store, "deflated", big, BIG_BYTES);
    assert_member(store, "stored", big, BIG_BYTES);
    assert_member(store, "empty", "", 0);
    assert_int_equal(count_entries(f->folder), 1); /* nothing unpacked has a name */
    qn_store_close(store);
    free(big);
}

static void test_names_that_could_escape_are_refused(void **state) {
    static const struct {
        const char *name, *reason;
    } cases[] = {
        {"../evil", "leaves"},     {"a/../../evil", "leaves"}, {"a/..", "leaves"},
        {"/etc/evil", "absolute"}, {"c:evil", "drive"},        {"C:/evil", "drive"},
        {"..\\evil", "backslash"}, {"a\\b", "backslash"},      {"a//b", "empty or"},
        {"./a", "empty or"},       {"a/./b", "empty or"},      {"a/.", "empty or"},
        {"a/b/../c", "leaves"},    {"..", "leaves"},           {"a//", "empty or"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        make_simple(*state, cases[i].name);
        assert_refused(*state, cases[i].reason);
    }
}

static void test_unusual_harmless_names_are_read(void **state) {
    static const char *const names[] = {"..a", "a../b", "...", "a/b:c", "\xc3\xa9", "a b", "-rf"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        make_simple(*state, names[i]);
        qn_store *store = open_store(*state);
        assert_member(store, names[i], "content", 7);
        qn_store_close(store);
    }
}

static void test_a_nul_in_a_name_is_refused(void **state) {
    make_simple(*state, "name#evil");
    patch(*state, "name#evil", "name\0evil", 9, 0);
    assert_refused(*state, "NUL");
}

static void test_two_members_at_one_place_are_refused(void **state) {
    const fixture *f = *state;
    make_simple(f, "config.jsXn");
    patch(f, "config.jsXn", "config.json", 11, 0);
    assert_refused(f, "two members have one name");

    zip_t *zip = create(f);
    add_text(zip, "a", "x");
    add_text(zip, "a/b", "x");
    finish(zip);
    assert_refused(f, "also a file");

    zip = create(f);
    add_text(zip, "a#", "x");
    add_text(zip, "a", "y");
    finish(zip);
    patch(f, "a#", "a/", 2, 0);
    assert_refused(f, "another");
}

static void set_type(const fixture *f, mode_t type) {
    zip_t *zip = create(f);
    zip_uint64_t index = add_text(zip, "entry", "/etc/passwd");
    assert_int_equal(
        zip_file_set_external_attributes(zip, index, 0, ZIP_OPSYS_UNIX, (zip_uint32_t)(type | 0644u) << 16),
        0);
    finish(zip);
}

static void test_links_and_devices_are_refused(void **state) {
    set_type(*state, S_IFLNK);
    assert_refused(*state, "symbolic link");
    set_type(*state, S_IFCHR);
    assert_refused(*state, "special file");
    set_type(*state, S_IFIFO);
    assert_refused(*state, "special file");
    set_type(*state, S_IFREG);
    qn_store *store = open_store(*state);
    assert_member(store, "entry", "/etc/passwd", 11);
    qn_store_close(store);
}

static void test_encrypted_members_are_refused(void **state) {
    zip_t *zip = create(*state);
    zip_uint64_t index = add_text(zip, "secret", "content");
    assert_int_equal(zip_file_set_encryption(zip, index, ZIP_EM_AES_256, "password"), 0);
    finish(zip);
    assert_refused(*state, "encrypted");
}

static void test_other_methods_are_refused(void **state) {
    static const char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    zip_t *zip = create(*state);
    add(zip, "packed", text, sizeof text, ZIP_CM_BZIP2);
    finish(zip);
    assert_refused(*state, "method");
}

static void test_changed_bytes_are_noticed(void **state) {
    const fixture *f = *state;
    make_simple(f, "w");
    patch(f, "content", "cOntent", 7, 1);
    assert_damaged(f, "w", "CRC");

    static const char text[] =
        "a text that deflate packs: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    zip_t *zip = create(f);
    add(zip, "w", text, sizeof text, ZIP_CM_DEFLATE);
    finish(zip);
    patch(f, "\x4b\x54", "\xff\xff", 2, 1); /* the start of the deflated stream ("a ") */
    assert_damaged(f, "w", "damaged");
}

static void test_a_wrong_declared_size_is_noticed(void **state) {
    static const char text[77] = "x";
    zip_t *zip = create(*state);
    add(zip, "w", text, sizeof text, ZIP_CM_DEFLATE);
    finish(zip);
    patch(*state, "\x4d\0\0\0\1\0", "\x4c\0\0\0\1\0", 6, 0); /* size 77, then the length of the name */
    assert_damaged(*state, "w", "76 bytes");
    patch(*state, "\x4c\0\0\0\1\0", "\x4e\0\0\0\1\0", 6, 0);
    assert_damaged(*state, "w", "78 bytes");
}

static void test_contradicting_headers_are_refused(void **state) {
    make_simple(*state, "weights");
    patch(*state, "weights", "wEights", 7, 1); /* the local header only */
    assert_refused(*state, "zip archive");
}

static void test_every_truncation_is_refused(void **state) {
    const fixture *f = *state;
    size_t size;
    make_simple(f, "w");
    char *data = load_file(f->path, &size);
    for (size_t n = 0; n < size; n++) {
        write_test_file(f->folder, "a.zip", data, n);
        qn_error err = {0};
        qn_store *store = NULL;
        /* libzip takes nothing at all for an empty archive. */
        if (n == 0 && qn_store_open(f->path, &store, &err) == QN_OK) {
            assert_int_equal(qn_store_count(store), 0);
            qn_store_close(store);
            continue;
        }
        assert_refused(f, "");
    }
    free(data);
}

static void test_an_unwritable_tmpdir_is_named(void **state) {
    qn_error err = {0};
    const uint8_t *data = NULL;
    size_t n = 0;
    make_simple(*state, "w");
    qn_store *store = open_store(*state);
    setenv("TMPDIR", "/nonexistent/folder", 1);
    assert_int_equal(qn_store_map(store, "w", &data, &n, &err), QN_E_IO);
    assert_non_null(strstr(err.message, "/nonexistent/folder"));
    assert_non_null(strstr(err.message, "TMPDIR"));
    qn_store_close(store);
}

static void put_le(char *to, uint64_t value, int n_bytes) {
    for (int i = 0; i < n_bytes; i++) to[i] = (char)(value >> 8 * i);
}

/* The same archive with a ZIP64 end record and locator before the ordinary end record. */
static void make_zip64(const fixture *f) {
    enum { END = 22, END64 = 56, LOCATOR = 20 };
    size_t size;
    char *data = load_file(f->path, &size);
    char *grown = calloc(1, size + END64 + LOCATOR);
    assert_non_null(grown);
    const size_t at = size - END;
    uint32_t n_directory, directory;
    memcpy(&n_directory, data + at + 12, 4);
    memcpy(&directory, data + at + 16, 4);
    memcpy(grown, data, at);
    char *end64 = grown + at;
    memcpy(end64, "PK\6\6", 4);
    put_le(end64 + 4, END64 - 12, 8);
    put_le(end64 + 12, 45 | 45 << 16, 4);
    put_le(end64 + 24, 2, 8);
    put_le(end64 + 32, 2, 8);
    put_le(end64 + 40, n_directory, 8);
    put_le(end64 + 48, directory, 8);
    char *locator = end64 + END64;
    memcpy(locator, "PK\6\7", 4);
    put_le(locator + 8, at, 8);
    put_le(locator + 16, 1, 4);
    char *end = locator + LOCATOR;
    memcpy(end, data + at, END);
    put_le(end + 8, 0xffffffff, 4);
    put_le(end + 12, UINT64_MAX, 8);
    write_test_file(f->folder, "a.zip", grown, size + END64 + LOCATOR);
    free(grown);
    free(data);
}

static void test_zip64_records_are_read(void **state) {
    make_simple(*state, "w");
    make_zip64(*state);
    qn_store *store = open_store(*state);
    assert_member(store, "w", "content", 7);
    qn_store_close(store);
    patch(*state, "w", "\0", 1, 0);
    assert_refused(*state, "NUL");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stored_and_deflated_members_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names_that_could_escape_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unusual_harmless_names_are_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_nul_in_a_name_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_members_at_one_place_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links_and_devices_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_encrypted_members_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_methods_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changed_bytes_are_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_wrong_declared_size_is_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_contradicting_headers_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_truncation_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_unwritable_tmpdir_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zip64_records_are_read, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
