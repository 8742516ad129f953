/* Thin helpers over jansson: load with position in the message, typed getters with the key in the message. */
#ifndef QUERN_SRC_BASE_JSON_H
#define QUERN_SRC_BASE_JSON_H

#include "quern/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Parses text; duplicate keys are refused. NAME is the file for messages. The caller owns *out (json_decref).
 */
QN_NODISCARD qn_status qni_json_parse(const void *text, size_t n_bytes, const char *name, json_t **out,
                                      qn_error *err);

/* Getters of an object's key. `required` false: an absent key or a JSON null leaves *out as it was.
 * A value of another type is QN_E_FORMAT, naming file, key, expected and found type. */
QN_NODISCARD qn_status qni_json_get_i64(const json_t *object, const char *key, bool required,
                                        const char *name, int64_t *out, qn_error *err);
QN_NODISCARD qn_status qni_json_get_f64(const json_t *object, const char *key, bool required,
                                        const char *name, double *out, qn_error *err);
QN_NODISCARD qn_status qni_json_get_bool(const json_t *object, const char *key, bool required,
                                         const char *name, bool *out, qn_error *err);
/* *out is borrowed from OBJECT. */
QN_NODISCARD qn_status qni_json_get_string(const json_t *object, const char *key, bool required,
                                           const char *name, const char **out, qn_error *err);

/* "an object", "a string", ... for messages; NULL is "nothing". */
const char *qni_json_type_name(const json_t *value);

#endif
