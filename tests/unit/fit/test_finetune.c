/* Whole-model tuning on a toy: nearer to the teacher on text it never saw, from a cache of that teacher and that text alone. */
#include "tuning_support.h"

#include "quern/fit/teacher_cache.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 60, N_LAYERS = 2 };

static const toy_code k_ternary = {QN_CODE_TERNARY, false, true, 0, false},
                      k_bands = {QN_CODE_SIGN, true, true, 16, false},
                      k_levels = {QN_CODE_TERNARY, false, false, 0, true};

static const qn_tune_options k_options = {.steps = STEPS,
                                          .batch = 8,
                                          .lr = 0.02,
                                          .min_lr_ratio = 0.05,
                                          .warmup_steps = 4,
                                          .validation_part = 0.125,
                                          .validations = 5,
                                          .seed = 11,
                                          .key = "a run"};

/* What a run is given. */
typedef struct job {
    tuning_toy *toy;
    char *folder;
    qn_trainable t;
    float *begin; /* owned: parameters of the direct fit */
    qn_teacher_cache *cache;
    qn_finetune_loss loss;
    qn_tune_options options;
} job;

static qn_teacher_cache *make_cache(const tuning_toy *toy, const char *folder,
                                    const qn_sequences *sequences) {
    const qn_teacher_cache_options options = {.k = 16};
    qn_teacher_cache *cache = NULL;
    char *path = path_in(folder, "teacher.cache");
    assert_ok(qn_teacher_cache_make(toy->teacher, sequences, &options, path, NULL, NULL, err));
    assert_ok(qn_teacher_cache_open(path, NULL, NULL, &cache, err));
    free(path);
    return cache;
}

static job open_job(tuning_toy *toy, const toy_code *code, const qn_trainable_rates *rates) {
    job j = {.toy = toy, .folder = make_temporary_folder(), .options = k_options};
    j.t = toy_student(toy, code, -1, toy->config->n_layers + 1, rates);
    j.begin = parameters_of(&j.t);
    j.cache = make_cache(toy, j.folder, &toy->text);
    j.loss = (qn_finetune_loss){.kl_weight = 0.75, .ce_weight = 0.25, .cache = j.cache};
    return j;
}

static void close_job(job *j) {
    toy_student_release(j->toy, &j->t);
    qn_teacher_cache_close(j->cache);
    remove_tree(j->folder);
    free(j->folder);
    free(j->begin);
}

static qn_status run_with(job *j, const qn_context *ctx, qn_tune_report *report, qn_error *err) {
    return qn_finetune(&j->t, j->toy->student, &j->toy->text, &j->loss, &j->options, ctx, report, err);
}

static qn_tune_report run(job *j, int n_threads) {
    const qn_context ctx = {.n_threads = n_threads};
    qn_tune_report report = {0};
    assert_ok(run_with(j, &ctx, &report, err));
    return report;
}

/* ---- it helps ---- */

static double fresh_kl(const tuning_toy *toy) {
    double kl;
    (void)mean_nll(toy, toy->student, &toy->fresh, &kl);
    return kl;
}

static void expect_gain(const toy_code *code, double kl_weight, double ce_weight, double most) {
    tuning_toy *toy = tuning_toy_random(N_LAYERS);
    job j = open_job(toy, code, &k_toy_rates);
    const double before = fresh_kl(toy);
    j.loss.kl_weight = kl_weight;
    j.loss.ce_weight = ce_weight;
    const qn_tune_report r = run(&j, 1);
    const double after = fresh_kl(toy);
    print_message("%g KL + %g CE: held back %.4f -> %.4f, divergence on fresh text %.4f -> %.4f\n", kl_weight,
                  ce_weight, r.first_loss, r.best_loss, before, after);
    assert_true(r.best_step > 0 && r.best_loss < r.first_loss && !r.diverged);
    assert_int_equal(r.steps, STEPS);
    assert_true(after <= most * before);
    close_job(&j);
    tuning_toy_close(toy);
}

static void test_nearer_to_the_teacher_on_fresh_text(void **state) {
    (void)state;
    expect_gain(&k_ternary, 1.0, 0.0, 0.8);
    expect_gain(&k_bands, 1.0, 0.0, 0.8);
    expect_gain(&k_ternary, 0.9, 0.1, 0.9);
}

/* The loss that is reported is that of the header, with the weights as packed. */
static void test_the_loss_is_what_it_says(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(N_LAYERS);
    job j = open_job(toy, &k_ternary, &k_toy_rates);
    qn_sequences held_back = {.ids = toy->text.ids + 15 * 16, .starts = toy->starts, .n = 1}; /* the 16th */
    double kl;
    j.options.steps = 0;
    j.options.validation_part = 1.0 / 128;
    held_back.ids = toy->text.ids + 127 * 16; /* the last of one part */
    const double ce = mean_nll(toy, toy->student, &held_back, &kl);
    j.loss.kl_weight = 0.0;
    j.loss.ce_weight = 0.5;
    assert_true(fabs(run(&j, 1).first_loss / (0.5 * ce) - 1.0) <= 1e-5); /* sums of f32 logits */
    close_job(&j);
    tuning_toy_close(toy);
}

static void test_cross_entropy_needs_no_teacher(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    job j = open_job(toy, &k_ternary, &k_toy_rates);
    j.loss = (qn_finetune_loss){.ce_weight = 1.0};
    const qn_tune_report r = run(&j, 1);
    assert_true(r.best_loss < r.first_loss && r.best_loss > 0.0);
    close_job(&j);
    tuning_toy_close(toy);
}

