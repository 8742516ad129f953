/* Training: it learns, the same whatever the threads, and refuses what it cannot do. */
#include "train_support.h"

#include "fit/train_run.h"
#include "quern/model/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void test_a_toy_learns_one_document_by_heart(void **state) {
    toy t = toy_make();
    (void)state;
    write_test_file(t.folder, "text.txt", "The quick brown fox jumps over the lazy dog, and then it rests.",
                    63);
    t.options.context = 64;
    t.options.batch = 1;
    t.options.schedule.total_steps = 200;
    t.options.schedule.peak = 5e-3;
    t.options.schedule.warmup_steps = 10;
    t.options.save_every = 0;
    const qn_train_result result = toy_train(&t.options, 0);
    assert_int_equal(result.tokens, 200 * 64);
    assert_true(last_metric(t.out, "loss") < 0.05);
    toy_free(&t);
}

static void test_loss_falls_and_dev_loss_is_that_of_the_files(void **state) {
    toy t = toy_make();
    (void)state;
    t.options.dev = t.dev;
    t.options.schedule.total_steps = 40;
    t.options.eval_every = 40;
    const qn_train_result result = toy_train(&t.options, 0);
    assert_int_equal(result.steps, 40);
    assert_int_equal(result.first_step, 0);
    assert_int_equal(result.dev_targets, 3 * 23);  /* 82 ids are 3 contexts of 24 */
    assert_true(last_metric(t.out, "loss") < 4.5); /* a uniform guess has ln 257 = 5.55 */
    /* F32 files hold the masters, so the two measurements are one; 10 digits are written. */
    assert_true(fabs(result.dev_loss - last_metric(t.out, "dev_loss")) < 1e-8);
    toy_free(&t);
}

static void test_results_do_not_depend_on_threads(void **state) {
    toy t = toy_make();
    char *other = toy_path(&t, "other");
    (void)state;
    (void)toy_train(&t.options, 1);
    t.options.out = other;
    (void)toy_train(&t.options, 3);
    assert_same_model(t.out, other);
    free(other);
    toy_free(&t);
}

static void test_results_do_not_depend_on_memory(void **state) {
    static const int64_t keep_bytes[] = {0, 60000 /* one layer's of two */, -1};
    toy t = toy_make();
    char *other = toy_path(&t, "other");
    (void)state;
    t.options.keep_bytes = INT64_MAX;
    (void)toy_train(&t.options, 0);
    for (size_t i = 0; i < sizeof keep_bytes / sizeof *keep_bytes; i++) {
        t.options.out = other;
        t.options.keep_bytes = keep_bytes[i];
        (void)toy_train(&t.options, 0);
        assert_same_model(t.out, other);
        remove_tree(other);
    }
    free(other);
    toy_free(&t);
}

static void test_two_small_batches_are_one_large_one(void **state) {
    toy t = toy_make();
    char *other = toy_path(&t, "other");
    (void)state;
    t.options.batch = 4;
    (void)toy_train(&t.options, 0);
    const double loss = last_metric(t.out, "loss");
    t.options.batch = 2;
    t.options.accumulate = 2;
    t.options.out = other;
    (void)toy_train(&t.options, 0);
    /* The same sums in another order of f32 additions, through twelve steps. */
    assert_true(fabs(last_metric(other, "loss") - loss) < 1e-4);
    free(other);
    toy_free(&t);
}

static void test_training_goes_on_from_a_checkpoint(void **state) {
    toy t = toy_make();
    char *tuned = toy_path(&t, "tuned");
    (void)state;
    t.options.schedule.total_steps = 60;
    (void)toy_train(&t.options, 0);
    const double before = last_metric(t.out, "loss");
    t.options.config = NULL;
    t.options.init_from = t.out;
    t.options.out = tuned;
    t.options.schedule.total_steps = 1;
    t.options.schedule.warmup_steps = 0;
    t.options.schedule.peak = 1e-6;
    (void)toy_train(&t.options, 0);
    assert_true(last_metric(tuned, "loss") < before + 0.5); /* random weights would give 5.55 */
    free(tuned);
    toy_free(&t);
}

