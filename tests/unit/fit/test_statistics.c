/* The file of statistics: what is read, listed and merged, and each way to be wrong. */
#include "quern/checkpoint/safetensors.h"
#include "quern/fit/statistics.h"

#include "expect_error.h"
#include "tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 48, KEYS = 32, MAX_META = 8 };
#define LAYER "model.layers.0."
#define EMBED "model.embed_tokens.weight"

static char *folder;
static qn_checkpoint *checkpoint;
static const qn_layout *layout;

static int open_model(void **state) {
    (void)state;
    folder = make_temporary_folder();
    write_tiny_model(folder, &(tiny_options){.tied = true});
    assert_ok(qn_checkpoint_open(folder, &checkpoint, err));
    layout = qn_checkpoint_layout(checkpoint);
    return 0;
}

static int close_model(void **state) {
    (void)state;
    qn_checkpoint_close(checkpoint);
    remove_tree(folder);
    free(folder);
    return 0;
}

static float *ramp(int64_t n, float from) {
    float *values = malloc((size_t)n * sizeof *values);
    for (int64_t i = 0; i < n; i++) values[i] = from + (float)i / 64;
    return values;
}

/* Files of three tensors whose values begin at FROM. */
static char *write_file(const char *name, float from, const qn_safetensors_meta *meta, size_t n_meta) {
    char *path = path_in(folder, name);
    float *square = ramp(HIDDEN * HIDDEN, from), *vector = ramp(HIDDEN, from), *fisher = ramp(KEYS, 2 * from);
    const qn_safetensors_item items[] = {
        {LAYER "self_attn.q_proj.weight.input_hessian", {square, QN_DTYPE_F32, 2, {HIDDEN, HIDDEN}}},
        {LAYER "self_attn.q_proj.weight.input_second_moment", {vector, QN_DTYPE_F32, 1, {HIDDEN}}},
        {LAYER "self_attn.k_proj.weight.output_fisher", {fisher, QN_DTYPE_F32, 1, {KEYS}}}};
    assert_ok(qn_safetensors_save(path, items, 3, meta, n_meta, NULL, err));
    free(square);
    free(vector);
    free(fisher);
    return path;
}

static char *write_part(const char *name, float from, const char *text, const char *n_tokens,
                        const char *n_fisher_tokens) {
    const qn_safetensors_meta meta[] = {{"version", "1"},       {"model_sha256", "abc"},
                                        {"text_sha256", text},  {"context", "512"},
                                        {"n_tokens", n_tokens}, {"n_fisher_tokens", n_fisher_tokens}};
    return write_file(name, from, meta, sizeof meta / sizeof *meta);
}

static int64_t entry_of(qn_tensor_kind kind, int64_t layer) {
    return qn_layout_find(layout, kind, layer);
}

static void test_values_are_read_and_inputs_shared(void **state) {
    (void)state;
    char *path = write_part("a.safetensors", 1, "t", "1000", "10");
    qn_statistics *s = NULL;
    float *h = malloc(HIDDEN * HIDDEN * sizeof *h), *want = ramp(HIDDEN * HIDDEN, 1);
    assert_ok(qn_statistics_open(path, layout, &s, err));
    const qn_statistics_info info = qn_statistics_info_of(s);
    assert_int_equal(info.n_tokens, 1000);
    assert_int_equal(info.n_fisher_tokens, 10);
    assert_string_equal(info.text_sha256, "t");
    assert_null(info.seed);
    const int64_t q = entry_of(QN_TENSOR_Q, 0), k = entry_of(QN_TENSOR_K, 0), v = entry_of(QN_TENSOR_V, 0);
    const int64_t sharers[] = {q, k, v};
    for (int i = 0; i < 3; i++) {
        memset(h, 0, HIDDEN * HIDDEN * sizeof *h);
        assert_true(qn_statistics_has_hessian(s, sharers[i]));
        assert_ok(qn_statistics_hessian(s, sharers[i], h, err));
        assert_memory_equal(h, want, HIDDEN * HIDDEN * sizeof *h);
    }
    assert_memory_equal(qn_statistics_vector(s, QN_STATISTIC_SECOND_MOMENT, q), want, HIDDEN * sizeof *want);
    assert_null(qn_statistics_vector(s, QN_STATISTIC_SECOND_MOMENT, k));
    assert_non_null(qn_statistics_vector(s, QN_STATISTIC_OUTPUT_FISHER, k));
    assert_null(qn_statistics_vector(s, QN_STATISTIC_OUTPUT_FISHER, -1));
    const int64_t others[] = {entry_of(QN_TENSOR_O, 0), entry_of(QN_TENSOR_Q, 1), layout->n};
    for (int i = 0; i < 3; i++) {
        assert_false(qn_statistics_has_hessian(s, others[i]));
        assert_error(qn_statistics_hessian(s, others[i], h, err), QN_E_ARGUMENT, "a.safetensors|no Hessian");
    }
    qn_statistics_close(s);
    free(path);
    free(h);
    free(want);
}

