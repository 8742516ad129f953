/* What the guest of the walk backwards is shown, against the gradients of the weights that follow from it; gradients left
 * out; weights that are not f32. */
#include "gradient_support.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Relative L2 of a tensor: f32 sums over tokens here and there. */
#define SUM_TOLERANCE 1e-5

static const int64_t k_starts[] = {0, 1, 700, 700, 2600};
enum { N_SEQUENCES = 4, T = 2600, VOCAB = 61 }; /* chunks of several sequences */

typedef struct fixture {
    char *folder;
    float_model m;
    int32_t ids[T], targets[T];
    qn_sequences sequences;
} fixture;

static void make_fixture(fixture *f, tiny_options options) {
    f->folder = make_temporary_folder();
    options.vocab = VOCAB;
    write_tiny_model(f->folder, &options);
    f->m = float_model_open(f->folder);
    for (int i = 0; i < T; i++) f->ids[i] = (i * 7 + i / 5) % VOCAB;
    for (int i = 0; i < T; i++) f->targets[i] = i % 9 == 4 ? -1 : f->ids[(i + 1) % T];
    f->sequences = (qn_sequences){.ids = f->ids, .starts = k_starts, .n = N_SEQUENCES};
}

static void release(fixture *f) {
    float_model_close(&f->m);
    remove_tree(f->folder);
    free(f->folder);
}

/* ---- all that both guests are shown, kept ---- */

typedef struct record {
    const qn_layout *layout;
    float **inputs, **gradients; /* [layout->n] [T, cols] and [T, rows]; of the embedding [T, h] */
    int64_t *seen;               /* [layout->n] tokens shown backwards */
} record;

static int64_t width(const qn_layout *layout, int64_t index) {
    const qn_layout_entry *entry = &layout->entries[index];
    return entry->kind == QN_TENSOR_EMBED ? entry->cols : entry->rows;
}

static void keep(float **at, const float *rows, int64_t first, int64_t n, int64_t cols) {
    if (!*at) *at = calloc((size_t)(T * cols), sizeof **at);
    memcpy(*at + first * cols, rows, (size_t)(n * cols) * sizeof **at);
}

static qn_status on_input(void *user, int64_t index, const float *x, int64_t first, int64_t n, int64_t cols,
                          qn_error *err) {
    record *r = user;
    (void)err;
    assert_int_equal(cols, r->layout->entries[index].cols);
    keep(&r->inputs[index], x, first, n, cols);
    return QN_OK;
}

static qn_status on_gradient(void *user, int64_t index, const float *dy, int64_t first, int64_t n,
                             int64_t rows, qn_error *err) {
    record *r = user;
    (void)err;
    assert_int_equal(rows, width(r->layout, index));
    keep(&r->gradients[index], dy, first, n, rows);
    r->seen[index] += n;
    return QN_OK;
}

static record record_open(const qn_layout *layout) {
    const size_t n = (size_t)layout->n;
    return (record){layout, calloc(n, sizeof(float *)), calloc(n, sizeof(float *)),
                    calloc(n, sizeof(int64_t))};
}

static void record_close(record *r) {
    for (int64_t i = 0; i < r->layout->n; i++) {
        free(r->inputs[i]);
        free(r->gradients[i]);
    }
    free(r->inputs);
    free(r->gradients);
    free(r->seen);
}

static void run(const fixture *f, const qn_gradient_observer *observer, qn_gradients *gradients) {
    const qn_loss_options options = {.ce_weight = 1.0, .scale = 0.25, .observer = observer};
    qn_loss loss;
    assert_ok(qn_loss_gradient(f->m.model, &f->sequences, f->targets, &options, NULL, gradients, &loss, err));
}

/* dw [rows, cols] = sum_t dy_t x_t^T */
static void expect_product(const float *dw, const float *dy, const float *x, int64_t rows, int64_t cols) {
    float *want = calloc((size_t)(rows * cols), sizeof *want);
    for (int64_t t = 0; t < T; t++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++) want[r * cols + c] += dy[t * rows + r] * x[t * cols + c];
    const double distance = relative_distance(dw, want, rows * cols);
    if (!(distance <= SUM_TOLERANCE)) fail_msg("distance %g", distance);
    free(want);
}

static void expect_embedding(const fixture *f, const float *dw, const float *dy, int64_t h) {
    float *want = calloc((size_t)(VOCAB * h), sizeof *want);
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < h; c++) want[f->ids[t] * h + c] += dy[t * h + c];
    assert_true(relative_distance(dw, want, VOCAB * h) <= SUM_TOLERANCE);
    free(want);
}

