/* Sensitivity and encoding of a tiny random checkpoint. */
#include "quern/fit/rowmix.h"

#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const qn_rowmix_options ternary = {.native = {QN_CODE_TERNARY, 16, QN_SCALE_F16},
                                          .rescue = {QN_CODE_Q4, 128, QN_SCALE_F16},
                                          .rule = QN_FIT_OPTIMAL};

typedef struct fixture {
    char *folder;
    qn_checkpoint *checkpoint;
} fixture;

static fixture open_tiny(const tiny_options *options) {
    fixture f = {.folder = make_temporary_folder()};
    qn_error err;
    write_tiny_model(f.folder, options);
    if (qn_checkpoint_open(f.folder, &f.checkpoint, &err) != QN_OK) fail_msg("%s", err.message);
    return f;
}

static void close_tiny(fixture *f) {
    qn_checkpoint_close(f->checkpoint);
    remove_tree(f->folder);
    free(f->folder);
}

static qn_sensitivity measure(const qn_checkpoint *checkpoint, const qn_rowmix_options *options,
                              int n_threads) {
    qn_sensitivity s = {0};
    qn_error err;
    qn_context ctx = {.n_threads = n_threads};
    if (qn_sensitivity_measure(checkpoint, options, &ctx, &s, &err) != QN_OK) fail_msg("%s", err.message);
    return s;
}

static void test_every_matrix_is_measured(void **state) {
    (void)state;
    const bool tied[] = {true, false};
    for (int k = 0; k < 2; k++) {
        fixture f = open_tiny(&(tiny_options){.tied = tied[k]});
        const qn_layout *layout = qn_checkpoint_layout(f.checkpoint);
        qn_sensitivity s = measure(f.checkpoint, &ternary, 0);
        assert_int_equal(s.n, layout->n_matrices);
        assert_int_equal(s.n, 1 + 2 * 7 + !tied[k]);
        assert_false(s.weighted);
        assert_int_equal(layout->entries[s.tensors[0].entry].kind, QN_TENSOR_EMBED);
        assert_int_equal(layout->entries[s.tensors[s.n - 1].entry].kind,
                         tied[k] ? QN_TENSOR_DOWN : QN_TENSOR_HEAD);
        for (int64_t t = 0; t < s.n; t++) {
            const qn_sensitivity_tensor *tensor = &s.tensors[t];
            const qn_layout_entry *entry = &layout->entries[tensor->entry];
            assert_int_equal(tensor->rows, entry->rows);
            assert_int_equal(tensor->cols, entry->cols);
            assert_int_equal(tensor->extra_bytes, qn_codec_row_bytes(ternary.rescue, entry->cols) -
                                                      qn_codec_row_bytes(ternary.native, entry->cols));
        }
        qn_sensitivity_release(&s);
        qn_sensitivity_release(&s);
        close_tiny(&f);
    }
}

static void test_errors_are_those_of_the_fit(void **state) {
    (void)state;
    fixture f = open_tiny(&(tiny_options){.dtype = "F16"});
    qn_sensitivity s = measure(f.checkpoint, &ternary, 2);
    for (int64_t t = 0; t < s.n; t++) {
        const qn_sensitivity_tensor *tensor = &s.tensors[t];
        const qn_weight *weight = qn_checkpoint_weight(f.checkpoint, tensor->entry);
        float *w = malloc((size_t)tensor->cols * sizeof *w);
        qn_fit_scratch scratch = {0};
        double energy = 0;
        assert_int_equal(qn_fit_scratch_init(&scratch, tensor->cols, NULL), QN_OK);
        for (int64_t row = 0; row < tensor->rows; row++) {
            qn_row_errors e = tensor->errors[row];
            qn_weight_decode_rows(weight, row, 1, w);
            for (int64_t c = 0; c < tensor->cols; c++) energy += (double)w[c] * (double)w[c];
            assert_true(e.native == (float)qn_fit_row(ternary.native, ternary.rule, w, NULL, tensor->cols,
                                                      &scratch, NULL, NULL));
            assert_true(e.rescue == (float)qn_fit_row(ternary.rescue, ternary.rule, w, NULL, tensor->cols,
                                                      &scratch, NULL, NULL));
            assert_true(e.native_weighted == e.native && e.rescue_weighted == e.rescue);
            assert_true(qn_sensitivity_gain(&s, t, row) == (double)e.native - (double)e.rescue);
        }
        assert_true(fabs(energy - tensor->energy) <= 1e-12 * energy); /* two orders of one sum in double */
        qn_fit_scratch_release(&scratch);
        free(w);
    }
    qn_sensitivity_release(&s);
    close_tiny(&f);
}

