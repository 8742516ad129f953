/* Reading second moments: the good file, and each way to be wrong. */
#include "quern/checkpoint/safetensors.h"
#include "quern/fit/second_moments.h"

#include "tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define Q_MOMENTS    "model.layers.0.self_attn.q_proj.weight.input_second_moment"
#define DOWN_MOMENTS "model.layers.1.mlp.down_proj.weight.input_second_moment"

enum { HIDDEN = 48, INTERMEDIATE = 80 };

static char *folder;
static qn_checkpoint *checkpoint;
static float values[INTERMEDIATE];

static int open_model(void **state) {
    (void)state;
    folder = make_temporary_folder();
    write_tiny_model(folder, &(tiny_options){0});
    for (int i = 0; i < INTERMEDIATE; i++) values[i] = (float)i / 8;
    return qn_checkpoint_open(folder, &checkpoint, NULL);
}

static int close_model(void **state) {
    (void)state;
    qn_checkpoint_close(checkpoint);
    remove_tree(folder);
    free(folder);
    return 0;
}

static qn_safetensors_item vector(const char *name, int64_t n) {
    return (qn_safetensors_item){name, {values, QN_DTYPE_F32, 1, {n}}};
}

static qn_status load(const qn_safetensors_item *items, size_t n, const char *sha256, qn_second_moments *out,
                      qn_error *err) {
    char path[512];
    snprintf(path, sizeof path, "%s/moments.safetensors", folder);
    qn_safetensors_meta meta = {"model_sha256", sha256};
    assert_int_equal(qn_safetensors_save(path, items, n, &meta, sha256 != NULL, NULL, NULL), QN_OK);
    return qn_second_moments_load(path, checkpoint, NULL, out, err);
}

static void test_moments_are_read(void **state) {
    (void)state;
    const qn_layout *layout = qn_checkpoint_layout(checkpoint);
    qn_safetensors_item items[] = {vector(DOWN_MOMENTS, INTERMEDIATE), vector(Q_MOMENTS, HIDDEN)};
    qn_second_moments moments = {0};
    qn_error err;
    if (load(items, 2, NULL, &moments, &err) != QN_OK) fail_msg("%s", err.message);
    int64_t q = qn_layout_find(layout, QN_TENSOR_Q, 0), down = qn_layout_find(layout, QN_TENSOR_DOWN, 1);
    for (int64_t i = 0; i < layout->n; i++) {
        const float *h = qn_second_moments_of(&moments, i);
        if (i != q && i != down) {
            assert_null(h);
            continue;
        }
        assert_memory_equal(h, values, (size_t)layout->entries[i].cols * sizeof *h);
    }
    assert_null(qn_second_moments_of(NULL, q));
    assert_null(qn_second_moments_of(&moments, layout->n));
    qn_second_moments_release(&moments);
    qn_second_moments_release(&moments);
    assert_null(qn_second_moments_of(&moments, q));
}

static void test_no_tensor_at_all_is_fine(void **state) {
    (void)state;
    qn_second_moments moments = {0};
    assert_int_equal(load(NULL, 0, NULL, &moments, NULL), QN_OK);
    assert_null(qn_second_moments_of(&moments, 0));
    qn_second_moments_release(&moments);
}

static void expect_refusal(qn_safetensors_item item, const char *sha256, qn_status status,
                           const char *words) {
    qn_second_moments moments = {0};
    qn_error err = {0};
    assert_int_equal(load(&item, 1, sha256, &moments, &err), status);
    if (!strstr(err.message, words)) fail_msg("'%s' lacks '%s'", err.message, words);
    assert_non_null(strstr(err.message, "moments.safetensors"));
    assert_null(moments.per_entry);
}

static void test_bad_tensors_are_refused(void **state) {
    (void)state;
    qn_safetensors_item bf16 = {Q_MOMENTS, {values, QN_DTYPE_BF16, 1, {HIDDEN}}};
    qn_safetensors_item two_dims = {Q_MOMENTS, {values, QN_DTYPE_F32, 2, {1, HIDDEN}}};
    expect_refusal(vector("model.layers.9.self_attn.q_proj.weight.input_second_moment", HIDDEN), NULL,
                   QN_E_FORMAT, "names no matrix");
    expect_refusal(vector("model.layers.0.self_attn.q_proj.weight", HIDDEN), NULL, QN_E_FORMAT,
                   "names no matrix");
    expect_refusal(vector("model.norm.weight.input_second_moment", HIDDEN), NULL, QN_E_FORMAT,
                   "names no matrix");
    expect_refusal(vector(".input_second_moment", HIDDEN), NULL, QN_E_FORMAT, "names no matrix");
    expect_refusal(vector(Q_MOMENTS, HIDDEN - 1), NULL, QN_E_SHAPE, "expected F32 [48]");
    expect_refusal(two_dims, NULL, QN_E_SHAPE, "2 dimensions");
    expect_refusal(bf16, NULL, QN_E_SHAPE, "is BF16");
}

static void test_bad_values_are_refused(void **state) {
    (void)state;
    const float bad[] = {-1e-20f, NAN, INFINITY};
    for (int k = 0; k < 3; k++) {
        float kept = values[5];
        values[5] = bad[k];
        expect_refusal(vector(Q_MOMENTS, HIDDEN), NULL, QN_E_VALUE, "[5] is");
        values[5] = kept;
    }
}

static void test_moments_of_another_model_are_refused(void **state) {
    (void)state;
    char sha256[QN_SHA256_HEX];
    qn_second_moments moments = {0};
    qn_safetensors_item item = vector(Q_MOMENTS, HIDDEN);
    assert_int_equal(qn_checkpoint_sha256(checkpoint, NULL, sha256, NULL), QN_OK);
    assert_int_equal(load(&item, 1, sha256, &moments, NULL), QN_OK);
    qn_second_moments_release(&moments);
    sha256[0] = sha256[0] == '0' ? '1' : '0';
    expect_refusal(item, sha256, QN_E_ARGUMENT, "another model");
}

static void test_a_missing_or_broken_file_is_refused(void **state) {
    (void)state;
    qn_second_moments moments = {0};
    qn_error err;
    char path[512];
    snprintf(path, sizeof path, "%s/absent.safetensors", folder);
    assert_int_equal(qn_second_moments_load(path, checkpoint, NULL, &moments, &err), QN_E_IO);
    assert_non_null(strstr(err.message, "absent.safetensors"));
    write_test_file(folder, "broken.safetensors", "not a tensor file", 17);
    snprintf(path, sizeof path, "%s/broken.safetensors", folder);
    assert_int_equal(qn_second_moments_load(path, checkpoint, NULL, &moments, &err), QN_E_FORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments_are_read),
        cmocka_unit_test(test_no_tensor_at_all_is_fine),
        cmocka_unit_test(test_bad_tensors_are_refused),
        cmocka_unit_test(test_bad_values_are_refused),
        cmocka_unit_test(test_moments_of_another_model_are_refused),
        cmocka_unit_test(test_a_missing_or_broken_file_is_refused),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
