#include "recipe/loss_model.h"

#include "base/alloc.h"
#include "quern/fit/moments.h"
#include "recipe/loss_lines.h"

#include <stdlib.h>

#include "base/banned.h"

/* A walk with the second moments of one layer's inputs. */
typedef struct measuring {
    const qn_model *model;
    const qni_loss_model_options *options;
    const qn_context *ctx;
    qni_loss_model *loss;
    qni_loss_lines lines;
    qn_moment *moments; /* owned [layout.n]: of the layer that is being walked, one for each distinct input */
} measuring;

/* All matrices that share the input whose moment is at ENTRY. */
static qn_status finish_input(measuring *m, int64_t entry, qn_error *err) {
    const int64_t cols = m->loss->layout->entries[entry].cols;
    float *hessian = qni_alloc_array(cols * cols, sizeof *hessian);
    if (!hessian) return qni_fail_nomem(err, "second moments");
    qn_moment_mean(&m->moments[entry], hessian);
    qn_moment_release(&m->moments[entry]);
    const qn_status status = qni_loss_lines_add_input(&m->lines, entry, hessian, err);
    free(hessian);
    return status;
}

static qn_status on_linear_input(void *user, int64_t index, const float *x, int64_t first_token,
                                 int64_t n_tokens, int64_t cols, qn_error *err) {
    measuring *m = user;
    (void)first_token;
    if (qn_statistics_shared_input(m->loss->layout, index) != index) return QN_OK;
    if (m->moments[index].cols == 0)
        QN_TRY(qn_moment_init(&m->moments[index], QN_MOMENT_SYMMETRIC, cols, err));
    return qn_moment_add(&m->moments[index], x, x, n_tokens, m->ctx, err);
}

/* The final norm's output is the head's input. */
static qn_status finish_head(measuring *m, const float *x, int64_t n_tokens, qn_error *err) {
    const int64_t h = qn_model_config(m->model)->hidden_size;
    qn_moment moment = {0};
    QN_TRY(QNI_ALLOC(m->loss->head_hessian, h * h, "second moments", err));
    QN_TRY(qn_moment_init(&moment, QN_MOMENT_SYMMETRIC, h, err));
    const qn_status status = qn_moment_add(&moment, x, x, n_tokens, m->ctx, err);
    if (status == QN_OK) qn_moment_mean(&moment, m->loss->head_hessian);
    qn_moment_release(&moment);
    return status;
}

static qn_status on_hidden(void *user, int64_t depth, const float *x, int64_t n_tokens, qn_error *err) {
    measuring *m = user;
    const qn_layout *layout = m->loss->layout;
    if (depth > qn_model_config(m->model)->n_layers) return finish_head(m, x, n_tokens, err);
    for (int64_t i = 0; i < layout->n; i++)
        if (m->moments[i].cols > 0) QN_TRY(finish_input(m, i, err));
    return QN_OK;
}

static qn_status walk(measuring *m, const qn_sequences *sequences, qn_error *err) {
    const qn_walk_observer observer = {.on_hidden = on_hidden, .on_linear_input = on_linear_input, .user = m};
    const qn_walk_options options = {.compute = m->options->compute, .observer = &observer};
    const int64_t floats = sequences->starts[sequences->n] * qn_model_config(m->model)->hidden_size;
    float *hidden = qni_alloc_array(floats, sizeof *hidden);
    m->moments = qni_alloc_array(m->loss->layout->n, sizeof *m->moments);
    qn_status status = hidden && m->moments ? QN_OK : qni_fail_nomem(err, "hidden states");
    if (status == QN_OK) status = qn_walk(m->model, sequences, &options, m->ctx, hidden, NULL, err);
    for (int64_t i = 0; m->moments && i < m->loss->layout->n; i++) qn_moment_release(&m->moments[i]);
    free(m->moments);
    free(hidden);
    return status;
}