static void test_threads_do_not_change_a_bit(void **state) {
    (void)state;
    fixture f = open_tiny(&(tiny_options){.vocab = 2000});
    qn_sensitivity one = measure(f.checkpoint, &ternary, 1);
    for (int n_threads = 2; n_threads <= 5; n_threads += 3) {
        qn_sensitivity many = measure(f.checkpoint, &ternary, n_threads);
        assert_int_equal(many.n, one.n);
        for (int64_t t = 0; t < one.n; t++) {
            assert_true(one.tensors[t].energy == many.tensors[t].energy);
            assert_memory_equal(one.tensors[t].errors, many.tensors[t].errors,
                                (size_t)one.tensors[t].rows * sizeof(qn_row_errors));
        }
        qn_sensitivity_release(&many);
    }
    qn_sensitivity_release(&one);
    close_tiny(&f);
}

static void test_a_bad_weight_is_named(void **state) {
    (void)state;
    const float bad[] = {NAN, -INFINITY};
    for (int k = 0; k < 2; k++) {
        char *folder = make_temporary_folder();
        tiny_model *model = tiny_model_make(&(tiny_options){0});
        tiny_tensor *tensor = tiny_model_find(model, "model.layers.1.mlp.up_proj.weight");
        tensor->values[41 * tensor->shape[1] + 7] = bad[k];
        tensor->values[41 * tensor->shape[1] + 9] = NAN; /* the first one is named, whatever the thread */
        tensor->values[77 * tensor->shape[1]] = NAN;
        tiny_model_write(model, folder, "F32", 1);
        tiny_model_free(model);
        qn_checkpoint *checkpoint = NULL;
        qn_sensitivity s = {0};
        qn_error err = {0};
        assert_int_equal(qn_checkpoint_open(folder, &checkpoint, NULL), QN_OK);
        assert_int_equal(qn_sensitivity_measure(checkpoint, &ternary, NULL, &s, &err), QN_E_VALUE);
        assert_non_null(strstr(err.message, "model.layers.1.mlp.up_proj.weight"));
        assert_non_null(strstr(err.message, k ? "[41, 7] is infinite" : "[41, 7] is NaN"));
        assert_null(s.tensors);
        int64_t entry = qn_layout_find(qn_checkpoint_layout(checkpoint), QN_TENSOR_UP, 1);
        qn_encoded e = {0};
        assert_int_equal(qn_rowmix_encode(qn_checkpoint_weight(checkpoint, entry), "up", &ternary, NULL, NULL,
                                          NULL, &e, &err),
                         QN_E_VALUE);
        assert_non_null(strstr(err.message, "up: weight [41, 7]"));
        assert_null(e.owned);
        qn_checkpoint_close(checkpoint);
        remove_tree(folder);
        free(folder);
    }
}

/* The best N rows of one tensor of a table. */
static qn_rescue_choice choose_rows(const qn_sensitivity *s, int64_t tensor, int64_t n) {
    qn_sensitivity one = {.tensors = &s->tensors[tensor], .n = 1, .weighted = s->weighted};
    qn_rescue_limits limits = {n * one.tensors[0].cols, INT64_MAX};
    qn_rescue_choice choice = {0};
    assert_int_equal(qn_rescue_choose(&one, &limits, &choice, NULL), QN_OK);
    assert_int_equal(choice.n_rescued_rows[0], n);
    return choice;
}

