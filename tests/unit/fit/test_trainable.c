/* Sets of trainable weights: what is lent to a model is what is packed, a step moves what has a rate and no more, and a file of a set
 * brings back every bit of it or is refused. */
#include "tuning_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const toy_code k_codes[] = {{QN_CODE_SIGN, true, true, 0, false},
                                   {QN_CODE_TERNARY, true, false, 16, false},
                                   {QN_CODE_TERNARY, false, true, 0, false}};
enum { N_CODES = sizeof k_codes / sizeof *k_codes };
static const qn_trainable_rates k_all_rates = {1.0, 0.5, 0.25, 0.125};
static const double k_lr = 0x1p-6;

/* Gradients of both signs and many sizes; the same for the same SEED. */
static void fill_gradients(qn_trainable *t, int seed) {
    for (int64_t p = 0; p < t->n_parts; p++) {
        const qn_layout_entry *e = &t->layout->entries[t->parts[p].entry];
        float *g = t->gradients.per_entry[t->parts[p].entry];
        for (int64_t i = 0; i < e->rows * e->cols; i++)
            g[i] = sinf(0.37f * (float)(i + 1) + (float)(p + seed)) + 0.01f;
    }
}

static void steps(qn_trainable *t, int first, int n) {
    const qn_adamw_options adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-12};
    for (int s = first; s < first + n; s++) {
        qn_trainable_evaluate(t, 0.0, NULL);
        fill_gradients(t, s);
        assert_ok(qn_trainable_step(t, 0.0, &adamw, k_lr, s, NULL, err));
    }
}

/* ---- what the model is lent ---- */

static void expect_matrix_as_packed(const qn_trainable *t, const qn_trainable_part *part) {
    const qn_layout_entry *e = &t->layout->entries[part->entry];
    qn_encoded packed = {0};
    float *want = malloc((size_t)(e->rows * e->cols) * sizeof *want);
    assert_non_null(want);
    assert_ok(qn_banded_encode(&part->latents.codes, part->latents.hadamard, e->name, &packed, err));
    qn_encoded_decode_rows(&packed, 0, e->rows, want);
    assert_memory_equal(want, part->dense, (size_t)(e->rows * e->cols) * sizeof *want);
    qn_encoded_release(&packed);
    free(want);
}

static void expect_as_packed(const qn_trainable *t) {
    for (int64_t p = 0; p < t->n_parts; p++) {
        const qn_trainable_part *part = &t->parts[p];
        if (part->has_latents) {
            expect_matrix_as_packed(t, part);
            continue;
        }
        for (int64_t c = 0; c < t->layout->entries[part->entry].cols; c++)
            assert_true(part->dense[c] == qn_f16_to_f32(qn_f32_to_f16(part->masters[c])));
    }
}

static void test_evaluated_is_what_is_packed(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(2);
    for (int k = 0; k < N_CODES; k++) {
        qn_trainable t = toy_set(toy, &k_codes[k], 0, 1, &k_all_rates);
        qn_trainable_evaluate(&t, 0.0, NULL);
        expect_as_packed(&t);
        float *begin = parameters_of(&t);
        steps(&t, 1, 5);
        assert_false(same_parameters(&t, begin));
        qn_trainable_evaluate(&t, 0.5, NULL); /* a smooth look in between leaves nothing behind */
        qn_trainable_evaluate(&t, 0.0, NULL);
        expect_as_packed(&t);
        free(begin);
        qn_trainable_release(&t);
    }
    tuning_toy_close(toy);
}

/* Scales that go where they like take no code with them. */
static void test_frozen_codes_stay(void **state) {
    (void)state;
    const qn_trainable_rates rates = {.scale_rate = 16.0}; /* a quarter of the mean scale in each step */
    tuning_toy *toy = tuning_toy_random(1);
    for (int k = 0; k < N_CODES; k++) {
        qn_trainable begin = toy_set(toy, &k_codes[k], 0, 1, &rates),
                     t = toy_set(toy, &k_codes[k], 0, 1, &rates);
        qn_trainable_evaluate(&begin, 0.0, NULL);
        steps(&t, 1, 5);
        qn_trainable_evaluate(&t, 0.5, NULL); /* no temperature for what does not move */
        expect_as_packed(&t);
        for (int64_t p = 0; p < t.n_parts; p++) {
            const qn_banded *is = &t.parts[p].latents.codes, *was = &begin.parts[p].latents.codes;
            for (int b = 0; b < is->n_bands; b++)
                for (int plane = 0; plane < is->bands[b].spec.n_planes; plane++)
                    assert_memory_equal(is->bands[b].planes[plane].q, was->bands[b].planes[plane].q,
                                        (size_t)(is->bands[b].rows * is->bands[b].cols));
        }
        qn_trainable_release(&begin);
        qn_trainable_release(&t);
    }
    tuning_toy_close(toy);
}

