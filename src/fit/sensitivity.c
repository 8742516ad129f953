#include "quern/fit/rowmix.h"

#include "base/alloc.h"
#include "fit/each_row.h"
#include "fit/group_fit.h"
#include "fit/rowmix_options.h"

#include <float.h>
#include <stdlib.h>

#include "base/banned.h"

typedef struct tensor_pass {
    const qn_rowmix_options *options;
    const float *h;
    qn_row_errors *errors;
    double *energies; /* [rows]: added up in row order afterwards */
} tensor_pass;

static float hold(double error) {
    return error < (double)FLT_MAX ? (float)error : FLT_MAX;
}

static void measure_row(void *user, int64_t row, const float *w, qni_row_tools *tools) {
    const tensor_pass *pass = user;
    const qn_rowmix_options *o = pass->options;
    int64_t cols = tools->scratch.cols;
    qn_row_errors e;
    pass->energies[row] = qni_sum_squares(w, cols);
    e.native = hold(qn_fit_row(o->native, o->rule, w, NULL, cols, &tools->scratch, NULL, NULL));
    e.rescue = hold(qn_fit_row(o->rescue, o->rule, w, NULL, cols, &tools->scratch, NULL, NULL));
    e.native_weighted = e.native;
    e.rescue_weighted = e.rescue;
    if (pass->h) {
        e.native_weighted =
            hold(qn_fit_row(o->native, o->rule, w, pass->h, cols, &tools->scratch, NULL, NULL));
        e.rescue_weighted =
            hold(qn_fit_row(o->rescue, o->rule, w, pass->h, cols, &tools->scratch, NULL, NULL));
    }
    pass->errors[row] = e;
}

/* Fills *tensor, whose entry, rows and cols are set; what it owns is released by the caller, also on failure.
 */
static qn_status measure_tensor(const qn_weight *weight, const char *name, const qn_rowmix_options *options,
                                const qn_context *ctx, qn_sensitivity_tensor *tensor, qn_error *err) {
    tensor->native = options->native;
    tensor->extra_bytes =
        qn_codec_row_bytes(options->rescue, tensor->cols) - qn_codec_row_bytes(options->native, tensor->cols);
    tensor->errors = qni_alloc_array(tensor->rows, sizeof *tensor->errors);
    double *energies = qni_alloc_array(tensor->rows, sizeof *energies);
    if (!tensor->errors || !energies) {
        free(energies);
        return qni_fail_nomem(err, "row sensitivities");
    }
    tensor_pass pass = {options, qn_second_moments_of(options->moments, tensor->entry), tensor->errors,
                        energies};
    qn_status status = qni_each_row(weight, name, ctx, measure_row, &pass, err);
    for (int64_t row = 0; row < tensor->rows; row++) tensor->energy += energies[row];
    free(energies);
    return status;
}

static int64_t total_rows(const qn_layout *layout) {
    int64_t rows = 0;
    for (int64_t i = 0; i < layout->n; i++)
        rows += layout->entries[i].is_matrix ? layout->entries[i].rows : 0;
    return rows;
}

static qn_status measure_all(const qn_checkpoint *checkpoint, const qn_rowmix_options *options,
                             const qn_context *ctx, qn_sensitivity *s, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(checkpoint);
    s->tensors = qni_alloc_array(layout->n_matrices, sizeof *s->tensors);
    if (!s->tensors) return qni_fail_nomem(err, "row sensitivities");
    int64_t done = 0, total = total_rows(layout);
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *entry = &layout->entries[i];
        if (!entry->is_matrix) continue;
        QN_TRY(qn_check_cancelled(ctx, err));
        qn_report_progress(ctx, "sensitivity: rows", (uint64_t)done, (uint64_t)total);
        qn_sensitivity_tensor *tensor = &s->tensors[s->n++];
        *tensor = (qn_sensitivity_tensor){
            .entry = i, .rows = entry->rows, .cols = entry->cols, .token_share = qn_row_token_share(entry)};
        QN_TRY(measure_tensor(qn_checkpoint_weight(checkpoint, i), entry->name, options, ctx, tensor, err));
        done += entry->rows;
    }
    qn_report_progress(ctx, "sensitivity: rows", (uint64_t)done, (uint64_t)total);
    return QN_OK;
}

qn_status qn_sensitivity_measure(const qn_checkpoint *checkpoint, const qn_rowmix_options *options,
                                 const qn_context *ctx, qn_sensitivity *out, qn_error *err) {
    QN_TRY(qni_rowmix_check_options(options, err));
    qn_sensitivity s = {.weighted = options->moments != NULL};
    qn_status status = measure_all(checkpoint, options, ctx, &s, err);
    if (status != QN_OK) {
        qn_sensitivity_release(&s);
        return status;
    }
    *out = s;
    return QN_OK;
}

void qn_sensitivity_release(qn_sensitivity *sensitivity) {
    for (int64_t i = 0; i < sensitivity->n; i++) free(sensitivity->tensors[i].errors);
    free(sensitivity->tensors);
    *sensitivity = (qn_sensitivity){0};
}

double qn_row_token_share(const qn_layout_entry *entry) {
    bool per_token = entry->kind == QN_TENSOR_EMBED || entry->kind == QN_TENSOR_HEAD;
    return per_token && entry->rows > 0 ? 1.0 / (double)entry->rows : 1.0;
}

double qn_sensitivity_gain(const qn_sensitivity *sensitivity, int64_t tensor, int64_t row) {
    const qn_row_errors *e = &sensitivity->tensors[tensor].errors[row];
    return sensitivity->weighted ? (double)e->native_weighted - (double)e->rescue_weighted
                                 : (double)e->native - (double)e->rescue;
}