static void test_inputs_that_are_shared(void **state) {
    (void)state;
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *entry = &layout->entries[i];
        qn_tensor_kind owner = entry->kind;
        if (owner == QN_TENSOR_K || owner == QN_TENSOR_V) owner = QN_TENSOR_Q;
        if (owner == QN_TENSOR_UP) owner = QN_TENSOR_GATE;
        assert_int_equal(qn_statistics_shared_input(layout, i), entry_of(owner, entry->layer));
    }
}

static void test_a_file_is_listed_without_a_model(void **state) {
    (void)state;
    char *path = write_part("a.safetensors", 0, "t", "5", "1");
    qn_statistics *s = NULL;
    qn_statistics_item item;
    assert_ok(qn_statistics_open(path, NULL, &s, err));
    assert_int_equal(qn_statistics_count(s), 3);
    assert_ok(qn_statistics_item_at(s, 0, &item, err));
    assert_int_equal(item.statistic, QN_STATISTIC_HESSIAN);
    assert_int_equal(item.n_values, HIDDEN); /* its diagonal: i * 49 / 64 */
    assert_int_equal(item.n_zero, 1);
    assert_true(fabs(item.mean - 49.0 / 64 * (HIDDEN - 1) / 2) < 1e-12);
    assert_true(item.largest == 49.0 * (HIDDEN - 1) / 64);
    assert_ok(qn_statistics_item_at(s, 2, &item, err));
    assert_string_equal(item.name, LAYER "self_attn.k_proj.weight.output_fisher");
    assert_error(qn_statistics_item_at(s, 3, &item, err), QN_E_ARGUMENT, "no tensor 3");
    assert_null(qn_statistics_vector(s, QN_STATISTIC_SECOND_MOMENT, 0));
    qn_statistics_close(s);
    free(path);
}

static void refuse_tensor(const char *name, qn_view view, qn_status status, const char *words) {
    char *path = path_in(folder, "bad.safetensors");
    qn_statistics *s = NULL;
    const qn_safetensors_item item = {name, view};
    assert_ok(qn_safetensors_save(path, &item, 1, NULL, 0, NULL, err));
    assert_error(qn_statistics_open(path, layout, &s, err), status, words);
    assert_null(s);
    free(path);
}

static void test_bad_tensors_are_refused(void **state) {
    (void)state;
    float *values = ramp(HIDDEN * HIDDEN, 0);
    const qn_view vector = {values, QN_DTYPE_F32, 1, {HIDDEN}};
    const qn_view flat = {values, QN_DTYPE_F32, 1, {HIDDEN * HIDDEN}};
    const qn_view oblong = {values, QN_DTYPE_F32, 2, {HIDDEN / 2, HIDDEN * 2}};
    const char *h = LAYER "self_attn.q_proj.weight.input_hessian";
    refuse_tensor(LAYER "self_attn.q_proj.weight.input_size", vector, QN_E_FORMAT,
                  "bad.safetensors|input_size");
    refuse_tensor("input_hessian", vector, QN_E_FORMAT, "names no matrix");
    refuse_tensor(LAYER "input_layernorm.weight.input_second_moment", vector, QN_E_FORMAT, "names no matrix");
    refuse_tensor(h, flat, QN_E_SHAPE, "expected F32 [48, 48]");
    refuse_tensor(h, oblong, QN_E_SHAPE, "expected F32 [48, 48]");
    refuse_tensor(h, vector, QN_E_SHAPE, "1 dimensions");
    refuse_tensor(EMBED ".token_frequency", vector, QN_E_SHAPE, "expected F32 [257]");
    refuse_tensor(LAYER "self_attn.k_proj.weight.output_fisher", vector, QN_E_SHAPE, "expected F32 [32]");
    values[7] = -1;
    refuse_tensor(EMBED ".lookup_gradient", vector, QN_E_VALUE, "lookup_gradient[7] is -1");
    free(values);
}

