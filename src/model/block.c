#include "model/block.h"

#include "base/alloc.h"
#include "base/smaller.h"

#include <stdlib.h>

#include "base/banned.h"

enum { MLP_TOKENS = 2048 }; /* bounds gate and up: 2 * I * MLP_TOKENS floats */

qn_status qni_workspace_make(const qn_model *model, int64_t max_tokens, qni_workspace *out, qn_error *err) {
    const qn_config *config = model->config;
    const int64_t stream = max_tokens * config->hidden_size;
    const int64_t mlp = qni_min(max_tokens, MLP_TOKENS) * config->intermediate_size;
    int64_t mixer = 0;
    float *block = NULL;
    for (int64_t i = 0; i < config->n_layers; i++) {
        const int64_t floats = model->layers[i].mixer->work_floats(model, max_tokens);
        if (floats > mixer) mixer = floats;
    }
    QN_TRY(QNI_ALLOC(block, 2 * stream + mixer + 2 * mlp, "activations of a block", err));
    *out = (qni_workspace){.normed = block, .branch = block + stream, .mixer = block + 2 * stream};
    out->gate = out->mixer + mixer;
    out->up = out->gate + mlp;
    return QN_OK;
}

void qni_workspace_release(qni_workspace *work) {
    free(work->normed);
    *work = (qni_workspace){0};
}

/* y = down(silu(gate(u)) * up(u)), a bounded number of tokens at a time. */
static qn_status mlp_forward(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                             const qni_workspace *work, const float *u, float *y, qn_error *err) {
    const int64_t h = pass->model->config->hidden_size, wide = pass->model->config->intermediate_size;
    for (int64_t done = 0; done < chunk->n_tokens; done += MLP_TOKENS) {
        const int64_t n = qni_min(MLP_TOKENS, chunk->n_tokens - done), first = chunk->first_token + done;
        float largest = 0.0f;
        QN_TRY(qni_linear(pass, layer->tensor[QN_TENSOR_GATE], -1, u + done * h, first, n, work->gate, err));
        QN_TRY(qni_linear(pass, layer->tensor[QN_TENSOR_UP], -1, u + done * h, first, n, work->up, err));
        pass->ops->swiglu(pass->ops, work->gate, work->up, n * wide, pass->n_threads, &largest);
        QN_TRY(qni_note_largest(pass, largest, layer->index, "mlp gate product", err));
        QN_TRY(qni_linear(pass, layer->tensor[QN_TENSOR_DOWN], -1, work->gate, first, n, y + done * h, err));
    }
    return QN_OK;
}

/* Shows a branch to the observer and adds it to the stream. */
static qn_status add_branch(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk, bool is_mlp,
                            const float *branch, float *x, qn_error *err) {
    const qn_walk_observer *observer = pass->observer;
    const int64_t n = chunk->n_tokens * pass->model->config->hidden_size;
    float largest = 0.0f;
    if (observer && observer->on_branch) {
        QN_TRY(observer->on_branch(observer->user, layer->index, is_mlp, branch, chunk->first_token,
                                   chunk->n_tokens, err));
    }
    pass->ops->add(pass->ops, x, branch, n, pass->n_threads, &largest);
    return qni_note_largest(pass, largest, layer->index, "residual stream", err);
}

qn_status qni_block_forward(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                            qni_cache *cache, const qni_workspace *work, float *x, qn_error *err) {
    const int64_t n = chunk->n_tokens, h = pass->model->config->hidden_size;
    QN_TRY(qn_check_cancelled(pass->ctx, err));
    QN_TRY(qni_norm(pass, layer->tensor[QN_TENSOR_INPUT_NORM], x, n, h, work->normed, err));
    QN_TRY(layer->mixer->forward(pass, layer, chunk, work->normed, cache, work->mixer, work->branch, err));
    QN_TRY(add_branch(pass, layer, chunk, false, work->branch, x, err));
    QN_TRY(qni_norm(pass, layer->tensor[QN_TENSOR_POST_NORM], x, n, h, work->normed, err));
    QN_TRY(mlp_forward(pass, layer, chunk, work, work->normed, work->branch, err));
    return add_branch(pass, layer, chunk, true, work->branch, x, err);
}
