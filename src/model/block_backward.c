/* A block that keeps its inside, and its backward. */
#include "model/backward.h"

#include "base/alloc.h"
#include "base/smaller.h"

#include <stdlib.h>

#include "base/banned.h"

enum { MLP_TOKENS = 2048 }; /* bounds the product and its gradient */

/* Numbers that one inside and the gradients of a chunk take. */
typedef struct sizes {
    int64_t stream, mlp, product;          /* of one array */
    int64_t mixer_inside, mixer_gradients; /* of the mixer that needs most */
    int64_t inside, gradients;             /* of all arrays */
} sizes;

static sizes measure(const qn_model *model, int64_t n_tokens) {
    const qn_config *config = model->config;
    sizes s = {.stream = n_tokens * config->hidden_size,
               .mlp = n_tokens * config->intermediate_size,
               .product = qni_min(n_tokens, MLP_TOKENS) * config->intermediate_size};
    for (int64_t i = 0; i < config->n_layers; i++) {
        const qni_mixer *mixer = model->layers[i].mixer;
        const int64_t inside = mixer->inside_floats(model, n_tokens);
        const int64_t gradients = mixer->backward_floats(model, n_tokens);
        if (inside > s.mixer_inside) s.mixer_inside = inside;
        if (gradients > s.mixer_gradients) s.mixer_gradients = gradients;
    }
    s.inside = 3 * s.stream + 2 * s.mlp + s.mixer_inside;
    s.gradients = s.stream + s.product + s.mixer_gradients;
    return s;
}

static void carve_inside(const sizes *s, float *block, qni_inside *out) {
    out->normed_in = block;
    out->mid = out->normed_in + s->stream;
    out->normed_mid = out->mid + s->stream;
    out->gate = out->normed_mid + s->stream;
    out->up = out->gate + s->mlp;
    out->mixer = out->up + s->mlp;
}

static qn_status allocate(qni_backward *backward, int64_t max_tokens, int64_t keep_bytes, int64_t most,
                          qn_error *err) {
    const sizes s = measure(backward->pass->model, max_tokens);
    const int64_t fitting = s.inside > 0 ? keep_bytes / (int64_t)sizeof(float) / s.inside : 0;
    const int64_t n = qni_min(1 + (fitting > 0 ? fitting : 0), most > 1 ? most : 1);
    int64_t floats;
    float *block;
    backward->insides = qni_alloc_array(n, sizeof *backward->insides);
    if (!backward->insides || !qni_multiply_i64(n, s.inside, &floats))
        return qni_fail_nomem(err, "activations of blocks");
    QN_TRY(qni_memory_take(backward->pass->memory, QNI_MEMORY_INSIDES, floats + s.gradients,
                           "activations of blocks and their gradients", &block, err));
    backward->n_insides = n;
    backward->work.d_normed = block;
    backward->work.product = block + s.stream;
    backward->work.mixer = backward->work.product + s.product;
    for (int64_t i = 0; i < n; i++)
        carve_inside(&s, block + s.gradients + i * s.inside, &backward->insides[i]);
    return QN_OK;
}

/* The rotation by the negative angle is the one of negated frequencies. */
static qn_status make_unrotation(const qni_pass *pass, qni_rope_table *out, qn_error *err) {
    const qn_config *config = pass->model->config;
    const int64_t half = config->head_dim / 2;
    float *negated = NULL;
    QN_TRY(QNI_ALLOC(negated, half, "rotary frequencies", err));
    for (int64_t i = 0; i < half; i++) negated[i] = -pass->model->inv_freq[i];
    const qn_status status = qni_rope_table_make(negated, half, config->rope.attention_factor,
                                                 pass->rope.n_positions, pass->n_threads, out, err);
    free(negated);
    return status;
}

/* Room for the largest matrix that the walk backwards has to decode. */
static qn_status make_decoded(const qni_pass *pass, float **out, qn_error *err) {
    const qn_model *model = pass->model;
    int64_t largest = 0;
    for (int64_t i = 0; i < model->layout->n; i++) {
        const qni_matrix *w = &pass->matrices[i];
        const bool is_multiplied = i != model->embed || i == model->head;
        if (is_multiplied && !w->f32 && w->rows * w->cols > largest) largest = w->rows * w->cols;
    }
    return largest > 0 ? QNI_ALLOC(*out, largest, "a decoded matrix", err) : QN_OK;
}

qn_status qni_backward_open(qni_backward *out, const qni_pass *pass, qn_gradients *gradients,
                            int64_t max_tokens, int64_t keep_bytes, int64_t most, qn_error *err) {
    qni_backward backward = {.pass = pass, .gradients = gradients};
    qn_status status = make_unrotation(pass, &backward.unrotate, err);
    if (status == QN_OK) status = make_decoded(pass, &backward.decoded, err);
    if (status == QN_OK) status = allocate(&backward, max_tokens, keep_bytes, most, err);
    if (status != QN_OK) {
        qni_backward_release(&backward);
        return status;
    }
    *out = backward;
    return QN_OK;
}

void qni_backward_release(qni_backward *backward) {
    qni_rope_table_release(&backward->unrotate);
    free(backward->decoded);
    free(backward->insides);
    *backward = (qni_backward){0};
}