/* Weights that say only the first columns matter must change which rows come first. */
static void test_weights_change_the_ranking(void **state) {
    (void)state;
    fixture f = open_tiny(&(tiny_options){0});
    const qn_layout *layout = qn_checkpoint_layout(f.checkpoint);
    qn_second_moments moments = {.n = layout->n, .per_entry = calloc((size_t)layout->n, sizeof(float *))};
    int64_t entry = qn_layout_find(layout, QN_TENSOR_GATE, 0), cols = layout->entries[entry].cols;
    moments.per_entry[entry] = malloc((size_t)cols * sizeof(float));
    for (int64_t c = 0; c < cols; c++) moments.per_entry[entry][c] = c < 8 ? 100.0f : 0.01f;

    qn_rowmix_options weighted = ternary;
    weighted.moments = &moments;
    qn_sensitivity plain_table = measure(f.checkpoint, &ternary, 0),
                   table = measure(f.checkpoint, &weighted, 0);
    assert_true(table.weighted);
    int64_t t = 0;
    for (int64_t k = 0; k < table.n; k++) { /* a matrix without moments keeps its plain errors */
        const qn_row_errors *e = &table.tensors[k].errors[0];
        if (table.tensors[k].entry == entry) t = k;
        assert_int_equal(e->native_weighted == e->native, table.tensors[k].entry != entry);
        assert_true(e->native == plain_table.tensors[k].errors[0].native);
    }
    qn_rescue_choice plain_choice = choose_rows(&plain_table, t, 20), choice = choose_rows(&table, t, 20);
    assert_memory_not_equal(plain_choice.rescued[0], choice.rescued[0], (size_t)table.tensors[t].rows);
    qn_rescue_choice_release(&choice);
    qn_rescue_choice_release(&plain_choice);
    qn_sensitivity_release(&table);
    qn_sensitivity_release(&plain_table);
    qn_second_moments_release(&moments);
    close_tiny(&f);
}

static void encode(const qn_weight *weight, const qn_rowmix_options *options, const uint8_t *rescued,
                   int n_threads, qn_encoded *e) {
    qn_error err;
    qn_context ctx = {.n_threads = n_threads};
    if (qn_rowmix_encode(weight, "w", options, NULL, rescued, &ctx, e, &err) != QN_OK)
        fail_msg("%s", err.message);
}

static void test_encoding_has_the_measured_error(void **state) {
    (void)state;
    fixture f = open_tiny(&(tiny_options){.vocab = 600});
    qn_sensitivity s = measure(f.checkpoint, &ternary, 0);
    qn_rescue_limits limits = {.max_weights = 3000, .max_extra_bytes = INT64_MAX};
    qn_rescue_choice choice = {0};
    assert_int_equal(qn_rescue_choose(&s, &limits, &choice, NULL), QN_OK);
    assert_true(choice.n_weights > 2900);
    for (int64_t t = 0; t < s.n; t++) {
        const qn_sensitivity_tensor *tensor = &s.tensors[t];
        const qn_weight *weight = qn_checkpoint_weight(f.checkpoint, tensor->entry);
        int64_t n = tensor->rows * tensor->cols;
        float *w = malloc((size_t)n * sizeof *w), *decoded = malloc((size_t)n * sizeof *decoded);
        qn_encoded one = {0}, many = {0};
        encode(weight, &ternary, choice.rescued[t], 1, &one);
        encode(weight, &ternary, choice.rescued[t], 5, &many);
        const qn_encoded shape =
            qn_rowmix_shape(&ternary, tensor->rows, tensor->cols, choice.n_rescued_rows[t]);
        assert_true(qn_encoded_same_shape(&one, &shape));
        assert_memory_equal(one.owned, many.owned, (size_t)qn_encoded_bytes(&one));
        qn_weight_decode_rows(weight, 0, tensor->rows, w);
        qn_encoded_decode_rows(&one, 0, tensor->rows, decoded);
        for (int64_t row = 0; row < tensor->rows; row++) {
            double error = 0, measured = (double)tensor->errors[row].native;
            if (choice.rescued[t][row]) measured = (double)tensor->errors[row].rescue;
            for (int64_t i = row * tensor->cols; i < (row + 1) * tensor->cols; i++) {
                error += ((double)w[i] - (double)decoded[i]) * ((double)w[i] - (double)decoded[i]);
            }
            assert_true(fabs(error - measured) <= 1e-6 * error); /* stored as float */
            const qn_code code = one.bands[one.index[row] % 4].codec.code;
            assert_int_equal(code == QN_CODE_Q4, choice.rescued[t][row]);
        }
        qn_encoded_release(&many);
        qn_encoded_release(&one);
        free(decoded);
        free(w);
    }
    qn_rescue_choice_release(&choice);
    qn_sensitivity_release(&s);
    close_tiny(&f);
}

