#include "quern/checkpoint/layout.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

typedef enum dim {
    DIM_NONE,
    DIM_VOCAB,
    DIM_HIDDEN,
    DIM_INTERMEDIATE,
    DIM_QUERY,
    DIM_KEY_VALUE,
    DIM_HEAD
} dim;
typedef enum need { NEED_ALWAYS, NEED_QKV_BIAS, NEED_O_BIAS, NEED_QK_NORM, NEED_HEAD } need;

typedef struct rule {
    qn_tensor_kind kind;
    const char *name; /* in a layer: after "model.layers.N." */
    dim rows;         /* DIM_NONE: a vector of cols */
    dim cols;
    need need;
} rule;

/* One table an architecture and place, in the order of the forward pass; Qwen2 and Qwen3 share theirs. */
static const rule k_before[] = {
    {QN_TENSOR_EMBED, "model.embed_tokens.weight", DIM_VOCAB, DIM_HIDDEN, NEED_ALWAYS},
};
static const rule k_layer[] = {
    {QN_TENSOR_INPUT_NORM, "input_layernorm.weight", DIM_NONE, DIM_HIDDEN, NEED_ALWAYS},
    {QN_TENSOR_Q, "self_attn.q_proj.weight", DIM_QUERY, DIM_HIDDEN, NEED_ALWAYS},
    {QN_TENSOR_K, "self_attn.k_proj.weight", DIM_KEY_VALUE, DIM_HIDDEN, NEED_ALWAYS},
    {QN_TENSOR_V, "self_attn.v_proj.weight", DIM_KEY_VALUE, DIM_HIDDEN, NEED_ALWAYS},
    {QN_TENSOR_Q_BIAS, "self_attn.q_proj.bias", DIM_NONE, DIM_QUERY, NEED_QKV_BIAS},
    {QN_TENSOR_K_BIAS, "self_attn.k_proj.bias", DIM_NONE, DIM_KEY_VALUE, NEED_QKV_BIAS},
    {QN_TENSOR_V_BIAS, "self_attn.v_proj.bias", DIM_NONE, DIM_KEY_VALUE, NEED_QKV_BIAS},
    {QN_TENSOR_Q_NORM, "self_attn.q_norm.weight", DIM_NONE, DIM_HEAD, NEED_QK_NORM},
    {QN_TENSOR_K_NORM, "self_attn.k_norm.weight", DIM_NONE, DIM_HEAD, NEED_QK_NORM},
    {QN_TENSOR_O, "self_attn.o_proj.weight", DIM_HIDDEN, DIM_QUERY, NEED_ALWAYS},
    {QN_TENSOR_O_BIAS, "self_attn.o_proj.bias", DIM_NONE, DIM_HIDDEN, NEED_O_BIAS},
    {QN_TENSOR_POST_NORM, "post_attention_layernorm.weight", DIM_NONE, DIM_HIDDEN, NEED_ALWAYS},
    {QN_TENSOR_GATE, "mlp.gate_proj.weight", DIM_INTERMEDIATE, DIM_HIDDEN, NEED_ALWAYS},
    {QN_TENSOR_UP, "mlp.up_proj.weight", DIM_INTERMEDIATE, DIM_HIDDEN, NEED_ALWAYS},
    {QN_TENSOR_DOWN, "mlp.down_proj.weight", DIM_HIDDEN, DIM_INTERMEDIATE, NEED_ALWAYS},
};
static const rule k_after[] = {
    {QN_TENSOR_FINAL_NORM, "model.norm.weight", DIM_NONE, DIM_HIDDEN, NEED_ALWAYS},
    {QN_TENSOR_HEAD, "lm_head.weight", DIM_VOCAB, DIM_HIDDEN, NEED_HEAD},
};
#define COUNT(table) ((int64_t)(sizeof(table) / sizeof *(table)))

/* The products cannot overflow: the config's dimensions are bounded for that when they are read. */
static int64_t extent(const qn_config *c, dim d) {
    switch (d) {
    case DIM_NONE:
        return 1;
    case DIM_VOCAB:
        return c->vocab_size;
    case DIM_HIDDEN:
        return c->hidden_size;
    case DIM_INTERMEDIATE:
        return c->intermediate_size;
    case DIM_QUERY:
        return c->n_heads * c->head_dim;
    case DIM_KEY_VALUE:
        return c->n_kv_heads * c->head_dim;
    case DIM_HEAD:
        return c->head_dim;
    }
    return 0;
}

static bool applies(const qn_config *c, need n) {
    switch (n) {
    case NEED_ALWAYS:
        return true;
    case NEED_QKV_BIAS:
        return c->qkv_bias;
    case NEED_O_BIAS:
        return c->o_bias;
    case NEED_QK_NORM:
        return c->architecture == QN_ARCH_QWEN3;
    case NEED_HEAD:
        return !c->tied;
    }
    return false;
}

static qn_status append(const qn_config *c, const rule *rules, int64_t n_rules, int64_t layer, qn_layout *out,
                        qn_error *err) {
    for (int64_t i = 0; i < n_rules; i++) {
        const rule *r = &rules[i];
        if (!applies(c, r->need)) continue;
        qn_layout_entry *e = &out->entries[out->n];
        const int length = layer < 0 ? asprintf(&e->name, "%s", r->name)
                                     : asprintf(&e->name, "model.layers.%lld.%s", (long long)layer, r->name);
        if (length < 0) {
            e->name = NULL;
            return qni_fail_nomem(err, "the list of tensors");
        }
        e->kind = r->kind;
        e->layer = layer;
        e->rows = extent(c, r->rows);
        e->cols = extent(c, r->cols);
        e->is_matrix = r->rows != DIM_NONE;
        out->n++;
        out->n_matrices += e->is_matrix;
        out->n_parameters += e->rows * e->cols;
    }
    return QN_OK;
}

static qn_status fill(const qn_config *config, qn_layout *out, qn_error *err) {
    QN_TRY(append(config, k_before, COUNT(k_before), -1, out, err));
    for (int64_t layer = 0; layer < config->n_layers; layer++)
        QN_TRY(append(config, k_layer, COUNT(k_layer), layer, out, err));
    return append(config, k_after, COUNT(k_after), -1, out, err);
}

qn_status qn_layout_make(const qn_config *config, qn_layout *out, qn_error *err) {
    const int64_t capacity = COUNT(k_before) + config->n_layers * COUNT(k_layer) + COUNT(k_after);
    qn_layout layout = {.entries = qni_alloc_array(capacity, sizeof *layout.entries)};
    if (!layout.entries) return qni_fail_nomem(err, "the list of tensors");
    const qn_status status = fill(config, &layout, err);
    if (status == QN_OK)
        *out = layout;
    else
        qn_layout_release(&layout);
    return status;
}

void qn_layout_release(qn_layout *layout) {
    if (!layout) return;
    for (int64_t i = 0; i < layout->n; i++) free(layout->entries[i].name);
    free(layout->entries);
    *layout = (qn_layout){0};
}

int64_t qn_layout_find(const qn_layout *layout, qn_tensor_kind kind, int64_t layer) {
    for (int64_t i = 0; i < layout->n; i++)
        if (layout->entries[i].kind == kind && layout->entries[i].layer == layer) return i;
    return -1;
}
