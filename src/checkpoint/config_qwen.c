/* Qwen2 and Qwen3: the keys of transformers' Qwen2Config and Qwen3Config with their class defaults. */
#include "base/alloc.h"
#include "base/json.h"
#include "checkpoint/config_read.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

/* Far above any published model, and small enough that no product of dimensions, sum over layers or byte
 * count can overflow 64 bits: 2^12 layers x (4 x 2^24 x 2^20 + 3 x 2^22 x 2^20) weights x 8 bytes < 2^62. */
enum {
    MAX_VOCAB = 1 << 26,
    MAX_HIDDEN = 1 << 20,
    MAX_INTERMEDIATE = 1 << 22,
    MAX_LAYERS = 1 << 12,
    MAX_HEADS = 1 << 12,
    MAX_HEAD_DIM = 1 << 12,
    MAX_POSITIONS = 1 << 30
};

qn_status qni_config_dimension(const json_t *root, const char *key, bool required, int64_t max,
                               const char *name, int64_t *out, qn_error *err) {
    int64_t value = *out;
    QN_TRY(qni_json_get_i64(root, key, required, name, &value, err));
    if (value < 1 || value > max)
        return qn_fail(err, QN_E_VALUE, "%s: %s is %lld, expected 1 to %lld", name, key, (long long)value,
                       (long long)max);
    *out = value;
    return QN_OK;
}

static bool is_null(const json_t *root, const char *key) {
    return json_is_null(json_object_get(root, key));
}

static qn_status read_dimensions(const json_t *root, const char *name, qn_config *c, qn_error *err) {
    QN_TRY(qni_config_dimension(root, "vocab_size", true, MAX_VOCAB, name, &c->vocab_size, err));
    QN_TRY(qni_config_dimension(root, "hidden_size", true, MAX_HIDDEN, name, &c->hidden_size, err));
    QN_TRY(qni_config_dimension(root, "intermediate_size", true, MAX_INTERMEDIATE, name,
                                &c->intermediate_size, err));
    QN_TRY(qni_config_dimension(root, "num_hidden_layers", true, MAX_LAYERS, name, &c->n_layers, err));
    QN_TRY(qni_config_dimension(root, "num_attention_heads", true, MAX_HEADS, name, &c->n_heads, err));
    c->max_positions = 32768;
    QN_TRY(qni_config_dimension(root, "max_position_embeddings", false, MAX_POSITIONS, name,
                                &c->max_positions, err));
    /* An absent key means the class default, a null one "as many as query heads". */
    c->n_kv_heads = is_null(root, "num_key_value_heads") ? c->n_heads : 32;
    QN_TRY(qni_config_dimension(root, "num_key_value_heads", false, MAX_HEADS, name, &c->n_kv_heads, err));
    if (c->n_heads % c->n_kv_heads != 0)
        return qn_fail(err, QN_E_VALUE,
                       "%s: num_attention_heads %lld is not a multiple of num_key_value_heads %lld%s", name,
                       (long long)c->n_heads, (long long)c->n_kv_heads,
                       json_object_get(root, "num_key_value_heads") ? "" : " (the default of an absent key)");
    c->head_dim = c->architecture == QN_ARCH_QWEN2 ? c->hidden_size / c->n_heads : 128;
    QN_TRY(qni_config_dimension(root, "head_dim", false, MAX_HEAD_DIM, name, &c->head_dim, err));
    if (c->head_dim % 2 != 0)
        return qn_fail(err, QN_E_VALUE, "%s: head_dim is %lld, expected an even number (rotary pairs)", name,
                       (long long)c->head_dim);
    return QN_OK;
}

static qn_status read_arithmetic(const json_t *root, const char *name, qn_config *c, qn_error *err) {
    const char *activation = "silu";
    QN_TRY(qni_json_get_string(root, "hidden_act", false, name, &activation, err));
    if (strcmp(activation, "silu") != 0)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: hidden_act is '%.100s', supported is 'silu'", name,
                       activation);
    c->rms_norm_eps = 1e-6;
    QN_TRY(qni_json_get_f64(root, "rms_norm_eps", false, name, &c->rms_norm_eps, err));
    if (!(c->rms_norm_eps > 0.0) || !isfinite(c->rms_norm_eps))
        return qn_fail(err, QN_E_VALUE, "%s: rms_norm_eps is %g, expected a positive number", name,
                       c->rms_norm_eps);
    return qni_json_get_bool(root, "tie_word_embeddings", false, name, &c->tied, err);
}

