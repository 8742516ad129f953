/* Opening dense checkpoints: right ones give the weights that were written, wrong ones an error that names
 * them. */
#include "quern/base/sha256.h"
#include "quern/checkpoint/checkpoint.h"

#include "expect_error.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct fixture {
    char *folder;
    tiny_model *model;
} fixture;

static fixture setup(const tiny_options *options) {
    return (fixture){make_temporary_folder(), tiny_model_make(options)};
}

static void teardown(fixture *f) {
    tiny_model_free(f->model);
    remove_tree(f->folder);
    free(f->folder);
}

static void member_path(const fixture *f, const char *name, char path[4096]) {
    snprintf(path, 4096, "%s/%s", f->folder, name);
}

static qn_status try_open(const fixture *f, qn_error *err) {
    qn_checkpoint *checkpoint = NULL;
    const qn_status status = qn_checkpoint_open(f->folder, &checkpoint, err);
    assert_true((status == QN_OK) == (checkpoint != NULL));
    qn_checkpoint_close(checkpoint);
    return status;
}

static void check_values(const qn_checkpoint *c, const tiny_model *model) {
    const qn_layout *layout = qn_checkpoint_layout(c);
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *e = &layout->entries[i];
        const tiny_tensor *t = tiny_model_find(model, e->name);
        const qn_weight *w = qn_checkpoint_weight(c, i);
        float *values = malloc((size_t)(e->rows * e->cols) * sizeof *values);
        assert_int_equal(w->kind, QN_WEIGHT_DENSE);
        assert_int_equal(qn_weight_rows(w), e->rows);
        assert_int_equal(qn_weight_cols(w), e->cols);
        qn_weight_decode_rows(w, 0, e->rows, values);
        assert_memory_equal(values, t->values, (size_t)(e->rows * e->cols) * sizeof *values);
        free(values);
    }
}

/* The tiny model is exact in every dtype, so the values must come back bit for bit. */
static void check_opens(const tiny_options *options) {
    fixture f = setup(options);
    qn_checkpoint *c = NULL;
    tiny_model_write(f.model, f.folder, options->dtype, options->n_shards);
    assert_ok(qn_checkpoint_open(f.folder, &c, err));
    assert_false(qn_checkpoint_is_artifact(c));
    assert_int_equal(qn_checkpoint_layout(c)->n_parameters, tiny_model_parameters(f.model));
    assert_int_equal(qn_checkpoint_config(c)->hidden_size, 48);
    assert_string_equal(qn_store_path(qn_checkpoint_store(c)), f.folder);
    check_values(c, f.model);
    assert_ok(qn_checkpoint_check_finite(c, NULL, err));
    qn_checkpoint_close(c);
    teardown(&f);
}

static void test_opens_every_kind(void **state) {
    (void)state;
    check_opens(&(tiny_options){.dtype = "F32"});
    check_opens(&(tiny_options){.dtype = "F16", .tied = true});
    check_opens(&(tiny_options){.dtype = "BF16", .n_shards = 3});
    check_opens(&(tiny_options){.model_type = "qwen2", .n_shards = 2});
    check_opens(&(tiny_options){.attention_bias = true, .kv_heads = 1});
}

/* A second copy of a tied head and old rotary tables are ignored, but the copy must be a copy in shape. */
static void test_harmless_extras(void **state) {
    (void)state;
    fixture f = setup(&(tiny_options){.tied = false});
    json_object_set_new(f.model->config, "tie_word_embeddings", json_true());

    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_ok(try_open(&f, err));

    tiny_tensor *head = tiny_model_find(f.model, "lm_head.weight");
    head->shape[0]--;
    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_error(try_open(&f, err), QN_E_SHAPE, "model.safetensors|'lm_head.weight'|[256, 48]|[257, 48]");
    free(head->name);
    head->name = strdup("model.layers.0.self_attn.rotary_emb.inv_freq");
    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_ok(try_open(&f, err));
    teardown(&f);
}