static void test_lent_and_given_back(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(2);
    qn_trainable t = toy_student(toy, &k_codes[0], 1, 1, &k_all_rates);
    for (int64_t i = 0; i < toy->layout->n; i++) {
        const qn_weight *own = qn_checkpoint_weight(qn_model_checkpoint(toy->student), i);
        assert_true((qn_model_weight(toy->student, i) == own) == (toy->layout->entries[i].layer != 1));
    }
    assert_true(window_error(toy, &toy->fresh, 0, 1) == 0.0);
    assert_true(window_error(toy, &toy->fresh, 1, 1) > 0.0);
    qn_trainable_give_back(&t, toy->student);
    assert_true(window_error(toy, &toy->fresh, 1, 1) == 0.0);
    qn_trainable_release(&t);
    qn_trainable_release(&t); /* once more does no harm */
    tuning_toy_close(toy);
}

static void test_one_set_takes_others(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(2);
    qn_trainable both = toy_set(toy, &k_codes[0], 0, 2, &k_all_rates), taken = {0};
    assert_ok(qn_trainable_init(toy->layout, &taken, err));
    for (int64_t layer = 0; layer < 2; layer++) {
        qn_trainable one = toy_set(toy, &k_codes[0], layer, 1, &k_all_rates);
        assert_ok(qn_trainable_take(&taken, &one, err));
        qn_trainable_release(&one);
    }
    assert_ok(qn_trainable_seal(&taken, &k_all_rates, err));
    steps(&both, 1, 2);
    steps(&taken, 1, 2);
    assert_int_equal(taken.n_floats, both.n_floats);
    float *values = parameters_of(&both);
    assert_true(same_parameters(&taken, values));
    free(values);
    qn_trainable_release(&both);
    qn_trainable_release(&taken);
    tuning_toy_close(toy);
}

static void test_latents_of_another_shape(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    qn_trainable t = {0};
    qn_latents latents = {.rows = 3, .cols = 5};
    const int64_t entry = qn_layout_find(toy->layout, QN_TENSOR_Q, 0);
    assert_ok(qn_trainable_init(toy->layout, &t, err));
    assert_error(qn_trainable_add_matrix(&t, entry, &latents, err), QN_E_SHAPE, "q_proj|3 x 5|32 x 32");
    qn_trainable_release(&t);
    tuning_toy_close(toy);
}

/* ---- steps ---- */

/* The arrays of a part, by the order of the rates. */
static float *array_of(const qn_trainable_part *part, int kind, int64_t n_vector, int64_t *n) {
    const qn_latents *l = &part->latents;
    float *const arrays[] = {l->values, l->scales, l->thresholds, part->masters};
    const int64_t counts[] = {l->n_values, l->n_scales, l->n_thresholds, part->has_latents ? 0 : n_vector};
    *n = counts[kind];
    return arrays[kind];
}

/* With one rate alone: the arrays of that kind move, all others keep every bit. */
static void check_rate(const tuning_toy *toy, int kind) {
    double values[4] = {0};
    values[kind] = 1.0;
    const qn_trainable_rates rates = {values[0], values[1], values[2], values[3]};
    qn_trainable before = toy_set(toy, &k_codes[1], 0, 1, &rates),
                 t = toy_set(toy, &k_codes[1], 0, 1, &rates);
    int n_moved = 0;
    steps(&t, 1, 2);
    for (int64_t p = 0; p < t.n_parts; p++) {
        const int64_t n_vector = toy->layout->entries[t.parts[p].entry].cols;
        for (int k = 0; k < 4; k++) {
            int64_t n;
            const float *is = array_of(&t.parts[p], k, n_vector, &n),
                        *was = array_of(&before.parts[p], k, n_vector, &n);
            if (n == 0) continue;
            const bool has_moved = memcmp(is, was, (size_t)n * sizeof *is) != 0;
            assert_true(has_moved == (k == kind));
            n_moved += has_moved;
        }
    }
    assert_true(n_moved >= 4);
    qn_trainable_release(&before);
    qn_trainable_release(&t);
}

static void test_a_step_moves_only_what_has_a_rate(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    for (int kind = 0; kind < 4; kind++) check_rate(toy, kind);
    tuning_toy_close(toy);
}

