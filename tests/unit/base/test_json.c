#include "base/json.h"

#include "test_data.h"

#include <string.h>

static json_t *parse(const char *text) {
    qn_error err = {0};
    json_t *value = NULL;
    if (qni_json_parse(text, strlen(text), "config.json", &value, &err) != QN_OK) fail_msg("%s", err.message);
    return value;
}

static void assert_refused(const char *text, const char *part) {
    qn_error err = {0};
    json_t *value = NULL;
    assert_int_equal(qni_json_parse(text, strlen(text), "config.json", &value, &err), QN_E_FORMAT);
    assert_null(value);
    if (!strstr(err.message, part)) fail_msg("'%s' lacks '%s'", err.message, part);
    assert_non_null(strstr(err.message, "config.json"));
}

static void test_broken_text_is_refused_with_its_place(void **state) {
    (void)state;
    assert_refused("", "line 1");
    assert_refused("{\n \"a\": 1,\n}", "line 3");
    assert_refused("{\"a\": 1} x", "line 1");
    assert_refused("{\"a\": NaN}", "line 1");
    assert_refused("{\"a\": 1, \"a\": 2}", "duplicate");
    assert_refused("\"\xff\"", "0xff");
    assert_refused("{\"n\": 9223372036854775808}", "big");
    qn_error err = {0};
    json_t *value = NULL;
    assert_int_equal(qni_json_parse(NULL, 0, "x", &value, &err), QN_E_FORMAT);
}

static void test_deep_nesting_is_refused(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    static char text[DEPTH + 1];
    memset(text, '[', DEPTH);
    assert_refused(text, "depth");
}

static void test_getters_read_their_type(void **state) {
    (void)state;
    json_t *object = parse("{\"i\": -5, \"f\": 2.5, \"b\": true, \"s\": \"text\", \"n\": null}");
    qn_error err = {0};
    int64_t i = 0;
    double f = 0;
    bool b = false;
    const char *s = NULL;
    assert_int_equal(qni_json_get_i64(object, "i", true, "c", &i, &err), QN_OK);
    assert_int_equal(i, -5);
    assert_int_equal(qni_json_get_f64(object, "f", true, "c", &f, &err), QN_OK);
    assert_true(f == 2.5);
    assert_int_equal(qni_json_get_f64(object, "i", true, "c", &f, &err), QN_OK);
    assert_true(f == -5.0);
    assert_int_equal(qni_json_get_bool(object, "b", true, "c", &b, &err), QN_OK);
    assert_true(b);
    assert_int_equal(qni_json_get_string(object, "s", true, "c", &s, &err), QN_OK);
    assert_string_equal(s, "text");
    json_decref(object);
}

static void test_optional_keys_leave_the_output(void **state) {
    (void)state;
    json_t *object = parse("{\"n\": null}");
    qn_error err = {0};
    int64_t i = 7;
    double f = 7;
    bool b = true;
    const char *s = "kept";
    const char *keys[] = {"n", "absent"};
    for (int k = 0; k < 2; k++) {
        assert_int_equal(qni_json_get_i64(object, keys[k], false, "c", &i, &err), QN_OK);
        assert_int_equal(qni_json_get_f64(object, keys[k], false, "c", &f, &err), QN_OK);
        assert_int_equal(qni_json_get_bool(object, keys[k], false, "c", &b, &err), QN_OK);
        assert_int_equal(qni_json_get_string(object, keys[k], false, "c", &s, &err), QN_OK);
        assert_int_equal(qni_json_get_i64(object, keys[k], true, "c", &i, &err), QN_E_FORMAT);
    }
    assert_int_equal(i, 7);
    assert_true(f == 7 && b);
    assert_string_equal(s, "kept");
    assert_string_equal(err.message, "c: key \"absent\" is missing, expected an integer");
    json_decref(object);
}

static void test_wrong_types_are_named(void **state) {
    (void)state;
    json_t *object = parse("{\"i\": 1.5, \"f\": \"x\", \"b\": 1, \"s\": [], \"z\": \"a\\u0000b\"}");
    qn_error err = {0};
    int64_t i = 7;
    double f = 7;
    bool b = true;
    const char *s = "kept";
    assert_int_equal(qni_json_get_i64(object, "i", true, "c", &i, &err), QN_E_FORMAT);
    assert_string_equal(err.message, "c: key \"i\" is a real number, expected an integer");
    assert_int_equal(qni_json_get_f64(object, "f", true, "c", &f, &err), QN_E_FORMAT);
    assert_string_equal(err.message, "c: key \"f\" is a string, expected a number");
    assert_int_equal(qni_json_get_bool(object, "b", false, "c", &b, &err), QN_E_FORMAT);
    assert_string_equal(err.message, "c: key \"b\" is an integer, expected a boolean");
    assert_int_equal(qni_json_get_string(object, "s", false, "c", &s, &err), QN_E_FORMAT);
    assert_string_equal(err.message, "c: key \"s\" is an array, expected a string");
    assert_int_equal(qni_json_get_string(object, "z", false, "c", &s, &err), QN_E_FORMAT);
    assert_non_null(strstr(err.message, "NUL"));
    assert_int_equal(qni_json_get_i64(json_object_get(object, "s"), "x", true, "c", &i, &err), QN_E_FORMAT);
    assert_string_equal(err.message, "c: expected an object that holds \"x\", found an array");
    assert_true(i == 7 && f == 7 && b);
    assert_string_equal(s, "kept");
    json_decref(object);
}

static void test_type_names(void **state) {
    (void)state;
    json_t *object = parse("{\"t\": true, \"n\": null, \"o\": {}}");
    assert_string_equal(qni_json_type_name(NULL), "nothing");
    assert_string_equal(qni_json_type_name(object), "an object");
    assert_string_equal(qni_json_type_name(json_object_get(object, "t")), "a boolean");
    assert_string_equal(qni_json_type_name(json_object_get(object, "n")), "null");
    json_decref(object);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_text_is_refused_with_its_place),
        cmocka_unit_test(test_deep_nesting_is_refused),
        cmocka_unit_test(test_getters_read_their_type),
        cmocka_unit_test(test_optional_keys_leave_the_output),
        cmocka_unit_test(test_wrong_types_are_named),
        cmocka_unit_test(test_type_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
