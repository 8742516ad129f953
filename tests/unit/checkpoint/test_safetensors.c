/* The container: what is written is read back, and every way a hostile file can be wrong is refused by name.
 */
#include "quern/checkpoint/safetensors.h"

#include "expect_error.h"
#include "tiny_model.h"

#include <stdlib.h>
#include <unistd.h>

/* A file in memory: length prefix, header text and N_PAYLOAD bytes counting up. */
typedef struct buffer {
    uint8_t *bytes;
    size_t n;
} buffer;

static buffer make_file(const char *header, size_t n_payload) {
    const uint64_t n_header = strlen(header);
    buffer b = {malloc(8 + n_header + n_payload), 8 + n_header + n_payload};
    assert_non_null(b.bytes);
    for (int i = 0; i < 8; i++) b.bytes[i] = (uint8_t)(n_header >> (8 * i));
    memcpy(b.bytes + 8, header, n_header);
    for (size_t i = 0; i < n_payload; i++) b.bytes[8 + n_header + i] = (uint8_t)i;
    return b;
}

static qn_status parse(const char *header, size_t n_payload, qn_error *err) {
    buffer b = make_file(header, n_payload);
    qn_safetensors *file = NULL;
    const qn_status status = qn_safetensors_parse(b.bytes, b.n, "bad.safetensors", &file, err);
    assert_true((status == QN_OK) == (file != NULL));
    qn_safetensors_free(file);
    free(b.bytes);
    return status;
}

static void test_entries_come_in_byte_order(void **state) {
    (void)state;
    buffer b = make_file("{\"second\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[8,10]},"
                         "\"__metadata__\":{\"format\":\"pt\"},"
                         "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[8,8]},"
                         "\"first\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]}}  ",
                         10);
    qn_safetensors *file = NULL;
    assert_ok(qn_safetensors_parse(b.bytes, b.n, "x", &file, err));
    assert_int_equal(qn_safetensors_count(file), 3);
    assert_string_equal(qn_safetensors_tensor_name(file, 0), "first");
    assert_string_equal(qn_safetensors_tensor_name(file, 1), "empty");
    assert_string_equal(qn_safetensors_tensor_name(file, 2), "second");
    size_t index = 99;
    assert_true(qn_safetensors_find(file, "second", &index));
    assert_int_equal(index, 2);
    assert_false(qn_safetensors_find(file, "third", &index));
    const qn_view *view = qn_safetensors_view(file, 2);
    assert_int_equal(view->dtype, QN_DTYPE_U8);
    assert_int_equal(view->n_dims, 1);
    assert_int_equal(((const uint8_t *)view->data)[1], 9);
    assert_string_equal(qn_safetensors_metadata(file, "format"), "pt");
    assert_null(qn_safetensors_metadata(file, "version"));
    qn_safetensors_free(file);
    free(b.bytes);
}

static void test_empty_file_of_no_tensors(void **state) {
    (void)state;
    assert_ok(parse("{}", 0, err));
    assert_error(parse("{}", 1, err), QN_E_FORMAT, "bad.safetensors|1 bytes after the last tensor");
}

