/* The attention mixer backwards. */
#include "model/attention.h"
#include "model/backward.h"

#include "base/banned.h"

/* The mixer's inside for one chunk; raw projections are apart only where head norms follow them. */
typedef struct mixer_inside {
    float *q, *mixed, *q_raw; /* [n, Hq * D] */
    float *k, *v, *k_raw;     /* [n, Hkv * D] */
} mixer_inside;

static int64_t query_floats(const qn_model *model, int64_t n_tokens) {
    return n_tokens * model->config->n_heads * model->config->head_dim;
}

static int64_t key_floats(const qn_model *model, int64_t n_tokens) {
    return n_tokens * model->config->n_kv_heads * model->config->head_dim;
}

static bool has_head_norms(const qn_model *model) {
    return model->layers[0].tensor[QN_TENSOR_Q_NORM] >= 0;
}

int64_t qni_attention_inside_floats(const qn_model *model, int64_t n_tokens) {
    const int64_t arrays = has_head_norms(model) ? 3 : 2;
    return arrays * (query_floats(model, n_tokens) + key_floats(model, n_tokens));
}

int64_t qni_attention_backward_floats(const qn_model *model, int64_t n_tokens) {
    return query_floats(model, n_tokens) + 2 * key_floats(model, n_tokens);
}

static mixer_inside carve(const qn_model *model, int64_t n_tokens, float *inside) {
    const int64_t q = query_floats(model, n_tokens), k = key_floats(model, n_tokens);
    mixer_inside in = {.q = inside, .mixed = inside + q, .k = inside + 2 * q, .v = inside + 2 * q + k};
    in.q_raw = has_head_norms(model) ? in.v + k : in.q;
    in.k_raw = has_head_norms(model) ? in.q_raw + q : in.k;
    return in;
}

qn_status qni_attention_forward_inside(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                                       const float *u, float *inside, float *y, qn_error *err) {
    const int64_t *tensor = layer->tensor, n = chunk->n_tokens, first = chunk->first_token;
    const mixer_inside in = carve(pass->model, n, inside);
    QN_TRY(qni_attention_heads(pass, layer, chunk, true, u, in.q_raw, in.q, err));
    QN_TRY(qni_attention_heads(pass, layer, chunk, false, u, in.k_raw, in.k, err));
    QN_TRY(qni_linear(pass, tensor[QN_TENSOR_V], tensor[QN_TENSOR_V_BIAS], u, first, n, in.v, err));
    const qni_attention_args args = qni_attention_args_of(pass, layer, chunk, in.q, in.k, in.v, in.mixed);
    QN_TRY(pass->ops->attention(pass->ops, &args, pass->n_threads, err));
    return qni_linear(pass, tensor[QN_TENSOR_O], tensor[QN_TENSOR_O_BIAS], in.mixed, first, n, y, err);
}

/* Reverses qni_attention_heads: d, the gradient of the queries (or keys), becomes that of their projection;
 * then du and the weights receive theirs. */
static qn_status heads_backward(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                                bool is_query, const float *u, const float *raw, float *d, float *du,
                                qn_error *err) {
    const qni_pass *pass = backward->pass;
    const qn_config *config = pass->model->config;
    const int64_t heads = is_query ? config->n_heads : config->n_kv_heads, n = chunk->n_tokens;
    const int64_t index = layer->tensor[is_query ? QN_TENSOR_Q : QN_TENSOR_K];
    const int64_t bias = layer->tensor[is_query ? QN_TENSOR_Q_BIAS : QN_TENSOR_K_BIAS];
    const int64_t norm = layer->tensor[is_query ? QN_TENSOR_Q_NORM : QN_TENSOR_K_NORM];
    pass->ops->rope(pass->ops, d, &backward->unrotate, chunk->positions, n, heads, config->head_dim,
                    pass->n_threads);
    if (norm >= 0)
        QN_TRY(qni_norm_backward(backward, norm, raw, d, n * heads, config->head_dim, false, d, err));
    QN_TRY(qni_show_gradient(backward, index, d, chunk->first_token, n, err));
    return qni_linear_backward(backward, index, bias, d, u, n, !is_query, du, err);
}

qn_status qni_attention_backward(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                                 const float *u, float *inside, const float *dy, float *work, float *du,
                                 qn_error *err) {
    const qni_pass *pass = backward->pass;
    const int64_t *tensor = layer->tensor, n = chunk->n_tokens;
    const mixer_inside in = carve(pass->model, n, inside);
    float *d_mixed = work, *dk = work + query_floats(pass->model, n), *dv = dk + key_floats(pass->model, n);
    QN_TRY(qni_show_gradient(backward, tensor[QN_TENSOR_O], dy, chunk->first_token, n, err));
    QN_TRY(qni_linear_backward(backward, tensor[QN_TENSOR_O], tensor[QN_TENSOR_O_BIAS], dy, in.mixed, n,
                               false, d_mixed, err));
    const qni_attention_backward_args args = {
        .forward = qni_attention_args_of(pass, layer, chunk, in.q, in.k, in.v, NULL),
        .dout = d_mixed,
        .dq = d_mixed,
        .dk = dk,
        .dv = dv};
    QN_TRY(pass->ops->attention_backward(pass->ops, &args, pass->n_threads, err));
    QN_TRY(heads_backward(backward, layer, chunk, true, u, in.q_raw, d_mixed, du, err));
    QN_TRY(heads_backward(backward, layer, chunk, false, u, in.k_raw, dk, du, err));
    QN_TRY(qni_show_gradient(backward, tensor[QN_TENSOR_V], dv, chunk->first_token, n, err));
    return qni_linear_backward(backward, tensor[QN_TENSOR_V], tensor[QN_TENSOR_V_BIAS], dv, u, n, true, du,
                               err);
}
