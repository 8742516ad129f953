#include "naive_forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct naive {
    const tiny_model *model;
    int64_t vocab, hidden, wide, layers, heads, kv_heads, head_dim, n;
    double eps, theta;
    const json_t *yarn; /* or NULL */
    int64_t window, first_window_layer;
    bool tied;
} naive;

static int64_t integer(const json_t *config, const char *key) {
    return json_integer_value(json_object_get(config, key));
}

static naive resolve(const tiny_model *model, int64_t n) {
    const json_t *c = model->config;
    naive m = {.model = model, .n = n};
    m.vocab = integer(c, "vocab_size");
    m.hidden = integer(c, "hidden_size");
    m.wide = integer(c, "intermediate_size");
    m.layers = integer(c, "num_hidden_layers");
    m.heads = integer(c, "num_attention_heads");
    m.kv_heads = integer(c, "num_key_value_heads");
    m.head_dim = integer(c, "head_dim");
    m.eps = json_number_value(json_object_get(c, "rms_norm_eps"));
    m.theta = json_number_value(json_object_get(c, "rope_theta"));
    m.tied = json_is_true(json_object_get(c, "tie_word_embeddings"));
    if (json_is_object(json_object_get(c, "rope_scaling"))) m.yarn = json_object_get(c, "rope_scaling");
    if (json_is_true(json_object_get(c, "use_sliding_window"))) {
        m.window = integer(c, "sliding_window");
        m.first_window_layer = integer(c, "max_window_layers");
    }
    return m;
}

/* A tensor of LAYER (-1: outside the layers), or NULL. */
static const float *tensor(const naive *m, int64_t layer, const char *name) {
    char full[128];
    if (layer >= 0) {
        snprintf(full, sizeof full, "model.layers.%lld.%s", (long long)layer, name);
    } else {
        snprintf(full, sizeof full, "%s", name);
    }
    for (size_t i = 0; i < m->model->n_tensors; i++)
        if (strcmp(m->model->tensors[i].name, full) == 0) return m->model->tensors[i].values;
    return NULL;
}

static double *doubles(int64_t n) {
    double *x = calloc((size_t)n, sizeof *x);
    assert_non_null(x);
    return x;
}

/* y [n, out] = x [n, in] W^T + b; the tensors PREFIX.weight and PREFIX.bias. */
static double *project(const naive *m, int64_t layer, const char *prefix, const double *x, int64_t in,
                       int64_t out) {
    char name[64];
    snprintf(name, sizeof name, "%s.weight", prefix);
    const float *w = tensor(m, layer, name);
    snprintf(name, sizeof name, "%s.bias", prefix);
    const float *b = tensor(m, layer, name);
    double *y = doubles(m->n * out);
    assert_non_null(w);
    for (int64_t t = 0; t < m->n; t++) {
        for (int64_t o = 0; o < out; o++) {
            double sum = b ? (double)b[o] : 0.0;
            for (int64_t i = 0; i < in; i++) sum += (double)w[o * in + i] * x[t * in + i];
            y[t * out + o] = sum;
        }
    }
    return y;
}

static void norm_rows(const naive *m, const float *w, const double *x, int64_t rows, int64_t width,
                      double *y) {
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0.0;
        for (int64_t i = 0; i < width; i++) sum += x[r * width + i] * x[r * width + i];
        const double scale = 1.0 / sqrt(sum / (double)width + m->eps);
        for (int64_t i = 0; i < width; i++) y[r * width + i] = (double)w[i] * x[r * width + i] * scale;
    }
}

static double yarn_dimension(const naive *m, double original, double turns) {
    return (double)m->head_dim * log(original / (2.0 * M_PI * turns)) / (2.0 * log(m->theta));
}

/* Frequency of pair i and the factor on cos and sin. */
static double frequency(const naive *m, int64_t i, double *scaling) {
    const double base = pow(m->theta, -2.0 * (double)i / (double)m->head_dim);
    *scaling = 1.0;
    if (!m->yarn) return base;
    const double factor = json_number_value(json_object_get(m->yarn, "factor"));
    const double original = json_number_value(json_object_get(m->yarn, "original_max_position_embeddings"));
    const double low = fmax(floor(yarn_dimension(m, original, 32.0)), 0.0);
    const double high = fmin(ceil(yarn_dimension(m, original, 1.0)), (double)m->head_dim - 1.0);
    const double ramp = fmin(fmax(((double)i - low) / (high - low), 0.0), 1.0);
    *scaling = 0.1 * log(factor) + 1.0;
    return base / factor * ramp + base * (1.0 - ramp);
}