static void test_bad_prefix(void **state) {
    (void)state;
    qn_safetensors *file = NULL;
    const uint8_t few[5] = {0};
    const uint8_t huge[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const uint8_t beyond[16] = {9, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    const uint8_t none[8] = {0};
    assert_error(qn_safetensors_parse(few, 5, "f", &file, err), QN_E_FORMAT, "f: 5 bytes");
    assert_error(qn_safetensors_parse(huge, 16, "f", &file, err), QN_E_FORMAT, "at most 100000000");
    assert_error(qn_safetensors_parse(beyond, 16, "f", &file, err), QN_E_FORMAT, "needs 9 bytes|truncated");
    assert_error(qn_safetensors_parse(none, 8, "f", &file, err), QN_E_FORMAT, "does not start with '{'");
    assert_null(file);
}

#define ONE(fields) "{\"a\":{" fields "}}"

static void test_bad_headers(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_payload;
        qn_status code;
        const char *words;
    } cases[] = {
        {"{\"a\":", 0, QN_E_FORMAT, "not valid JSON"},
        {" {}", 0, QN_E_FORMAT, "does not start with"},
        {"[]", 0, QN_E_FORMAT, "does not start with"},
        {"{\"a\":{},\"a\":{}}", 0, QN_E_FORMAT, "duplicate"},
        {"{\"a\":1}", 0, QN_E_FORMAT, "'a'|expected an object"},
        {"{\"__metadata__\":[]}", 0, QN_E_FORMAT, "__metadata__ is an array"},
        {"{\"__metadata__\":{\"k\":1}}", 0, QN_E_FORMAT, "\"k\" is an integer, expected a string"},
        {ONE("\"shape\":[1],\"data_offsets\":[0,1]"), 1, QN_E_FORMAT, "'a'|dtype is missing"},
        {ONE("\"dtype\":\"Q3\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, QN_E_UNSUPPORTED, "'a'|dtype 'Q3'"},
        {ONE("\"dtype\":\"U8\",\"data_offsets\":[0,1]"), 1, QN_E_FORMAT, "'a'|shape is missing"},
        {ONE("\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]"), 1, QN_E_FORMAT, "non-negative"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]"), 1, QN_E_FORMAT, "non-negative"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 1, QN_E_UNSUPPORTED,
         "9 dimensions, supported are at most 8"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1]"), 1, QN_E_FORMAT, "'a'|data_offsets"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]"), 1, QN_E_FORMAT, "no pair"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,2]"), 1, QN_E_FORMAT,
         "do not lie in the file's 1"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]"), 1, QN_E_FORMAT, "[1, 0] do not lie"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]"), 1, QN_E_FORMAT, "[-1, 0] do not lie"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]"), 1, QN_E_FORMAT,
         "JSON"},
        {ONE("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4, QN_E_FORMAT,
         "needs 8 bytes|give 4"},
        {ONE("\"dtype\":\"F32\",\"shape\":[4611686018427387904,4611686018427387904],\"data_offsets\":[0,4]"),
         4, QN_E_FORMAT, "'a'|more than"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]"), 2, QN_E_FORMAT,
         "1 bytes before tensor 'a'"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 3, QN_E_FORMAT,
         "2 bytes after the last"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
         4, QN_E_FORMAT, "'b' overlaps tensor 'a'"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
         4, QN_E_FORMAT, "1 bytes before tensor 'b'"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
         2, QN_E_FORMAT, "overlaps"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_error(parse(cases[i].header, cases[i].n_payload, err), cases[i].code, cases[i].words);
    }
}

/* Every prefix of a valid file is refused: what a broken download leaves. */
static void test_every_truncation_is_refused(void **state) {
    (void)state;
    buffer b = make_file(ONE("\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]"), 16);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *part =
            malloc(n + 1); /* its own block, so that the address sanitizer sees one byte too far */
        assert_non_null(part);
        memcpy(part, b.bytes, n);
        qn_safetensors *file = NULL;
        part = realloc(part, n ? n : 1);
        assert_int_equal(qn_safetensors_parse(part, n, "cut", &file, NULL), QN_E_FORMAT);
        assert_null(file);
        free(part);
    }
    free(b.bytes);
}

/* Any one changed byte gives a clean answer, never a crash. */
static void test_every_changed_header_byte_is_survived(void **state) {
    (void)state;
    buffer b = make_file(
        "{\"__metadata__\":{\"f\":\"pt\"},\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[1,3],\"data_offsets\":[4,7]}}",
        7);
    for (size_t i = 0; i < b.n - 7; i++)
        for (int value = 0; value < 256; value += 5) {
            const uint8_t saved = b.bytes[i];
            qn_safetensors *file = NULL;
            b.bytes[i] = (uint8_t)value;
            const qn_status status = qn_safetensors_parse(b.bytes, b.n, "changed", &file, NULL);
            assert_true((status == QN_OK) == (file != NULL));
            qn_safetensors_free(file);
            b.bytes[i] = saved;
        }
    free(b.bytes);
}

static const float k_floats[6] = {1, -2, 3, 4, 5, 6};
static const uint16_t k_halves[3] = {0x3c00, 0xbc00, 0};

static const qn_safetensors_item k_items[] = {
    {"z.weight", {.data = k_floats, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {2, 3}}},
    {"a \"quoted\" \xc3\xa4", {.data = k_halves, .dtype = QN_DTYPE_F16, .n_dims = 1, .shape = {3}}},
    {"scalar", {.data = k_floats + 3, .dtype = QN_DTYPE_F32, .n_dims = 0}},
    {"empty", {.data = NULL, .dtype = QN_DTYPE_U8, .n_dims = 1, .shape = {0}}},
};
static const qn_safetensors_meta k_meta[] = {{"version", "1"}, {"format", "quern"}};

