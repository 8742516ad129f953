/* The tensors a config implies: names, shapes, order, counts. */
#include "quern/checkpoint/layout.h"

#include "expect_error.h"
#include "tiny_model.h"

#include <stdlib.h>

static qn_layout layout_of(const tiny_model *model) {
    qn_config config = {0};
    qn_layout layout = {0};
    char *text = json_dumps(model->config, 0);
    assert_ok(qn_config_parse(text, strlen(text), "config.json", &config, err));
    assert_ok(qn_layout_make(&config, &layout, err));
    qn_config_release(&config);
    free(text);
    return layout;
}

/* The tiny model lists its tensors by its own rules; both must name the same set. */
static void check_same(const tiny_options *options) {
    tiny_model *model = tiny_model_make(options);
    qn_layout layout = layout_of(model);
    assert_int_equal(layout.n, model->n_tensors);
    assert_int_equal(layout.n_parameters, tiny_model_parameters(model));
    int64_t n_matrices = 0;
    for (int64_t i = 0; i < layout.n; i++) {
        const qn_layout_entry *e = &layout.entries[i];
        const tiny_tensor *t = tiny_model_find(model, e->name);
        assert_int_equal(e->is_matrix, t->n_dims == 2);
        assert_int_equal(e->rows, t->n_dims == 2 ? t->shape[0] : 1);
        assert_int_equal(e->cols, t->shape[t->n_dims - 1]);
        assert_int_equal(qn_layout_find(&layout, e->kind, e->layer), i);
        n_matrices += e->is_matrix;
    }
    assert_int_equal(layout.n_matrices, n_matrices);
    qn_layout_release(&layout);
    qn_layout_release(&layout);
    tiny_model_free(model);
}

static void test_names_and_shapes(void **state) {
    (void)state;
    check_same(&(tiny_options){.tied = true});
    check_same(&(tiny_options){.tied = false, .layers = 3, .kv_heads = 4});
    check_same(&(tiny_options){.attention_bias = true, .kv_heads = 1});
    check_same(&(tiny_options){.model_type = "qwen2"});
    check_same(&(tiny_options){.model_type = "qwen2", .tied = true, .attention_bias = true});
}

static void test_order_and_places(void **state) {
    (void)state;
    tiny_model *model = tiny_model_make(&(tiny_options){.layers = 2});
    qn_layout layout = layout_of(model);
    assert_int_equal(layout.n, 1 + 2 * 11 + 2);
    assert_int_equal(layout.n_matrices, 1 + 2 * 7 + 1);
    assert_int_equal(qn_layout_find(&layout, QN_TENSOR_EMBED, -1), 0);
    assert_int_equal(qn_layout_find(&layout, QN_TENSOR_INPUT_NORM, 0), 1);
    assert_int_equal(qn_layout_find(&layout, QN_TENSOR_INPUT_NORM, 1), 12);
    assert_int_equal(qn_layout_find(&layout, QN_TENSOR_FINAL_NORM, -1), 23);
    assert_int_equal(qn_layout_find(&layout, QN_TENSOR_HEAD, -1), 24);
    assert_int_equal(qn_layout_find(&layout, QN_TENSOR_Q_BIAS, 0), -1);
    assert_int_equal(qn_layout_find(&layout, QN_TENSOR_Q, 2), -1);
    assert_string_equal(layout.entries[22].name, "model.layers.1.mlp.down_proj.weight");
    qn_layout_release(&layout);
    tiny_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_and_shapes),
        cmocka_unit_test(test_order_and_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
