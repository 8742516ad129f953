/* Compressed matrices on disk: they come back as they were, and nothing else is taken for them. */
#include "recipe/matrix_store.h"

#include "expect_error.h"
#include "test_data.h"

#include "quern/checkpoint/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char k_name[] = "model.layers.0.mlp.up_proj.weight";
enum { ENTRY = 7 };

typedef struct fixture {
    char *folder;
    qni_matrix_store store;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    f->folder = make_temporary_folder();
    f->store.folder = f->folder;
    memset(f->store.keys[QNI_STAGE_FITTED], 'a', QN_SHA256_HEX - 1);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    remove_tree(f->folder);
    free(f->folder);
    free(f);
    return 0;
}

/* Three bands of columns, two of them in log6 scales, or whole rows; codes and scales arbitrary but legal. */
static qn_encoded shape_of(bool banded) {
    qn_encoded e = {.rows = 11, .cols = 37, .axis = QN_AXIS_ROWS, .n_bands = 1};
    e.bands[0] = (qn_band){.codec = {QN_CODE_SIGN, 8, QN_SCALE_F16}, .n_planes = 1, .n_lines = 11};
    if (!banded) return e;
    const qn_codec ternary = {QN_CODE_TERNARY, 4, QN_SCALE_LOG6};
    e.axis = QN_AXIS_COLUMNS;
    e.n_bands = 3;
    e.bands[0] = (qn_band){.codec = ternary, .n_planes = 1, .n_lines = 20};
    e.bands[1] = (qn_band){.codec = ternary, .n_planes = 2, .n_lines = 12};
    e.bands[2] = (qn_band){.codec = {QN_CODE_Q4, 128, QN_SCALE_F16}, .n_planes = 1, .n_lines = 5};
    return e;
}

static void fill_plane(const qn_encoded *e, int b, const qn_plane_arrays *out) {
    const qn_codec codec = e->bands[b].codec;
    const int64_t rows = qn_band_rows(e, b), cols = qn_band_cols(e, b);
    const int64_t n_scales = rows * qn_codec_groups(codec, cols),
                  row_bytes = qn_codec_code_bytes(codec, cols);
    int8_t q[64];
    uint16_t scales[256];
    assert_true(cols <= 64 && n_scales <= 256);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < cols; j++) q[j] = (r * 5 + j * 3) % 2 ? 1 : -1;
        qn_codec_pack_row(codec, q, cols, out->codes + r * row_bytes);
    }
    for (int64_t i = 0; i < n_scales; i++)
        scales[i] = (uint16_t)(codec.scale == QN_SCALE_LOG6 ? i % 64 : qn_f32_to_f16(0.25f + (float)i));
    qn_scales_pack(codec.scale, scales, n_scales, out->scales);
    if (codec.scale == QN_SCALE_LOG6) qn_log6_grid_pack(0.01f, 1.03f, out->grid);
}

static qn_encoded make_matrix(bool banded) {
    qn_encoded e = shape_of(banded);
    qn_encoded_arrays arrays;
    assert_ok(qn_encoded_alloc(&e, &arrays, err));
    for (int b = 0; b < e.n_bands; b++)
        for (int p = 0; p < e.bands[b].n_planes; p++) fill_plane(&e, b, &arrays.planes[b][p]);
    for (int64_t j = 0; banded && j < 37; j++)
        qn_mask_set(arrays.mask, 3, j, j % 3 == 0 && j < 36 ? 1 : j % 9 == 1 || j == 2 ? 2 : 0);
    return e;
}

static qn_encoded saved_matrix(const fixture *f, bool banded) {
    qn_encoded e = make_matrix(banded);
    if (qn_encoded_bind(&e, k_name, NULL) != QN_OK) fail_msg("the test's matrix is not legal");
    assert_ok(qni_matrix_store_save(&f->store, QNI_STAGE_FITTED, ENTRY, k_name, &e, NULL, -1.0, err));
    return e;
}

static char *file_of(const fixture *f) {
    return path_in(f->folder, "matrix-00007.safetensors");
}