/* Adam's first step is the rate itself, against the gradient, in the units of the header. */
static void test_rates_are_relative(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    qn_trainable before = toy_set(toy, &k_codes[2], 0, 1, &k_all_rates),
                 t = toy_set(toy, &k_codes[2], 0, 1, &k_all_rates);
    const double tolerance = 1e-3; /* f32 differences of numbers some hundred times as large */
    steps(&t, 1, 1);
    for (int64_t p = 0; p < t.n_parts; p++) {
        const qn_trainable_part *part = &t.parts[p];
        const int64_t n_vector = toy->layout->entries[part->entry].cols;
        double mean = 0.0, square = 0.0;
        int64_t n;
        const float *scales = array_of(&before.parts[p], 1, n_vector, &n);
        for (int64_t i = 0; i < n; i++) mean += (double)scales[i] / (double)n;
        const float *vector = array_of(&before.parts[p], 3, n_vector, &n);
        for (int64_t i = 0; i < n; i++) square += (double)vector[i] * (double)vector[i] / (double)n;
        const double units[] = {part->latents.unit, mean, 1.0, sqrt(square)};
        const double rates[] = {k_all_rates.latent_rate, k_all_rates.scale_rate, k_all_rates.threshold_rate,
                                k_all_rates.vector_rate};
        if (part->has_latents) assert_true(fabs(mean / part->latents.unit - 1.0) < 1e-6);
        for (int k = 0; k < 4; k++) {
            const float *is = array_of(part, k, n_vector, &n),
                        *was = array_of(&before.parts[p], k, n_vector, &n);
            double largest = 0.0;
            for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)is[i] - (double)was[i]));
            if (n > 0) assert_true(fabs(largest / (k_lr * rates[k] * units[k]) - 1.0) <= tolerance);
        }
    }
    qn_trainable_release(&before);
    qn_trainable_release(&t);
    tuning_toy_close(toy);
}

static void test_a_gradient_that_is_not_finite(void **state) {
    (void)state;
    const qn_adamw_options adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-12};
    tuning_toy *toy = tuning_toy_random(1);
    qn_trainable t = toy_set(toy, &k_codes[0], 0, 1, &k_all_rates);
    float *begin = parameters_of(&t);
    fill_gradients(&t, 1);
    t.gradients.per_entry[qn_layout_find(toy->layout, QN_TENSOR_UP, 0)][5] = NAN;
    assert_error(qn_trainable_step(&t, 0.0, &adamw, k_lr, 1, NULL, err), QN_E_VALUE, "up_proj");
    assert_true(same_parameters(&t, begin));
    free(begin);
    qn_trainable_release(&t);
    tuning_toy_close(toy);
}

/* ---- snapshots ---- */

static void test_keep_restore_copy_set(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    qn_trainable t = toy_set(toy, &k_codes[1], 0, 1, &k_all_rates);
    float *begin = parameters_of(&t);
    qn_trainable_restore(&t); /* nothing was kept: nothing happens */
    assert_true(same_parameters(&t, begin));
    assert_ok(qn_trainable_keep(&t, err));
    steps(&t, 1, 2);
    float *later = parameters_of(&t);
    qn_trainable_restore(&t);
    assert_true(same_parameters(&t, begin));
    qn_trainable_set(&t, later);
    assert_true(same_parameters(&t, later));
    assert_ok(qn_trainable_keep(&t, err));
    qn_trainable_set(&t, begin);
    qn_trainable_restore(&t);
    assert_true(same_parameters(&t, later));
    free(begin);
    free(later);
    qn_trainable_release(&t);
    tuning_toy_close(toy);
}

/* ---- files ---- */

static const qn_trainable_mark k_mark = {
    .key = "a run", .step = 3, .best_step = 2, .best_loss = 0.1, .first_loss = 1.0 / 3};

static void test_a_file_goes_on_where_it_was_left(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    char *folder = make_temporary_folder(), *path = path_in(folder, "state");
    qn_trainable t = toy_set(toy, &k_codes[0], 0, 1, &k_all_rates),
                 again = toy_set(toy, &k_codes[0], 0, 1, &k_all_rates);
    qn_trainable_mark mark = {.key = "a run"};
    bool found = false;
    steps(&t, 1, 2);
    assert_ok(qn_trainable_keep(&t, err));
    float *kept = parameters_of(&t);
    steps(&t, 3, 1);
    assert_ok(qn_trainable_save(&t, path, &k_mark, true, err));
    assert_ok(qn_trainable_load(&again, path, &mark, true, &found, err));
    assert_true(found && mark.step == 3 && mark.best_step == 2);
    assert_true(mark.best_loss == 0.1 && mark.first_loss == 1.0 / 3);
    steps(&t, 4, 2);
    steps(&again, 4, 2);
    float *end = parameters_of(&t);
    assert_true(same_parameters(&again, end));
    qn_trainable_restore(&again);
    assert_true(same_parameters(&again, kept));
    free(kept);
    free(end);
    qn_trainable_release(&t);
    qn_trainable_release(&again);
    remove_tree(folder);
    free(folder);
    free(path);
    tuning_toy_close(toy);
}

