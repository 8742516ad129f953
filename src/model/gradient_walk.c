#include "model/gradient_walk.h"

#include "base/alloc.h"
#include "base/unnamed.h"
#include "checkpoint/pages.h"
#include "model/gain_gradient.h"

#include <unistd.h>

#include "base/banned.h"

enum {
    CHUNK_TOKENS = 4096
}; /* that pass a block together: enough for sums over tokens to run at full rate */

static qn_status check_gradients(const qn_model *model, const qn_gradients *gradients, qn_error *err) {
    const int64_t n = model->layout->n;
    if (!gradients || gradients->n == n) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%lld gradients for a model of %lld tensors; allocate them with its layout",
                   (long long)gradients->n, (long long)n);
}

/* What the walk did not reach. */
static void settle_gradients(const qni_gradient_walk *walk) {
    qn_gradients *gradients = walk->backward.gradients;
    for (int64_t i = 0; gradients && i < gradients->n; i++)
        qni_gradients_settle(gradients, walk->pass.model->layout, i);
}

void qni_gradient_walk_release(qni_gradient_walk *walk) {
    settle_gradients(walk);
    qni_backward_release(&walk->backward);
    if (walk->pass.ops) qni_memory_take_back(walk->memory, walk->pass.ops);
    qni_pass_release(&walk->pass);
    qni_walk_plan_release(&walk->plan);
    if (walk->n_streams > 0 && walk->spill >= 0) (void)close(walk->spill);
    qni_memory_release(&walk->own_memory);
}

/* There are n_layers inputs of blocks, and the output of the last. */
static qn_status choose_streams(qni_gradient_walk *walk, const qni_gradient_walk_options *options,
                                qn_error *err) {
    int file = -1;
    if (options->with_gradient && options->spill) QN_TRY(qni_unnamed_open(&file, err));
    walk->spill = file;
    walk->n_streams = file < 0 ? walk->n_layers + 1 : 2;
    return QN_OK;
}

qn_status qni_gradient_walk_open(qni_gradient_walk *walk, const qn_model *model,
                                 const qn_sequences *sequences, const qni_gradient_walk_options *options,
                                 qn_gradients *gradients, const qn_context *ctx, qn_error *err) {
    int64_t floats;
    QN_TRY(check_gradients(model, gradients, err));
    walk->memory = gradients && gradients->memory ? gradients->memory : &walk->own_memory;
    walk->first_layer = options->first_layer;
    walk->n_layers = options->n_layers;
    walk->with_gradient = options->with_gradient;
    walk->without_input_gradient = options->without_input_gradient;
    QN_TRY(choose_streams(walk, options, err));
    QN_TRY(qni_walk_plan_make(sequences, CHUNK_TOKENS, &walk->plan, err));
    walk->n_steps = walk->plan.n_chunks * walk->n_layers;
    QN_TRY(qni_pass_open(&walk->pass, model, options->compute, ctx, err));
    walk->pass.memory = walk->memory;
    qni_memory_lend(walk->memory, walk->pass.ops);
    QN_TRY(qni_pass_cover(&walk->pass, walk->plan.longest_sequence, err));
    walk->stream_floats = walk->plan.n_tokens * model->config->hidden_size;
    if (!qni_multiply_i64(walk->with_gradient ? walk->n_streams + 1 : 1, walk->stream_floats, &floats))
        return qni_fail_nomem(err, "block inputs");
    QN_TRY(qni_memory_take(walk->memory, QNI_MEMORY_STREAMS, floats, "block inputs", &walk->streams, err));
    if (!walk->with_gradient) return QN_OK;
    QN_TRY(qni_backward_open(&walk->backward, &walk->pass, gradients, walk->plan.longest_chunk,
                             options->keep_bytes, walk->n_steps, err));
    walk->backward.observer = options->observer;
    return QN_OK;
}

/* One step of the walk: where it reads and writes, and the memory for its inside. The last steps have one of their
 * own; those before share the first, which holds its last user's when the walk comes back. */
typedef struct step {
    const qni_layer *layer;
    const qni_chunk *chunk;
    float *in, *out;
    const qni_inside *inside;
    bool is_kept;
    bool is_first, is_last; /* chunk of its layer */
} step;

/* The stream in front of the walk's block LAYER. */
static float *stream_of(const qni_gradient_walk *walk, int64_t layer) {
    return walk->streams + layer % walk->n_streams * walk->stream_floats;
}

/* Behind a block the stream in front of it is put by, before the next block but one takes its place. */
static qn_status leave(const qni_gradient_walk *walk, int64_t layer, qn_error *err) {
    const size_t n_bytes = (size_t)walk->stream_floats * sizeof(float);
    qni_checkpoint_forget_layer(walk->pass.model->checkpoint, walk->first_layer + layer);
    if (walk->spill < 0) return QN_OK;
    return qni_unnamed_write(walk->spill, layer * (int64_t)n_bytes, stream_of(walk, layer), n_bytes,
                             "the input of a block", err);
}