static void test_saved_file_is_read_back(void **state) {
    (void)state;
    char *folder = make_temporary_folder(), path[4096], hex[QN_SHA256_HEX], again[QN_SHA256_HEX];
    snprintf(path, sizeof path, "%s/x.safetensors", folder);
    assert_ok(qn_safetensors_save(path, k_items, 4, k_meta, 2, hex, err));
    assert_ok(qn_sha256_of_file(path, again, NULL, err));
    assert_string_equal(hex, again);

    size_t n = 0;
    char *text = load_file(path, &n);
    qn_safetensors *file = NULL;
    assert_ok(qn_safetensors_parse((const uint8_t *)text, n, path, &file, err));
    assert_int_equal(qn_safetensors_count(file), 4);
    assert_string_equal(qn_safetensors_metadata(file, "version"), "1");
    assert_true(strstr(text + 8, "\"version\":\"1\",\"format\"") != NULL); /* in the given order */
    for (size_t i = 0; i < 3; i++) {
        size_t index = 99;
        assert_true(qn_safetensors_find(file, k_items[i].name, &index));
        const qn_view *view = qn_safetensors_view(file, index), *want = &k_items[i].view;
        assert_int_equal(index, i);
        assert_int_equal(view->dtype, want->dtype);
        assert_int_equal(view->n_dims, want->n_dims);
        assert_memory_equal(view->data, want->data,
                            (size_t)qn_view_elements(want) * qn_dtype_bytes(want->dtype));
    }
    qn_safetensors_free(file);
    free(text);
    remove_tree(folder);
    free(folder);
}

static void test_header_is_padded(void **state) {
    (void)state;
    uint8_t *plain = NULL, *padded = NULL;
    size_t n_plain = 0, n_padded = 0;
    assert_ok(qn_safetensors_header(k_items, 4, k_meta, 2, 0, &plain, &n_plain, err));
    assert_int_equal(n_plain % 8, 0);
    assert_ok(qn_safetensors_header(k_items, 4, k_meta, 2, n_plain + 13, &padded, &n_padded, err));
    assert_int_equal(n_padded, n_plain + 13);
    assert_memory_equal(plain + 8, padded + 8, n_plain - 8);
    for (size_t i = n_plain; i < n_padded; i++) assert_int_equal(padded[i], ' ');
    assert_int_equal(padded[0] | padded[1] << 8, (int)n_padded - 8);
    free(plain);
    free(padded);
}

static void test_impossible_items_are_refused(void **state) {
    (void)state;
    const qn_safetensors_item twice[] = {k_items[1], k_items[1]};
    const qn_safetensors_item reserved = {"__metadata__", k_items[1].view};
    const qn_safetensors_item untyped = {"x", {.n_dims = 1, .shape = {1}}};
    const qn_safetensors_item large = {"x", {.dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {INT64_MAX, 2}}};
    uint8_t *header = NULL;
    size_t n = 0;
    assert_error(qn_safetensors_header(twice, 2, NULL, 0, 0, &header, &n, err), QN_E_ARGUMENT, "twice");
    assert_error(qn_safetensors_header(&reserved, 1, k_meta, 2, 0, &header, &n, err), QN_E_ARGUMENT,
                 "__metadata__");
    assert_error(qn_safetensors_header(&untyped, 1, NULL, 0, 0, &header, &n, err), QN_E_ARGUMENT,
                 "impossible");
    assert_error(qn_safetensors_header(&large, 1, NULL, 0, 0, &header, &n, err), QN_E_ARGUMENT, "impossible");
    assert_null(header);
}

static void test_failed_save_leaves_nothing(void **state) {
    (void)state;
    char *folder = make_temporary_folder(), path[4096];
    snprintf(path, sizeof path, "%s/absent/x.safetensors", folder);
    assert_int_equal(qn_safetensors_save(path, k_items, 4, NULL, 0, NULL, NULL), QN_E_IO);
    assert_int_equal(rmdir(folder), 0); /* still empty */
    free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries_come_in_byte_order),
        cmocka_unit_test(test_empty_file_of_no_tensors),
        cmocka_unit_test(test_bad_prefix),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_every_changed_header_byte_is_survived),
        cmocka_unit_test(test_saved_file_is_read_back),
        cmocka_unit_test(test_header_is_padded),
        cmocka_unit_test(test_impossible_items_are_refused),
        cmocka_unit_test(test_failed_save_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
