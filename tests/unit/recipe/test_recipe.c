/* Recipes: defaults, schema with line numbers, ranges, and the digest of the settings. */
#include "expect_error.h"
#include "test_data.h"

#include "quern/recipe/recipe.h"

#include <stdlib.h>
#include <string.h>

/* Loads TEXT as a recipe file of the ternary track. */
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
    assert_error(qn_recipe_builtin("slow", QN_TRACK_BINARY, &none, err), QN_E_ARGUMENT, "'slow'|fast");
    assert_string_equal(none.name, "untouched");
}

static void test_coarser_groups_end_at_the_row(void **state) {
    (void)state;
    int n = 0;
    int32_t last = 64;
    for (int32_t size = 64; size >= 0; size = qn_recipe_coarser_group(size), n++) {
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
        {"name: x\nquantize:\n  rule: best\n", QN_E_FORMAT, "r.yaml:3:|best|rule"},
        {"name: x\nrescue:\n  max_fraction: lots\n", QN_E_VALUE, "r.yaml:3: rescue.max_fraction is 'lots'"},
        {"name: x\nquantize:\n  group_size: -1\n", QN_E_VALUE,
         "r.yaml:3: quantize.group_size is '-1'|0 (whole row) to"},
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
        cmocka_unit_test(test_every_setting),
        cmocka_unit_test(test_what_is_left_out_is_fast),
        cmocka_unit_test(test_digest_is_of_the_settings),
        cmocka_unit_test(test_digest_tells_automatic_groups),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_such_file),
    };
    return cmocka_run_group_tests_name("recipe recipe", tests, NULL, NULL);
}