static qn_status count_tokens(qni_loss_model *loss, const qn_sequences *sequences, qn_error *err) {
    const int64_t embed = qn_layout_find(loss->layout, QN_TENSOR_EMBED, -1);
    const int64_t n_tokens = sequences->starts[sequences->n];
    loss->token_frequency = qni_alloc_array(loss->layout->entries[embed].rows, sizeof(float));
    if (!loss->token_frequency) return qni_fail_nomem(err, "frequencies");
    for (int64_t t = 0; t < n_tokens; t++) loss->token_frequency[sequences->ids[t]] += 1.0f; /* exact */
    for (int64_t v = 0; v < loss->layout->entries[embed].rows; v++)
        loss->token_frequency[v] = (float)((double)loss->token_frequency[v] / (double)n_tokens);
    return QN_OK;
}

static qn_status measure(measuring *m, const qn_sequences *sequences, const qn_sequences *fisher_sequences,
                         qn_error *err) {
    qni_loss_model *loss = m->loss;
    const qn_fisher_options options = {.compute = m->options->compute, .seed = m->options->seed};
    loss->matrices = qni_alloc_array(loss->layout->n, sizeof *loss->matrices);
    if (!loss->matrices) return qni_fail_nomem(err, "sensitivities");
    QN_TRY(qn_fisher_measure(m->model, fisher_sequences, &options, m->ctx, &loss->fisher, err));
    QN_TRY(qni_loss_lines_open(&m->lines, err));
    QN_TRY(walk(m, sequences, err));
    QN_TRY(count_tokens(loss, sequences, err));
    return qni_loss_lines_add_tables(&m->lines, err);
}

qn_status qni_loss_model_measure(const qn_model *model, const qn_sequences *sequences,
                                 const qn_sequences *fisher_sequences, const qni_loss_model_options *options,
                                 const qn_context *ctx, qni_loss_model *out, qn_error *err) {
    qni_loss_model loss = {.layout = qn_checkpoint_layout(qn_model_checkpoint(model))};
    measuring m = {.model = model,
                   .options = options,
                   .ctx = ctx,
                   .loss = &loss,
                   .lines = {.model = model,
                             .options = options,
                             .ctx = ctx,
                             .loss = &loss,
                             .n_tokens = sequences->starts[sequences->n]}};
    const qn_status status = measure(&m, sequences, fisher_sequences, err);
    qni_loss_lines_close(&m.lines);
    if (status == QN_OK) {
        *out = loss;
    } else {
        qni_loss_model_release(&loss);
    }
    return status;
}

void qni_loss_model_release(qni_loss_model *loss) {
    for (int64_t i = 0; loss->matrices && i < loss->layout->n; i++) {
        for (int b = 0; b < loss->matrices[i].n_bases; b++) {
            free(loss->matrices[i].bases[b].columns);
            free(loss->matrices[i].bases[b].rows);
        }
    }
    free(loss->matrices);
    free(loss->head_hessian);
    free(loss->token_frequency);
    qn_fisher_release(&loss->fisher);
    *loss = (qni_loss_model){0};
}

void qni_loss_model_embedding_metric(const qni_loss_model *loss, bool is_tied, float *out) {
    const int64_t entry = qn_layout_find(loss->layout, QN_TENSOR_EMBED, -1);
    const qn_layout_entry *e = &loss->layout->entries[entry];
    double ratio = 1.0;
    for (int64_t k = 0; k < e->cols * e->cols; k++) out[k] = is_tied ? loss->head_hessian[k] : 0.0f;
    if (is_tied) {
        double fisher = 0.0; /* frequencies sum to one */
        for (int64_t v = 0; v < e->rows; v++) fisher += (double)loss->fisher.output[entry][v];
        ratio = fisher > 0.0 ? 1.0 / fisher : 0.0;
    }
    for (int64_t j = 0; j < e->cols; j++)
        out[j * e->cols + j] += (float)(ratio * (double)loss->fisher.lookup_gradient[j]);
}
