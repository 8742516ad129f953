/* Recipes: defaults, schema with line numbers, ranges, and the digest of the settings. */
#include "expect_error.h"
#include "test_data.h"

#include "quern/recipe/recipe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static qn_status load_for(qn_track track, const char *text, qn_recipe *out, qn_error *err) {
    char *folder = make_temporary_folder(), *path = path_in(folder, "r.yaml");
    write_test_file(folder, "r.yaml", text, strlen(text));
    const qn_status status = qn_recipe_load(path, track, out, err);
    remove_tree(folder);
    free(path);
    free(folder);
    return status;
}

/* Loads TEXT as a recipe file of the ternary track. */
static qn_status load(const char *text, qn_recipe *out, qn_error *err) {
    return load_for(QN_TRACK_TERNARY, text, out, err);
}

static qn_recipe loaded(const char *text) {
    qn_recipe recipe;
    assert_ok(load(text, &recipe, err));
    return recipe;
}

static void test_built_in(void **state) {
    (void)state;
    for (int track = 0; track < 2; track++) {
        qn_recipe best, fast;
        assert_ok(qn_recipe_builtin(NULL, (qn_track)track, &best, err));
        assert_ok(qn_recipe_builtin("fast", (qn_track)track, &fast, err));
        assert_memory_equal(&best, &fast, sizeof best);
        assert_string_equal(fast.name, "fast");
        assert_true(fast.automatic_groups);
        assert_int_equal(fast.rule, QN_FIT_OPTIMAL);
        assert_true(fast.max_rescue_fraction == 0.10);
        assert_int_equal(strlen(fast.sha256), 64);
    }
    qn_recipe none = {.name = "untouched"};
    assert_error(qn_recipe_builtin("ternary", QN_TRACK_BINARY, &none, err), QN_E_ARGUMENT,
                 "'ternary'|binary track|fast, binary, strict");
    assert_error(qn_recipe_builtin("binary", QN_TRACK_TERNARY, &none, err), QN_E_ARGUMENT,
                 "'binary'|ternary track|fast, ternary, strict");
    assert_error(qn_recipe_builtin("", QN_TRACK_TERNARY, &none, err), QN_E_ARGUMENT, "''|fast");
    assert_error(qn_recipe_builtin("slow", QN_TRACK_BINARY, &none, err), QN_E_ARGUMENT, "'slow'|fast");
    assert_string_equal(none.name, "untouched");
}

/* What the track's best one is made of; `strict` is the same fit in one plane of whole rows with fp16 scales. */
static void test_calibrated_built_ins(void **state) {
    (void)state;
    static const char *const names[] = {"binary", "ternary"};
    for (int track = 0; track < 2; track++) {
        qn_recipe best, strict, fast;
        assert_ok(qn_recipe_builtin("fast", (qn_track)track, &fast, err));
        assert_ok(qn_recipe_builtin(names[track], (qn_track)track, &best, err));
        assert_ok(qn_recipe_builtin("strict", (qn_track)track, &strict, err));
        assert_false(qn_recipe_calibrates(&fast));
        assert_true(qn_recipe_calibrates(&best) && qn_recipe_calibrates(&strict));
        assert_string_equal(best.name, names[track]);
        assert_string_equal(strict.name, "strict");
        assert_false(best.automatic_groups || strict.automatic_groups);
        assert_int_equal(best.fit, QN_RECIPE_DESCENT);
        assert_int_equal(strict.fit, best.fit);
        assert_int_equal(best.group_size, track == QN_TRACK_BINARY ? 128 : 64);
        assert_int_equal(strict.group_size, best.group_size);
        assert_int_equal(best.lines, QN_AXIS_COLUMNS);
        assert_int_equal(strict.lines, QN_AXIS_ROWS);
        assert_int_equal(best.planes, 2);
        assert_int_equal(strict.planes, 1);
        assert_int_equal(best.scales, QN_SCALE_LOG6);
        assert_int_equal(strict.scales, QN_SCALE_F16);
        assert_int_equal(strict.tokens, best.tokens);
        assert_true(strict.student_inputs && strict.activation_order);
        assert_string_not_equal(best.sha256, strict.sha256);
        assert_string_not_equal(best.sha256, fast.sha256);
        assert_string_not_equal(fast.sha256, strict.sha256);
    }
}

