/* The rotary embedding of a config, in both spellings: a non-empty `rope_scaling` object (older) rules, else
 * `rope_parameters` (newer); inside it `rope_theta`, else the one at the top.
 * Source: transformers, modeling_rope_utils.py; yarn: Peng et al., "YaRN", 2023, sections 3.2 and 3.4. */
#include "base/json.h"
#include "checkpoint/config_read.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

static qn_status find_source(const json_t *root, const char *name, const json_t **out, qn_error *err) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    *out = NULL;
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(root, keys[i]);
        if (!value || json_is_null(value)) continue;
        if (!json_is_object(value))
            return qn_fail(err, QN_E_FORMAT, "%s: %s: expected an object, got %s", name, keys[i],
                           qni_json_type_name(value));
        if (json_object_get(value, "full_attention") || json_object_get(value, "sliding_attention"))
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "%s: %s differs by layer type, supported is one for all layers", name, keys[i]);
        if (!*out && json_object_size(value) > 0) *out = value;
    }
    return QN_OK;
}

static qn_status read_kind(const json_t *source, const char *name, qn_rope_kind *kind, qn_error *err) {
    const char *type = "default";
    QN_TRY(qni_json_get_string(source, "type", false, name, &type, err));
    QN_TRY(qni_json_get_string(source, "rope_type", false, name, &type, err));
    *kind = strcmp(type, "yarn") == 0 ? QN_ROPE_YARN : QN_ROPE_DEFAULT;
    if (*kind == QN_ROPE_DEFAULT && strcmp(type, "default") != 0)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: rope_type is '%.100s', supported are 'default' and 'yarn'",
                       name, type);
    return QN_OK;
}

static qn_status check_full_rotation(const json_t *object, const char *name, qn_error *err) {
    double fraction = 1.0;
    QN_TRY(qni_json_get_f64(object, "partial_rotary_factor", false, name, &fraction, err));
    if (fraction != 1.0)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: partial_rotary_factor is %g, supported is 1", name,
                       fraction);
    return QN_OK;
}

/* *value holds the default on entry. */
static qn_status read_positive(const json_t *source, const char *key, const char *name, double *value,
                               qn_error *err) {
    double found = *value;
    QN_TRY(qni_json_get_f64(source, key, false, name, &found, err));
    if (!(found > 0.0) || !isfinite(found))
        return qn_fail(err, QN_E_VALUE, "%s: %s is %g, expected a positive number", name, key, found);
    *value = found;
    return QN_OK;
}

static double magnitude(double factor, double scale) {
    return factor <= 1.0 ? 1.0 : 0.1 * scale * log(factor) + 1.0;
}

static qn_status read_attention_factor(const json_t *source, const char *name, qn_rope *rope, qn_error *err) {
    double mscale = 0.0, mscale_all_dim = 0.0;
    QN_TRY(qni_json_get_f64(source, "mscale", false, name, &mscale, err));
    QN_TRY(qni_json_get_f64(source, "mscale_all_dim", false, name, &mscale_all_dim, err));
    rope->attention_factor = magnitude(rope->factor, 1.0);
    if (mscale != 0.0 && mscale_all_dim != 0.0)
        rope->attention_factor = magnitude(rope->factor, mscale) / magnitude(rope->factor, mscale_all_dim);
    return read_positive(source, "attention_factor", name, &rope->attention_factor, err);
}

static qn_status read_yarn(const json_t *source, const char *name, int64_t max_positions, qn_rope *rope,
                           qn_error *err) {
    QN_TRY(qni_json_get_f64(source, "factor", true, name, &rope->factor, err));
    if (!(rope->factor >= 1.0) || !isfinite(rope->factor))
        return qn_fail(err, QN_E_VALUE, "%s: rope factor is %g, expected a number of at least 1", name,
                       rope->factor);
    if (!(rope->theta > 1.0))
        return qn_fail(err, QN_E_VALUE, "%s: rope_theta is %g, yarn needs it above 1", name, rope->theta);
    rope->beta_fast = 32.0;
    rope->beta_slow = 1.0;
    rope->original_positions = (double)max_positions;
    rope->truncate = true;
    QN_TRY(read_positive(source, "beta_fast", name, &rope->beta_fast, err));
    QN_TRY(read_positive(source, "beta_slow", name, &rope->beta_slow, err));
    QN_TRY(read_positive(source, "original_max_position_embeddings", name, &rope->original_positions, err));
    QN_TRY(qni_json_get_bool(source, "truncate", false, name, &rope->truncate, err));
    return read_attention_factor(source, name, rope, err);
}

qn_status qni_config_read_rope(const json_t *root, const char *name, qn_config *out, qn_error *err) {
    const json_t *source = NULL;
    QN_TRY(find_source(root, name, &source, err));
    qn_rope rope = {.kind = QN_ROPE_DEFAULT, .theta = 10000.0, .attention_factor = 1.0};
    QN_TRY(check_full_rotation(root, name, err));
    QN_TRY(read_positive(root, "rope_theta", name, &rope.theta, err));
    if (source) {
        QN_TRY(check_full_rotation(source, name, err));
        QN_TRY(read_positive(source, "rope_theta", name, &rope.theta, err));
        QN_TRY(read_kind(source, name, &rope.kind, err));
    }
    if (rope.kind == QN_ROPE_YARN) QN_TRY(read_yarn(source, name, out->max_positions, &rope, err));
    out->rope = rope;
    return QN_OK;
}
