/* The attention mixer backwards. */
#include "model/attention.h"
#include "model/backward.h"

#include "base/banned.h"

/* The mixer's inside for one chunk. */
typedef struct inside {
    float *q_raw, *q, *mixed, *d_mixed; /* [n, Hq * D]; d_mixed becomes dq */
    float *k_raw, *k, *v, *dk, *dv;     /* [n, Hkv * D] */
} inside;

static int64_t carve(const qn_model *model, int64_t n_tokens, float *work, inside *out) {
    const qn_config *config = model->config;
    const int64_t q = n_tokens * config->n_heads * config->head_dim;
    const int64_t k = n_tokens * config->n_kv_heads * config->head_dim;
    if (out) {
        float *keys = work + 4 * q;
        *out = (inside){.q_raw = work,
                        .q = work + q,
                        .mixed = work + 2 * q,
                        .d_mixed = work + 3 * q,
                        .k_raw = keys,
                        .k = keys + k,
                        .v = keys + 2 * k,
                        .dk = keys + 3 * k,
                        .dv = keys + 4 * k};
    }
    return 4 * q + 5 * k;
}

int64_t qni_attention_backward_floats(const qn_model *model, int64_t n_tokens) {
    return carve(model, n_tokens, NULL, NULL);
}

qn_status qni_attention_recompute(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                                  const float *u, float *work, float *y, qn_error *err) {
    const int64_t *tensor = layer->tensor, n = chunk->n_tokens, first = chunk->first_token;
    inside in;
    carve(pass->model, n, work, &in);
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
    return qni_linear_backward(backward, index, bias, d, u, n, !is_query, du, err);
}

qn_status qni_attention_backward(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                                 const float *u, const float *dy, float *work, float *du, qn_error *err) {
    const qni_pass *pass = backward->pass;
    const int64_t *tensor = layer->tensor, n = chunk->n_tokens;
    inside in;
    carve(pass->model, n, work, &in);
    QN_TRY(qni_linear_backward(backward, tensor[QN_TENSOR_O], tensor[QN_TENSOR_O_BIAS], dy, in.mixed, n,
                               false, in.d_mixed, err));
    const qni_attention_backward_args args = {
        .forward = qni_attention_args_of(pass, layer, chunk, in.q, in.k, in.v, NULL),
        .dout = in.d_mixed,
        .dq = in.d_mixed,
        .dk = in.dk,
        .dv = in.dv};
    QN_TRY(pass->ops->attention_backward(pass->ops, &args, pass->n_threads, err));
    QN_TRY(heads_backward(backward, layer, chunk, true, u, in.q_raw, in.d_mixed, du, err));
    QN_TRY(heads_backward(backward, layer, chunk, false, u, in.k_raw, in.dk, du, err));
    return qni_linear_backward(backward, tensor[QN_TENSOR_V], tensor[QN_TENSOR_V_BIAS], in.dv, u, n, true, du,
                               err);
}