static void test_coarser_groups_end_at_the_row(void **state) {
    (void)state;
    int n = 0;
    int64_t last = 64;
    for (int64_t size = 64; size >= 0; size = qn_recipe_coarser_group(size), n++) {
        if (n > 0) assert_true(size == 0 || size > last);
        last = size;
        assert_true(n < 16);
    }
    assert_int_equal(last, 0);
}

static void test_every_setting(void **state) {
    (void)state;
    const qn_recipe r = loaded("name: all\nquantize:\n  group_size: 32\n  rule: published\n"
                               "rescue:\n  max_fraction: 0.025\n");
    assert_string_equal(r.name, "all");
    assert_int_equal(r.group_size, 32);
    assert_false(r.automatic_groups);
    assert_int_equal(r.rule, QN_FIT_PUBLISHED);
    assert_true(r.max_rescue_fraction == 0.025);
}

static const char k_all_calibrated[] =
    "name: all\ncalibrate:\n  tokens: 1024\n  context: 64\n"
    "  fisher_tokens: 256\nquantize:\n  fit: feedback\n"
    "  group_size: 32\n  lines: rows\n  planes: 1\n  scales: f16\n"
    "  sweeps: 7\n  damping: 0.25\n  shrinkage: 0.375\n  order: natural\n"
    "  error_decay: 0.5\n  hadamard: 16\n  rotate: measured\n"
    "  inputs: teacher\n"
    "  target_blend: 0.75\n  column_scales: true\n  entropy: zlib\n  rate: 0.125\nplan:\n  errors: normal\n"
    "  sensitivity: measured\n  probe_tokens: 512\n  overbook: 0.0625\noverrides:\n  - match: v_proj\n"
    "    code: q4\n  - {match: '[kq]_proj$', code: single}\n"
    "rescue:\n  max_fraction: 0.025\n";

static void test_every_calibrated_setting(void **state) {
    (void)state;
    const qn_recipe r = loaded(k_all_calibrated);
    assert_int_equal(r.tokens, 1024);
    assert_int_equal(r.context, 64);
    assert_int_equal(r.fisher_tokens, 256);
    assert_int_equal(r.fit, QN_RECIPE_FEEDBACK);
    assert_int_equal(r.group_size, 32);
    assert_int_equal(r.lines, QN_AXIS_ROWS);
    assert_int_equal(r.planes, 1);
    assert_int_equal(r.scales, QN_SCALE_F16);
    assert_int_equal(r.sweeps, 7);
    assert_true(r.damping == 0.25 && r.error_decay == 0.5 && r.target_blend == 0.75);
    assert_true(r.shrinkage == 0.375);
    assert_false(r.activation_order);
    assert_int_equal(r.hadamard, 16);
    assert_true(r.measured_rotation && r.measured_sensitivity && !r.measured_errors);
    assert_int_equal(r.probe_tokens, 512);
    assert_false(r.student_inputs);
    assert_true(r.column_scales && r.entropy_coding && r.rate == 0.125 && r.overbook == 0.0625);
    assert_true(r.max_rescue_fraction == 0.025);
    assert_int_equal(r.n_overrides, 2);
    assert_string_equal(r.overrides[0].match, "v_proj");
    assert_int_equal(r.overrides[0].code, QN_OVERRIDE_Q4);
    assert_string_equal(r.overrides[1].match, "[kq]_proj$");
    assert_int_equal(r.overrides[1].code, QN_OVERRIDE_SINGLE);
    assert_int_equal(loaded("name: x\nquantize: {fit: weighted}\n").fit, QN_RECIPE_WEIGHTED);
    assert_int_equal(loaded("name: x\nquantize: {fit: descent, scales: log6}\n").scales, QN_SCALE_LOG6);
}