static void test_wrong_tensors(void **state) {
    (void)state;
    const char *q = "model.layers.1.self_attn.q_proj.weight", *norm = "model.layers.0.input_layernorm.weight";
    fixture f = setup(&(tiny_options){0});
    tiny_model_find(f.model, q)->shape[0] = 63;
    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_error(try_open(&f, err), QN_E_SHAPE, "/model.safetensors|q_proj|[63, 48]|expected [64, 48]");

    tiny_model_find(f.model, q)->shape[0] = 64;
    tiny_model_find(f.model, norm)->shape[0] = 47;
    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_error(try_open(&f, err), QN_E_SHAPE, "input_layernorm|[47, ...]|expected [48]");

    tiny_model_find(f.model, norm)->shape[0] = 48;
    tiny_model_drop(f.model, q);
    tiny_model_drop(f.model, norm);
    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_error(try_open(&f, err), QN_E_SHAPE,
                 "model.layers.0.input_layernorm.weight' is missing (2 of 25 are)");
    teardown(&f);
}

static void test_surplus_tensor(void **state) {
    (void)state;
    fixture f = setup(&(tiny_options){.layers = 3});
    json_object_set_new(f.model->config, "num_hidden_layers", json_integer(2));
    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_error(try_open(&f, err), QN_E_SHAPE, "model.layers.2.|not part of the qwen3 model of 2 layers");
    teardown(&f);
}

static void test_wrong_dtype(void **state) {
    (void)state;
    fixture f = setup(&(tiny_options){0});
    char path[4096];
    size_t n = 0;
    tiny_model_write(f.model, f.folder, "F16", 1);
    member_path(&f, "model.safetensors", path);
    char *bytes = load_file(path, &n);
    char *at = strstr(bytes + 8, "\"F16\"");
    memcpy(at, "\"I16\"", 5);
    FILE *file = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
    free(bytes);
    assert_error(try_open(&f, err), QN_E_SHAPE,
                 "model.embed_tokens.weight' is I16, expected F32, F16 or BF16");
    teardown(&f);
}

static void test_files_that_are_absent(void **state) {
    (void)state;
    fixture f = setup(&(tiny_options){0});
    char path[4096];
    assert_error(try_open(&f, err), QN_E_FORMAT, "no config.json");
    tiny_model_write(f.model, f.folder, NULL, 3);
    member_path(&f, "model-00002-of-00003.safetensors", path);
    assert_int_equal(unlink(path), 0);
    assert_error(try_open(&f, err), QN_E_FORMAT, "'model-00002-of-00003.safetensors'|absent|index.json");
    member_path(&f, "model.safetensors.index.json", path);
    assert_int_equal(unlink(path), 0);
    assert_error(try_open(&f, err), QN_E_UNSUPPORTED,
                 "neither model.safetensors nor model.safetensors.index.json");
    teardown(&f);
    qn_checkpoint *c = NULL;
    assert_error(qn_checkpoint_open("/nonexistent/model", &c, err), QN_E_IO, "/nonexistent/model");
}

static void test_wrong_index(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *words;
    } cases[] = {
        {"{", "index.json|JSON"},
        {"{}", "weight_map is nothing"},
        {"{\"weight_map\": {}}", "names no file"},
        {"{\"weight_map\": {\"a\": 1}}", "\"a\" is an integer"},
        {"{\"weight_map\": {\"a\": \"../model-00001-of-00002.safetensors\"}}", "plain name"},
        {"{\"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\"}}", "'a' is absent|00001-of-00002"},
        {"{\"weight_map\": {\"model.embed_tokens.weight\": \"model-00001-of-00002.safetensors\"}}",
         "is missing"},
    };
    fixture f = setup(&(tiny_options){0});
    tiny_model_write(f.model, f.folder, NULL, 2);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_test_file(f.folder, "model.safetensors.index.json", cases[i].text, strlen(cases[i].text));
        qn_error err = {0};
        const qn_status status = try_open(&f, &err);
        assert_true(status == QN_E_FORMAT || status == QN_E_SHAPE);
        check_error(status, &err, status, cases[i].words, __FILE__, __LINE__);
    }
    teardown(&f);
}

static void test_tensor_in_two_shards(void **state) {
    (void)state;
    fixture f = setup(&(tiny_options){0});
    char path[4096];
    tiny_model_write(f.model, f.folder, NULL, 2);
    member_path(&f, "model-00002-of-00002.safetensors", path);
    write_tiny_safetensors(path, f.model->tensors, f.model->n_tensors, "BF16");
    assert_error(try_open(&f, err), QN_E_FORMAT,
                 "00002-of-00002.safetensors: tensor 'model.embed_tokens.weight' lies in|00001-of-00002");
    teardown(&f);
}