static void test_all_or_no_rows_rescued(void **state) {
    (void)state;
    fixture f = open_tiny(&(tiny_options){0});
    const qn_weight *weight = qn_checkpoint_weight(
        f.checkpoint, qn_layout_find(qn_checkpoint_layout(f.checkpoint), QN_TENSOR_Q, 0));
    uint8_t *all = malloc((size_t)qn_weight_rows(weight));
    memset(all, 1, (size_t)qn_weight_rows(weight));
    qn_encoded e = {0};
    encode(weight, &ternary, all, 0, &e);
    assert_int_equal(e.n_bands, 1);
    assert_int_equal(e.bands[0].codec.code, QN_CODE_Q4);
    qn_encoded_release(&e);
    encode(weight, &ternary, NULL, 0, &e);
    assert_int_equal(e.n_bands, 1);
    assert_int_equal(e.bands[0].codec.code, QN_CODE_TERNARY);
    qn_encoded_release(&e);
    free(all);
    close_tiny(&f);
}

static void test_impossible_options_are_refused(void **state) {
    (void)state;
    fixture f = open_tiny(&(tiny_options){0});
    qn_rowmix_options options[] = {ternary, ternary, ternary, ternary, ternary};
    options[0].native.code = QN_CODE_NONE;
    options[1].rescue.code = QN_CODE_COUNT;
    options[2].native.group_size = -4;
    options[3].rule = (qn_fit_rule)9;
    options[4].rescue.scale = QN_SCALE_LOG6;
    for (int i = 0; i < 5; i++) {
        qn_sensitivity s = {0};
        assert_int_equal(qn_sensitivity_measure(f.checkpoint, &options[i], NULL, &s, NULL), QN_E_ARGUMENT);
    }
    close_tiny(&f);
}

static bool always_cancelled(void *user) {
    (void)user;
    return true;
}

static void test_measuring_can_be_cancelled(void **state) {
    (void)state;
    fixture f = open_tiny(&(tiny_options){0});
    qn_context ctx = {.is_cancelled = always_cancelled};
    qn_sensitivity s = {0};
    assert_int_equal(qn_sensitivity_measure(f.checkpoint, &ternary, &ctx, &s, NULL), QN_E_CANCELLED);
    assert_null(s.tensors);
    close_tiny(&f);
}

/* The shared teacher's README measured 0.1882 for exact ternary in groups of 128 with an independent program.
 */
static void test_error_on_trained_weights(void **state) {
    (void)state;
    char *path = require_test_data("teacher");
    qn_checkpoint *checkpoint = NULL;
    qn_error err;
    if (qn_checkpoint_open(path, &checkpoint, &err) != QN_OK) fail_msg("%s", err.message);
    qn_rowmix_options options = {.native = {QN_CODE_TERNARY, 128, QN_SCALE_F16},
                                 .rescue = {QN_CODE_Q4, 128, QN_SCALE_F16}};
    double error[2] = {0}, energy = 0;
    for (int rule = QN_FIT_OPTIMAL; rule <= QN_FIT_PUBLISHED; rule++) {
        options.rule = (qn_fit_rule)rule;
        qn_sensitivity s = measure(checkpoint, &options, 0);
        energy = 0;
        for (int64_t t = 0; t < s.n; t++) {
            energy += s.tensors[t].energy;
            for (int64_t row = 0; row < s.tensors[t].rows; row++)
                error[rule] += (double)s.tensors[t].errors[row].native;
        }
        qn_sensitivity_release(&s);
    }
    assert_true(fabs(error[QN_FIT_OPTIMAL] / energy - 0.1882) < 5e-5); /* four digits were published */
    assert_true(error[QN_FIT_PUBLISHED] > error[QN_FIT_OPTIMAL]);
    qn_checkpoint_close(checkpoint);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_matrix_is_measured),
        cmocka_unit_test(test_errors_are_those_of_the_fit),
        cmocka_unit_test(test_threads_do_not_change_a_bit),
        cmocka_unit_test(test_a_bad_weight_is_named),
        cmocka_unit_test(test_weights_change_the_ranking),
        cmocka_unit_test(test_encoding_has_the_measured_error),
        cmocka_unit_test(test_all_or_no_rows_rescued),
        cmocka_unit_test(test_impossible_options_are_refused),
        cmocka_unit_test(test_measuring_can_be_cancelled),
        cmocka_unit_test(test_error_on_trained_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
