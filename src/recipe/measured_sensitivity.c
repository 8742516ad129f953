#include "recipe/measured_sensitivity.h"

#include "base/alloc.h"
#include "quern/model/compare.h"
#include "tensor/ops.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static const float k_amplitude = 0.5f; /* of the change, in what the fit leaves */
static const double k_largest_factor = 16.0;

typedef struct change {
    const qn_layout_entry *entry;
    float *w;       /* owned [rows, cols]: the changed matrix */
    float *change;  /* owned [rows, cols]: the difference */
    float *product; /* owned [rows, cols]: of it with H */
} change;

static void release(change *c) {
    free(c->w);
    free(c->change);
    free(c->product);
}

static qn_status fit_plane(const qni_sensitivity_job *job, const change *c, const qn_context *ctx,
                           qn_error *err) {
    const qn_band_shape shape = {.rows = c->entry->rows,
                                 .cols = c->entry->cols,
                                 .axis = QN_AXIS_ROWS,
                                 .n_bands = 1,
                                 .bands = {{job->codec.code, 1, job->codec.group_size, false}}};
    qn_hessian_fit_options fit = *job->fit;
    qn_banded banded = {0};
    fit.method = QN_HESSIAN_FEEDBACK;
    QN_TRY(qn_hessian_fit(c->w, job->metric, &shape, &fit, ctx, &banded, NULL, err));
    qn_banded_decode(&banded, c->change);
    qn_banded_release(&banded);
    return QN_OK;
}

/* c->w and c->change. */
static qn_status make_change(const qni_sensitivity_job *job, const qni_probe *probe, const qn_context *ctx,
                             change *c, qn_error *err) {
    const int64_t n = c->entry->rows * c->entry->cols;
    QN_TRY(QNI_ALLOC(c->w, n, "a changed matrix", err));
    QN_TRY(QNI_ALLOC(c->change, n, "a changed matrix", err));
    QN_TRY(QNI_ALLOC(c->product, n, "a changed matrix", err));
    qn_weight_decode_rows(qn_model_weight(probe->teacher, job->entry), 0, c->entry->rows, c->w);
    QN_TRY(fit_plane(job, c, ctx, err));
    for (int64_t k = 0; k < n; k++) {
        c->change[k] = k_amplitude * (c->change[k] - c->w[k]);
        c->w[k] += c->change[k];
    }
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- predicted */

static qn_status predict_linear(const qni_sensitivity_job *job, const qn_context *ctx, const change *c,
                                double *loss, qn_error *err) {
    const int64_t rows = c->entry->rows, cols = c->entry->cols;
    const qni_gemm_args args = {.m = rows,
                                .n = cols,
                                .k = cols,
                                .a = c->change,
                                .lda = cols,
                                .b = job->hessian,
                                .ldb = cols,
                                .c = c->product,
                                .ldc = cols};
    qn_ops *ops = NULL;
    QN_TRY(qni_ops_open(&ops, err));
    const qn_status status = ops->gemm(ops, &args, qn_context_threads(ctx), err);
    qni_ops_close(ops);
    for (int64_t i = 0; i < rows && status == QN_OK; i++) {
        double sum = 0.0;
        for (int64_t k = i * cols; k < (i + 1) * cols; k++)
            sum += (double)c->product[k] * (double)c->change[k];
        *loss += 0.5 * (double)job->fisher[i] * sum;
    }
    return status;
}

static double predict_lookups(const qni_sensitivity_job *job, const change *c) {
    const int64_t cols = c->entry->cols;
    double loss = 0.0;
    for (int64_t v = 0; v < c->entry->rows; v++) {
        const float *row = c->change + v * cols;
        double sum = 0.0;
        for (int64_t j = 0; j < cols; j++)
            sum += (double)job->lookup_gradient[j] * (double)row[j] * (double)row[j];
        loss += 0.5 * (double)job->frequency[v] * sum;
    }
    return loss;
}

/* ------------------------------------------------------------------------------------------- measured */

/* Embedding or head: the whole walk, or none of it. */
static qn_status diverge_at_table(const qni_probe *p, qn_tensor_kind kind, double *kl, qn_error *err) {
    const qn_walk_options options = {.compute = QN_COMPUTE_F32};
    const int64_t n = p->n_tokens * qn_model_config(p->student)->hidden_size;
    float *hidden = NULL;
    QN_TRY(QNI_ALLOC(hidden, n, "hidden states", err));
    qn_status status = QN_OK;
    if (kind == QN_TENSOR_EMBED)
        status = qn_walk(p->student, &p->sequences, &options, p->ctx, hidden, NULL, err);
    else
        memcpy(hidden, p->teacher_hidden, (size_t)n * sizeof *hidden);
    if (status == QN_OK)
        status = qn_head_kl(p->teacher, p->teacher_hidden, p->student, hidden, p->n_tokens, QN_COMPUTE_F32,
                            p->ctx, kl, err);
    free(hidden);
    return status;
}

static qn_status diverge(const qni_sensitivity_job *job, qni_probe *probe, const change *c, double *kl,
                         qn_error *err) {
    const qn_layout_entry *e = c->entry;
    const qn_weight weight = {
        .kind = QN_WEIGHT_DENSE,
        .dense = {.data = c->w, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {e->rows, e->cols}}};
    QN_TRY(qn_check_cancelled(probe->ctx, err));
    QN_TRY(qn_model_set_weight(probe->student, job->entry, &weight, err));
    const qn_status status =
        e->layer < 0 ? diverge_at_table(probe, e->kind, kl, err) : qni_probe_kl(probe, e->layer, kl, err);
    (void)!qn_model_set_weight(probe->student, job->entry, NULL, NULL); /* its own: cannot fail */
    return status;
}

static qn_status measure(const qni_sensitivity_job *job, qni_probe *probe, const qn_context *ctx, change *c,
                         double *factor, qn_error *err) {
    double predicted = 0.0, kl = 0.0;
    QN_TRY(make_change(job, probe, ctx, c, err));
    if (job->hessian) QN_TRY(predict_linear(job, ctx, c, &predicted, err));
    if (job->lookup_gradient) predicted += predict_lookups(job, c);
    *factor = 1.0;
    if (!(predicted > 0.0)) return QN_OK;
    QN_TRY(diverge(job, probe, c, &kl, err));
    *factor = kl / predicted;
    if (*factor > k_largest_factor) *factor = k_largest_factor;
    if (*factor < 1.0 / k_largest_factor) *factor = 1.0 / k_largest_factor;
    return QN_OK;
}

qn_status qni_sensitivity_measure(const qni_sensitivity_job *job, qni_probe *probe, const qn_context *ctx,
                                  double *factor, qn_error *err) {
    change c = {.entry = &qn_checkpoint_layout(qn_model_checkpoint(probe->teacher))->entries[job->entry]};
    const qn_status status = measure(job, probe, ctx, &c, factor, err);
    release(&c);
    return status;
}
