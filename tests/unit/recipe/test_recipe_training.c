/* What recipes say of training: both stages' settings and their lines, the digest, and the dial of effort. */
#include "expect_error.h"
#include "test_data.h"

#include "quern/recipe/recipe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static qn_status load(const char *text, qn_recipe *out, qn_error *err) {
    char *folder = make_temporary_folder(), *path = path_in(folder, "r.yaml");
    write_test_file(folder, "r.yaml", text, strlen(text));
    const qn_status status = qn_recipe_load(path, QN_TRACK_TERNARY, out, err);
    remove_tree(folder);
    free(path);
    free(folder);
    return status;
}

static qn_recipe loaded(const char *text) {
    qn_recipe recipe;
    assert_ok(load(text, &recipe, err));
    return recipe;
}

static const char k_all[] =
    "name: all\ncalibrate:\n  fisher_tokens: 256\n  tokens: 2048\n"
    "distill:\n  steps: 11\n  batch: 2\n  lr: 0.125\n  scale_rate: 0.25\n  threshold_rate: 0.0625\n  "
    "vector_rate: 2\n  patience: 3\n"
    "  loss: huber\n  window: 3\n  temperature: 0.5\n  inputs: teacher\n  compute: bf16\n"
    "finetune:\n  tokens: 4096\n  steps: 13\n  batch: 4\n  lr: 0.03125\n  scale_rate: 4\n  vector_rate: 8\n"
    "  codes: frozen\n  kl_weight: 0.75\n  ce_weight: 0.5\n  top_k: 32\n  samples: 5\n";

static void test_every_setting(void **state) {
    (void)state;
    const qn_recipe r = loaded(k_all);
    const qn_recipe_distill *d = &r.distill;
    const qn_recipe_finetune *f = &r.finetune;
    assert_true(d->steps == 11 && d->batch == 2 && d->window == 3);
    assert_true(d->lr == 0.125 && d->scale_rate == 0.25 && d->threshold_rate == 0.0625 &&
                d->vector_rate == 2 && d->patience == 3);
    assert_true(d->temperature == 0.5 && d->loss == QN_RECIPE_LOSS_HUBER && !d->student_inputs);
    assert_true(d->compute == QN_COMPUTE_BF16 && f->compute == QN_COMPUTE_F32);
    assert_true(r.student_inputs); /* of the fits: another setting of that name */
    assert_true(f->tokens == 4096 && f->steps == 13 && f->batch == 4 && f->top_k == 32 && f->samples == 5);
    assert_true(f->lr == 0.03125 && f->scale_rate == 4 && f->vector_rate == 8);
    assert_true(f->kl_weight == 0.75 && f->ce_weight == 0.5 && !f->trained_codes);
    assert_true(r.tokens == 2048 && r.fisher_tokens == 256);
    const qn_recipe fisher =
        loaded("name: x\ncalibrate: {}\ndistill: {loss: fisher}\nfinetune: {codes: trained}\n");
    assert_true(fisher.distill.loss == QN_RECIPE_LOSS_FISHER && fisher.finetune.trained_codes);
}

static void test_the_digest_knows_every_setting(void **state) {
    (void)state;
    static const char *const changes[][2] = {{"steps: 11", "steps: 12"},
                                             {"batch: 2", "batch: 3"},
                                             {"lr: 0.125", "lr: 0.126"},
                                             {"rate: 0.25", "rate: 0.26"},
                                             {"patience: 3", "patience: 2"},
                                             {"rate: 0.0625", "rate: 0.063"},
                                             {"rate: 2", "rate: 3"},
                                             {"loss: huber", "loss: fisher"},
                                             {"window: 3", "window: 4"},
                                             {"temperature: 0.5", "temperature: 0"},
                                             {": teacher", ": student"},
                                             {"tokens: 4096", "tokens: 97"},
                                             {"steps: 13", "steps: 14"},
                                             {"batch: 4", "batch: 5"},
                                             {"lr: 0.03125", "lr: 0.03126"},
                                             {"rate: 4", "rate: 5"},
                                             {"rate: 8", "rate: 9"},
                                             {": frozen", ": trained"},
                                             {"compute: bf16", "compute: f32"},
                                             {"samples: 5", "samples: 5\n  compute: bf16"},
                                             {"0.75", "0.76"},
                                             {"ce_weight: 0.5", "ce_weight: 0.6"},
                                             {"top_k: 32", "top_k: 33"},
                                             {"samples: 5", "samples: 0"}};
    const qn_recipe all = loaded(k_all);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char text[1024];
        const char *at = strstr(k_all, changes[i][0]);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - k_all), k_all, changes[i][1],
                 at + strlen(changes[i][0]));
        if (strcmp(loaded(text).sha256, all.sha256) == 0) fail_msg("%s: the same digest", changes[i][1]);
    }
}

