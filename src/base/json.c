#include "base/json.h"

#include <string.h>

#include "base/banned.h"

qn_status qni_json_parse(const void *text, size_t n_bytes, const char *name, json_t **out, qn_error *err) {
    json_error_t error;
    /* NUL characters are legal in JSON strings (documents have them); qni_json_get_string refuses them. */
    json_t *value = json_loadb(n_bytes ? text : "", n_bytes,
                               JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!value) {
        return qn_fail(err, QN_E_FORMAT, "%s: not valid JSON at line %d, column %d (byte %d): %s", name,
                       error.line, error.column, error.position, error.text);
    }
    *out = value;
    return QN_OK;
}

const char *qni_json_type_name(const json_t *value) {
    if (!value) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

/* The value of KEY; *value is NULL when it may be missing and is. */
static qn_status find(const json_t *object, const char *key, bool required, const char *name,
                      const char *expected, const json_t **value, qn_error *err) {
    if (!json_is_object(object)) {
        return qn_fail(err, QN_E_FORMAT, "%s: expected an object that holds \"%s\", found %s", name, key,
                       qni_json_type_name(object));
    }
    const json_t *found = json_object_get(object, key);
    if (!found || json_is_null(found)) {
        if (required) {
            return qn_fail(err, QN_E_FORMAT, "%s: key \"%s\" is %s, expected %s", name, key,
                           found ? "null" : "missing", expected);
        }
        found = NULL;
    }
    *value = found;
    return QN_OK;
}

static qn_status fail_type(const char *name, const char *key, const char *expected, const json_t *value,
                           qn_error *err) {
    return qn_fail(err, QN_E_FORMAT, "%s: key \"%s\" is %s, expected %s", name, key,
                   qni_json_type_name(value), expected);
}

qn_status qni_json_get_i64(const json_t *object, const char *key, bool required, const char *name,
                           int64_t *out, qn_error *err) {
    const json_t *value = NULL;
    QN_TRY(find(object, key, required, name, "an integer", &value, err));
    if (!value) return QN_OK;
    if (!json_is_integer(value)) return fail_type(name, key, "an integer", value, err);
    *out = json_integer_value(value);
    return QN_OK;
}

qn_status qni_json_get_f64(const json_t *object, const char *key, bool required, const char *name,
                           double *out, qn_error *err) {
    const json_t *value = NULL;
    QN_TRY(find(object, key, required, name, "a number", &value, err));
    if (!value) return QN_OK;
    if (!json_is_number(value)) return fail_type(name, key, "a number", value, err);
    *out = json_number_value(value);
    return QN_OK;
}

qn_status qni_json_get_bool(const json_t *object, const char *key, bool required, const char *name, bool *out,
                            qn_error *err) {
    const json_t *value = NULL;
    QN_TRY(find(object, key, required, name, "a boolean", &value, err));
    if (!value) return QN_OK;
    if (!json_is_boolean(value)) return fail_type(name, key, "a boolean", value, err);
    *out = json_is_true(value);
    return QN_OK;
}

qn_status qni_json_get_string(const json_t *object, const char *key, bool required, const char *name,
                              const char **out, qn_error *err) {
    const json_t *value = NULL;
    QN_TRY(find(object, key, required, name, "a string", &value, err));
    if (!value) return QN_OK;
    if (!json_is_string(value)) return fail_type(name, key, "a string", value, err);
    const char *text = json_string_value(value);
    if (strlen(text) != json_string_length(value)) {
        return qn_fail(err, QN_E_FORMAT, "%s: key \"%s\" holds a NUL character, expected plain text", name,
                       key);
    }
    *out = text;
    return QN_OK;
}