/* Loading is refused, with nothing handed out. */
static void expect_refused(const fixture *f, const char *name, const qn_encoded *shape, qn_status code,
                           const char *words) {
    qn_encoded got = {.rows = 99};
    bool found = false;
    assert_error(
        qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, ENTRY, name, shape, &found, &got, NULL, err), code,
        words);
    assert_int_equal(got.rows, 99);
    assert_null(got.owned);
    assert_int_equal(
        qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, ENTRY, name, shape, &found, &got, NULL, NULL),
        code);
}

static void test_round_trip(void **state) {
    const fixture *f = *state;
    for (int banded = 0; banded < 2; banded++) {
        qn_encoded e = saved_matrix(f, banded), got = {0};
        const qn_encoded shape = shape_of(banded);
        bool found = false;
        assert_ok(qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, ENTRY, k_name, &shape, &found, &got,
                                        NULL, err));
        assert_true(found);
        assert_true(qn_encoded_same_shape(&got, &e));
        assert_true(got.data != e.data && got.owned != NULL);
        assert_memory_equal(got.data, e.data, (size_t)qn_encoded_bytes(&e));
        float a[11 * 37], b[11 * 37]; /* bound: it decodes */
        qn_encoded_decode_rows(&e, 0, 11, a);
        qn_encoded_decode_rows(&got, 0, 11, b);
        assert_memory_equal(a, b, sizeof a);
        qn_encoded_release(&got);
        qn_encoded_release(&e);
    }
    assert_int_equal(count_entries(f->folder), 1); /* the second took the place of the first */
}

/* A fit's error comes back to the last bit; where none was saved there is none. */
static void test_the_error_of_a_fit(void **state) {
    const fixture *f = *state;
    const double saved = 1.0 / 3.0;
    double found = 0.0;
    qn_encoded e = saved_matrix(f, true);
    assert_true(qni_matrix_store_has(&f->store, QNI_STAGE_FITTED, ENTRY));
    assert_false(qni_matrix_store_has(&f->store, QNI_STAGE_FITTED, ENTRY + 1));
    assert_false(qni_matrix_store_has(&f->store, QNI_STAGE_TRAINED, ENTRY));
    assert_ok(qni_matrix_store_error(&f->store, QNI_STAGE_FITTED, ENTRY, &found, err));
    assert_true(found == -1.0);
    assert_ok(qni_matrix_store_save(&f->store, QNI_STAGE_FITTED, ENTRY, k_name, &e, NULL, saved, err));
    assert_ok(qni_matrix_store_error(&f->store, QNI_STAGE_FITTED, ENTRY, &found, err));
    assert_true(found == saved);
    assert_ok(qni_matrix_store_error(&f->store, QNI_STAGE_FITTED, ENTRY + 1, &found, err));
    assert_true(found == -1.0);
    qn_encoded_release(&e);
}

static void test_not_found(void **state) {
    const fixture *f = *state;
    const qn_encoded shape = shape_of(false);
    qn_encoded got = {.rows = 99};
    bool found = true;
    qn_layout_entry entries[ENTRY + 1] = {{0}};
    const qn_layout layout = {.entries = entries, .n = ENTRY + 1}, small = {.entries = entries, .n = ENTRY};
    assert_ok(
        qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, ENTRY, k_name, &shape, &found, &got, NULL, err));
    assert_false(found);
    assert_int_equal(got.rows, 99);
    assert_false(qni_matrix_store_is_used(&f->store, &layout));
    qn_encoded e = saved_matrix(f, false);
    qn_encoded_release(&e);
    assert_true(qni_matrix_store_is_used(&f->store, &layout));
    assert_false(qni_matrix_store_is_used(&f->store, &small));
    const qni_matrix_store gone = {.folder = "/nonexistent/folder"};
    assert_false(qni_matrix_store_is_used(&gone, &layout));
}

