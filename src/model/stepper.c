#include "quern/model/stepper.h"

#include "base/alloc.h"
#include "checkpoint/pages.h"
#include "model/walk_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { CHUNK_TOKENS = 4096 }; /* that pass a block together */

/* The one linear layer whose input is wanted. */
typedef struct capture {
    int64_t index;
    const qni_chunk *chunk;
    float *in;
    bool is_complete;
} capture;

struct qn_stepper {
    qni_walk_plan plan;
    qni_pass pass;
    qni_workspace work;
    const int32_t *ids; /* borrowed */
    float *stream;      /* owned: one chunk's, for passes that are not to change the owner's */
    qn_walk_observer observer;
    capture capture;
};

static qn_status on_linear_input(void *user, int64_t index, const float *x, int64_t first_token,
                                 int64_t n_tokens, int64_t cols, qn_error *err) {
    capture *c = user;
    (void)err;
    if (index != c->index) return QN_OK;
    const int64_t row = first_token - c->chunk->first_token;
    memcpy(c->in + row * cols, x, (size_t)(n_tokens * cols) * sizeof *x);
    c->is_complete = row + n_tokens == c->chunk->n_tokens;
    /* Nothing behind this layer is wanted: the block need not be finished. */
    return c->is_complete ? QN_E_CANCELLED : QN_OK;
}

static qn_status prepare(qn_stepper *s, const qn_model *model, const qn_sequences *sequences,
                         qn_compute compute, const qn_context *ctx, qn_error *err) {
    QN_TRY(qni_walk_plan_make(sequences, CHUNK_TOKENS, &s->plan, err));
    QN_TRY(qni_pass_open(&s->pass, model, compute, ctx, err));
    QN_TRY(qni_pass_cover(&s->pass, s->plan.longest_sequence, err));
    QN_TRY(qni_workspace_make(model, s->plan.longest_chunk, &s->work, err));
    return QNI_ALLOC(s->stream, s->plan.longest_chunk * model->config->hidden_size, "the stream of a chunk",
                     err);
}

qn_status qn_stepper_open(qn_model *model, const qn_sequences *sequences, qn_compute compute,
                          const qn_context *ctx, qn_stepper **out, qn_error *err) {
    qn_stepper *s = qni_alloc_array(1, sizeof *s);
    if (!s) return qni_fail_nomem(err, "a stepper");
    s->ids = sequences->ids;
    s->observer = (qn_walk_observer){.on_linear_input = on_linear_input, .user = &s->capture};
    const qn_status status = prepare(s, model, sequences, compute, ctx, err);
    if (status == QN_OK) {
        *out = s;
    } else {
        qn_stepper_close(s);
    }
    return status;
}

void qn_stepper_close(qn_stepper *s) {
    if (!s) return;
    qni_workspace_release(&s->work);
    qni_pass_release(&s->pass);
    qni_walk_plan_release(&s->plan);
    free(s->stream);
    free(s);
}

int64_t qn_stepper_chunks(const qn_stepper *s) {
    return s->plan.n_chunks;
}

int64_t qn_stepper_longest_chunk(const qn_stepper *s) {
    return s->plan.longest_chunk;
}

/* The owner may have lent other weights since the last call. */
static void take_weights(qn_stepper *s, int64_t layer) {
    const qn_layout *layout = s->pass.model->layout;
    for (int64_t i = 0; i < layout->n; i++) {
        if (layout->entries[i].is_matrix && layout->entries[i].layer == layer)
            s->pass.matrices[i] = qni_matrix_of(s->pass.model, i);
    }
}

qn_status qn_stepper_embed(qn_stepper *s, float *x, qn_error *err) {
    return qni_embed(&s->pass, s->ids, s->plan.n_tokens, x, err);
}

qn_status qn_stepper_block(qn_stepper *s, int64_t layer, float *x, qn_error *err) {
    const qn_model *model = s->pass.model;
    take_weights(s, layer);
    s->pass.observer = NULL;
    for (int64_t c = 0; c < s->plan.n_chunks; c++) {
        const qni_chunk *chunk = &s->plan.chunks[c];
        QN_TRY(qni_block_forward(&s->pass, &model->layers[layer], chunk, NULL, &s->work,
                                 x + chunk->first_token * model->config->hidden_size, err));
    }
    qni_checkpoint_forget_layer(model->checkpoint, layer);
    return QN_OK;
}

qn_status qn_stepper_norm(qn_stepper *s, float *x, qn_error *err) {
    const qn_model *model = s->pass.model;
    return qni_norm(&s->pass, model->final_norm, x, s->plan.n_tokens, model->config->hidden_size, x, err);
}

qn_status qn_stepper_input(qn_stepper *s, int64_t layer, int64_t index, int64_t chunk_index, const float *x,
                           float *in, int64_t *n_tokens, qn_error *err) {
    const qn_model *model = s->pass.model;
    const int64_t h = model->config->hidden_size;
    const qni_chunk *chunk = &s->plan.chunks[chunk_index];
    if (!model->layout->entries[index].is_matrix || model->layout->entries[index].layer != layer) {
        return qn_fail(err, QN_E_ARGUMENT, "%s is no linear layer of block %lld",
                       model->layout->entries[index].name, (long long)layer);
    }
    take_weights(s, layer);
    s->capture = (capture){.index = index, .chunk = chunk, .in = in};
    s->pass.observer = &s->observer;
    memcpy(s->stream, x + chunk->first_token * h, (size_t)(chunk->n_tokens * h) * sizeof *x);
    const qn_status status =
        qni_block_forward(&s->pass, &model->layers[layer], chunk, NULL, &s->work, s->stream, err);
    if (!s->capture.is_complete) return status;
    *n_tokens = chunk->n_tokens;
    return QN_OK;
}