/* `layer_types` when the file has it, else every layer from max_window_layers on slides (if the window is
 * on). */
static qn_status read_layer_types(const json_t *root, const char *name, int64_t window, qn_config *c,
                                  qn_error *err) {
    const json_t *types = json_object_get(root, "layer_types");
    const bool listed = types && !json_is_null(types);
    int64_t first_sliding = 28;
    QN_TRY(qni_json_get_i64(root, "max_window_layers", false, name, &first_sliding, err));
    if (listed && (!json_is_array(types) || (int64_t)json_array_size(types) != c->n_layers))
        return qn_fail(err, QN_E_FORMAT,
                       "%s: layer_types has %zu entries, expected a list of num_hidden_layers %lld", name,
                       json_array_size(types), (long long)c->n_layers);
    for (int64_t i = 0; i < c->n_layers; i++) {
        if (!listed) {
            c->layer_slides[i] = window > 0 && i >= first_sliding;
            continue;
        }
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        c->layer_slides[i] = type && strcmp(type, "sliding_attention") == 0;
        if (!c->layer_slides[i] && (!type || strcmp(type, "full_attention") != 0))
            return qn_fail(
                err, QN_E_UNSUPPORTED,
                "%s: layer_types[%lld] is '%.100s', supported are 'full_attention' and 'sliding_attention'",
                name, (long long)i, type ? type : "not a string");
    }
    return QN_OK;
}

static qn_status read_sliding(const json_t *root, const char *name, qn_config *c, qn_error *err) {
    bool use_window = false;
    QN_TRY(qni_json_get_bool(root, "use_sliding_window", false, name, &use_window, err));
    int64_t window = 0;
    if (use_window && !is_null(root, "sliding_window")) {
        window = 4096;
        QN_TRY(qni_config_dimension(root, "sliding_window", false, MAX_POSITIONS, name, &window, err));
    }
    c->layer_slides = qni_alloc_array(c->n_layers, sizeof *c->layer_slides);
    if (!c->layer_slides) return qni_fail_nomem(err, name);
    QN_TRY(read_layer_types(root, name, window, c, err));
    for (int64_t i = 0; i < c->n_layers; i++) {
        if (!c->layer_slides[i]) continue;
        if (window == 0)
            return qn_fail(
                err, QN_E_VALUE,
                "%s: layer_types[%lld] is 'sliding_attention' without a window: set use_sliding_window to "
                "true and sliding_window to its length",
                name, (long long)i);
        c->sliding_window = window;
    }
    return QN_OK;
}

/* One id, a list of which the first counts, or nothing. */
static qn_status read_eos(const json_t *root, const char *name, qn_config *c, qn_error *err) {
    const json_t *eos = json_object_get(root, "eos_token_id");
    c->eos_token_id = -1;
    if (json_is_array(eos)) eos = json_array_get(eos, 0);
    if (!eos || json_is_null(eos)) return QN_OK;
    if (!json_is_integer(eos) || json_integer_value(eos) < 0)
        return qn_fail(err, QN_E_FORMAT, "%s: eos_token_id is not a token id (or a list of them) but %s",
                       name, qni_json_type_name(eos));
    c->eos_token_id = json_integer_value(eos);
    return QN_OK;
}

static qn_status read_common(const json_t *root, const char *name, qn_config *c, qn_error *err) {
    QN_TRY(read_dimensions(root, name, c, err));
    QN_TRY(read_arithmetic(root, name, c, err));
    QN_TRY(qni_config_read_rope(root, name, c, err));
    QN_TRY(read_sliding(root, name, c, err));
    return read_eos(root, name, c, err);
}

qn_status qni_config_read_qwen2(const json_t *root, const char *name, qn_config *out, qn_error *err) {
    out->qkv_bias = true;
    return read_common(root, name, out, err);
}

qn_status qni_config_read_qwen3(const json_t *root, const char *name, qn_config *out, qn_error *err) {
    QN_TRY(qni_json_get_bool(root, "attention_bias", false, name, &out->qkv_bias, err));
    out->o_bias = out->qkv_bias;
    return read_common(root, name, out, err);
}
