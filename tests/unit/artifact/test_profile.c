/* Budgets to the byte, and profiles from files. */
#include "artifact_support.h"

#include <stdlib.h>

static void test_budgets_of_the_tracks(void **state) {
    (void)state;
    const qn_profile binary = qn_profile_builtin(QN_TRACK_BINARY),
                     ternary = qn_profile_builtin(QN_TRACK_TERNARY);
    assert_true(binary.budget_bits == 0.9 * 1.0 + 0.1 * 4.125);
    assert_int_equal(qn_profile_budget_bytes(&binary, binary.reference_parameters), 4429687500);
    assert_int_equal(qn_profile_budget_bytes(&ternary, ternary.reference_parameters), 7467187500);
    assert_int_equal(qn_profile_budget_bytes(&binary, 5771264), 946848);
    assert_int_equal(qn_profile_budget_bytes(&ternary, 5771264), 1596115);
    assert_int_equal(qn_profile_budget_bytes(&binary, 0), 0);
}

/* 8 * bytes <= ceil(P * b): one bit less than a byte boundary loses the byte. */
static void test_budget_rounds_up_in_bits(void **state) {
    (void)state;
    qn_profile p = qn_profile_builtin(QN_TRACK_BINARY);
    p.budget_bits = 1.0;
    assert_int_equal(qn_profile_budget_bytes(&p, 800), 100);
    assert_int_equal(qn_profile_budget_bytes(&p, 799), 99);
    p.budget_bits = 0.99875; /* 799.0 of 800 */
    assert_int_equal(qn_profile_budget_bytes(&p, 800), 99);
    p.budget_bits = 0.9989; /* 799.12, rounded up to 800 */
    assert_int_equal(qn_profile_budget_bytes(&p, 800), 100);
}

static void test_rescue_limit_is_never_passed(void **state) {
    (void)state;
    const qn_profile p = qn_profile_builtin(QN_TRACK_BINARY);
    for (int64_t n = 0; n < 5000; n += 7) {
        const int64_t most = qn_profile_max_rescued(&p, n);
        assert_true(n == 0 || (double)most / (double)n <= p.rescue_fraction);
        assert_true(n == 0 || (double)(most + 1) / (double)n > p.rescue_fraction);
    }
}

static void test_strict(void **state) {
    (void)state;
    qn_profile p = qn_profile_strict(QN_TRACK_BINARY);
    assert_string_equal(p.name, "binary-strict");
    assert_true(p.budget_bits == qn_profile_builtin(QN_TRACK_BINARY).budget_bits);
    const qn_codec sign = {QN_CODE_SIGN, 64, QN_SCALE_F16};
    qn_encoded e = {
        .rows = 8, .cols = 8, .n_bands = 1, .bands = {{.codec = sign, .n_planes = 1, .n_lines = 8}}};
    assert_null(qn_profile_forbids(&p, &e));
    e.hadamard = 8;
    assert_string_equal(qn_profile_forbids(&p, &e), "rotation");
    p.rotation = true;
    e.bands[0].n_planes = 2;
    assert_string_equal(qn_profile_forbids(&p, &e), "two planes");
    p.two_planes = true;
    e.bands[0].codec.scale = QN_SCALE_LOG6;
    assert_string_equal(qn_profile_forbids(&p, &e), "log6 scales");
    p.log6_scales = true;
    e.axis = QN_AXIS_COLUMNS;
    assert_string_equal(qn_profile_forbids(&p, &e), "column bands");
    p.column_bands = true;
    e.stream_bytes = 7;
    assert_string_equal(qn_profile_forbids(&p, &e), "entropy coding");
    p.entropy_coding = true;
    e.column_scaled = true;
    assert_string_equal(qn_profile_forbids(&p, &e), "column scales");
    p.column_scales = true;
    assert_null(qn_profile_forbids(&p, &e));
}

typedef struct bad_profile {
    const char *text, *message;
    qn_status code;
} bad_profile;

static void test_profile_file(void **state) {
    (void)state;
    char *folder = make_temporary_folder(), *path = NULL;
    qn_error err;
    qn_profile p;
    assert_true(asprintf(&path, "%s/profile.json", folder) > 0);

    write_text(folder, "profile.json",
               "{\"name\": \"mini\", \"reference_parameters\": 1000, \"native_bits\": 1.5}");
    expect_ok(qn_profile_load(path, QN_TRACK_TERNARY, &p, &err), &err);
    assert_string_equal(p.name, "mini");
    assert_int_equal(p.track, QN_TRACK_TERNARY);
    assert_int_equal(p.reference_parameters, 1000);
    assert_true(p.budget_bits == 0.9 * 1.5 + 0.1 * 4.125);
    assert_int_equal(p.max_parameter_factor, 16);
    assert_true(p.two_planes && p.log6_scales && p.column_bands && p.rotation && p.entropy_coding);

    write_text(folder, "profile.json",
               "{\"two_planes\": false, \"rotation\": false, \"entropy_coding\": false}");
    expect_ok(qn_profile_load(path, QN_TRACK_BINARY, &p, &err), &err);
    assert_true(!p.two_planes && p.log6_scales && p.column_bands && !p.rotation && !p.entropy_coding);

    write_text(folder, "profile.json", "{\"track\": \"binary\", \"budget_bits\": 1.25}");
    expect_ok(qn_profile_load(path, QN_TRACK_TERNARY, &p, &err), &err);
    assert_int_equal(p.track, QN_TRACK_BINARY);
    assert_true(p.budget_bits == 1.25 && p.native_bits == 1.0);

    static const bad_profile bad[] = {
        {"{\"budget\": 1}", "unknown key 'budget'", QN_E_FORMAT},
        {"[1]", "a profile is a JSON object", QN_E_FORMAT},
        {"{\"track\": \"quaternary\"}", "unknown track", QN_E_ARGUMENT},
        {"{\"rescue_fraction\": 1.5}", "rescue_fraction", QN_E_VALUE},
        {"{\"reference_parameters\": -1}", "positive", QN_E_VALUE},
        {"{\"native_bits\": \"one\"}", "native_bits", QN_E_FORMAT},
        {"{", "profile.json", QN_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_text(folder, "profile.json", bad[i].text);
        expect_error(qn_profile_load(path, QN_TRACK_BINARY, &p, &err), bad[i].code, &err, bad[i].message);
    }
    free(path);
    remove_tree(folder);
    free(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets_of_the_tracks),
        cmocka_unit_test(test_budget_rounds_up_in_bits),
        cmocka_unit_test(test_rescue_limit_is_never_passed),
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_profile_file),
    };
    return cmocka_run_group_tests_name("artifact profile", tests, NULL, NULL);
}