/* The gradients of the weights are those the finite differences of test_gradient.c agree with. */
static void test_weight_gradients_follow_from_what_is_shown(void **state) {
    (void)state;
    static fixture f;
    make_fixture(&f, (tiny_options){.attention_bias = true});
    const qn_layout *layout = f.m.layout;
    record r = record_open(layout);
    const qn_walk_observer inputs = {.on_linear_input = on_input, .user = &r};
    const qn_gradient_observer observer = {on_gradient, &r};
    const qn_walk_options walk = {.observer = &inputs};
    float *hidden = malloc(sizeof *hidden * (size_t)(T * qn_model_config(f.m.model)->hidden_size));
    qn_gradients g = {0};
    assert_ok(qn_gradients_alloc(layout, &g, err));
    assert_ok(qn_walk(f.m.model, &f.sequences, &walk, NULL, hidden, NULL, err));
    run(&f, &observer, &g);
    int64_t n_linears = 0;
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *entry = &layout->entries[i];
        const bool is_shown = entry->is_matrix && entry->kind != QN_TENSOR_HEAD;
        assert_int_equal(r.seen[i], is_shown ? T : 0);
        if (entry->kind == QN_TENSOR_EMBED) expect_embedding(&f, g.per_entry[i], r.gradients[i], entry->cols);
        if (!is_shown || entry->kind == QN_TENSOR_EMBED) continue;
        expect_product(g.per_entry[i], r.gradients[i], r.inputs[i], entry->rows, entry->cols);
        n_linears++;
    }
    assert_int_equal(n_linears, 7 * 2);
    qn_gradients_release(&g);
    record_close(&r);
    free(hidden);
    release(&f);
}

static void assert_same(const record *a, const record *b) {
    for (int64_t i = 0; i < a->layout->n; i++) {
        assert_int_equal(a->seen[i], b->seen[i]);
        if (a->seen[i] == 0) continue;
        assert_memory_equal(a->gradients[i], b->gradients[i],
                            (size_t)(T * width(a->layout, i)) * sizeof(float));
    }
}

static void test_gradients_that_are_not_wanted_change_no_other(void **state) {
    (void)state;
    static fixture f;
    make_fixture(&f, (tiny_options){.tied = true});
    record all = record_open(f.m.layout), some = record_open(f.m.layout), none = record_open(f.m.layout);
    const qn_gradient_observer observers[] = {
        {on_gradient, &all}, {on_gradient, &some}, {on_gradient, &none}};
    qn_gradients g = {0}, half = {0};
    assert_ok(qn_gradients_alloc(f.m.layout, &g, err));
    assert_ok(qn_gradients_alloc(f.m.layout, &half, err));
    for (int64_t i = 0; i < half.n; i += 2) {
        free(half.per_entry[i]);
        half.per_entry[i] = NULL;
    }
    qn_gradients_clear(&half, f.m.layout);
    run(&f, &observers[0], &g);
    run(&f, &observers[1], &half);
    run(&f, &observers[2], NULL);
    assert_same(&all, &some);
    assert_same(&all, &none);
    for (int64_t i = 1; i < half.n; i += 2)
        assert_memory_equal(g.per_entry[i], half.per_entry[i],
                            (size_t)entry_size(f.m.layout, i) * sizeof(float));
    qn_gradients_release(&g);
    qn_gradients_release(&half);
    record_close(&all);
    record_close(&some);
    record_close(&none);
    release(&f);
}

/* The tiny model's values are exact in bf16, so decoding them gives the f32 copies' gradients. */
static void test_other_dtypes_are_decoded(void **state) {
    (void)state;
    static fixture f;
    make_fixture(&f, (tiny_options){.dtype = "BF16"});
    qn_gradients from_f32 = {0}, from_bf16 = {0};
    assert_ok(qn_gradients_alloc(f.m.layout, &from_f32, err));
    assert_ok(qn_gradients_alloc(f.m.layout, &from_bf16, err));
    run(&f, NULL, &from_f32);
    for (int64_t i = 0; i < f.m.layout->n; i++) assert_ok(qn_model_set_weight(f.m.model, i, NULL, err));
    run(&f, NULL, &from_bf16);
    for (int64_t i = 0; i < f.m.layout->n; i++) {
        const double distance =
            relative_distance(from_bf16.per_entry[i], from_f32.per_entry[i], entry_size(f.m.layout, i));
        if (!(distance <= SUM_TOLERANCE)) fail_msg("%s: %g", f.m.layout->entries[i].name, distance);
    }
    qn_gradients_release(&from_f32);
    qn_gradients_release(&from_bf16);
    release(&f);
}

static qn_status refuse(void *user, int64_t index, const float *dy, int64_t first, int64_t n, int64_t rows,
                        qn_error *err) {
    (void)user, (void)dy, (void)first, (void)n, (void)rows;
    return qn_fail(err, QN_E_CANCELLED, "stopped at %lld", (long long)index);
}

static void test_the_guest_can_stop_the_walk(void **state) {
    (void)state;
    static fixture f;
    make_fixture(&f, (tiny_options){0});
    const qn_gradient_observer observer = {refuse, NULL};
    const qn_loss_options options = {.ce_weight = 1.0, .scale = 1.0, .observer = &observer};
    qn_loss loss;
    assert_error(qn_loss_gradient(f.m.model, &f.sequences, f.targets, &options, NULL, NULL, &loss, err),
                 QN_E_CANCELLED, "stopped at");
    release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weight_gradients_follow_from_what_is_shown),
        cmocka_unit_test(test_gradients_that_are_not_wanted_change_no_other),
        cmocka_unit_test(test_other_dtypes_are_decoded),
        cmocka_unit_test(test_the_guest_can_stop_the_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