/* x += y, watched like any residual stream. */
static qn_status add_to_stream(const qni_pass *pass, const qni_layer *layer, float *x, const float *y,
                               int64_t n, qn_error *err) {
    float largest = 0.0f;
    pass->ops->add(pass->ops, x, y, n, pass->n_threads, &largest);
    return qni_note_largest(pass, largest, layer->index, "residual stream", err);
}

qn_status qni_block_inside(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                           const float *x, const qni_inside *inside, qn_error *err) {
    const qni_pass *pass = backward->pass;
    const int64_t *tensor = layer->tensor, n = chunk->n_tokens, first = chunk->first_token;
    const int64_t h = pass->model->config->hidden_size;
    QN_TRY(qn_check_cancelled(pass->ctx, err));
    QN_TRY(qni_norm(pass, tensor[QN_TENSOR_INPUT_NORM], x, n, h, inside->normed_in, err));
    QN_TRY(
        layer->mixer->forward_inside(pass, layer, chunk, inside->normed_in, inside->mixer, inside->mid, err));
    QN_TRY(add_to_stream(pass, layer, inside->mid, x, n * h, err));
    QN_TRY(qni_norm(pass, tensor[QN_TENSOR_POST_NORM], inside->mid, n, h, inside->normed_mid, err));
    QN_TRY(qni_linear(pass, tensor[QN_TENSOR_GATE], -1, inside->normed_mid, first, n, inside->gate, err));
    return qni_linear(pass, tensor[QN_TENSOR_UP], -1, inside->normed_mid, first, n, inside->up, err);
}

qn_status qni_block_finish(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                           const qni_inside *inside, float *y, qn_error *err) {
    const qni_pass *pass = backward->pass;
    const int64_t h = pass->model->config->hidden_size, wide = pass->model->config->intermediate_size;
    float *product = backward->work.product;
    for (int64_t done = 0; done < chunk->n_tokens; done += MLP_TOKENS) {
        const int64_t n = qni_min(MLP_TOKENS, chunk->n_tokens - done);
        pass->ops->swiglu_into(pass->ops, inside->gate + done * wide, inside->up + done * wide, n * wide,
                               product, pass->n_threads);
        QN_TRY(qni_linear(pass, layer->tensor[QN_TENSOR_DOWN], -1, product, chunk->first_token + done, n,
                          y + done * h, err));
    }
    return add_to_stream(pass, layer, y, inside->mid, chunk->n_tokens * h, err);
}

/* du = gradient of down(silu(gate(u)) * up(u)), u = normed_mid, a bounded number of tokens at a time. */
static qn_status mlp_backward(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                              const qni_inside *inside, const float *dy, float *du, qn_error *err) {
    const qni_pass *pass = backward->pass;
    const int64_t h = pass->model->config->hidden_size, wide = pass->model->config->intermediate_size;
    const int64_t *tensor = layer->tensor;
    float *product = backward->work.product;
    for (int64_t done = 0; done < chunk->n_tokens; done += MLP_TOKENS) {
        const int64_t n = qni_min(MLP_TOKENS, chunk->n_tokens - done), first = chunk->first_token + done;
        const float *u_part = inside->normed_mid + done * h, *dy_part = dy + done * h;
        float *gate = inside->gate + done * wide, *up = inside->up + done * wide, *du_part = du + done * h;
        QN_TRY(qni_show_gradient(backward, tensor[QN_TENSOR_DOWN], dy_part, first, n, err));
        QN_TRY(
            qni_linear_backward(backward, tensor[QN_TENSOR_DOWN], -1, dy_part, NULL, n, false, product, err));
        pass->ops->swiglu_backward(pass->ops, gate, up, product, n * wide, pass->n_threads);
        QN_TRY(
            qni_linear_backward(backward, tensor[QN_TENSOR_DOWN], -1, dy_part, product, n, false, NULL, err));
        QN_TRY(qni_show_gradient(backward, tensor[QN_TENSOR_GATE], gate, first, n, err));
        QN_TRY(qni_show_gradient(backward, tensor[QN_TENSOR_UP], up, first, n, err));
        QN_TRY(
            qni_linear_backward(backward, tensor[QN_TENSOR_GATE], -1, gate, u_part, n, false, du_part, err));
        QN_TRY(qni_linear_backward(backward, tensor[QN_TENSOR_UP], -1, up, u_part, n, true, du_part, err));
    }
    return QN_OK;
}

qn_status qni_block_backward(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                             const float *x, const qni_inside *inside, bool wants_dx, float *dx,
                             qn_error *err) {
    const qni_backward_work *work = &backward->work;
    const int64_t *tensor = layer->tensor, n = chunk->n_tokens,
                  h = backward->pass->model->config->hidden_size;
    float *d = work->d_normed;
    QN_TRY(qn_check_cancelled(backward->pass->ctx, err));
    QN_TRY(mlp_backward(backward, layer, chunk, inside, dx, d, err));
    QN_TRY(qni_norm_backward(backward, tensor[QN_TENSOR_POST_NORM], inside->mid, d, n, h, true, dx, err));
    QN_TRY(layer->mixer->backward(backward, layer, chunk, inside->normed_in, inside->mixer, dx, work->mixer,
                                  wants_dx ? d : NULL, err));
    if (!wants_dx) return QN_OK;
    return qni_norm_backward(backward, tensor[QN_TENSOR_INPUT_NORM], x, d, n, h, true, dx, err);
}