/* A file that calibrates starts from the track's calibrated recipe, whichever of its stages says so. */
static void test_what_is_left_out_is_the_tracks(void **state) {
    (void)state;
    static const char *const texts[] = {"name: x\nquantize:\n  fit: descent\n",
                                        "name: x\ncalibrate:\n  tokens: 131072\n",
                                        "name: x\ncalibrate: {}\n"};
    for (int track = 0; track < 2; track++) {
        qn_recipe best;
        assert_ok(qn_recipe_builtin(qn_track_name((qn_track)track), (qn_track)track, &best, err));
        for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
            qn_recipe r;
            assert_ok(load_for((qn_track)track, texts[i], &r, err));
            assert_string_equal(r.sha256, best.sha256);
            assert_int_equal(r.group_size, best.group_size);
            assert_false(r.automatic_groups);
        }
    }
}

/* Layout and order say nothing; every single setting does. */
static void test_digest_of_a_calibrated_recipe(void **state) {
    (void)state;
    static const char other_layout[] =
        "rescue: {max_fraction: 25e-3}\noverrides: [{code: q4, match: v_proj}, {match: \"[kq]_proj$\", code: "
        "single}] # two\n\nquantize: {rate: .125, entropy: zlib, column_scales: true, target_blend: 75e-2, "
        "inputs: teacher, hadamard: 16, rotate: measured, "
        "error_decay: .5,\n "
        "order: natural, damping: 0.250, shrinkage: 375e-3, sweeps: 7, scales: f16, planes: 1, lines: rows, "
        "group_size: 32,\n "
        "fit: feedback}\nplan: {overbook: 625e-4, probe_tokens: 512, sensitivity: measured, errors: "
        "normal}\ncalibrate: "
        "{fisher_tokens: 256, context: 64, tokens: 1024}\nname: other\n";
    static const char *const changes[][2] = {{"tokens: 1024", "tokens: 1025"},
                                             {"context: 64", "context: 65"},
                                             {"fisher_tokens: 256", "fisher_tokens: 257"},
                                             {"fit: feedback", "fit: weighted"},
                                             {"group_size: 32", "group_size: 33"},
                                             {"lines: rows", "lines: columns"},
                                             {"planes: 1", "planes: 2"},
                                             {"scales: f16", "scales: log6"},
                                             {"sweeps: 7", "sweeps: 8"},
                                             {"damping: 0.25", "damping: 0.26"},
                                             {"shrinkage: 0.375", "shrinkage: 0.5"},
                                             {"order: natural", "order: activation"},
                                             {"decay: 0.5", "decay: 0.6"},
                                             {"hadamard: 16", "hadamard: 8"},
                                             {"rotate: measured", "rotate: all"},
                                             {"errors: normal", "errors: measured"},
                                             {"sensitivity: measured", "sensitivity: fisher"},
                                             {"probe_tokens: 512", "probe_tokens: 513"},
                                             {"inputs: teacher", "inputs: student"},
                                             {"blend: 0.75", "blend: 0.76"},
                                             {"column_scales: true", "column_scales: false"},
                                             {"entropy: zlib", "entropy: none"},
                                             {" rate: 0.125", " rate: 0.25"},
                                             {"overbook: 0.0625", "overbook: 0.07"},
                                             {"match: v_proj", "match: w_proj"},
                                             {"code: q4", "code: double"},
                                             {"fraction: 0.025", "fraction: 0.026"}};
    const qn_recipe all = loaded(k_all_calibrated);
    assert_string_equal(loaded(other_layout).sha256, all.sha256);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        char text[1024];
        const char *at = strstr(k_all_calibrated, changes[i][0]);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - k_all_calibrated), k_all_calibrated, changes[i][1],
                 at + strlen(changes[i][0]));
        if (strcmp(loaded(text).sha256, all.sha256) == 0) fail_msg("%s: the same digest", changes[i][1]);
    }
}

