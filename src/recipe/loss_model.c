#include "recipe/loss_model.h"

#include "base/alloc.h"
#include "quern/fit/hessian_fit.h"
#include "quern/fit/moments.h"
#include "quern/fit/statistics.h"
#include "recipe/rotation.h"

#include <stdlib.h>

#include "base/banned.h"

enum { ROWS_AT_A_TIME = 256 };

/* A walk with the second moments of one layer's inputs. */
typedef struct measuring {
    const qn_model *model;
    const qni_loss_model_options *options;
    const qn_context *ctx;
    qni_loss_model *loss;
    qn_moment *moments; /* owned [layout.n]: of the layer that is being walked, one for each distinct input */
} measuring;

/* Adds D_j F_i w_ij^2 to the sums of line i and line j. ADD_ROWS: those of the rows only. */
static qn_status add_sensitivities(const measuring *m, int64_t entry, const double *d, const float *fisher,
                                   qn_error *err) {
    const qn_layout_entry *e = &m->loss->layout->entries[entry];
    double *columns = m->loss->columns[entry], *rows = m->loss->rows[entry];
    const int32_t rotation = e->layer >= 0 ? qni_rotation_of(m->options->hadamard, e->cols) : 0;
    float *w = qni_alloc_array(ROWS_AT_A_TIME * e->cols, sizeof *w);
    if (!w) return qni_fail_nomem(err, "rows of a matrix");
    for (int64_t first = 0; first < e->rows; first += ROWS_AT_A_TIME) {
        const int64_t n = e->rows - first < ROWS_AT_A_TIME ? e->rows - first : ROWS_AT_A_TIME;
        qn_weight_decode_rows(qn_model_weight(m->model, entry), first, n, w);
        if (rotation) qn_hadamard_rows(w, n, e->cols, rotation, false);
        for (int64_t i = 0; i < n; i++) {
            const float *row = w + i * e->cols;
            const double f = fisher ? (double)fisher[first + i] : 1.0;
            double sum = 0.0;
            for (int64_t j = 0; j < e->cols; j++) {
                const double cost = f * d[j] * (double)row[j] * (double)row[j];
                columns[j] += cost;
                sum += cost;
            }
            rows[first + i] += sum;
        }
    }
    free(w);
    return QN_OK;
}

static qn_status alloc_sensitivities(qni_loss_model *loss, int64_t entry, qn_error *err) {
    const qn_layout_entry *e = &loss->layout->entries[entry];
    loss->columns[entry] = qni_alloc_array(e->cols, sizeof(double));
    loss->rows[entry] = qni_alloc_array(e->rows, sizeof(double));
    return loss->columns[entry] && loss->rows[entry] ? QN_OK : qni_fail_nomem(err, "sensitivities");
}

/* D of H [cols, cols]. */
static qn_status feedback_diagonal(const measuring *m, const float *hessian, int64_t cols, double **out,
                                   qn_error *err) {
    double *d = qni_alloc_array(cols, sizeof *d);
    if (!d) return qni_fail_nomem(err, "a diagonal");
    const qn_status status = qn_feedback_diagonal(hessian, cols, m->options->damping,
                                                  m->options->activation_order, m->ctx, d, err);
    if (status == QN_OK) {
        *out = d;
    } else {
        free(d);
    }
    return status;
}

