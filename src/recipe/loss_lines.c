#include "recipe/loss_lines.h"

#include "base/alloc.h"
#include "quern/fit/moments.h"
#include "recipe/code_errors.h"
#include "recipe/measured_sensitivity.h"
#include "recipe/rotation.h"

#include <stdlib.h>

#include "base/banned.h"

enum { ROWS_AT_A_TIME = 256 };

/* What a weight costs: factor * of_row_i * d_j * w_ij^2. */
typedef struct prices {
    const double *d;     /* [cols] */
    const float *of_row; /* [rows] */
    double factor;
} prices;

qn_status qni_loss_lines_open(qni_loss_lines *l, qn_error *err) {
    const qni_loss_model_options *o = l->options;
    if (!o->probed) return QN_OK;
    return qni_probe_open(l->model, o->probed, o->probe_sequences, o->compute, l->ctx, &l->probe, err);
}

void qni_loss_lines_close(qni_loss_lines *l) {
    qni_probe_close(&l->probe);
}

static const qn_layout_entry *entry_of(const qni_loss_lines *l, int64_t entry) {
    return &l->loss->layout->entries[entry];
}

static qn_status add_sensitivities(const qni_loss_lines *l, int64_t entry, const prices *p,
                                   qni_line_losses *out, qn_error *err) {
    const qn_layout_entry *e = entry_of(l, entry);
    float *w = qni_alloc_array(ROWS_AT_A_TIME * e->cols, sizeof *w);
    if (!w) return qni_fail_nomem(err, "rows of a matrix");
    for (int64_t first = 0; first < e->rows; first += ROWS_AT_A_TIME) {
        const int64_t n = e->rows - first < ROWS_AT_A_TIME ? e->rows - first : ROWS_AT_A_TIME;
        qn_weight_decode_rows(qn_model_weight(l->model, entry), first, n, w);
        if (out->hadamard) qn_hadamard_rows(w, n, e->cols, out->hadamard, false);
        for (int64_t i = 0; i < n; i++) {
            const float *row = w + i * e->cols;
            const double f = p->factor * (double)p->of_row[first + i];
            double sum = 0.0;
            for (int64_t j = 0; j < e->cols; j++) {
                const double cost = f * p->d[j] * (double)row[j] * (double)row[j];
                out->columns[j] += cost;
                sum += cost;
            }
            out->rows[first + i] += sum;
        }
    }
    free(w);
    return QN_OK;
}

/* One more basis of a matrix, without prices yet. */
static qn_status add_basis(const qni_loss_lines *l, int64_t entry, int32_t hadamard, qni_line_losses **out,
                           qn_error *err) {
    const qn_layout_entry *e = entry_of(l, entry);
    qni_matrix_losses *matrix = &l->loss->matrices[entry];
    qni_line_losses *basis = &matrix->bases[matrix->n_bases++];
    basis->hadamard = hadamard;
    qni_code_errors_normal(&l->options->codecs, basis->relative_error);
    basis->columns = qni_alloc_array(e->cols, sizeof *basis->columns);
    basis->rows = qni_alloc_array(e->rows, sizeof *basis->rows);
    *out = basis;
    return basis->columns && basis->rows ? QN_OK : qni_fail_nomem(err, "sensitivities");
}

/* D of H [cols, cols]. */
static qn_status feedback_diagonal(const qni_loss_lines *l, const float *hessian, int64_t cols, double **out,
                                   qn_error *err) {
    const qn_hessian_fit_options *fit = &l->options->fit;
    double *d = qni_alloc_array(cols, sizeof *d);
    if (!d) return qni_fail_nomem(err, "a diagonal");
    const qn_status status =
        qn_feedback_diagonal(hessian, cols, fit->damping, fit->activation_order, l->ctx, d, err);
    if (status == QN_OK) {
        *out = d;
    } else {
        free(d);
    }
    return status;
}

