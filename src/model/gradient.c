#include "quern/model/gradient.h"

#include "base/alloc.h"
#include "model/backward.h"
#include "model/walk_plan.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

enum {
    CHUNK_TOKENS = 2048
}; /* that pass a block together: enough for the sums over tokens to run at full rate */

/* The whole walk, there and back. Its steps are pairs of a layer and a chunk, layer by layer. */
typedef struct gradient_job {
    qni_pass pass, teacher;
    qni_walk_plan plan;
    qni_backward backward;
    qn_gradient_memory *memory, own_memory;
    float *
        streams; /* in memory: the input of each block, the output of the last, the gradient; [L + 2][T, h] */
    int64_t stream_floats, n_steps;
} gradient_job;

static void release(gradient_job *job) {
    qni_backward_release(&job->backward);
    if (job->pass.ops) qni_memory_take_back(job->memory, job->pass.ops);
    qni_pass_release(&job->pass);
    qni_pass_release(&job->teacher);
    qni_walk_plan_release(&job->plan);
    qni_memory_release(&job->own_memory);
}

static qn_status check_gradients(const qn_model *model, const qn_gradients *gradients, qn_error *err) {
    const int64_t n = model->layout->n;
    if (gradients->n == n) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%lld gradients for a model of %lld tensors; allocate them with its layout",
                   (long long)gradients->n, (long long)n);
}

static qn_status check_teacher(const qn_model *model, const qn_loss_options *options, qn_error *err) {
    if (!options->teacher || !options->teacher_hidden)
        return qn_fail(err, QN_E_ARGUMENT, "kl_weight %g needs a teacher and its hidden states",
                       options->kl_weight);
    const int64_t own = model->config->vocab_size, other = options->teacher->config->vocab_size;
    if (own == other) return QN_OK;
    return qn_fail(err, QN_E_SHAPE, "the teacher's vocabulary of %lld is not the model's of %lld",
                   (long long)other, (long long)own);
}

static qn_status prepare(gradient_job *job, const qn_model *model, const qn_sequences *sequences,
                         const qn_loss_options *options, const qn_context *ctx, bool backward,
                         qn_error *err) {
    const int64_t n_streams = backward ? model->config->n_layers + 2 : 1;
    int64_t floats;
    QN_TRY(qni_walk_plan_make(sequences, CHUNK_TOKENS, &job->plan, err));
    job->n_steps = job->plan.n_chunks * model->config->n_layers;
    QN_TRY(qni_pass_open(&job->pass, model, options->compute, ctx, err));
    job->pass.memory = job->memory;
    qni_memory_lend(job->memory, job->pass.ops);
    QN_TRY(qni_pass_cover(&job->pass, job->plan.longest_sequence, err));
    if (options->kl_weight != 0.0)
        QN_TRY(qni_pass_open(&job->teacher, options->teacher, options->compute, ctx, err));
    job->stream_floats = job->plan.n_tokens * model->config->hidden_size;
    if (!qni_multiply_i64(n_streams, job->stream_floats, &floats)) return qni_fail_nomem(err, "block inputs");
    QN_TRY(qni_memory_take(job->memory, QNI_MEMORY_STREAMS, floats, "block inputs", &job->streams, err));
    return qni_embed(&job->pass, sequences->ids, job->plan.n_tokens, job->streams, err);
}

/* The loss only: one stream, in place. */
static qn_status run_forward(const gradient_job *job, qn_error *err) {
    const qn_model *model = job->pass.model;
    qni_workspace work = {0};
    qn_status status = qni_workspace_make(model, job->plan.longest_chunk, &work, err);
    for (int64_t s = 0; s < job->n_steps && status == QN_OK; s++) {
        const qni_chunk *chunk = &job->plan.chunks[s % job->plan.n_chunks];
        float *x = job->streams + chunk->first_token * model->config->hidden_size;
        status =
            qni_block_forward(&job->pass, &model->layers[s / job->plan.n_chunks], chunk, NULL, &work, x, err);
    }
    qni_workspace_release(&work);
    return status;
}

/* One step of the walk: where it reads and writes, and the memory for its inside. The last steps have one of their
 * own; those before share the first, which holds its last user's when the walk comes back. */
typedef struct step {
    const qni_layer *layer;
    const qni_chunk *chunk;
    float *in, *out;
    const qni_inside *inside;
    bool is_kept;
} step;