static void refuse_hessian(int64_t at, float value, bool is_bad) {
    char *path = path_in(folder, "h.safetensors");
    float *values = ramp(HIDDEN * HIDDEN, 0), *out = malloc(HIDDEN * HIDDEN * sizeof *out);
    const qn_safetensors_item item = {LAYER "mlp.gate_proj.weight.input_hessian",
                                      {values, QN_DTYPE_F32, 2, {HIDDEN, HIDDEN}}};
    qn_statistics *s = NULL;
    values[at] = value;
    assert_ok(qn_safetensors_save(path, &item, 1, NULL, 0, NULL, err));
    assert_ok(qn_statistics_open(path, layout, &s, err));
    if (is_bad)
        assert_error(qn_statistics_hessian(s, entry_of(QN_TENSOR_UP, 0), out, err), QN_E_VALUE,
                     "gate_proj.weight.input_hessian");
    else
        assert_ok(qn_statistics_hessian(s, entry_of(QN_TENSOR_UP, 0), out, err));
    qn_statistics_close(s);
    free(path);
    free(values);
    free(out);
}

static void test_values_of_a_hessian_are_checked_when_asked_for(void **state) {
    (void)state;
    refuse_hessian(5, -3, false);
    refuse_hessian(5, NAN, true);
    refuse_hessian(HIDDEN + 1, -3, true);
    refuse_hessian(HIDDEN * HIDDEN - 1, INFINITY, true);
}

static void test_bad_metadata_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *key, *value, *words;
        qn_status status;
    } cases[] = {{"version", "2", "version 2", QN_E_UNSUPPORTED},
                 {"n_tokens", "many", "n_tokens is 'many'", QN_E_FORMAT},
                 {"n_tokens", "-4", "n_tokens is '-4'", QN_E_FORMAT},
                 {"n_tokens", "99999999999999999999", "expected a count", QN_E_FORMAT},
                 {"n_fisher_tokens", "", "n_fisher_tokens", QN_E_FORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const qn_safetensors_meta meta = {cases[i].key, cases[i].value};
        char *path = write_file("meta.safetensors", 1, &meta, 1);
        qn_statistics *s = NULL;
        assert_error(qn_statistics_open(path, layout, &s, err), cases[i].status, cases[i].words);
        free(path);
    }
}

static void test_another_model_is_refused(void **state) {
    (void)state;
    char sha256[QN_SHA256_HEX];
    assert_ok(qn_checkpoint_sha256(checkpoint, NULL, sha256, err));
    for (int is_other = 0; is_other < 2; is_other++) {
        if (is_other) sha256[0] = sha256[0] == '0' ? '1' : '0';
        const qn_safetensors_meta meta = {"model_sha256", sha256};
        char *path = write_file("m.safetensors", 1, &meta, 1);
        qn_statistics *s = NULL;
        assert_ok(qn_statistics_open(path, layout, &s, err));
        if (is_other)
            assert_error(qn_statistics_check_model(s, checkpoint, NULL, err), QN_E_ARGUMENT, "another model");
        else
            assert_ok(qn_statistics_check_model(s, checkpoint, NULL, err));
        qn_statistics_close(s);
        free(path);
    }
}

/* ---- merging ---- */

