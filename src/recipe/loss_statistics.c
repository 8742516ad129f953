/* The loss model from a file of statistics (quern/fit/statistics.h): what a walk would measure, measured earlier. */
#include "base/alloc.h"
#include "recipe/loss_lines.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

typedef struct reading {
    const qn_model *model;
    const qn_statistics *statistics;
    const char *path;
    qni_loss_model *loss;
    qni_loss_lines lines;
} reading;

static qn_status fail_missing(const reading *r, qn_statistic statistic, int64_t entry, qn_error *err) {
    return qn_fail(
        err, QN_E_ARGUMENT,
        "%s: no %s of %s; a plan needs second moments in full and Fisher diagonals: measure them with "
        "`quern calibrate` without --diagonal and without --fisher-tokens 0",
        r->path, qn_statistic_name(statistic), r->loss->layout->entries[entry].name);
}

/* *out [n], owned: a copy of a vector that must be there. */
static qn_status copy_vector(const reading *r, qn_statistic statistic, int64_t entry, int64_t n, float **out,
                             qn_error *err) {
    const float *from = qn_statistics_vector(r->statistics, statistic, entry);
    if (!from) return fail_missing(r, statistic, entry, err);
    *out = qni_alloc_array(n, sizeof **out);
    if (!*out) return qni_fail_nomem(err, "statistics");
    memcpy(*out, from, (size_t)n * sizeof **out);
    return QN_OK;
}

static qn_status read_hessian(const reading *r, int64_t entry, float *out, qn_error *err) {
    if (!qn_statistics_has_hessian(r->statistics, entry))
        return fail_missing(r, QN_STATISTIC_HESSIAN, entry, err);
    return qn_statistics_hessian(r->statistics, entry, out, err);
}

static bool is_linear(const reading *r, int64_t i) {
    const qn_layout_entry *e = &r->loss->layout->entries[i];
    return e->is_matrix && (e->kind != QN_TENSOR_EMBED || qn_model_config(r->model)->tied);
}

static qn_status read_vectors(reading *r, qn_error *err) {
    const qn_layout *layout = r->loss->layout;
    const int64_t embed = qn_layout_find(layout, QN_TENSOR_EMBED, -1);
    const qn_layout_entry *e = &layout->entries[embed];
    qn_fisher *fisher = &r->loss->fisher;
    fisher->n = layout->n;
    fisher->output = qni_alloc_array(layout->n, sizeof *fisher->output);
    r->loss->matrices = qni_alloc_array(layout->n, sizeof *r->loss->matrices);
    if (!fisher->output || !r->loss->matrices) return qni_fail_nomem(err, "statistics");
    for (int64_t i = 0; i < layout->n; i++)
        if (is_linear(r, i))
            QN_TRY(copy_vector(r, QN_STATISTIC_OUTPUT_FISHER, i, layout->entries[i].rows, &fisher->output[i],
                               err));
    QN_TRY(copy_vector(r, QN_STATISTIC_LOOKUP_GRADIENT, embed, e->cols, &fisher->lookup_gradient, err));
    fisher->n_tokens = qn_statistics_info_of(r->statistics).n_fisher_tokens;
    return copy_vector(r, QN_STATISTIC_TOKEN_FREQUENCY, embed, e->rows, &r->loss->token_frequency, err);
}

static qn_status read_input(reading *r, int64_t entry, qn_error *err) {
    const int64_t cols = r->loss->layout->entries[entry].cols;
    float *hessian = NULL;
    QN_TRY(QNI_ALLOC(hessian, cols * cols, "second moments", err));
    qn_status status = read_hessian(r, entry, hessian, err);
    if (status == QN_OK) status = qni_loss_lines_add_input(&r->lines, entry, hessian, err);
    free(hessian);
    return status;
}

static qn_status read_all(reading *r, qn_error *err) {
    const qn_layout *layout = r->loss->layout;
    const int64_t h = qn_model_config(r->model)->hidden_size;
    const int64_t embed = qn_layout_find(layout, QN_TENSOR_EMBED, -1);
    const int64_t head = qn_layout_find(layout, QN_TENSOR_HEAD, -1);
    QN_TRY(read_vectors(r, err));
    QN_TRY(qni_loss_lines_open(&r->lines, err));
    for (int64_t l = 0; l < qn_model_config(r->model)->n_layers; l++)
        for (int64_t i = 0; i < layout->n; i++)
            if (layout->entries[i].is_matrix && layout->entries[i].layer == l &&
                qn_statistics_shared_input(layout, i) == i)
                QN_TRY(read_input(r, i, err));
    QN_TRY(QNI_ALLOC(r->loss->head_hessian, h * h, "second moments", err));
    QN_TRY(read_hessian(r, head >= 0 ? head : embed, r->loss->head_hessian, err));
    return qni_loss_lines_add_tables(&r->lines, err);
}

qn_status qni_loss_model_read(const qn_model *model, const qn_statistics *statistics, const char *path,
                              const qni_loss_model_options *options, const qn_context *ctx,
                              qni_loss_model *out, qn_error *err) {
    qni_loss_model loss = {.layout = qn_checkpoint_layout(qn_model_checkpoint(model))};
    reading r = {.model = model,
                 .statistics = statistics,
                 .path = path,
                 .loss = &loss,
                 .lines = {.model = model,
                           .options = options,
                           .ctx = ctx,
                           .loss = &loss,
                           .n_tokens = qn_statistics_info_of(statistics).n_tokens}};
    const qn_status status = read_all(&r, err);
    qni_loss_lines_close(&r.lines);
    if (status == QN_OK) {
        *out = loss;
    } else {
        qni_loss_model_release(&loss);
    }
    return status;
}
