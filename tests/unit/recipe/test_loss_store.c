/* A loss model comes back from a work folder as it was measured, to the last bit; nothing else is taken for it. */
#include "recipe/loss_store.h"

#include "expect_error.h"
#include "tiny_model.h"

#include <stdlib.h>
#include <string.h>

enum { T = 120, VOCAB = 61 };
static const int64_t k_starts[] = {0, 50, T};
static const char k_run[] = "0123456789abcdef of a run";

typedef struct fixture {
    char *root;
    qn_model *model;
    const qn_layout *layout;
    qni_loss_model loss;
} fixture;

/* Untied with two bases for some matrices, or tied with one for each. */
static fixture *open_fixture(bool tied) {
    fixture *f = calloc(1, sizeof *f);
    int32_t ids[T];
    assert_non_null(f);
    for (int i = 0; i < T; i++) ids[i] = (i * i + i / 7) % VOCAB;
    const qn_sequences sequences = {ids, k_starts, 2};
    const qni_loss_model_options options = {
        .fit = qn_hessian_fit_defaults(), .hadamard = tied ? 0 : 16, .rotation_is_open = !tied, .seed = 3};
    f->root = make_temporary_folder();
    write_tiny_model(f->root, &(tiny_options){.tied = tied, .vocab = VOCAB});
    assert_ok(qn_model_open(f->root, &f->model, err));
    f->layout = qn_checkpoint_layout(qn_model_checkpoint(f->model));
    assert_ok(qni_loss_model_measure(f->model, &sequences, &sequences, &options, NULL, &f->loss, err));
    return f;
}

static void close_fixture(fixture *f) {
    qni_loss_model_release(&f->loss);
    qn_model_close(f->model);
    remove_tree(f->root);
    free(f->root);
    free(f);
}

static void expect_same_matrix(const qn_layout_entry *e, const qni_matrix_losses *a,
                               const qni_matrix_losses *b) {
    assert_int_equal(a->n_bases, b->n_bases);
    for (int k = 0; k < a->n_bases; k++) {
        const qni_line_losses *x = &a->bases[k], *y = &b->bases[k];
        assert_int_equal(x->hadamard, y->hadamard);
        assert_memory_equal(x->relative_error, y->relative_error, sizeof x->relative_error);
        assert_memory_equal(x->columns, y->columns, (size_t)e->cols * sizeof *x->columns);
        assert_memory_equal(x->rows, y->rows, (size_t)e->rows * sizeof *x->rows);
    }
}

static void expect_same(const qni_loss_model *a, const qni_loss_model *b) {
    const qn_layout *layout = a->layout;
    const qn_layout_entry *embed = &layout->entries[qn_layout_find(layout, QN_TENSOR_EMBED, -1)];
    const size_t h = (size_t)embed->cols;
    assert_ptr_equal(b->layout, layout);
    assert_true(a->fisher.n == b->fisher.n && a->fisher.n_tokens == b->fisher.n_tokens);
    for (int64_t i = 0; i < layout->n; i++) {
        const float *x = a->fisher.output[i], *y = b->fisher.output[i];
        assert_true(!x == !y);
        if (x) assert_memory_equal(x, y, (size_t)layout->entries[i].rows * sizeof *x);
        if (layout->entries[i].is_matrix)
            expect_same_matrix(&layout->entries[i], &a->matrices[i], &b->matrices[i]);
    }
    assert_memory_equal(a->fisher.lookup_gradient, b->fisher.lookup_gradient, h * sizeof(float));
    assert_memory_equal(a->token_frequency, b->token_frequency, (size_t)embed->rows * sizeof(float));
    assert_memory_equal(a->head_hessian, b->head_hessian, h * h * sizeof(float));
}

static void test_round_trip(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        fixture *f = open_fixture(tied);
        qni_loss_model back = {0};
        bool found = true;
        assert_ok(qni_loss_store_load(f->root, k_run, f->layout, &found, &back, err));
        assert_false(found);
        assert_ok(qni_loss_store_save(f->root, k_run, &f->loss, err));
        assert_ok(qni_loss_store_load(f->root, k_run, f->layout, &found, &back, err));
        assert_true(found);
        expect_same(&f->loss, &back);
        const int64_t gate = qn_layout_find(f->layout, QN_TENSOR_GATE, 0);
        assert_int_equal(back.matrices[gate].n_bases, tied ? 1 : 2);
        qni_loss_model_release(&back);
        close_fixture(f);
    }
}

static void expect_refused(const fixture *f, const char *run, const qn_layout *layout, qn_status code,
                           const char *words) {
    qni_loss_model back = {0};
    bool found = false;
    assert_error(qni_loss_store_load(f->root, run, layout, &found, &back, err), code, words);
    assert_null(back.matrices);
}

static void test_another_run(void **state) {
    (void)state;
    fixture *f = open_fixture(true), *other = open_fixture(false);
    qni_loss_model back = {0};
    bool found = true;
    assert_ok(qni_loss_store_save(f->root, k_run, &f->loss, err));
    assert_ok(qni_loss_store_load(f->root, "another key", f->layout, &found, &back, err));
    assert_false(found);
    expect_refused(f, "0123456789abcdef of another run", f->layout, QN_E_ARGUMENT, "another run");
    expect_refused(f, k_run, other->layout, QN_E_FORMAT, "remove the file");
    close_fixture(other);
    close_fixture(f);
}

static void test_damaged(void **state) {
    (void)state;
    fixture *f = open_fixture(true);
    write_test_file(f->root, "losses-0123456789ab.safetensors", "damaged", 7);
    expect_refused(f, k_run, f->layout, QN_E_FORMAT, "losses-0123456789ab");
    close_fixture(f);
}

static void test_cannot_write(void **state) {
    (void)state;
    fixture *f = open_fixture(true);
    assert_error(qni_loss_store_save("no/such/folder", k_run, &f->loss, err), QN_E_IO, "no/such/folder");
    close_fixture(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_another_run),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_cannot_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