static step step_at(const gradient_job *job, int64_t index) {
    const qn_model *model = job->pass.model;
    const int64_t layer = index / job->plan.n_chunks,
                  from_kept = index - (job->n_steps - job->backward.n_insides);
    const qni_chunk *chunk = &job->plan.chunks[index % job->plan.n_chunks];
    float *in = job->streams + layer * job->stream_floats + chunk->first_token * model->config->hidden_size;
    return (step){.layer = &model->layers[layer],
                  .chunk = chunk,
                  .in = in,
                  .out = in + job->stream_floats,
                  .inside = &job->backward.insides[from_kept > 0 ? from_kept : 0],
                  .is_kept = from_kept >= 0};
}

static qn_status run_keeping(const gradient_job *job, qn_error *err) {
    for (int64_t i = 0; i < job->n_steps; i++) {
        const step s = step_at(job, i);
        QN_TRY(qni_block_inside(&job->backward, s.layer, s.chunk, s.in, s.inside, err));
        QN_TRY(qni_block_finish(&job->backward, s.layer, s.chunk, s.inside, s.out, err));
    }
    return QN_OK;
}

static qn_status run_backward(const gradient_job *job, const int32_t *ids, float *d, qn_error *err) {
    const qn_model *model = job->pass.model;
    const int64_t h = model->config->hidden_size;
    for (int64_t i = job->n_steps - 1; i >= 0; i--) {
        const step s = step_at(job, i);
        if (!s.is_kept) QN_TRY(qni_block_inside(&job->backward, s.layer, s.chunk, s.in, s.inside, err));
        QN_TRY(qni_block_backward(&job->backward, s.layer, s.chunk, s.in, s.inside,
                                  d + s.chunk->first_token * h, err));
    }
    float *embedding = qni_wanted_gradient(&job->backward, model->embed);
    if (embedding)
        job->pass.ops->scatter_add(job->pass.ops, ids, d, job->plan.n_tokens, h, embedding,
                                   job->pass.n_threads);
    return qni_show_gradient(&job->backward, model->embed, d, 0, job->plan.n_tokens, err);
}

static qn_status run(gradient_job *job, const qn_sequences *sequences, const int32_t *targets,
                     const qn_loss_options *options, qn_gradients *gradients, qn_loss *loss, qn_error *err) {
    const int64_t n_layers = job->pass.model->config->n_layers;
    const qni_pass *teacher = options->kl_weight != 0.0 ? &job->teacher : NULL;
    const bool backward = gradients || options->observer;
    float *last = job->streams, *d = NULL;
    if (backward) {
        last = job->streams + n_layers * job->stream_floats;
        d = last + job->stream_floats;
        QN_TRY(qni_backward_open(&job->backward, &job->pass, gradients ? gradients->per_entry : NULL,
                                 job->plan.longest_chunk, options->keep_bytes, job->n_steps, err));
        job->backward.observer = options->observer;
    }
    QN_TRY(backward ? run_keeping(job, err) : run_forward(job, err));
    QN_TRY(qni_head_loss(&job->pass, teacher, backward ? &job->backward : NULL, options, last, targets,
                         job->plan.n_tokens, d, loss, err));
    if (!isfinite(loss->ce_nats) || !isfinite(loss->kl_nats))
        return qn_fail(err, QN_E_VALUE, "the loss is not finite (cross entropy %g, divergence %g)",
                       loss->ce_nats, loss->kl_nats);
    return backward ? run_backward(job, sequences->ids, d, err) : QN_OK;
}

qn_status qn_loss_gradient(const qn_model *model, const qn_sequences *sequences, const int32_t *targets,
                           const qn_loss_options *options, const qn_context *ctx, qn_gradients *gradients,
                           qn_loss *out, qn_error *err) {
    gradient_job job = {0};
    qn_loss loss = {0};
    if (gradients) QN_TRY(check_gradients(model, gradients, err));
    if (options->kl_weight != 0.0) QN_TRY(check_teacher(model, options, err));
    job.memory = gradients && gradients->memory ? gradients->memory : &job.own_memory;
    qn_status status = prepare(&job, model, sequences, options, ctx, gradients || options->observer, err);
    if (status == QN_OK) status = run(&job, sequences, targets, options, gradients, &loss, err);
    if (status == QN_OK) *out = loss;
    release(&job);
    return status;
}
