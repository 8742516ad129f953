#include "quern/model/gradient.h"

#include "model/gradient_walk.h"

#include <math.h>

#include "base/banned.h"

static qn_status check_teacher(const qn_model *model, const qn_loss_options *options, qn_error *err) {
    if (options->teacher_top && (options->teacher || options->teacher_hidden))
        return qn_fail(err, QN_E_ARGUMENT,
                       "a teacher and teacher_top at once; give one of them, both say the same");
    if (options->teacher_top) return QN_OK; /* its rows are looked at where they are read */
    if (!options->teacher || !options->teacher_hidden)
        return qn_fail(err, QN_E_ARGUMENT,
                       "kl_weight %g needs a teacher and its hidden states, or teacher_top",
                       options->kl_weight);
    const int64_t own = model->config->vocab_size, other = options->teacher->config->vocab_size;
    if (own == other) return QN_OK;
    return qn_fail(err, QN_E_SHAPE, "the teacher's vocabulary of %lld is not the model's of %lld",
                   (long long)other, (long long)own);
}

static qn_status run(qni_gradient_walk *walk, const qni_pass *teacher, const qn_sequences *sequences,
                     const int32_t *targets, const qn_loss_options *options, qn_loss *loss, qn_error *err) {
    const qn_model *model = walk->pass.model;
    float *last, *d;
    QN_TRY(qni_embed(&walk->pass, sequences->ids, walk->plan.n_tokens, walk->streams, err));
    QN_TRY(qni_gradient_walk_there(walk, &last, &d, err));
    QN_TRY(qni_head_loss(&walk->pass, teacher, d ? &walk->backward : NULL, options, last, targets,
                         walk->plan.n_tokens, d, loss, err));
    if (!isfinite(loss->ce_nats) || !isfinite(loss->kl_nats))
        return qn_fail(err, QN_E_VALUE, "the loss is not finite (cross entropy %g, divergence %g)",
                       loss->ce_nats, loss->kl_nats);
    if (!d) return QN_OK;
    QN_TRY(qni_gradient_walk_back(walk, d, err));
    float *embedding = qni_gradient_to_add(&walk->backward, model->embed);
    if (embedding)
        walk->pass.ops->scatter_add(walk->pass.ops, sequences->ids, d, walk->plan.n_tokens,
                                    model->config->hidden_size, embedding, walk->pass.n_threads);
    return qni_show_gradient(&walk->backward, model->embed, d, 0, walk->plan.n_tokens, err);
}

qn_status qn_loss_gradient(const qn_model *model, const qn_sequences *sequences, const int32_t *targets,
                           const qn_loss_options *options, const qn_context *ctx, qn_gradients *gradients,
                           qn_loss *out, qn_error *err) {
    const bool has_kl = options->kl_weight != 0.0, has_teacher = has_kl && !options->teacher_top;
    const qni_gradient_walk_options walk_options = {.n_layers = model->config->n_layers,
                                                    .compute = options->compute,
                                                    .with_gradient = gradients || options->observer,
                                                    .keep_bytes = options->keep_bytes,
                                                    .spill = options->spill,
                                                    .observer = options->observer};
    qni_gradient_walk walk = {0};
    qni_pass teacher = {0};
    qn_loss loss = {0};
    if (has_kl) QN_TRY(check_teacher(model, options, err));
    qn_status status = qni_gradient_walk_open(&walk, model, sequences, &walk_options, gradients, ctx, err);
    if (status == QN_OK && has_teacher)
        status = qni_pass_open(&teacher, options->teacher, options->compute, ctx, err);
    if (status == QN_OK)
        status = run(&walk, has_teacher ? &teacher : NULL, sequences, targets, options, &loss, err);
    if (status == QN_OK) *out = loss;
    qni_pass_release(&teacher);
    qni_gradient_walk_release(&walk);
    return status;
}