typedef struct refused {
    const char *text, *words;
} refused;

/* Keys that several stages have: the line is that of the stage that is wrong, wherever it stands. */
static void test_lines_of_keys_that_two_stages_have(void **state) {
    (void)state;
    static const refused cases[] = {
        {"name: x\ncalibrate: {}\ndistill:\n  steps: 3\n  batch: 0\nfinetune:\n  steps: 3\n  batch: 2\n",
         "r.yaml:5: distill.batch is '0'|1 to"},
        {"name: x\ncalibrate: {}\ndistill:\n  steps: 3\n  batch: 2\nfinetune:\n  steps: 3\n  batch: 0\n",
         "r.yaml:8: finetune.batch is '0'|1 to"},
        {"name: x\ncalibrate: {}\nfinetune:\n  steps: -1\ndistill:\n  steps: 3\n",
         "r.yaml:4: finetune.steps is '-1'|0 to"},
        {"name: x\ncalibrate: {}\nfinetune:\n  steps: 1\ndistill:\n  steps: 99999999\n",
         "r.yaml:6: distill.steps is '99999999'"},
        {"name: x\ncalibrate: {}\ndistill:\n  lr: 1\nfinetune:\n  lr: 0\n",
         "r.yaml:6: finetune.lr is '0'|1e-09 to 1"},
        {"name: x\ncalibrate: {}\ndistill:\n  lr: fast\nfinetune:\n  lr: 1\n",
         "r.yaml:4: distill.lr is 'fast'"},
        {"name: x\nquantize:\n  fit: descent\n  inputs: student\ndistill:\n  inputs: both\n",
         "r.yaml:6: distill.inputs is 'both'|teacher, student"},
        {"name: x\nquantize:\n  fit: descent\n  inputs: both\ndistill:\n  inputs: teacher\n",
         "r.yaml:4: quantize.inputs is 'both'"},
        {"name: x\ncalibrate:\n  fisher_tokens: 9\n  tokens: 0\nfinetune:\n  tokens: 7\n",
         "r.yaml:4: calibrate.tokens is '0'"},
        {"name: x\ncalibrate:\n  tokens: 9\nfinetune:\n  tokens: 0\n", "r.yaml:5: finetune.tokens is '0'"},
        {"name: x\ncalibrate: {}\ndistill: {threshold_rate: 1, scale_rate: -1}\n",
         "r.yaml:3: distill.scale_rate is '-1'"},
        {"name: x\ncalibrate: {}\ndistill:\n  loss: sum\n",
         "r.yaml:4: distill.loss is 'sum'|squared, huber, fisher"},
        {"name: x\ncalibrate: {}\ndistill:\n  window: 0\n", "r.yaml:4: distill.window is '0'|1 to 64"},
        {"name: x\ncalibrate: {}\ndistill:\n  temperature: -1\n",
         "r.yaml:4: distill.temperature is '-1'|0 to 10"},
        {"name: x\ncalibrate: {}\nfinetune:\n  codes: 1\n",
         "r.yaml:4: finetune.codes is '1'|frozen, trained"},
        {"name: x\ncalibrate: {}\nfinetune:\n  compute: f16\n",
         "r.yaml:4: finetune.compute is 'f16'|f32, bf16"},
        {"name: x\ncalibrate: {}\nfinetune:\n  kl_weight: nan\n", "r.yaml:4: finetune.kl_weight is 'nan'"},
        {"name: x\ndistill:\n  steps: 3\n", "r.yaml:3: distill.steps|data-free"},
        {"name: x\nfinetune:\n  steps: 3\n", "r.yaml:3: finetune.steps|data-free"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qn_recipe recipe = {.name = "untouched"};
        assert_error(load(cases[i].text, &recipe, err), QN_E_VALUE, cases[i].words);
        assert_string_equal(recipe.name, "untouched");
    }
    qn_recipe recipe;
    assert_error(load("name: x\ncalibrate: {}\ndistill:\n  steps: 1\nfinetune:\n  window: 2\n", &recipe, err),
                 QN_E_FORMAT, "r.yaml:6:|window");
}

static void test_effort(void **state) {
    (void)state;
    static const struct {
        qn_effort effort;
        const char *name;
        int64_t distill, finetune;
    } dial[] = {{QN_EFFORT_FAST, "fast", 0, 0},
                {QN_EFFORT_DEFAULT, "default", 11, 13},
                {QN_EFFORT_MAX, "max", 22, 52}};
    const qn_recipe all = loaded(k_all);
    for (int k = 0; k < 3; k++) {
        qn_recipe r = all;
        assert_string_equal(qn_effort_name(dial[k].effort), dial[k].name);
        assert_ok(qn_recipe_set_effort(&r, dial[k].effort, err));
        assert_int_equal(r.distill.steps, dial[k].distill);
        assert_int_equal(r.finetune.steps, dial[k].finetune);
        assert_true((strcmp(r.sha256, all.sha256) == 0) == (dial[k].effort == QN_EFFORT_DEFAULT));
        r.distill.steps = all.distill.steps;
        r.finetune.steps = all.finetune.steps;
        memcpy(r.sha256, all.sha256, sizeof r.sha256);
        assert_memory_equal(&r, &all, sizeof r); /* and nothing else */
    }
}

static void test_effort_of_built_in_recipes(void **state) {
    (void)state;
    for (int track = 0; track < 2; track++) {
        qn_recipe fast, best;
        assert_ok(qn_recipe_builtin("fast", (qn_track)track, &fast, err));
        const qn_recipe before = fast;
        assert_ok(qn_recipe_set_effort(&fast, QN_EFFORT_MAX, err)); /* data-free: there is nothing to turn */
        assert_memory_equal(&fast, &before, sizeof fast);
        assert_ok(qn_recipe_builtin(qn_track_name((qn_track)track), (qn_track)track, &best, err));
        assert_ok(qn_recipe_set_effort(&best, QN_EFFORT_FAST, err));
        assert_true(best.distill.steps == 0 && best.finetune.steps == 0);
        assert_ok(qn_recipe_set_effort(&best, QN_EFFORT_MAX, err));
        assert_true(best.distill.steps == 0 && best.finetune.steps == 0);
    }
}

/* Long runs in binary listen to the text a little more. */
static void test_weights_of_long_runs(void **state) {
    (void)state;
    static const double ce_weights[][2] = {[QN_TRACK_BINARY] = {0.2, 0.3}, [QN_TRACK_TERNARY] = {0.2, 0.2}};
    for (int track = 0; track < 2; track++) {
        for (int is_long = 0; is_long < 2; is_long++) {
            qn_recipe r;
            assert_ok(qn_recipe_builtin(qn_track_name((qn_track)track), (qn_track)track, &r, err));
            assert_ok(qn_recipe_set_effort(&r, is_long ? QN_EFFORT_MAX : QN_EFFORT_DEFAULT, err));
            assert_true(r.finetune.ce_weight == ce_weights[track][is_long]);
            assert_true(fabs(r.finetune.kl_weight + r.finetune.ce_weight - 1.0) < 1e-12);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_setting),
        cmocka_unit_test(test_the_digest_knows_every_setting),
        cmocka_unit_test(test_lines_of_keys_that_two_stages_have),
        cmocka_unit_test(test_effort),
        cmocka_unit_test(test_effort_of_built_in_recipes),
        cmocka_unit_test(test_weights_of_long_runs),
    };
    return cmocka_run_group_tests_name("recipe training", tests, NULL, NULL);
}