/* ---- first weights ---- */

static void check_entry(const qn_layout_entry *entry, const qn_adamw_group *group) {
    const bool is_norm = strstr(entry->name, "norm") != NULL;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < group->n; i++) {
        const double w = (double)group->param[i];
        if (!entry->is_matrix) assert_true(w == (is_norm ? 1.0 : 0.0));
        sum += w;
        squares += w * w;
    }
    if (!entry->is_matrix) return;
    const double n = (double)group->n, deviation = sqrt(squares / n);
    assert_true(fabs(sum / n) < 6 * 0.02 / sqrt(n)); /* six standard errors */
    assert_true(fabs(deviation - 0.02) < 6 * 0.02 / sqrt(2 * n));
}

static qni_train_weights draw(const qn_train_options *options, const qni_train_inputs *inputs, uint64_t seed,
                              int n_threads) {
    const qn_context ctx = {.n_threads = n_threads};
    qni_train_weights w = {0};
    assert_ok(qni_train_weights_alloc(options, &inputs->layout, &w, err));
    assert_ok(qni_train_weights_draw(&w, inputs, seed, &ctx, err));
    return w;
}

static void test_random_weights_are_as_the_config_says(void **state) {
    toy t = toy_make();
    qni_train_inputs inputs = {0};
    const tiny_options biased = {.hidden = 32, .attention_bias = true};
    (void)state;
    free(toy_model(&t, "model", &biased));
    assert_ok(qni_train_inputs_open(&t.options, &inputs, err));
    qni_train_weights a = draw(&t.options, &inputs, 1, 1), b = draw(&t.options, &inputs, 1, 3),
                      c = draw(&t.options, &inputs, 2, 1);
    for (int64_t i = 0; i < a.n; i++) check_entry(&inputs.layout.entries[i], &a.groups[i]);
    assert_memory_equal(a.masters, b.masters, (size_t)a.n_floats * sizeof *a.masters);
    assert_true(memcmp(a.masters, c.masters, 64) != 0);
    assert_true(memcmp(a.groups[2].param, a.groups[3].param, 64) != 0); /* each its own stream */
    qni_train_weights_release(&a);
    qni_train_weights_release(&b);
    qni_train_weights_release(&c);
    qni_train_inputs_release(&inputs);
    toy_free(&t);
}

/* ---- refusals: none leaves a folder behind ---- */

static void expect_refusal(const qn_train_options *options, qn_status code, const char *words) {
    qn_train_result result = {0};
    assert_error(qn_train(options, NULL, &result, err), code, words);
    assert_int_equal(access(options->out, F_OK), -1);
}

static void test_input_that_does_not_fit_is_refused(void **state) {
    toy t = toy_make();
    const qn_train_options good = t.options;
    const tiny_options wide = {.dtype = "F32", .hidden = 48, .intermediate = 64, .heads = 2, .kv_heads = 1};
    const tiny_options narrow = {.dtype = "F32", .hidden = 32, .vocab = 64};
    (void)state;
    t.options.context = 4096;
    expect_refusal(&t.options, QN_E_VALUE, "text.txt|fewer than one context of 4096|shorter context");
    t.options = good;
    t.options.dev = t.dev;
    t.options.context = 100;
    expect_refusal(&t.options, QN_E_VALUE, "dev.txt|fewer than one context");
    t.options = good;
    char *other = toy_model(&t, "wide", &wide);
    t.options.init_from = other;
    expect_refusal(&t.options, QN_E_ARGUMENT, "does not fit|model.embed_tokens.weight [257, 32]|[257, 48]");
    t.options = good;
    t.options.config = NULL;
    expect_refusal(&t.options, QN_E_ARGUMENT, "config");
    t.options = good;
    t.options.separator = "<|nothing|>";
    expect_refusal(&t.options, QN_E_VALUE, "'<|nothing|>' is no token");
    t.options = good;
    t.options.tokenizer = NULL;
    expect_refusal(&t.options, QN_E_IO, "model");
    t.options = good;
    free(other);
    other = toy_model(&t, "narrow", &narrow);
    t.options.config = other;
    expect_refusal(&t.options, QN_E_VALUE, "text.txt|id 122|the model has 64");
    free(other);
    toy_free(&t);
}