static void test_another_run(void **state) {
    fixture *f = *state;
    qn_layout_entry entries[ENTRY + 1] = {{0}};
    const qn_layout layout = {.entries = entries, .n = ENTRY + 1};
    assert_ok(qni_matrix_store_check(&f->store, &layout, err));
    qn_encoded e = saved_matrix(f, true);
    qn_encoded_release(&e);
    assert_ok(qni_matrix_store_check(&f->store, &layout, err));
    f->store.keys[QNI_STAGE_FITTED][63] = 'b';
    const qn_encoded shape = shape_of(true);
    expect_refused(f, k_name, &shape, QN_E_ARGUMENT, "matrix-00007|another run|aaaab|aaaaa|--work");
    assert_error(qni_matrix_store_check(&f->store, &layout, err), QN_E_ARGUMENT, "matrix-00007");
}

static void test_another_shape_or_name(void **state) {
    const fixture *f = *state;
    qn_encoded e = saved_matrix(f, true), shape = shape_of(true);
    qn_encoded_release(&e);
    expect_refused(f, "model.layers.0.mlp.gate_proj.weight", &shape, QN_E_FORMAT, "gate_proj|remove");
    for (int i = 0; i < 6; i++) {
        shape = shape_of(true);
        if (i == 0) shape.rows = 12;
        if (i == 1) shape.axis = QN_AXIS_ROWS;
        if (i == 2) shape.bands[0].n_lines = 19, shape.bands[1].n_lines = 13;
        if (i == 3) shape.bands[2].codec.scale = QN_SCALE_LOG6;
        if (i == 4) shape.bands[0].codec.group_size = 8;
        if (i == 5) shape = shape_of(false);
        expect_refused(f, k_name, &shape, QN_E_FORMAT, "matrix-00007|up_proj|remove the file");
    }
}

/* The file cut short anywhere, and every byte of it changed: an error or the same codes, never a crash. */
static void test_damaged(void **state) {
    const fixture *f = *state;
    qn_encoded e = saved_matrix(f, true);
    const qn_encoded shape = shape_of(true);
    char *path = file_of(f);
    size_t n_bytes;
    char *data = load_file(path, &n_bytes);
    for (size_t n = 0; n < n_bytes; n += 1 + n / 16) {
        write_test_file(f->folder, "matrix-00007.safetensors", data, n);
        qn_encoded got = {0};
        bool found = false;
        assert_int_not_equal(qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, ENTRY, k_name, &shape, &found,
                                                   &got, NULL, NULL),
                             QN_OK);
        assert_null(got.owned);
    }
    int n_refused = 0;
    for (size_t at = 0; at < n_bytes; at++) {
        data[at] ^= 0x55;
        write_test_file(f->folder, "matrix-00007.safetensors", data, n_bytes);
        data[at] ^= 0x55;
        qn_encoded got = {0};
        bool found = false;
        const qn_status status = qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, ENTRY, k_name, &shape,
                                                       &found, &got, NULL, NULL);
        assert_true(status == QN_OK || status == QN_E_FORMAT || status == QN_E_VALUE ||
                    status == QN_E_ARGUMENT || status == QN_E_SHAPE || status == QN_E_UNSUPPORTED);
        n_refused += status != QN_OK;
        qn_encoded_release(&got);
    }
    assert_true(n_refused > 0);
    qn_encoded_release(&e);
    free(data);
    free(path);
}

/* A matrix that cannot be written leaves no file. */
static void test_cannot_write(void **state) {
    const fixture *f = *state;
    qn_encoded e = make_matrix(true);
    assert_ok(qn_encoded_bind(&e, k_name, err));
    char *path = path_in(f->folder, "gone");
    qni_matrix_store store = f->store;
    store.folder = path;
    assert_error(qni_matrix_store_save(&store, QNI_STAGE_FITTED, ENTRY, k_name, &e, NULL, -1.0, err), QN_E_IO,
                 "gone");
    assert_int_equal(count_entries(f->folder), 0);
    qn_encoded_release(&e);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_error_of_a_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_shape_or_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cannot_write, setup, teardown),
    };
    return cmocka_run_group_tests_name("recipe matrix_store", tests, NULL, NULL);
}
