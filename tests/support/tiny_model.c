#include "tiny_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct tiny_shape {
    const char *model_type;
    bool tied, qkv_bias, o_bias, qk_norm;
    int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim;
} tiny_shape;

static int64_t or_default(int64_t value, int64_t fallback) {
    return value ? value : fallback;
}

static tiny_shape resolve(const tiny_options *o) {
    tiny_shape s = {.model_type = o->model_type ? o->model_type : "qwen3",
                    .tied = o->tied,
                    .vocab = or_default(o->vocab, 257),
                    .hidden = or_default(o->hidden, 48),
                    .intermediate = or_default(o->intermediate, 80),
                    .layers = or_default(o->layers, 2),
                    .heads = or_default(o->heads, 4),
                    .kv_heads = or_default(o->kv_heads, 2)};
    const bool is_qwen2 = strcmp(s.model_type, "qwen2") == 0;
    s.head_dim = or_default(o->head_dim, is_qwen2 ? s.hidden / s.heads : 16);
    s.qkv_bias = is_qwen2 || o->attention_bias;
    s.o_bias = !is_qwen2 && o->attention_bias;
    s.qk_norm = !is_qwen2;
    return s;
}

static json_t *make_config(const tiny_shape *s) {
    const bool is_qwen2 = strcmp(s->model_type, "qwen2") == 0;
    json_t *config = json_pack(
        "{s:[s], s:I, s:s, s:I, s:I, s:I, s:s, s:I, s:I, s:I, s:f, s:n, s:f, s:n, s:b, s:s, s:b, s:I}",
        "architectures", is_qwen2 ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM", "eos_token_id", (json_int_t)0,
        "hidden_act", "silu", "hidden_size", (json_int_t)s->hidden, "intermediate_size",
        (json_int_t)s->intermediate, "max_position_embeddings", (json_int_t)1024, "model_type", s->model_type,
        "num_attention_heads", (json_int_t)s->heads, "num_hidden_layers", (json_int_t)s->layers,
        "num_key_value_heads", (json_int_t)s->kv_heads, "rms_norm_eps", 1e-6, "rope_scaling", "rope_theta",
        10000.0, "sliding_window", "tie_word_embeddings", s->tied, "transformers_version", "4.57.6",
        "use_sliding_window", 0, "vocab_size", (json_int_t)s->vocab);
    assert_non_null(config);
    json_object_set_new(config, "head_dim", json_integer(s->head_dim));
    if (!is_qwen2) json_object_set_new(config, "attention_bias", json_boolean(s->qkv_bias));
    return config;
}

static const char *torch_dtype(const char *dtype) {
    if (!dtype || strcmp(dtype, "BF16") == 0) return "bfloat16";
    return strcmp(dtype, "F16") == 0 ? "float16" : "float32";
}

/* Knuth's MMIX generator; the upper bits. */
static uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 40);
}

/* Rows of different sizes (standard deviations 0.29, 0.14 and 0.07), as trained matrices have; norms near 1.
 */
static void fill(tiny_tensor *t, bool is_norm, uint64_t *state) {
    const int64_t rows = t->n_dims == 2 ? t->shape[0] : 1;
    const int64_t cols = t->shape[t->n_dims - 1];
    t->values = malloc((size_t)(rows * cols) * sizeof *t->values);
    assert_non_null(t->values);
    for (int64_t r = 0; r < rows; r++) {
        const float row_scale = 1.0f / (float)(256u << (next_random(state) % 3));
        for (int64_t c = 0; c < cols; c++) {
            const float k = (float)(next_random(state) % 255) - 127.0f;
            t->values[r * cols + c] = is_norm ? 1.0f + k / 1024.0f : k * row_scale;
        }
    }
    if (!is_norm) return;
    for (int64_t c = 0; c < cols; c++) /* to the 8 significant bits of BF16 */
        t->values[c] = (float)(int)(t->values[c] * 128.0f) / 128.0f;
}