static qn_status measure_errors(const qni_loss_lines *l, int64_t entry, const float *hessian, const double *d,
                                qni_line_losses *basis, qn_error *err) {
    const qn_layout_entry *e = entry_of(l, entry);
    if (!l->options->measures_errors) return QN_OK;
    const qni_code_errors_job job = {.weight = qn_model_weight(l->model, entry),
                                     .name = e->name,
                                     .hadamard = basis->hadamard,
                                     .axis = e->layer < 0 ? QN_AXIS_ROWS : l->options->axis,
                                     .hessian = hessian,
                                     .d = d,
                                     .codecs = &l->options->codecs,
                                     .fit = &l->options->fit};
    return qni_code_errors_measure(&job, l->ctx, basis->relative_error, err);
}

/* METRIC: of the fit; HESSIAN: of the inputs, NULL where there are none. */
static qn_status probe_matrix(qni_loss_lines *l, int64_t entry, const float *metric, const float *hessian,
                              double *factor, qn_error *err) {
    const bool is_embedding = entry_of(l, entry)->kind == QN_TENSOR_EMBED;
    const qni_sensitivity_job job = {.entry = entry,
                                     .metric = metric,
                                     .hessian = hessian,
                                     .fisher = l->loss->fisher.output[entry],
                                     .lookup_gradient = is_embedding ? l->loss->fisher.lookup_gradient : NULL,
                                     .frequency = l->loss->token_frequency,
                                     .codec = l->options->codecs.of[QNI_BAND_SINGLE],
                                     .fit = &l->options->fit};
    *factor = 1.0;
    return l->options->probed ? qni_sensitivity_measure(&job, &l->probe, l->ctx, factor, err) : QN_OK;
}

/* ------------------------------------------------------------------------------------------- layers */

static bool shares_input(const qni_loss_lines *l, int64_t i, int64_t entry) {
    const qn_layout_entry *e = entry_of(l, i);
    return e->is_matrix && e->layer >= 0 && qn_statistics_shared_input(l->loss->layout, i) == entry;
}

/* Every matrix of an input in the basis HADAMARD; HESSIAN is that of the inputs there. */
static qn_status add_bases(const qni_loss_lines *l, int64_t entry, int32_t hadamard, const float *hessian,
                           const double *factors, qn_error *err) {
    double *d = NULL;
    qn_status status = feedback_diagonal(l, hessian, entry_of(l, entry)->cols, &d, err);
    for (int64_t i = 0; i < l->loss->layout->n && status == QN_OK; i++) {
        const prices p = {.d = d, .of_row = l->loss->fisher.output[i], .factor = factors[i]};
        qni_line_losses *basis = NULL;
        if (!shares_input(l, i, entry)) continue;
        status = add_basis(l, i, hadamard, &basis, err);
        if (status == QN_OK) status = add_sensitivities(l, i, &p, basis, err);
        if (status == QN_OK) status = measure_errors(l, i, hessian, d, basis, err);
    }
    free(d);
    return status;
}

static qn_status probe_input(qni_loss_lines *l, int64_t entry, const float *hessian, double *factors,
                             qn_error *err) {
    for (; l->options->probed && l->block < entry_of(l, entry)->layer; l->block++)
        QN_TRY(qni_probe_pass(&l->probe, l->block, err));
    for (int64_t i = 0; i < l->loss->layout->n; i++)
        if (shares_input(l, i, entry)) QN_TRY(probe_matrix(l, i, hessian, hessian, &factors[i], err));
    return QN_OK;
}

static qn_status add_all_bases(const qni_loss_lines *l, int64_t entry, float *hessian, const double *factors,
                               qn_error *err) {
    const int64_t cols = entry_of(l, entry)->cols;
    const int32_t rotation = qni_rotation_of(l->options->hadamard, cols);
    if (rotation == 0 || l->options->rotation_is_open) QN_TRY(add_bases(l, entry, 0, hessian, factors, err));
    if (rotation == 0) return QN_OK;
    qni_rotate_metric(hessian, cols, rotation);
    return add_bases(l, entry, rotation, hessian, factors, err);
}