/* Garbage, truncation and an oversized header reach the caller with the file's name. */
static void test_damaged_file(void **state) {
    (void)state;
    fixture f = setup(&(tiny_options){0});
    char path[4096];
    const char *pointer = "version https://git-lfs.github.com/spec/v1\n";
    member_path(&f, "model.safetensors", path);
    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_int_equal(truncate(path, 20000), 0);
    assert_error(try_open(&f, err), QN_E_FORMAT, "model.safetensors|do not lie in the file's");
    assert_int_equal(truncate(path, 100), 0);
    assert_error(try_open(&f, err), QN_E_FORMAT, "model.safetensors|truncated");
    assert_int_equal(truncate(path, 0), 0);
    assert_error(try_open(&f, err), QN_E_FORMAT, "model.safetensors|too few");
    write_test_file(f.folder, "model.safetensors", pointer, strlen(pointer));
    assert_error(try_open(&f, err), QN_E_FORMAT, "model.safetensors|header of");
    teardown(&f);
}

/* The lowest tensor of the layout is named, whatever the number of threads. */
static void test_not_finite(void **state) {
    (void)state;
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    for (size_t d = 0; d < 3; d++) {
        fixture f = setup(&(tiny_options){.layers = 4});
        tiny_model_find(f.model, "model.layers.3.mlp.up_proj.weight")->values[0] = NAN;
        tiny_model_find(f.model, "model.layers.1.mlp.up_proj.weight")->values[2 * 48 + 5] = -INFINITY;
        tiny_model_find(f.model, "model.layers.1.mlp.up_proj.weight")->values[70 * 48] = NAN;
        tiny_model_write(f.model, f.folder, dtypes[d], 2);
        qn_checkpoint *c = NULL;
        assert_ok(qn_checkpoint_open(f.folder, &c, err));
        for (int n_threads = 1; n_threads <= 4; n_threads++)
            assert_error(qn_checkpoint_check_finite(c, &(qn_context){.n_threads = n_threads}, err),
                         QN_E_VALUE, "00001-of-00002|model.layers.1.mlp.up_proj.weight|row 2, column 5");
        qn_checkpoint_close(c);
        teardown(&f);
    }
}

static bool always(void *user) {
    (void)user;
    return true;
}

static void test_check_can_be_cancelled(void **state) {
    (void)state;
    fixture f = setup(&(tiny_options){0});
    qn_checkpoint *c = NULL;
    const qn_context stop = {.n_threads = 1, .is_cancelled = always};
    char hex[QN_SHA256_HEX] = "untouched";
    tiny_model_write(f.model, f.folder, NULL, 1);
    assert_ok(qn_checkpoint_open(f.folder, &c, err));
    assert_int_equal(qn_checkpoint_check_finite(c, &stop, NULL), QN_E_CANCELLED);
    assert_int_equal(qn_checkpoint_sha256(c, &stop, hex, NULL), QN_E_CANCELLED);
    assert_string_equal(hex, "untouched");
    qn_checkpoint_close(c);
    teardown(&f);
}

/* The documented recipe, done by hand. */
static void test_sha256_of_shards(void **state) {
    (void)state;
    fixture f = setup(&(tiny_options){0});
    qn_checkpoint *c = NULL;
    char lines[512] = "", one[QN_SHA256_HEX], want[QN_SHA256_HEX], got[QN_SHA256_HEX], path[4096];
    tiny_model_write(f.model, f.folder, NULL, 2);
    for (int i = 1; i <= 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-00002.safetensors", i);
        member_path(&f, name, path);
        assert_ok(qn_sha256_of_file(path, one, NULL, err));
        const size_t at = strlen(lines);
        snprintf(lines + at, sizeof lines - at, "%s  %s\n", one, name);
    }
    assert_ok(qn_sha256_of_memory(lines, strlen(lines), want, err));
    assert_ok(qn_checkpoint_open(f.folder, &c, err));
    assert_ok(qn_checkpoint_sha256(c, NULL, got, err));
    assert_string_equal(got, want);
    qn_checkpoint_close(c);
    teardown(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opens_every_kind),
        cmocka_unit_test(test_harmless_extras),
        cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_surplus_tensor),
        cmocka_unit_test(test_wrong_dtype),
        cmocka_unit_test(test_files_that_are_absent),
        cmocka_unit_test(test_wrong_index),
        cmocka_unit_test(test_tensor_in_two_shards),
        cmocka_unit_test(test_damaged_file),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_check_can_be_cancelled),
        cmocka_unit_test(test_sha256_of_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
