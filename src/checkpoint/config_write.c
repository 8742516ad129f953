#include "checkpoint/config_write.h"

#include "base/alloc.h"
#include "base/json.h"

#include <string.h>

#include "base/banned.h"

/* The object that rules the rotary embedding, as config_rope.c resolves it; NULL when the config has none. */
static const json_t *rope_source(const json_t *root) {
    const json_t *scaling = json_object_get(root, "rope_scaling");
    if (json_object_size(scaling) > 0) return scaling;
    const json_t *parameters = json_object_get(root, "rope_parameters");
    return json_is_object(parameters) ? parameters : NULL;
}

/* 0, or -1 when memory is short. */
static int spell_rope(json_t *root, const qn_rope *rope) {
    const json_t *source = rope_source(root);
    json_t *parameters = source ? json_deep_copy(source) : json_object();
    const bool is_default = rope->kind == QN_ROPE_DEFAULT;
    json_object_del(parameters, "type");
    int failed = json_object_set_new(parameters, "rope_type", json_string(is_default ? "default" : "yarn"));
    failed |= json_object_set_new(parameters, "rope_theta", json_real(rope->theta));

    json_t *scaling = is_default ? json_null() : json_deep_copy(parameters);
    if (!is_default) json_object_del(scaling, "rope_theta");
    failed |= json_object_set_new(root, "rope_scaling", scaling);
    failed |= json_object_set_new(root, "rope_theta", json_real(rope->theta));
    failed |= json_object_set_new(root, "rope_parameters", parameters);
    return failed;
}

qn_status qni_config_json(const qn_config *config, const char *dtype_name, json_t **out, qn_error *err) {
    json_t *root = NULL;
    QN_TRY(qni_json_parse(config->json, strlen(config->json), "config.json", &root, err));
    static const char *const removed[] = {"auto_map", "quern", "quantization_config"};
    for (size_t i = 0; i < sizeof removed / sizeof *removed; i++) json_object_del(root, removed[i]);

    int failed = spell_rope(root, &config->rope);
    failed |= json_object_set_new(root, "dtype", json_string(dtype_name));
    failed |= json_object_set_new(root, "torch_dtype", json_string(dtype_name));
    if (failed) {
        json_decref(root);
        return qni_fail_nomem(err, "the new config.json");
    }
    *out = root;
    return QN_OK;
}
