/* Dense export: the same values, ordinary files, and nothing left behind when it fails. */
#include "artifact_support.h"
#include "expect_error.h"

#include <stdlib.h>
#include <sys/stat.h>

static float *decode(const qn_checkpoint *c, int64_t entry) {
    const qn_layout_entry *e = &qn_checkpoint_layout(c)->entries[entry];
    float *values = malloc((size_t)(e->rows * e->cols) * sizeof *values);
    assert_non_null(values);
    qn_weight_decode_rows(qn_checkpoint_weight(c, entry), 0, e->rows, values);
    return values;
}

static void check_same_values(const qn_checkpoint *a, const qn_checkpoint *b, qn_dtype dtype) {
    const qn_layout *layout = qn_checkpoint_layout(a);
    assert_int_equal(layout->n, qn_checkpoint_layout(b)->n);
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *e = &layout->entries[i];
        float *x = decode(a, i), *y = decode(b, i);
        assert_int_equal(qn_checkpoint_weight(b, i)->kind, QN_WEIGHT_DENSE);
        assert_int_equal(qn_checkpoint_weight(b, i)->dense.dtype, dtype);
        assert_memory_equal(x, y, (size_t)(e->rows * e->cols) * sizeof *x);
        free(x);
        free(y);
    }
}

static qn_checkpoint *export_and_open(const fixture *f, const qn_checkpoint *source, const char *name,
                                      qn_dtype dtype, int64_t max_shard_bytes) {
    char *path = fixture_path(f, name);
    qn_checkpoint *c = NULL;
    assert_ok(qn_export_dense(source, dtype, max_shard_bytes, path, NULL, err));
    assert_ok(qn_checkpoint_open(path, &c, err));
    free(path);
    return c;
}

/* The tiny model's values are exact in every dtype. */
static void test_dense_checkpoint_in_every_dtype(void **state) {
    (void)state;
    static const struct {
        qn_dtype dtype;
        const char *torch;
    } cases[] = {{QN_DTYPE_F32, "float32"}, {QN_DTYPE_F16, "float16"}, {QN_DTYPE_BF16, "bfloat16"}};
    fixture f;
    fixture_open(&f, &(tiny_options){.model_type = "qwen2"});
    for (size_t i = 0; i < 3; i++) {
        qn_checkpoint *c = export_and_open(&f, f.source, cases[i].torch, cases[i].dtype, 0);
        check_same_values(f.source, c, cases[i].dtype);
        json_t *config = json_loads(qn_checkpoint_config(c)->json, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(config, "dtype")), cases[i].torch);
        assert_string_equal(json_string_value(json_object_get(config, "torch_dtype")), cases[i].torch);
        assert_true(json_is_object(json_object_get(config, "rope_parameters")));
        assert_true(json_is_number(json_object_get(config, "rope_theta")));
        json_decref(config);
        qn_checkpoint_close(c);
    }
    fixture_close(&f);
}

static void test_shards(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){.tied = false});
    qn_checkpoint *c = export_and_open(&f, f.source, "out", QN_DTYPE_F32, 60000);
    check_same_values(f.source, c, QN_DTYPE_F32);
    size_t index = 0, n_files = 0;
    for (size_t i = 0; i < qn_store_count(qn_checkpoint_store(c)); i++) {
        const char *name = qn_store_name(qn_checkpoint_store(c), i);
        if (!strstr(name, ".safetensors") || strstr(name, "index.json")) continue;
        n_files++;
        assert_in_range(qn_store_member_bytes(qn_checkpoint_store(c), i), 1, 60000 + 4096); /* and a header */
    }
    assert_in_range(n_files, 3, 10);
    assert_true(qn_store_find(qn_checkpoint_store(c), "model.safetensors.index.json", &index));
    qn_checkpoint_close(c);
    fixture_close(&f);
}

static void test_artifact_becomes_ordinary(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){.tied = true});
    const qn_artifact_options options = fixture_options(&f);
    fixture_write(&f, "a.zip", &options, 15, 100);
    char *path = fixture_path(&f, "a.zip");
    qn_checkpoint *artifact = NULL;
    size_t index = 0;
    assert_ok(qn_checkpoint_open(path, &artifact, err));
    free(path);
    qn_checkpoint *c = export_and_open(&f, artifact, "out", QN_DTYPE_F32, 0);
    check_same_values(artifact, c, QN_DTYPE_F32);
    assert_false(qn_checkpoint_is_artifact(c));
    assert_null(strstr(qn_checkpoint_config(c)->json, "auto_map"));
    assert_false(qn_store_find(qn_checkpoint_store(c), "modeling_quern.py", &index));
    assert_false(qn_store_find(qn_checkpoint_store(c), "quern.json", &index));
    qn_checkpoint_close(c);
    qn_checkpoint_close(artifact);
    fixture_close(&f);
}