qn_status qni_loss_lines_add_input(qni_loss_lines *l, int64_t entry, float *hessian, qn_error *err) {
    double *factors = qni_alloc_array(l->loss->layout->n, sizeof *factors);
    if (!factors) return qni_fail_nomem(err, "factors");
    qn_moments_shrink(hessian, NULL, entry_of(l, entry)->cols, l->n_tokens, l->options->shrinkage);
    qn_status status = probe_input(l, entry, hessian, factors, err);
    if (status == QN_OK) status = add_all_bases(l, entry, hessian, factors, err);
    free(factors);
    return status;
}

/* ------------------------------------------------------------------------------------------- embedding and head */

/* What a table costs as the linear layer of the head. */
static qn_status add_head_rows(const qni_loss_lines *l, int64_t entry, double factor, qni_line_losses *basis,
                               qn_error *err) {
    prices p = {.of_row = l->loss->fisher.output[entry], .factor = factor};
    double *d = NULL;
    QN_TRY(feedback_diagonal(l, l->loss->head_hessian, entry_of(l, entry)->cols, &d, err));
    p.d = d;
    const qn_status status = add_sensitivities(l, entry, &p, basis, err);
    free(d);
    return status;
}

/* What the embedding's rows cost as vectors that are looked up. */
static qn_status add_lookups(const qni_loss_lines *l, int64_t entry, double factor, qni_line_losses *basis,
                             qn_error *err) {
    const int64_t cols = entry_of(l, entry)->cols;
    prices p = {.of_row = l->loss->token_frequency, .factor = factor};
    double *gradient = qni_alloc_array(cols, sizeof *gradient);
    if (!gradient) return qni_fail_nomem(err, "gradients");
    for (int64_t j = 0; j < cols; j++) gradient[j] = (double)l->loss->fisher.lookup_gradient[j];
    p.d = gradient;
    const qn_status status = add_sensitivities(l, entry, &p, basis, err);
    free(gradient);
    return status;
}

/* METRIC: the one its rows are fitted in. */
static qn_status add_table(qni_loss_lines *l, int64_t entry, bool is_head, const float *metric,
                           qn_error *err) {
    const qn_layout_entry *e = entry_of(l, entry);
    qni_line_losses *basis = NULL;
    double factor = 1.0, *d = NULL;
    QN_TRY(probe_matrix(l, entry, metric, is_head ? l->loss->head_hessian : NULL, &factor, err));
    QN_TRY(add_basis(l, entry, 0, &basis, err));
    if (is_head) QN_TRY(add_head_rows(l, entry, factor, basis, err));
    if (e->kind == QN_TENSOR_EMBED) QN_TRY(add_lookups(l, entry, factor, basis, err));
    QN_TRY(feedback_diagonal(l, metric, e->cols, &d, err));
    const qn_status status = measure_errors(l, entry, metric, d, basis, err);
    free(d);
    return status;
}

qn_status qni_loss_lines_add_tables(qni_loss_lines *l, qn_error *err) {
    const int64_t h = qn_model_config(l->model)->hidden_size;
    const int64_t embed = qn_layout_find(l->loss->layout, QN_TENSOR_EMBED, -1);
    const int64_t head = qn_layout_find(l->loss->layout, QN_TENSOR_HEAD, -1);
    float *metric = qni_alloc_array(h * h, sizeof *metric);
    if (!metric) return qni_fail_nomem(err, "second moments");
    qn_moments_shrink(l->loss->head_hessian, NULL, h, l->n_tokens, l->options->shrinkage);
    qni_loss_model_embedding_metric(l->loss, head < 0, metric);
    qn_status status = add_table(l, embed, head < 0, metric, err);
    if (status == QN_OK && head >= 0) status = add_table(l, head, true, l->loss->head_hessian, err);
    free(metric);
    return status;
}