static void test_a_merge_weighs_by_tokens(void **state) {
    (void)state;
    char *a = write_part("a.safetensors", 1, "ta", "3000", "100"), *out = path_in(folder, "sum.safetensors");
    char *b = write_part("b.safetensors", 5, "tb", "1000", "300");
    qn_statistics *s = NULL;
    float *h = malloc(HIDDEN * HIDDEN * sizeof *h);
    assert_ok(qn_statistics_merge((const char *[]){a, b, a}, 3, out, NULL, err));
    assert_ok(qn_statistics_open(out, layout, &s, err));
    const qn_statistics_info info = qn_statistics_info_of(s);
    assert_int_equal(info.n_tokens, 7000);
    assert_int_equal(info.n_fisher_tokens, 500);
    assert_string_equal(info.model_sha256, "abc");
    assert_string_equal(info.text_sha256, "ta+tb");
    assert_string_equal(info.context, "512");
    assert_string_equal(info.seed, "?");
    assert_ok(qn_statistics_hessian(s, entry_of(QN_TENSOR_Q, 0), h, err));
    const float *fisher = qn_statistics_vector(s, QN_STATISTIC_OUTPUT_FISHER, entry_of(QN_TENSOR_K, 0));
    for (int i = 0; i < HIDDEN * HIDDEN; i++) /* rounded to f32 once */
        assert_true(fabs((double)h[i] - ((6.0 * 1 + 5) / 7 + i / 64.0)) <= 1e-6 * (double)h[i]);
    for (int i = 0; i < KEYS; i++)
        assert_true(fabs((double)fisher[i] - ((2.0 * 2 + 3 * 10) / 5 + i / 64.0)) <=
                    1e-6 * (double)fisher[i]);
    qn_statistics_close(s);
    free(a);
    free(b);
    free(out);
    free(h);
}

static void refuse_merge(const char *a, const char *b, qn_status status, const char *words) {
    char *out = path_in(folder, "refused.safetensors");
    const int before = count_entries(folder);
    assert_error(qn_statistics_merge((const char *[]){a, b}, 2, out, NULL, err), status, words);
    assert_int_equal(count_entries(folder), before);
    free(out);
}

static void test_what_does_not_belong_together_is_not_merged(void **state) {
    (void)state;
    char *a = write_part("a.safetensors", 1, "t", "10", "10"),
         *plain = write_file("p.safetensors", 1, NULL, 0);
    const qn_safetensors_meta other[] = {{"model_sha256", "xyz"}, {"n_tokens", "5"}};
    char *b = write_file("b.safetensors", 1, other, 2), *c = path_in(folder, "c.safetensors");
    const qn_safetensors_meta same[] = {{"model_sha256", "abc"}, {"n_tokens", "5"}};
    float *values = ramp(HIDDEN * HIDDEN, 1);
    const qn_safetensors_item item = {LAYER "self_attn.q_proj.weight.input_second_moment",
                                      {values, QN_DTYPE_F32, 1, {HIDDEN}}};
    assert_ok(qn_safetensors_save(c, &item, 1, same, 2, NULL, err));
    refuse_merge(a, b, QN_E_ARGUMENT, "b.safetensors|another model|a.safetensors|xyz");
    refuse_merge(a, plain, QN_E_ARGUMENT, "p.safetensors|neither its model");
    refuse_merge(a, c, QN_E_ARGUMENT, "c.safetensors|lacks|input_hessian");
    refuse_merge(c, a, QN_E_ARGUMENT, "a.safetensors|3 tensors, not 1");
    refuse_merge(a, "absent.safetensors", QN_E_IO, "absent.safetensors");
    assert_error(qn_statistics_merge(NULL, 0, "x", NULL, err), QN_E_ARGUMENT, "no statistics");
    values[3] = NAN;
    assert_ok(qn_safetensors_save(c, &item, 1, same, 2, NULL, err));
    refuse_merge(c, c, QN_E_VALUE, "c.safetensors|[3] is nan");
    free(values);
    free(a);
    free(b);
    free(c);
    free(plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_are_read_and_inputs_shared),
        cmocka_unit_test(test_inputs_that_are_shared),
        cmocka_unit_test(test_a_file_is_listed_without_a_model),
        cmocka_unit_test(test_bad_tensors_are_refused),
        cmocka_unit_test(test_values_of_a_hessian_are_checked_when_asked_for),
        cmocka_unit_test(test_bad_metadata_are_refused),
        cmocka_unit_test(test_another_model_is_refused),
        cmocka_unit_test(test_a_merge_weighs_by_tokens),
        cmocka_unit_test(test_what_does_not_belong_together_is_not_merged),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