static void test_companions_are_copied(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){0});
    char *model = fixture_path(&f, "model"), *copy = fixture_path(&f, "out/merges.txt");
    write_test_file(model, "merges.txt", "a b\n", 4);
    write_test_file(model, "generation_config.json", "{}", 2);
    write_test_file(model, "README.md", "no", 2);
    write_test_file(model, "vocab.json", "", 0);
    qn_checkpoint *source = NULL;
    size_t index = 0;
    assert_ok(qn_checkpoint_open(model, &source, err));
    qn_checkpoint *c = export_and_open(&f, source, "out", QN_DTYPE_BF16, 0);
    char *text = load_file(copy, NULL);
    assert_string_equal(text, "a b\n");
    assert_true(qn_store_find(qn_checkpoint_store(c), "generation_config.json", &index));
    assert_true(qn_store_find(qn_checkpoint_store(c), "vocab.json", &index));
    assert_false(qn_store_find(qn_checkpoint_store(c), "README.md", &index));
    qn_checkpoint_close(c);
    qn_checkpoint_close(source);
    free(text);
    free(model);
    free(copy);
    fixture_close(&f);
}

/* Same bytes from any number of threads. */
static void test_threads_do_not_matter(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){0});
    char first[QN_SHA256_HEX], hex[QN_SHA256_HEX], name[16];
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        const qn_context ctx = {.n_threads = n_threads};
        snprintf(name, sizeof name, "out%d", n_threads);
        char *path = fixture_path(&f, name), *file = path_in(path, "model.safetensors");
        assert_ok(qn_export_dense(f.source, QN_DTYPE_F16, 0, path, &ctx, err));
        assert_ok(qn_sha256_of_file(file, hex, NULL, err));
        if (n_threads == 1) memcpy(first, hex, sizeof hex);
        assert_string_equal(hex, first);
        free(path);
        free(file);
    }
    fixture_close(&f);
}

static bool always(void *user) {
    (void)user;
    return true;
}

static void test_failures_leave_nothing(void **state) {
    (void)state;
    fixture f;
    fixture_open(&f, &(tiny_options){0});
    char *out = fixture_path(&f, "out"), *model = fixture_path(&f, "model");
    const qn_context stop = {.is_cancelled = always};
    assert_error(qn_export_dense(f.source, QN_DTYPE_U8, 0, out, NULL, err), QN_E_ARGUMENT,
                 "U8|F32, F16 or BF16");
    assert_int_equal(qn_export_dense(f.source, QN_DTYPE_F16, 0, out, &stop, NULL), QN_E_CANCELLED);
    assert_int_not_equal(qn_export_dense(f.source, QN_DTYPE_F16, 0, model, NULL, NULL),
                         QN_OK); /* not empty */
    assert_int_equal(count_entries(f.folder), 1);

    tiny_model *large = tiny_model_make(&(tiny_options){0});
    tiny_model_find(large, "model.layers.1.mlp.down_proj.weight")->values[3 * 80 + 4] = 131072.0f;
    tiny_model_write(large, model, "F32", 1);
    qn_checkpoint *source = NULL;
    assert_ok(qn_checkpoint_open(model, &source, err));
    assert_error(qn_export_dense(source, QN_DTYPE_F16, 0, out, NULL, err), QN_E_VALUE,
                 "model.layers.1.mlp.down_proj.weight|131072 at row 3, column 4 does not fit F16");
    assert_int_equal(count_entries(f.folder), 1);
    qn_checkpoint_close(source);
    tiny_model_free(large);
    free(out);
    free(model);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense_checkpoint_in_every_dtype), cmocka_unit_test(test_shards),
        cmocka_unit_test(test_artifact_becomes_ordinary),       cmocka_unit_test(test_companions_are_copied),
        cmocka_unit_test(test_threads_do_not_matter),           cmocka_unit_test(test_failures_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
