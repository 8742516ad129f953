/* One block backwards. Its inside is computed again from its input; the output of the MLP is not needed. */
#include "model/backward.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { MLP_TOKENS = 2048 }; /* bounds gate, up and product: 3 * I * MLP_TOKENS floats */

static int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static qn_status work_make(const qn_model *model, int64_t max_tokens, qni_backward_work *out, qn_error *err) {
    const qn_config *config = model->config;
    const int64_t stream = max_tokens * config->hidden_size;
    const int64_t mlp = minimum(max_tokens, MLP_TOKENS) * config->intermediate_size;
    int64_t mixer = 0;
    float *block = NULL;
    for (int64_t i = 0; i < config->n_layers; i++) {
        const int64_t floats = model->layers[i].mixer->backward_floats(model, max_tokens);
        if (floats > mixer) mixer = floats;
    }
    QN_TRY(QNI_ALLOC(block, 4 * stream + 3 * mlp + mixer, "a block's activations and gradients", err));
    *out = (qni_backward_work){.mid = block,
                               .normed_in = block + stream,
                               .normed_mid = block + 2 * stream,
                               .d_normed = block + 3 * stream,
                               .gate = block + 4 * stream};
    out->up = out->gate + mlp;
    out->product = out->up + mlp;
    out->mixer = out->product + mlp;
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

qn_status qni_backward_open(qni_backward *out, const qni_pass *pass, float **gradients, int64_t max_tokens,
                            qn_error *err) {
    qni_backward backward = {.pass = pass, .gradients = gradients};
    qn_status status = make_unrotation(pass, &backward.unrotate, err);
    if (status == QN_OK) status = work_make(pass->model, max_tokens, &backward.work, err);
    if (status != QN_OK) {
        qni_backward_release(&backward);
        return status;
    }
    *out = backward;
    return QN_OK;
}

void qni_backward_release(qni_backward *backward) {
    qni_rope_table_release(&backward->unrotate);
    free(backward->work.mid);
    *backward = (qni_backward){0};
}

static qn_status recompute(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                           const float *x, qn_error *err) {
    const qni_pass *pass = backward->pass;
    const qni_backward_work *work = &backward->work;
    const int64_t n = chunk->n_tokens, h = pass->model->config->hidden_size;
    float largest; /* seen when the forward passed here */
    QN_TRY(qni_norm(pass, layer->tensor[QN_TENSOR_INPUT_NORM], x, n, h, work->normed_in, err));
    QN_TRY(layer->mixer->recompute(pass, layer, chunk, work->normed_in, work->mixer, work->mid, err));
    pass->ops->add(pass->ops, work->mid, x, n * h, pass->n_threads, &largest);
    return qni_norm(pass, layer->tensor[QN_TENSOR_POST_NORM], work->mid, n, h, work->normed_mid, err);
}

/* du = gradient of down(silu(gate(u)) * up(u)), a bounded number of tokens at a time. */
static qn_status mlp_backward(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                              const float *u, const float *dy, float *du, qn_error *err) {
    const qni_pass *pass = backward->pass;
    const qni_backward_work *work = &backward->work;
    const int64_t h = pass->model->config->hidden_size, wide = pass->model->config->intermediate_size;
    const int64_t gate = layer->tensor[QN_TENSOR_GATE], up = layer->tensor[QN_TENSOR_UP];
    const int64_t down = layer->tensor[QN_TENSOR_DOWN];
    for (int64_t done = 0; done < chunk->n_tokens; done += MLP_TOKENS) {
        const int64_t n = minimum(MLP_TOKENS, chunk->n_tokens - done), first = chunk->first_token + done;
        const float *u_part = u + done * h, *dy_part = dy + done * h;
        QN_TRY(qni_linear(pass, gate, -1, u_part, first, n, work->gate, err));
        QN_TRY(qni_linear(pass, up, -1, u_part, first, n, work->up, err));
        QN_TRY(qni_linear_backward(backward, down, -1, dy_part, NULL, n, false, work->product, err));
        pass->ops->swiglu_backward(pass->ops, work->gate, work->up, work->product, n * wide, pass->n_threads);
        QN_TRY(qni_linear_backward(backward, down, -1, dy_part, work->product, n, false, NULL, err));
        QN_TRY(qni_linear_backward(backward, gate, -1, work->gate, u_part, n, false, du + done * h, err));
        QN_TRY(qni_linear_backward(backward, up, -1, work->up, u_part, n, true, du + done * h, err));
    }
    return QN_OK;
}

qn_status qni_block_backward(const qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                             const float *x, float *dx, qn_error *err) {
    const qni_backward_work *work = &backward->work;
    const int64_t n = chunk->n_tokens, h = backward->pass->model->config->hidden_size;
    QN_TRY(qn_check_cancelled(backward->pass->ctx, err));
    QN_TRY(recompute(backward, layer, chunk, x, err));
    QN_TRY(mlp_backward(backward, layer, chunk, work->normed_mid, dx, work->d_normed, err));
    QN_TRY(qni_norm_backward(backward, layer->tensor[QN_TENSOR_POST_NORM], work->mid, work->d_normed, n, h,
                             true, dx, err));
    QN_TRY(layer->mixer->backward(backward, layer, chunk, work->normed_in, dx, work->mixer, work->d_normed,
                                  err));
    return qni_norm_backward(backward, layer->tensor[QN_TENSOR_INPUT_NORM], x, work->d_normed, n, h, true, dx,
                             err);
}
