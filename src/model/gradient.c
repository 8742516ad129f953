#include "quern/model/gradient.h"

#include "base/alloc.h"
#include "model/backward.h"
#include "model/walk_plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    CHUNK_TOKENS = 2048
}; /* that pass a block together: enough for the sums over tokens to run at full rate */

/* The whole walk, there and back. */
typedef struct gradient_job {
    qni_pass pass, teacher;
    qni_walk_plan plan;
    qni_workspace work;
    qni_backward backward;
    float *streams; /* owned: the input of each block, the output of the last, the gradient; [L + 2][T, h] */
    int64_t stream_floats;
    bool keeps; /* false: one stream, in place */
} gradient_job;

static void release(gradient_job *job) {
    qni_backward_release(&job->backward);
    qni_workspace_release(&job->work);
    qni_pass_release(&job->pass);
    qni_pass_release(&job->teacher);
    qni_walk_plan_release(&job->plan);
    free(job->streams);
}

static qn_status check_weights(const qn_model *model, const qn_gradients *gradients, qn_error *err) {
    const qn_layout *layout = model->layout;
    if (gradients->n != layout->n) {
        return qn_fail(err, QN_E_ARGUMENT,
                       "%lld gradients for a model of %lld tensors; allocate them with its layout",
                       (long long)gradients->n, (long long)layout->n);
    }
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_weight *w = model->weights[i];
        if (w->kind == QN_WEIGHT_DENSE && w->dense.dtype == QN_DTYPE_F32 &&
            (uintptr_t)w->dense.data % sizeof(float) == 0)
            continue;
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: gradients need dense, aligned F32 weights, not %s; lend the model f32 copies "
                       "(qn_model_set_weight)",
                       layout->entries[i].name,
                       w->kind == QN_WEIGHT_DENSE ? qn_dtype_name(w->dense.dtype) : "packed ones");
    }
    return QN_OK;
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

static float *stream(const gradient_job *job, int64_t depth) {
    return job->streams + (job->keeps ? depth * job->stream_floats : 0);
}

static qn_status prepare(gradient_job *job, const qn_model *model, const qn_sequences *sequences,
                         const qn_loss_options *options, const qn_context *ctx, qn_gradients *gradients,
                         qn_error *err) {
    const int64_t n_streams = gradients ? model->config->n_layers + 2 : 1;
    int64_t floats;
    QN_TRY(qni_walk_plan_make(sequences, CHUNK_TOKENS, &job->plan, err));
    QN_TRY(qni_pass_open(&job->pass, model, options->compute, ctx, err));
    QN_TRY(qni_pass_cover(&job->pass, job->plan.longest_sequence, err));
    if (options->kl_weight != 0.0)
        QN_TRY(qni_pass_open(&job->teacher, options->teacher, options->compute, ctx, err));
    QN_TRY(qni_workspace_make(model, job->plan.longest_chunk, &job->work, err));
    job->keeps = gradients != NULL;
    job->stream_floats = job->plan.n_tokens * model->config->hidden_size;
    if (!qni_multiply_i64(n_streams, job->stream_floats, &floats)) return qni_fail_nomem(err, "block inputs");
    return QNI_ALLOC(job->streams, floats, "block inputs", err);
}

static qn_status forward(const gradient_job *job, const int32_t *ids, qn_error *err) {
    const qn_model *model = job->pass.model;
    const int64_t h = model->config->hidden_size;
    QN_TRY(qni_embed(&job->pass, ids, job->plan.n_tokens, stream(job, 0), err));
    for (int64_t l = 0; l < model->config->n_layers; l++) {
        for (int64_t c = 0; c < job->plan.n_chunks; c++) {
            const qni_chunk *chunk = &job->plan.chunks[c];
            const int64_t at = chunk->first_token * h;
            float *x = stream(job, l + 1) + at;
            if (job->keeps) memcpy(x, stream(job, l) + at, (size_t)(chunk->n_tokens * h) * sizeof *x);
            QN_TRY(qni_block_forward(&job->pass, &model->layers[l], chunk, NULL, &job->work, x, err));
        }
    }
    return QN_OK;
}

static qn_status backward(const gradient_job *job, const int32_t *ids, qn_error *err) {
    const qn_model *model = job->pass.model;
    const int64_t h = model->config->hidden_size, n_layers = model->config->n_layers;
    float *d = stream(job, n_layers + 1);
    for (int64_t l = n_layers - 1; l >= 0; l--) {
        for (int64_t c = 0; c < job->plan.n_chunks; c++) {
            const qni_chunk *chunk = &job->plan.chunks[c];
            const int64_t at = chunk->first_token * h;
            QN_TRY(qni_block_backward(&job->backward, &model->layers[l], chunk, stream(job, l) + at, d + at,
                                      err));
        }
    }
    job->pass.ops->scatter_add(job->pass.ops, ids, d, job->plan.n_tokens, h,
                               job->backward.gradients[model->embed], job->pass.n_threads);
    return QN_OK;
}

static qn_status run(gradient_job *job, const qn_sequences *sequences, const int32_t *targets,
                     const qn_loss_options *options, qn_gradients *gradients, qn_loss *loss, qn_error *err) {
    const int64_t n_layers = job->pass.model->config->n_layers;
    const qni_pass *teacher = options->kl_weight != 0.0 ? &job->teacher : NULL;
    QN_TRY(forward(job, sequences->ids, err));
    qni_workspace_release(&job->work);
    if (gradients)
        QN_TRY(qni_backward_open(&job->backward, &job->pass, gradients->per_entry, job->plan.longest_chunk,
                                 err));
    QN_TRY(qni_head_loss(&job->pass, teacher, job->keeps ? &job->backward : NULL, options,
                         stream(job, n_layers), targets, job->plan.n_tokens,
                         job->keeps ? stream(job, n_layers + 1) : NULL, loss, err));
    if (!isfinite(loss->ce_nats) || !isfinite(loss->kl_nats))
        return qn_fail(err, QN_E_VALUE, "the loss is not finite (cross entropy %g, divergence %g)",
                       loss->ce_nats, loss->kl_nats);
    return job->keeps ? backward(job, sequences->ids, err) : QN_OK;
}

qn_status qn_loss_gradient(const qn_model *model, const qn_sequences *sequences, const int32_t *targets,
                           const qn_loss_options *options, const qn_context *ctx, qn_gradients *gradients,
                           qn_loss *out, qn_error *err) {
    gradient_job job = {0};
    qn_loss loss = {0};
    if (gradients) QN_TRY(check_weights(model, gradients, err));
    if (options->kl_weight != 0.0) QN_TRY(check_teacher(model, options, err));
    qn_status status = prepare(&job, model, sequences, options, ctx, gradients, err);
    if (status == QN_OK) status = run(&job, sequences, targets, options, gradients, &loss, err);
    if (status == QN_OK) *out = loss;
    release(&job);
    return status;
}
