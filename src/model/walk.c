#include "quern/model/walk.h"

#include "checkpoint/pages.h"
#include "model/walk_plan.h"
#include "model/walk_stage.h"

#include "base/banned.h"

enum { CHUNK_TOKENS = 4096 }; /* that pass a block together */

static qn_status show_hidden(const qni_pass *pass, int64_t depth, const float *x, int64_t n_tokens,
                             qn_error *err) {
    const qn_walk_observer *observer = pass->observer;
    if (!observer || !observer->on_hidden) return QN_OK;
    return observer->on_hidden(observer->user, depth, x, n_tokens, err);
}

static qn_status run_layers(const qni_pass *pass, const qni_walk_plan *plan, const qni_workspace *work,
                            qni_stage *stage, float *hidden, qn_error *err) {
    const qn_config *config = pass->model->config;
    for (int64_t l = 0; l < config->n_layers; l++) {
        for (int64_t c = 0; c < plan->n_chunks; c++) {
            const qni_chunk *chunk = &plan->chunks[c];
            qn_report_progress(pass->ctx, stage->name, stage->done, stage->total);
            QN_TRY(qni_block_forward(pass, &pass->model->layers[l], chunk, NULL, work,
                                     hidden + chunk->first_token * config->hidden_size, err));
            stage->done += (uint64_t)chunk->n_tokens;
        }
        QN_TRY(show_hidden(pass, l + 1, hidden, plan->n_tokens, err));
        qni_checkpoint_forget_layer(pass->model->checkpoint, l);
    }
    return QN_OK;
}

static qn_status run_walk(qni_pass *pass, const qn_sequences *sequences, const qni_walk_plan *plan,
                          const qni_workspace *work, qni_stage *stage, float *hidden, qn_error *err) {
    const qn_config *config = pass->model->config;
    QN_TRY(qni_pass_cover(pass, plan->longest_sequence, err));
    QN_TRY(qni_embed(pass, sequences->ids, plan->n_tokens, hidden, err));
    QN_TRY(show_hidden(pass, 0, hidden, plan->n_tokens, err));
    QN_TRY(run_layers(pass, plan, work, stage, hidden, err));
    QN_TRY(qni_norm(pass, pass->model->final_norm, hidden, plan->n_tokens, config->hidden_size, hidden, err));
    return show_hidden(pass, config->n_layers + 1, hidden, plan->n_tokens, err);
}

qn_status qni_walk(const qn_model *model, const qn_sequences *sequences, const qn_walk_options *options,
                   const qn_context *ctx, qni_stage *stage, float *hidden, qn_walk_stats *stats,
                   qn_error *err) {
    qni_walk_plan plan = {0};
    qni_pass pass = {0};
    qni_workspace work = {0};
    qn_status status = qni_walk_plan_make(sequences, CHUNK_TOKENS, &plan, err);
    if (status == QN_OK) status = qni_pass_open(&pass, model, options->compute, ctx, err);
    pass.observer = options->observer;
    pass.stats = stats;
    if (status == QN_OK) status = qni_workspace_make(model, plan.longest_chunk, &work, err);
    if (status == QN_OK) status = run_walk(&pass, sequences, &plan, &work, stage, hidden, err);
    qni_workspace_release(&work);
    qni_pass_release(&pass);
    qni_walk_plan_release(&plan);
    return status;
}

qn_status qn_walk(const qn_model *model, const qn_sequences *sequences, const qn_walk_options *options,
                  const qn_context *ctx, float *hidden, qn_walk_stats *stats, qn_error *err) {
    const int64_t n_tokens = sequences->n > 0 ? sequences->starts[sequences->n] : 0;
    qni_stage stage = {.name = "walk", .total = (uint64_t)(n_tokens * qn_model_config(model)->n_layers)};
    QN_TRY(qni_walk(model, sequences, options, ctx, &stage, hidden, stats, err));
    qn_report_progress(ctx, stage.name, stage.done, stage.total);
    return QN_OK;
}