/* Latents at their levels and no rate for them: scales and norms alone are tuned, and all trits stay. */
static void test_frozen_codes(void **state) {
    (void)state;
    const qn_trainable_rates rates = {0.0, 1.0, 0.0, 1.0};
    tuning_toy *toy = tuning_toy_random(N_LAYERS);
    job j = open_job(toy, &k_levels, &rates);
    const double before = fresh_kl(toy);
    qn_trainable start = toy_set(toy, &k_levels, -1, N_LAYERS + 1, &rates);
    qn_trainable_evaluate(&start, 0.0, NULL);
    const qn_tune_report r = run(&j, 1);
    assert_true(r.best_step > 0 && fresh_kl(toy) < 0.97 * before);
    for (int64_t p = 0; p < j.t.n_parts; p++) {
        const qn_latents *is = &j.t.parts[p].latents, *was = &start.parts[p].latents;
        const int64_t cols = toy->layout->entries[start.parts[p].entry].cols;
        if (!j.t.parts[p].has_latents) {
            assert_memory_not_equal(j.t.parts[p].masters, start.parts[p].masters,
                                    (size_t)cols * sizeof(float));
            continue;
        }
        assert_memory_equal(is->values, was->values, (size_t)is->n_values * sizeof(float));
        assert_memory_equal(is->thresholds, was->thresholds, (size_t)is->n_thresholds * sizeof(float));
        assert_memory_not_equal(is->scales, was->scales, (size_t)is->n_scales * sizeof(float));
        assert_memory_equal(is->codes.bands[0].planes[0].q, was->codes.bands[0].planes[0].q,
                            (size_t)is->n_values);
    }
    qn_trainable_release(&start);
    close_job(&j);
    tuning_toy_close(toy);
}

/* ---- the same bytes ---- */

static void test_threads_change_nothing(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(N_LAYERS);
    float *first = NULL;
    for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
        job j = open_job(toy, &k_bands, &k_toy_rates);
        j.options.steps = 6;
        j.options.validation_part = 0.0;
        (void)run(&j, n_threads);
        if (!first) first = parameters_of(&j.t);
        assert_true(same_parameters(&j.t, first));
        assert_false(same_parameters(&j.t, j.begin));
        close_job(&j);
    }
    free(first);
    tuning_toy_close(toy);
}

static void test_a_stopped_run_goes_on_to_the_same_bytes(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(N_LAYERS);
    job whole = open_job(toy, &k_bands, &k_toy_rates);
    whole.options.steps = 15;
    const qn_tune_report want = run(&whole, 1);
    for (uint64_t at = 1; at < 15; at += 6) {
        toy_stop stop = {.step = at};
        const qn_context ctx = stopping_context(&stop, 2);
        job j = open_job(toy, &k_bands, &k_toy_rates);
        char *path = path_in(j.folder, "training");
        qn_tune_report report;
        j.options.steps = 15;
        j.options.state_path = path;
        j.options.save_every = 4;
        assert_error(run_with(&j, &ctx, &report, err), QN_E_CANCELLED, "");
        qn_trainable_give_back(&j.t, toy->student);
        qn_trainable_release(&j.t);
        j.t = toy_student(toy, &k_bands, -1, N_LAYERS + 1, &k_toy_rates);
        report = run(&j, 1);
        float *end = parameters_of(&j.t);
        assert_true(same_parameters(&whole.t, end));
        assert_memory_equal(&report, &want, sizeof report);
        free(end);
        free(path);
        close_job(&j);
    }
    close_job(&whole);
    tuning_toy_close(toy);
}

/* ---- refusals ---- */

static void test_caches_of_something_else(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    job j = open_job(toy, &k_ternary, &k_toy_rates);
    qn_tune_report r = {.steps = -7};
    char other_text[QN_SHA256_HEX], words[256];
    qn_teacher_cache_close(j.cache);
    char *path = path_in(j.folder, "teacher.cache");
    assert_int_equal(unlink(path), 0);
    j.cache = j.loss.cache = make_cache(toy, j.folder, &toy->fresh);
    assert_ok(qn_teacher_cache_text_sha256(&toy->fresh, other_text, err));
    (void)snprintf(words, sizeof words, "cache|text %s", other_text);
    assert_error(run_with(&j, NULL, &r, err), QN_E_ARGUMENT, words);
    j.loss.cache = NULL;
    assert_error(run_with(&j, NULL, &r, err), QN_E_ARGUMENT, "kl_weight 0.75|cache");
    assert_true(r.steps == -7 && same_parameters(&j.t, j.begin));
    free(path);
    close_job(&j);
    tuning_toy_close(toy);
}

static void test_too_little_text(void **state) {
    (void)state;
    tuning_toy *toy = tuning_toy_random(1);
    job j = open_job(toy, &k_ternary, &k_toy_rates);
    qn_tune_report r;
    j.options.batch = 113;
    assert_error(run_with(&j, NULL, &r, err), QN_E_VALUE, "too little calibration text|at least 2064 tokens");
    j.options.batch = 0;
    assert_error(run_with(&j, NULL, &r, err), QN_E_ARGUMENT, "0 sequences");
    close_job(&j);
    tuning_toy_close(toy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nearer_to_the_teacher_on_fresh_text),
        cmocka_unit_test(test_the_loss_is_what_it_says),
        cmocka_unit_test(test_cross_entropy_needs_no_teacher),
        cmocka_unit_test(test_frozen_codes),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_a_stopped_run_goes_on_to_the_same_bytes),
        cmocka_unit_test(test_caches_of_something_else),
        cmocka_unit_test(test_too_little_text),
    };
    return cmocka_run_group_tests_name("fit finetune", tests, NULL, NULL);
}