/* All matrices that share the input whose moment is at ENTRY. */
static qn_status finish_input(measuring *m, int64_t entry, qn_error *err) {
    const qn_layout *layout = m->loss->layout;
    const int64_t cols = layout->entries[entry].cols;
    float *hessian = qni_alloc_array(cols * cols, sizeof *hessian);
    double *d = NULL;
    if (!hessian) return qni_fail_nomem(err, "second moments");
    qn_moment_mean(&m->moments[entry], hessian);
    qn_moment_release(&m->moments[entry]);
    qni_rotate_metric(hessian, cols, qni_rotation_of(m->options->hadamard, cols));
    qn_status status = feedback_diagonal(m, hessian, cols, &d, err);
    free(hessian);
    for (int64_t i = 0; i < layout->n && status == QN_OK; i++) {
        if (!layout->entries[i].is_matrix || layout->entries[i].layer < 0 ||
            qn_statistics_shared_input(layout, i) != entry)
            continue;
        status = alloc_sensitivities(m->loss, i, err);
        if (status == QN_OK) status = add_sensitivities(m, i, d, m->loss->fisher.output[i], err);
    }
    free(d);
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
    qni_loss_model *loss = m->loss;
    const int64_t h = qn_model_config(m->model)->hidden_size;
    const int64_t embed = qn_layout_find(loss->layout, QN_TENSOR_EMBED, -1);
    const int64_t head = qn_layout_find(loss->layout, QN_TENSOR_HEAD, -1);
    const int64_t entry = head >= 0 ? head : embed;
    qn_moment moment = {0};
    double *d = NULL;
    loss->head_hessian = qni_alloc_array(h * h, sizeof(float));
    if (!loss->head_hessian) return qni_fail_nomem(err, "second moments");
    QN_TRY(qn_moment_init(&moment, QN_MOMENT_SYMMETRIC, h, err));
    qn_status status = qn_moment_add(&moment, x, x, n_tokens, m->ctx, err);
    if (status == QN_OK) qn_moment_mean(&moment, loss->head_hessian);
    qn_moment_release(&moment);
    if (status == QN_OK) status = feedback_diagonal(m, loss->head_hessian, h, &d, err);
    if (status == QN_OK) status = alloc_sensitivities(loss, entry, err);
    if (status == QN_OK) status = add_sensitivities(m, entry, d, loss->fisher.output[entry], err);
    free(d);
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

/* What the embedding's rows cost as vectors that are looked up. */
static qn_status add_lookups(measuring *m, const qn_sequences *sequences, qn_error *err) {
    qni_loss_model *loss = m->loss;
    const int64_t entry = qn_layout_find(loss->layout, QN_TENSOR_EMBED, -1);
    const qn_layout_entry *e = &loss->layout->entries[entry];
    const int64_t n_tokens = sequences->starts[sequences->n];
    double *gradient = qni_alloc_array(e->cols, sizeof *gradient);
    float *frequency = qni_alloc_array(e->rows, sizeof *frequency);
    loss->token_frequency = qni_alloc_array(e->rows, sizeof(double));
    qn_status status =
        gradient && frequency && loss->token_frequency ? QN_OK : qni_fail_nomem(err, "frequencies");
    if (status == QN_OK && !loss->rows[entry]) status = alloc_sensitivities(loss, entry, err);
    if (status == QN_OK) {
        for (int64_t t = 0; t < n_tokens; t++)
            loss->token_frequency[sequences->ids[t]] += 1.0 / (double)n_tokens;
        for (int64_t v = 0; v < e->rows; v++) frequency[v] = (float)loss->token_frequency[v];
        for (int64_t j = 0; j < e->cols; j++) gradient[j] = (double)loss->fisher.lookup_gradient[j];
        status = add_sensitivities(m, entry, gradient, frequency, err);
    }
    free(gradient);
    free(frequency);
    return status;
}

static qn_status measure(measuring *m, const qn_sequences *sequences, const qn_sequences *fisher_sequences,
                         qn_error *err) {
    qni_loss_model *loss = m->loss;
    const qn_fisher_options options = {.compute = m->options->compute, .seed = m->options->seed};
    loss->columns = qni_alloc_array(loss->layout->n, sizeof *loss->columns);
    loss->rows = qni_alloc_array(loss->layout->n, sizeof *loss->rows);
    if (!loss->columns || !loss->rows) return qni_fail_nomem(err, "sensitivities");
    QN_TRY(qn_fisher_measure(m->model, fisher_sequences, &options, m->ctx, &loss->fisher, err));
    QN_TRY(walk(m, sequences, err));
    return add_lookups(m, sequences, err);
}

qn_status qni_loss_model_measure(const qn_model *model, const qn_sequences *sequences,
                                 const qn_sequences *fisher_sequences, const qni_loss_model_options *options,
                                 const qn_context *ctx, qni_loss_model *out, qn_error *err) {
    qni_loss_model loss = {.layout = qn_checkpoint_layout(qn_model_checkpoint(model))};
    measuring m = {.model = model, .options = options, .ctx = ctx, .loss = &loss};
    const qn_status status = measure(&m, sequences, fisher_sequences, err);
    if (status == QN_OK) {
        *out = loss;
    } else {
        qni_loss_model_release(&loss);
    }
    return status;
}

void qni_loss_model_release(qni_loss_model *loss) {
    for (int64_t i = 0; loss->columns && loss->rows && i < loss->layout->n; i++) {
        free(loss->columns[i]);
        free(loss->rows[i]);
    }
    free(loss->columns);
    free(loss->rows);
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