static void add(tiny_model *model, uint64_t *state, int64_t layer, const char *suffix, int64_t rows,
                int64_t cols) {
    model->tensors = realloc(model->tensors, (model->n_tensors + 1) * sizeof *model->tensors);
    assert_non_null(model->tensors);
    tiny_tensor *t = &model->tensors[model->n_tensors++];
    *t = (tiny_tensor){.n_dims = rows ? 2 : 1, .shape = {rows ? rows : cols, rows ? cols : 0}};
    const int length = layer < 0 ? asprintf(&t->name, "%s", suffix)
                                 : asprintf(&t->name, "model.layers.%lld.%s", (long long)layer, suffix);
    assert_true(length > 0);
    fill(t, strstr(suffix, "norm") != NULL, state);
}

static void add_layer(tiny_model *model, uint64_t *state, const tiny_shape *s, int64_t layer) {
    const int64_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    add(model, state, layer, "input_layernorm.weight", 0, s->hidden);
    add(model, state, layer, "self_attn.q_proj.weight", q, s->hidden);
    add(model, state, layer, "self_attn.k_proj.weight", kv, s->hidden);
    add(model, state, layer, "self_attn.v_proj.weight", kv, s->hidden);
    add(model, state, layer, "self_attn.o_proj.weight", s->hidden, q);
    if (s->qkv_bias) {
        add(model, state, layer, "self_attn.q_proj.bias", 0, q);
        add(model, state, layer, "self_attn.k_proj.bias", 0, kv);
        add(model, state, layer, "self_attn.v_proj.bias", 0, kv);
    }
    if (s->o_bias) add(model, state, layer, "self_attn.o_proj.bias", 0, s->hidden);
    if (s->qk_norm) {
        add(model, state, layer, "self_attn.q_norm.weight", 0, s->head_dim);
        add(model, state, layer, "self_attn.k_norm.weight", 0, s->head_dim);
    }
    add(model, state, layer, "post_attention_layernorm.weight", 0, s->hidden);
    add(model, state, layer, "mlp.gate_proj.weight", s->intermediate, s->hidden);
    add(model, state, layer, "mlp.up_proj.weight", s->intermediate, s->hidden);
    add(model, state, layer, "mlp.down_proj.weight", s->hidden, s->intermediate);
}

tiny_model *tiny_model_make(const tiny_options *options) {
    const tiny_shape s = resolve(options);
    uint64_t state = options->seed * 2 + 1;
    tiny_model *model = calloc(1, sizeof *model);
    assert_non_null(model);
    model->config = make_config(&s);
    json_object_set_new(model->config, "torch_dtype", json_string(torch_dtype(options->dtype)));
    add(model, &state, -1, "model.embed_tokens.weight", s.vocab, s.hidden);
    for (int64_t layer = 0; layer < s.layers; layer++) add_layer(model, &state, &s, layer);
    add(model, &state, -1, "model.norm.weight", 0, s.hidden);
    if (!s.tied) add(model, &state, -1, "lm_head.weight", s.vocab, s.hidden);
    return model;
}

void tiny_model_free(tiny_model *model) {
    if (!model) return;
    for (size_t i = 0; i < model->n_tensors; i++) {
        free(model->tensors[i].name);
        free(model->tensors[i].values);
    }
    free(model->tensors);
    json_decref(model->config);
    free(model);
}

tiny_tensor *tiny_model_find(const tiny_model *model, const char *name) {
    for (size_t i = 0; i < model->n_tensors; i++)
        if (strcmp(model->tensors[i].name, name) == 0) return &model->tensors[i];
    fail_msg("the tiny model has no tensor '%s'", name);
    return NULL;
}

void tiny_model_drop(tiny_model *model, const char *name) {
    tiny_tensor *t = tiny_model_find(model, name);
    free(t->name);
    free(t->values);
    const size_t after = model->n_tensors - 1 - (size_t)(t - model->tensors);
    memmove(t, t + 1, after * sizeof *t);
    model->n_tensors--;
}

static size_t count(const tiny_tensor *t) {
    return (size_t)t->shape[0] * (size_t)(t->n_dims == 2 ? t->shape[1] : 1);
}

int64_t tiny_model_parameters(const tiny_model *model) {
    int64_t n = 0;
    for (size_t i = 0; i < model->n_tensors; i++) n += (int64_t)count(&model->tensors[i]);
    return n;
}

