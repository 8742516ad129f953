/* A walk driven from outside is the walk: the same streams and inputs, and weights may change on the way. */
#include "quern/model/stepper.h"
#include "tiny_model.h"

#include <stdlib.h>
#include <string.h>

enum { N = 40 };
static const int64_t k_starts[] = {0, 25, N};
static int32_t k_ids[N];

typedef struct fixture {
    char *folder;
    qn_model *model;
    const qn_layout *layout;
    qn_sequences sequences;
    qn_stepper *stepper;
    int64_t h;
    float *x, *expected, *in;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    qn_error err = {0};
    f->folder = make_temporary_folder();
    write_tiny_model(f->folder, &(tiny_options){.attention_bias = true});
    for (int i = 0; i < N; i++) k_ids[i] = i * 11 % 257;
    f->sequences = (qn_sequences){.ids = k_ids, .starts = k_starts, .n = 2};
    if (qn_model_open(f->folder, &f->model, &err) != QN_OK) fail_msg("%s", err.message);
    f->layout = qn_checkpoint_layout(qn_model_checkpoint(f->model));
    f->h = qn_model_config(f->model)->hidden_size;
    const size_t floats = (size_t)(N * (f->h + qn_model_config(f->model)->intermediate_size));
    f->x = calloc(floats, sizeof(float));
    f->expected = calloc(floats, sizeof(float));
    f->in = calloc(floats, sizeof(float));
    if (qn_stepper_open(f->model, &f->sequences, QN_COMPUTE_F32, NULL, &f->stepper, &err) != QN_OK)
        fail_msg("%s", err.message);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    qn_stepper_close(f->stepper);
    qn_model_close(f->model);
    remove_tree(f->folder);
    free(f->folder);
    free(f->x);
    free(f->expected);
    free(f->in);
    free(f);
    return 0;
}

/* Observes a whole walk: the stream in front of one block, and the input of one linear layer. */
typedef struct watch {
    int64_t depth, index;
    float *stream, *input;
    int64_t h;
} watch;

static qn_status on_hidden(void *user, int64_t depth, const float *x, int64_t n_tokens, qn_error *err) {
    watch *w = user;
    (void)err;
    if (depth == w->depth) memcpy(w->stream, x, (size_t)(n_tokens * w->h) * sizeof *x);
    return QN_OK;
}

static qn_status on_linear_input(void *user, int64_t index, const float *x, int64_t first_token,
                                 int64_t n_tokens, int64_t cols, qn_error *err) {
    watch *w = user;
    (void)err;
    if (index == w->index) memcpy(w->input + first_token * cols, x, (size_t)(n_tokens * cols) * sizeof *x);
    return QN_OK;
}

static void walk(const fixture *f, watch *w, float *hidden) {
    const qn_walk_observer observer = {.on_hidden = on_hidden, .on_linear_input = on_linear_input, .user = w};
    const qn_walk_options options = {.observer = &observer};
    assert_int_equal(qn_walk(f->model, &f->sequences, &options, NULL, hidden, NULL, NULL), QN_OK);
}

static void test_steps_are_the_walk(void **state) {
    const fixture *f = *state;
    watch nothing = {.depth = -1, .index = -1};
    walk(f, &nothing, f->expected);
    assert_int_equal(qn_stepper_embed(f->stepper, f->x, NULL), QN_OK);
    for (int64_t l = 0; l < qn_model_config(f->model)->n_layers; l++)
        assert_int_equal(qn_stepper_block(f->stepper, l, f->x, NULL), QN_OK);
    assert_int_equal(qn_stepper_norm(f->stepper, f->x, NULL), QN_OK);
    assert_memory_equal(f->x, f->expected, sizeof(float) * (size_t)(N * f->h));
}

static void test_inputs_are_those_of_the_walk(void **state) {
    const fixture *f = *state;
    float *hidden = malloc(sizeof(float) * (size_t)(N * f->h));
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *entry = &f->layout->entries[i];
        if (!entry->is_matrix || entry->layer < 0) continue;
        watch w = {.depth = entry->layer, .index = i, .stream = f->x, .input = f->expected, .h = f->h};
        walk(f, &w, hidden);
        memcpy(hidden, f->x, sizeof(float) * (size_t)(N * f->h));
        int64_t done = 0;
        for (int64_t c = 0; c < qn_stepper_chunks(f->stepper); c++) {
            int64_t n = 0;
            assert_int_equal(qn_stepper_input(f->stepper, entry->layer, i, c, f->x, f->in, &n, NULL), QN_OK);
            assert_in_range(n, 1, qn_stepper_longest_chunk(f->stepper));
            assert_memory_equal(f->in, f->expected + done * entry->cols,
                                sizeof(float) * (size_t)(n * entry->cols));
            done += n;
        }
        assert_int_equal(done, N);
        assert_memory_equal(f->x, hidden, sizeof(float) * (size_t)(N * f->h));
    }
    free(hidden);
}

static void test_lent_weights_take_effect_at_the_next_step(void **state) {
    const fixture *f = *state;
    const int64_t index = qn_layout_find(f->layout, QN_TENSOR_O, 0);
    const qn_layout_entry *entry = &f->layout->entries[index];
    float *zeros = calloc((size_t)(entry->rows * entry->cols), sizeof *zeros);
    const qn_weight weight = {
        .kind = QN_WEIGHT_DENSE,
        .dense = {.data = zeros, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {entry->rows, entry->cols}}};
    watch nothing = {.depth = 1, .index = -1, .stream = f->expected, .h = f->h};
    float *hidden = malloc(sizeof(float) * (size_t)(N * f->h));
    assert_int_equal(qn_stepper_embed(f->stepper, f->x, NULL), QN_OK);
    assert_int_equal(qn_model_set_weight(f->model, index, &weight, NULL), QN_OK);
    walk(f, &nothing, hidden);
    assert_int_equal(qn_stepper_block(f->stepper, 0, f->x, NULL), QN_OK);
    assert_memory_equal(f->x, f->expected, sizeof(float) * (size_t)(N * f->h));
    assert_int_equal(qn_model_set_weight(f->model, index, NULL, NULL), QN_OK);
    free(hidden);
    free(zeros);
}

static void test_a_layer_of_another_block_is_refused(void **state) {
    const fixture *f = *state;
    qn_error err = {0};
    int64_t n = -1;
    const int64_t index = qn_layout_find(f->layout, QN_TENSOR_DOWN, 1);
    assert_int_equal(qn_stepper_input(f->stepper, 0, index, 0, f->x, f->in, &n, &err), QN_E_ARGUMENT);
    assert_non_null(strstr(err.message, "layers.1.mlp.down_proj"));
    assert_int_equal(n, -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_steps_are_the_walk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_inputs_are_those_of_the_walk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lent_weights_take_effect_at_the_next_step, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_layer_of_another_block_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