/* Whoever writes a calibrated setting into a data-free recipe expects something of it. */
static void test_calibrated_settings_in_a_data_free_recipe(void **state) {
    (void)state;
    static const char *const settings[] = {
        "lines: rows",    "planes: 2",      "scales: f16",        "sweeps: 1",       "damping: 0.1",
        "order: natural", "error_decay: 1", "hadamard: 8",        "inputs: teacher", "target_blend: 1",
        "entropy: zlib",  "rate: 0",        "column_scales: true"};
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        qn_recipe recipe = {.name = "untouched"};
        char text[128], words[128];
        for (int named = 0; named < 2; named++) {
            snprintf(text, sizeof text, "name: x\nquantize:\n  %s\n  %s\n",
                     named ? "fit: closed-form" : "group_size: 8", settings[i]);
            snprintf(words, sizeof words, "r.yaml:4: quantize.%.*s|data-free|fit: descent",
                     (int)strcspn(settings[i], ":"), settings[i]);
            assert_error(load(text, &recipe, err), QN_E_VALUE, words);
        }
        assert_string_equal(recipe.name, "untouched");
    }
    qn_recipe recipe = {.name = "untouched"};
    assert_error(load("name: x\ncalibrate:\n  tokens: 9\nquantize:\n  fit: closed-form\n", &recipe, err),
                 QN_E_VALUE, "r.yaml:3: calibrate.tokens|data-free");
    assert_error(load("name: x\noverrides:\n  - {match: q, code: q4}\n", &recipe, err), QN_E_VALUE,
                 "r.yaml:2: overrides|data-free");
}

static void test_what_is_left_out_is_fast(void **state) {
    (void)state;
    qn_recipe fast;
    assert_ok(qn_recipe_builtin("fast", QN_TRACK_TERNARY, &fast, err));
    const qn_recipe r = loaded("name: mine\n");
    assert_int_equal(r.group_size, fast.group_size);
    assert_true(r.automatic_groups);
    assert_true(r.max_rescue_fraction == fast.max_rescue_fraction);
    assert_string_equal(r.sha256, fast.sha256);
    assert_int_equal(loaded("name: row\nquantize:\n  group_size: 0\n").group_size, 0);
}

/* Layout, comments, order and name say nothing about what is done. */
static void test_digest_is_of_the_settings(void **state) {
    (void)state;
    const qn_recipe a = loaded("name: a\nquantize:\n  group_size: 32\nrescue:\n  max_fraction: 0.05\n");
    const qn_recipe b = loaded("# one line\nrescue: {max_fraction: 5e-2}\n\nquantize: { group_size: 032 }\n"
                               "name: \"b\"   # and a comment\n");
    assert_string_equal(a.sha256, b.sha256);
    static const char *const others[] = {
        "name: a\nquantize:\n  group_size: 33\nrescue:\n  max_fraction: 0.05\n",
        "name: a\nquantize:\n  group_size: 32\nrescue:\n  max_fraction: 0.050000000000000003\n",
        "name: a\nquantize:\n  group_size: 32\nrescue:\n  max_fraction: 0.06\n",
        "name: a\nquantize:\n  group_size: 32\n  rule: published\nrescue:\n  max_fraction: 0.05\n",
        "name: a\nrescue:\n  max_fraction: 0.05\n",
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const bool same = strcmp(loaded(others[i]).sha256, a.sha256) == 0;
        assert_int_equal(same, i == 1); /* the same double, spelled out */
    }
    qn_recipe binary, ternary;
    assert_ok(qn_recipe_builtin(NULL, QN_TRACK_BINARY, &binary, err));
    assert_ok(qn_recipe_builtin(NULL, QN_TRACK_TERNARY, &ternary, err));
    assert_string_not_equal(binary.sha256, ternary.sha256);
}

/* "64, or coarser where that does not fit" is not "64". */
static void test_digest_tells_automatic_groups(void **state) {
    (void)state;
    qn_recipe fast;
    char text[64];
    assert_ok(qn_recipe_builtin(NULL, QN_TRACK_TERNARY, &fast, err));
    snprintf(text, sizeof text, "name: x\nquantize:\n  group_size: %d\n", (int)fast.group_size);
    assert_string_not_equal(loaded(text).sha256, fast.sha256);
}

typedef struct refused {
    const char *text;
    qn_status code;
    const char *words;
} refused;