static void test_options_that_make_no_sense_are_refused(void **state) {
    toy t = toy_make();
    const qn_train_options good = t.options;
    (void)state;
    t.options.context = 1;
    expect_refusal(&t.options, QN_E_ARGUMENT, "contexts of 1 tokens");
    t.options = good;
    t.options.batch = INT64_MAX / 2;
    expect_refusal(&t.options, QN_E_ARGUMENT, "contexts");
    t.options = good;
    t.options.schedule.total_steps = INT64_MAX / 2;
    expect_refusal(&t.options, QN_E_ARGUMENT, "steps are too many");
    t.options = good;
    t.options.save_every = -1;
    expect_refusal(&t.options, QN_E_ARGUMENT, "-1");
    t.options = good;
    t.options.keep_bytes = -2;
    expect_refusal(&t.options, QN_E_ARGUMENT, "-2 bytes of activations");
    t.options = good;
    t.options.roles[QN_TRAIN_EMBEDDING].weight_decay = -0.5;
    expect_refusal(&t.options, QN_E_ARGUMENT, "embedding|-0.5");
    t.options = good;
    t.options.dtype = QN_DTYPE_I8;
    expect_refusal(&t.options, QN_E_ARGUMENT, "I8");
    t.options = good;
    t.options.resume = true;
    expect_refusal(&t.options, QN_E_ARGUMENT, "out|no run to resume");
    toy_free(&t);
}

static void test_a_folder_with_files_is_left_alone(void **state) {
    toy t = toy_make();
    qn_train_result result = {0};
    (void)state;
    write_test_file(t.folder, "out/diary.txt", "dear", 4);
    assert_error(qn_train(&t.options, NULL, &result, err), QN_E_ARGUMENT, "out|holds files|--resume");
    t.options.resume = true;
    assert_error(qn_train(&t.options, NULL, &result, err), QN_E_ARGUMENT, "out|holds files");
    assert_int_equal(count_entries(t.out), 1);
    toy_free(&t);
}

static void test_a_loss_that_diverges_stops_the_run(void **state) {
    toy t = toy_make();
    qn_train_result result = {0};
    (void)state;
    t.options.schedule.peak = 1e30;
    t.options.save_every = 0;
    assert_error(qn_train(&t.options, NULL, &result, err), QN_E_VALUE,
                 "step 2: |gradient of 'model.|the state after step 0 is kept in|out/state");
    char *kept = path_in(t.out, "state/step-00000000/model.safetensors"),
         *model = path_in(t.out, "model.safetensors");
    assert_int_equal(access(kept, R_OK), 0);
    assert_int_equal(access(model, F_OK), -1);
    free(kept);
    free(model);
    toy_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_toy_learns_one_document_by_heart),
        cmocka_unit_test(test_loss_falls_and_dev_loss_is_that_of_the_files),
        cmocka_unit_test(test_results_do_not_depend_on_threads),
        cmocka_unit_test(test_results_do_not_depend_on_memory),
        cmocka_unit_test(test_two_small_batches_are_one_large_one),
        cmocka_unit_test(test_training_goes_on_from_a_checkpoint),
        cmocka_unit_test(test_random_weights_are_as_the_config_says),
        cmocka_unit_test(test_input_that_does_not_fit_is_refused),
        cmocka_unit_test(test_options_that_make_no_sense_are_refused),
        cmocka_unit_test(test_a_folder_with_files_is_left_alone),
        cmocka_unit_test(test_a_loss_that_diverges_stops_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