/* Exact for normal numbers of at most 11 significant bits, zero, infinity and NaN: all that fill() and tests
 * make. */
static uint16_t to_half(uint32_t bits) {
    const uint32_t sign = (bits >> 16) & 0x8000u, exponent = (bits >> 23) & 0xffu;
    const uint32_t mantissa = (bits & 0x7fffffu) >> 13;
    if (exponent == 0) return (uint16_t)sign;
    const uint32_t half_exponent = exponent == 0xffu ? 31u : exponent + 15u - 127u;
    return (uint16_t)(sign | (half_exponent << 10) | mantissa);
}

static void write_values(FILE *file, const tiny_tensor *t, const char *dtype) {
    for (size_t i = 0; i < count(t); i++) {
        uint32_t bits;
        memcpy(&bits, &t->values[i], sizeof bits);
        const uint16_t half = strcmp(dtype, "F16") == 0 ? to_half(bits) : (uint16_t)(bits >> 16);
        if (strcmp(dtype, "F32") == 0)
            assert_int_equal(fwrite(&bits, sizeof bits, 1, file), 1);
        else
            assert_int_equal(fwrite(&half, sizeof half, 1, file), 1);
    }
}

void write_tiny_safetensors(const char *path, const tiny_tensor *tensors, size_t n_tensors,
                            const char *dtype) {
    const size_t element = strcmp(dtype, "F32") == 0 ? 4 : 2;
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    size_t offset = 0;
    for (size_t i = 0; i < n_tensors; i++) {
        const tiny_tensor *t = &tensors[i];
        const size_t end = offset + count(t) * element;
        json_t *shape = json_pack("[I]", (json_int_t)t->shape[0]);
        if (t->n_dims == 2) json_array_append_new(shape, json_integer(t->shape[1]));
        json_object_set_new(header, t->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets",
                                      (json_int_t)offset, (json_int_t)end));
        offset = end;
    }
    char *text = json_dumps(header, JSON_COMPACT);
    json_decref(header);
    const uint64_t length = strlen(text);
    FILE *file = fopen(path, "wb");
    if (!file) fail_msg("cannot write %s", path);
    assert_int_equal(fwrite(&length, sizeof length, 1, file), 1);
    assert_int_equal(fwrite(text, 1, length, file), length);
    for (size_t i = 0; i < n_tensors; i++) write_values(file, &tensors[i], dtype);
    assert_int_equal(fclose(file), 0);
    free(text);
}

static void write_json_file(const char *folder, const char *name, const json_t *value) {
    char *text = json_dumps(value, JSON_INDENT(2));
    write_test_file(folder, name, text, strlen(text));
    free(text);
}

static void write_shards(const tiny_model *model, const char *folder, const char *dtype, size_t n_shards) {
    json_t *map = json_object();
    for (size_t s = 0; s < n_shards; s++) {
        const size_t first = model->n_tensors * s / n_shards, end = model->n_tensors * (s + 1) / n_shards;
        char name[64], path[4096];
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, n_shards);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        write_tiny_safetensors(path, model->tensors + first, end - first, dtype);
        for (size_t i = first; i < end; i++)
            json_object_set_new(map, model->tensors[i].name, json_string(name));
    }
    json_t *index = json_pack("{s:{}, s:o}", "metadata", "weight_map", map);
    write_json_file(folder, "model.safetensors.index.json", index);
    json_decref(index);
}

void tiny_model_write(const tiny_model *model, const char *folder, const char *dtype, int n_shards) {
    if (!dtype) dtype = "BF16";
    write_json_file(folder, "config.json", model->config);
    if (n_shards > 1) {
        write_shards(model, folder, dtype, (size_t)n_shards);
        return;
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    write_tiny_safetensors(path, model->tensors, model->n_tensors, dtype);
}

void write_tiny_model(const char *folder, const tiny_options *options) {
    tiny_model *model = tiny_model_make(options);
    tiny_model_write(model, folder, options->dtype, options->n_shards);
    tiny_model_free(model);
}