/* Fetches it for the way back. */
static qn_status come_back(const qni_gradient_walk *walk, int64_t layer, qn_error *err) {
    const size_t n_bytes = (size_t)walk->stream_floats * sizeof(float);
    if (walk->spill < 0) return QN_OK;
    return qni_unnamed_read(walk->spill, layer * (int64_t)n_bytes, stream_of(walk, layer), n_bytes,
                            "the input of a block", err);
}

static step step_at(const qni_gradient_walk *walk, int64_t index) {
    const qn_model *model = walk->pass.model;
    const int64_t layer = index / walk->plan.n_chunks,
                  from_kept = index - (walk->n_steps - walk->backward.n_insides);
    const qni_chunk *chunk = &walk->plan.chunks[index % walk->plan.n_chunks];
    const int64_t at = chunk->first_token * model->config->hidden_size;
    return (step){.layer = &model->layers[walk->first_layer + layer],
                  .chunk = chunk,
                  .in = stream_of(walk, layer) + at,
                  .out = stream_of(walk, layer + 1) + at,
                  .is_first = index % walk->plan.n_chunks == 0,
                  .is_last = index % walk->plan.n_chunks == walk->plan.n_chunks - 1,
                  .inside = &walk->backward.insides[from_kept > 0 ? from_kept : 0],
                  .is_kept = from_kept >= 0};
}

/* No way back: one stream, in place. */
static qn_status run_forward(const qni_gradient_walk *walk, qn_error *err) {
    const qn_model *model = walk->pass.model;
    qni_workspace work = {0};
    qn_status status = qni_workspace_make(model, walk->plan.longest_chunk, &work, err);
    for (int64_t s = 0; s < walk->n_steps && status == QN_OK; s++) {
        const qni_chunk *chunk = &walk->plan.chunks[s % walk->plan.n_chunks];
        float *x = walk->streams + chunk->first_token * model->config->hidden_size;
        status = qni_block_forward(&walk->pass, &model->layers[walk->first_layer + s / walk->plan.n_chunks],
                                   chunk, NULL, &work, x, err);
    }
    qni_workspace_release(&work);
    return status;
}

qn_status qni_gradient_walk_there(qni_gradient_walk *walk, float **last, float **d, qn_error *err) {
    *last = walk->streams;
    *d = NULL;
    if (!walk->with_gradient) return run_forward(walk, err);
    for (int64_t i = 0; i < walk->n_steps; i++) {
        const step s = step_at(walk, i);
        QN_TRY(qni_block_inside(&walk->backward, s.layer, s.chunk, s.in, s.inside, err));
        QN_TRY(qni_block_finish(&walk->backward, s.layer, s.chunk, s.inside, s.out, err));
        if (s.is_last) QN_TRY(leave(walk, s.layer->index - walk->first_layer, err));
    }
    *last = stream_of(walk, walk->n_layers);
    *d = walk->streams + walk->n_streams * walk->stream_floats;
    return QN_OK;
}

/* All of it, the first block without the gradient of its input where GAIN has another way. */
static qn_status walk_back(const qni_gradient_walk *walk, const qni_gain_gradient *gain, float *d,
                           qn_error *err) {
    const int64_t h = walk->pass.model->config->hidden_size;
    for (int64_t i = walk->n_steps - 1; i >= 0; i--) {
        const step s = step_at(walk, i);
        if (s.is_last) QN_TRY(come_back(walk, s.layer->index - walk->first_layer, err));
        if (!s.is_kept) QN_TRY(qni_block_inside(&walk->backward, s.layer, s.chunk, s.in, s.inside, err));
        QN_TRY(qni_block_backward(&walk->backward, s.layer, s.chunk, s.in, s.inside,
                                  !gain->is_used || s.layer->index != walk->first_layer,
                                  d + s.chunk->first_token * h, err));
        if (s.is_first) qni_checkpoint_forget_layer(walk->pass.model->checkpoint, s.layer->index);
    }
    return QN_OK;
}

qn_status qni_gradient_walk_back(qni_gradient_walk *walk, float *d, qn_error *err) {
    qni_gain_gradient gain = {0};
    qn_status status = QN_OK;
    if (walk->without_input_gradient)
        status =
            qni_gain_gradient_open(&gain, &walk->backward, &walk->pass.model->layers[walk->first_layer], err);
    if (status == QN_OK) status = walk_back(walk, &gain, d, err);
    if (status == QN_OK) status = qni_gain_gradient_finish(&gain, err);
    qni_gain_gradient_close(&gain);
    return status;
}
