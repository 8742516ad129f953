/* The attention mixer of Qwen2 and Qwen3: projections (with biases where the model has them), norms of each
 * query and key head (Qwen3), rotation, grouped-query attention, output projection. */
#include "model/attention.h"

#include "base/banned.h"

static int64_t query_width(const qn_config *config) {
    return config->n_heads * config->head_dim;
}

static int64_t key_width(const qn_config *config) {
    return config->n_kv_heads * config->head_dim;
}

static int64_t work_floats(const qn_model *model, int64_t n_tokens) {
    return n_tokens * (query_width(model->config) + 2 * key_width(model->config));
}

qn_status qni_attention_heads(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                              bool is_query, const float *u, float *raw, float *y, qn_error *err) {
    const qn_config *config = pass->model->config;
    const int64_t heads = is_query ? config->n_heads : config->n_kv_heads;
    const int64_t index = layer->tensor[is_query ? QN_TENSOR_Q : QN_TENSOR_K];
    const int64_t bias = layer->tensor[is_query ? QN_TENSOR_Q_BIAS : QN_TENSOR_K_BIAS];
    const int64_t norm = layer->tensor[is_query ? QN_TENSOR_Q_NORM : QN_TENSOR_K_NORM];
    float *projected = norm >= 0 ? raw : y;
    QN_TRY(qni_linear(pass, index, bias, u, chunk->first_token, chunk->n_tokens, projected, err));
    if (norm >= 0) QN_TRY(qni_norm(pass, norm, raw, chunk->n_tokens * heads, config->head_dim, y, err));
    pass->ops->rope(pass->ops, y, &pass->rope, chunk->positions, chunk->n_tokens, heads, config->head_dim,
                    pass->n_threads);
    return QN_OK;
}

qni_attention_args qni_attention_args_of(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                                         const float *q, const float *k, const float *v, float *out) {
    const qn_config *config = pass->model->config;
    return (qni_attention_args){.bf16 = pass->bf16,
                                .q = q,
                                .k = k,
                                .v = v,
                                .out = out,
                                .n_heads = config->n_heads,
                                .n_kv_heads = config->n_kv_heads,
                                .head_dim = config->head_dim,
                                .window = layer->window,
                                .spans = chunk->spans,
                                .n_spans = chunk->n_spans};
}

static qn_status forward(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk, const float *u,
                         qni_cache *cache, float *work, float *y, qn_error *err) {
    const qn_config *config = pass->model->config;
    const int64_t n = chunk->n_tokens, kv = key_width(config);
    float *q = work;
    float *keys = cache ? cache->k : q + n * query_width(config);
    float *values = cache ? cache->v : keys + n * kv;
    const int64_t n_past = cache ? cache->n_past : 0;
    QN_TRY(qni_attention_heads(pass, layer, chunk, true, u, q, q, err));
    QN_TRY(qni_attention_heads(pass, layer, chunk, false, u, keys + n_past * kv, keys + n_past * kv, err));
    QN_TRY(qni_linear(pass, layer->tensor[QN_TENSOR_V], layer->tensor[QN_TENSOR_V_BIAS], u,
                      chunk->first_token, n, values + n_past * kv, err));
    const qni_attention_args args = qni_attention_args_of(pass, layer, chunk, q, keys, values, q);
    QN_TRY(pass->ops->attention(pass->ops, &args, pass->n_threads, err));
    return qni_linear(pass, layer->tensor[QN_TENSOR_O], layer->tensor[QN_TENSOR_O_BIAS], q,
                      chunk->first_token, n, y, err);
}

const qni_mixer qni_mixer_attention = {.work_floats = work_floats,
                                       .forward = forward,
                                       .inside_floats = qni_attention_inside_floats,
                                       .backward_floats = qni_attention_backward_floats,
                                       .forward_inside = qni_attention_forward_inside,
                                       .backward = qni_attention_backward};