static void rotate(const naive *m, double *x, int64_t heads) {
    const int64_t half = m->head_dim / 2;
    for (int64_t t = 0; t < m->n; t++) {
        for (int64_t h = 0; h < heads; h++) {
            double *head = x + (t * heads + h) * m->head_dim;
            for (int64_t i = 0; i < half; i++) {
                double scaling;
                const double angle = (double)t * frequency(m, i, &scaling);
                const double c = cos(angle) * scaling, s = sin(angle) * scaling, a = head[i],
                             b = head[i + half];
                head[i] = a * c - b * s;
                head[i + half] = b * c + a * s;
            }
        }
    }
}

static double *attend(const naive *m, int64_t layer, const double *q, const double *k, const double *v) {
    const int64_t d = m->head_dim, group = m->heads / m->kv_heads;
    const int64_t window = m->window && layer >= m->first_window_layer ? m->window : m->n;
    double *out = doubles(m->n * m->heads * d), *p = doubles(m->n);
    for (int64_t t = 0; t < m->n; t++) {
        for (int64_t h = 0; h < m->heads; h++) {
            const double *query = q + (t * m->heads + h) * d;
            double total = 0.0;
            for (int64_t j = t - window + 1 > 0 ? t - window + 1 : 0; j <= t; j++) {
                double score = 0.0;
                for (int64_t i = 0; i < d; i++) score += query[i] * k[(j * m->kv_heads + h / group) * d + i];
                total += p[j] = exp(score / sqrt((double)d));
            }
            for (int64_t j = t - window + 1 > 0 ? t - window + 1 : 0; j <= t; j++)
                for (int64_t i = 0; i < d; i++)
                    out[(t * m->heads + h) * d + i] +=
                        p[j] / total * v[(j * m->kv_heads + h / group) * d + i];
        }
    }
    free(p);
    return out;
}

static void add_to(double *x, double *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
    free(y);
}

static void attention(const naive *m, int64_t layer, const double *u, double *x) {
    const int64_t qw = m->heads * m->head_dim, kw = m->kv_heads * m->head_dim;
    double *q = project(m, layer, "self_attn.q_proj", u, m->hidden, qw);
    double *k = project(m, layer, "self_attn.k_proj", u, m->hidden, kw);
    double *v = project(m, layer, "self_attn.v_proj", u, m->hidden, kw);
    const float *q_norm = tensor(m, layer, "self_attn.q_norm.weight");
    const float *k_norm = tensor(m, layer, "self_attn.k_norm.weight");
    if (q_norm) norm_rows(m, q_norm, q, m->n * m->heads, m->head_dim, q);
    if (k_norm) norm_rows(m, k_norm, k, m->n * m->kv_heads, m->head_dim, k);
    rotate(m, q, m->heads);
    rotate(m, k, m->kv_heads);
    double *o = attend(m, layer, q, k, v);
    add_to(x, project(m, layer, "self_attn.o_proj", o, qw, m->hidden), m->n * m->hidden);
    free(q);
    free(k);
    free(v);
    free(o);
}

static void mlp(const naive *m, int64_t layer, const double *u, double *x) {
    double *gate = project(m, layer, "mlp.gate_proj", u, m->hidden, m->wide);
    double *up = project(m, layer, "mlp.up_proj", u, m->hidden, m->wide);
    for (int64_t i = 0; i < m->n * m->wide; i++) gate[i] *= up[i] / (1.0 + exp(-gate[i]));
    add_to(x, project(m, layer, "mlp.down_proj", gate, m->wide, m->hidden), m->n * m->hidden);
    free(gate);
    free(up);
}

double *naive_logits(const tiny_model *model, const int32_t *ids, int64_t n) {
    const naive m = resolve(model, n);
    const int64_t h = m.hidden;
    const float *embed = tensor(&m, -1, "model.embed_tokens.weight");
    double *x = doubles(n * h), *u = doubles(n * h);
    for (int64_t i = 0; i < n * h; i++) x[i] = (double)embed[ids[i / h] * h + i % h];
    for (int64_t l = 0; l < m.layers; l++) {
        norm_rows(&m, tensor(&m, l, "input_layernorm.weight"), x, n, h, u);
        attention(&m, l, u, x);
        norm_rows(&m, tensor(&m, l, "post_attention_layernorm.weight"), x, n, h, u);
        mlp(&m, l, u, x);
    }
    norm_rows(&m, tensor(&m, -1, "model.norm.weight"), x, n, h, x);
    double *logits = project(&m, -1, m.tied ? "model.embed_tokens" : "lm_head", x, h, m.vocab);
    free(x);
    free(u);
    return logits;
}