static void test_refused(void **state) {
    (void)state;
    static const refused cases[] = {
        {"", QN_E_FORMAT, "r.yaml|empty"},
        {"# only a comment\n", QN_E_FORMAT, "r.yaml|empty"},
        {"name: x\n\nstages: 2\n", QN_E_FORMAT, "r.yaml:3:|Unexpected key: stages"},
        {"name: x\nquantize:\n  rule: optimal\n  groups: 3\n", QN_E_FORMAT, "r.yaml:4:|groups"},
        {"name: x\nquantize: {rule: optimal, groups: 3}\n", QN_E_FORMAT, "r.yaml:2:|groups"},
        {"name: x\nquantize:\n  group_size: many\n", QN_E_VALUE,
         "r.yaml:3: quantize.group_size is 'many'|integer"},
        {"name: x\nquantize:\n  group_size: 1.5\n", QN_E_VALUE, "r.yaml:3: quantize.group_size is '1.5'"},
        {"name: x\nquantize:\n  group_size: 99999999999999999999\n", QN_E_VALUE,
         "r.yaml:3:|group_size is '99999"},
        {"name: x\nquantize: 7\n", QN_E_FORMAT, "r.yaml:2:|quantize"},
        {"name: x\nquantize:\n  rule: best\n", QN_E_VALUE,
         "r.yaml:3: quantize.rule is 'best'|optimal, published"},
        {"name: x\nrescue:\n  max_fraction: lots\n", QN_E_VALUE, "r.yaml:3: rescue.max_fraction is 'lots'"},
        {"name: x\nquantize:\n  group_size: -1\n", QN_E_VALUE,
         "r.yaml:3: quantize.group_size is '-1'|an integer, 0 to 1048576"},
        {"name: x\nquantize:\n  group_size: 9999999\n", QN_E_VALUE, "quantize.group_size is '9999999'"},
        {"name: x\nrescue:\n  max_fraction: 1.01\n", QN_E_VALUE,
         "r.yaml:3: rescue.max_fraction is '1.01'|0 to 1"},
        {"name: x\nrescue:\n  max_fraction: 0.1x\n", QN_E_VALUE, "rescue.max_fraction is '0.1x'"},
        {"name: x # max_fraction: 3\nrescue: {max_fraction: }\n", QN_E_VALUE,
         "r.yaml:2: rescue.max_fraction is ''"},
        {"name: x\nrescue:\n  max_fraction: -0.1\n", QN_E_VALUE, "rescue.max_fraction is '-0.1'"},
        {"name: x\nrescue:\n  max_fraction: nan\n", QN_E_VALUE, "rescue.max_fraction is 'nan'"},
        {"quantize:\n  group_size: 3\n", QN_E_FORMAT, "Missing required mapping field: name"},
        {"name: x\nname: y\n", QN_E_FORMAT, "already seen: name"},
        {"name:\n", QN_E_FORMAT, "r.yaml:1:|name"},
        {"name: 0123456789012345678901234567890123456789012345678901234567890123\n", QN_E_FORMAT,
         "r.yaml:1:|> 63|name"},
        {"name: x\nquantize:\n  fit: best\n", QN_E_VALUE,
         "r.yaml:3: quantize.fit is 'best'|closed-form, weighted, feedback, descent"},
        {"name: x\ncalibrate:\n  tokens: 0\n", QN_E_VALUE, "r.yaml:3: calibrate.tokens is '0'|1 to"},
        {"name: x\ncalibrate:\n  context: 1\n", QN_E_VALUE, "r.yaml:3: calibrate.context is '1'|2 to"},
        {"name: x\ncalibrate:\n  fisher_tokens: -5\n", QN_E_VALUE,
         "r.yaml:3: calibrate.fisher_tokens is '-5'"},
        {"name: x\ncalibrate:\n  text: file\n", QN_E_FORMAT, "r.yaml:3:|Unexpected key: text"},
        {"name: x\ncalibrate: {}\nquantize:\n  lines: both\n", QN_E_VALUE,
         "r.yaml:4: quantize.lines is 'both'|rows, columns"},
        {"name: x\ncalibrate: {}\nquantize:\n  planes: 3\n", QN_E_VALUE, "quantize.planes is '3'|1 to 2"},
        {"name: x\ncalibrate: {}\nquantize:\n  planes: 0\n", QN_E_VALUE, "quantize.planes is '0'"},
        {"name: x\ncalibrate: {}\nquantize:\n  scales: f32\n", QN_E_VALUE, "is 'f32'|f16, log6"},
        {"name: x\ncalibrate: {}\nquantize:\n  sweeps: 1001\n", QN_E_VALUE, "sweeps is '1001'|0 to 1000"},
        {"name: x\ncalibrate: {}\nquantize:\n  damping: -1\n", QN_E_VALUE, "damping is '-1'|0 to"},
        {"name: x\ncalibrate: {}\nquantize:\n  damping: inf\n", QN_E_VALUE, "damping is 'inf'"},
        {"name: x\ncalibrate: {}\nquantize:\n  order: random\n", QN_E_VALUE, "natural, activation"},
        {"name: x\ncalibrate: {}\nquantize:\n  error_decay: 1.1\n", QN_E_VALUE, "error_decay is '1.1'"},
        {"name: x\ncalibrate: {}\nquantize:\n  inputs: both\n", QN_E_VALUE, "is 'both'|teacher, student"},
        {"name: x\ncalibrate: {}\nquantize:\n  target_blend: 2\n", QN_E_VALUE, "target_blend is '2'"},
        {"name: x\ncalibrate: {}\nquantize:\n  rate: -1\n", QN_E_VALUE, "rate is '-1'"},
        {"name: x\ncalibrate: {}\nquantize:\n  entropy: lzma\n", QN_E_VALUE, "'lzma'; expected none, zlib"},
        {"name: x\ncalibrate: {}\nquantize:\n  column_scales: 1\n", QN_E_VALUE, "expected false, true"},
        {"name: x\ncalibrate: {}\nquantize:\n  hadamard: 16385\n", QN_E_VALUE,
         "hadamard is '16385'|0 to 16384"},
        {"name: x\ncalibrate: {}\noverrides:\n  - {match: '[', code: q4}\n", QN_E_VALUE,
         "r.yaml:3: overrides|'['|regular expression"},
        {"name: x\ncalibrate: {}\noverrides:\n  - {match: q, code: q5}\n", QN_E_VALUE,
         "r.yaml:3: overrides|'q5'|single, double, q4"},
        {"name: x\ncalibrate: {}\noverrides:\n  - {match: q}\n", QN_E_FORMAT, "r.yaml|code"},
        {"- name\n", QN_E_FORMAT, "r.yaml|MAPPING"},
        {"name: [x\n", QN_E_FORMAT, "r.yaml"},
        {"name: x\n\tquantize: 3\n", QN_E_FORMAT, "r.yaml"},
        {"name: \xff\xfe\n", QN_E_FORMAT, "r.yaml"},
        {"{", QN_E_FORMAT, "r.yaml"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        qn_recipe recipe = {.name = "untouched"};
        assert_error(load(cases[i].text, &recipe, err), cases[i].code, cases[i].words);
        assert_string_equal(recipe.name, "untouched");
        assert_int_equal(load(cases[i].text, &recipe, NULL), cases[i].code);
    }
}

static void test_no_such_file(void **state) {
    (void)state;
    qn_recipe recipe;
    char *folder = make_temporary_folder(), *path = path_in(folder, "none.yaml");
    assert_error(qn_recipe_load(path, QN_TRACK_BINARY, &recipe, err), QN_E_IO,
                 "none.yaml|No such file or directory");
    assert_int_equal(qn_recipe_load(folder, QN_TRACK_BINARY, &recipe, NULL), QN_E_FORMAT);
    remove_tree(folder);
    free(path);
    free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_built_in),
        cmocka_unit_test(test_coarser_groups_end_at_the_row),
        cmocka_unit_test(test_calibrated_built_ins),
        cmocka_unit_test(test_every_setting),
        cmocka_unit_test(test_every_calibrated_setting),
        cmocka_unit_test(test_what_is_left_out_is_the_tracks),
        cmocka_unit_test(test_digest_of_a_calibrated_recipe),
        cmocka_unit_test(test_calibrated_settings_in_a_data_free_recipe),
        cmocka_unit_test(test_what_is_left_out_is_fast),
        cmocka_unit_test(test_digest_is_of_the_settings),
        cmocka_unit_test(test_digest_tells_automatic_groups),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_such_file),
    };
    return cmocka_run_group_tests_name("recipe recipe", tests, NULL, NULL);
}