static void test_a_file_without_state(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    char *folder = make_temporary_folder(), *path = path_in(folder, "block"), *none = path_in(folder, "none");
    qn_trainable t = toy_set(toy, &k_codes[1], 0, 1, &k_all_rates),
                 again = toy_set(toy, &k_codes[1], 0, 1, &k_all_rates);
    qn_trainable_mark mark = {.key = "a run"};
    bool found = true;
    float *begin = parameters_of(&again);
    assert_ok(qn_trainable_load(&again, none, &mark, false, &found, err));
    assert_true(!found && same_parameters(&again, begin));
    steps(&t, 1, 3);
    float *values = parameters_of(&t);
    assert_ok(qn_trainable_save(&t, path, &k_mark, false, err));
    assert_ok(qn_trainable_load(&again, path, &mark, false, &found, err));
    assert_true(found && same_parameters(&again, values));
    assert_error(qn_trainable_load(&again, path, &mark, true, &found, err), QN_E_FORMAT,
                 "block|first_moments|remove the file");
    free(begin);
    free(values);
    qn_trainable_release(&t);
    qn_trainable_release(&again);
    remove_tree(folder);
    free(folder);
    free(path);
    free(none);
    tuning_toy_close(toy);
}

static void expect_refused(qn_trainable *t, const char *path, const char *key, qn_status status,
                           const char *words) {
    qn_trainable_mark mark = {.key = key};
    bool found = false;
    assert_error(qn_trainable_load(t, path, &mark, true, &found, err), status, words);
    assert_int_equal(qn_trainable_load(t, path, &mark, true, &found, NULL), status);
}

static void test_files_that_are_refused(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    char *folder = make_temporary_folder(), *path = path_in(folder, "state");
    qn_trainable t = toy_set(toy, &k_codes[0], 0, 1, &k_all_rates),
                 other = toy_set(toy, &k_codes[1], 0, 1, &k_all_rates);
    size_t n_bytes;
    assert_ok(qn_trainable_keep(&t, err));
    assert_ok(qn_trainable_save(&t, path, &k_mark, true, err));
    expect_refused(&t, path, "another", QN_E_ARGUMENT, "state|another run|expected run another|a run|--work");
    expect_refused(&other, path, "a run", QN_E_FORMAT, "state|expected|F32 values named|remove the file");
    char *data = load_file(path, &n_bytes);
    const size_t cuts[] = {0, 7, n_bytes / 2, n_bytes - 1};
    for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++) {
        write_test_file(folder, "state", data, cuts[k]);
        expect_refused(&t, path, "a run", QN_E_FORMAT, "state");
    }
    memset(data, 0xff, 8);
    write_test_file(folder, "state", data, n_bytes);
    expect_refused(&t, path, "a run", QN_E_FORMAT, "state");
    free(data);
    qn_trainable_release(&t);
    qn_trainable_release(&other);
    remove_tree(folder);
    free(folder);
    free(path);
    tuning_toy_close(toy);
}

/* Numbers of steps that no run can have come to. */
static void test_marks_that_make_no_sense(void **state) {
    (void)state;
    static const qn_trainable_mark marks[] = {{.key = "a run", .step = -1},
                                              {.key = "a run", .step = 3, .best_step = 4},
                                              {.key = "a run", .step = 3, .best_step = -2}};
    tuning_toy *toy = tuning_toy_random(1);
    char *folder = make_temporary_folder(), *path = path_in(folder, "state");
    qn_trainable t = toy_set(toy, &k_codes[0], 0, 1, &k_all_rates);
    assert_ok(qn_trainable_keep(&t, err));
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        assert_ok(qn_trainable_save(&t, path, &marks[i], true, err));
        expect_refused(&t, path, "a run", QN_E_FORMAT, "state|step|remove the file");
    }
    qn_trainable_release(&t);
    remove_tree(folder);
    free(folder);
    free(path);
    tuning_toy_close(toy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_evaluated_is_what_is_packed),
        cmocka_unit_test(test_frozen_codes_stay),
        cmocka_unit_test(test_lent_and_given_back),
        cmocka_unit_test(test_one_set_takes_others),
        cmocka_unit_test(test_latents_of_another_shape),
        cmocka_unit_test(test_a_step_moves_only_what_has_a_rate),
        cmocka_unit_test(test_rates_are_relative),
        cmocka_unit_test(test_a_gradient_that_is_not_finite),
        cmocka_unit_test(test_keep_restore_copy_set),
        cmocka_unit_test(test_a_file_goes_on_where_it_was_left),
        cmocka_unit_test(test_a_file_without_state),
        cmocka_unit_test(test_files_that_are_refused),
        cmocka_unit_test(test_marks_that_make_no_sense),
    };
    return cmocka_run_group_tests_name("fit trainable", tests, NULL, NULL);
}
