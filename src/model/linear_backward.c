/* Gradients of linear layers and norms, and the work space of a walk backwards. */
#include "model/backward.h"

#include "base/alloc.h"

#include <stdlib.h>

#include "base/banned.h"

float *qni_wanted_gradient(const qni_backward *backward, int64_t index) {
    return backward->gradients && index >= 0 ? backward->gradients->per_entry[index] : NULL;
}

float *qni_gradient_to_add(const qni_backward *backward, int64_t index) {
    float *gradient = qni_wanted_gradient(backward, index);
    if (gradient) qni_gradients_settle(backward->gradients, backward->pass->model->layout, index);
    return gradient;
}

/* Whether a product may set the gradient of entry INDEX; if so, it is set. */
static bool is_to_set(const qni_backward *backward, int64_t index) {
    const bool is_renewed = qni_wanted_gradient(backward, index) && backward->gradients->is_renewed[index];
    if (is_renewed) backward->gradients->is_renewed[index] = false;
    return is_renewed;
}

qn_status qni_show_gradient(const qni_backward *backward, int64_t index, const float *dy, int64_t first_token,
                            int64_t n_tokens, qn_error *err) {
    const qn_gradient_observer *observer = backward->observer;
    const qn_model *model = backward->pass->model;
    const qn_layout_entry *entry = &model->layout->entries[index];
    if (!observer || !observer->on_linear_output_gradient) return QN_OK;
    return observer->on_linear_output_gradient(observer->user, index, dy, first_token, n_tokens,
                                               index == model->embed ? entry->cols : entry->rows, err);
}

/* The matrix as dense f32: in place, or decoded. */
static const float *dense_values(const qni_backward *backward, int64_t index) {
    const qni_pass *pass = backward->pass;
    const qni_matrix *w = &pass->matrices[index];
    if (w->f32) return w->f32;
#pragma omp parallel for schedule(static) num_threads(pass->n_threads)
    for (int64_t r = 0; r < w->rows; r++)
        qn_weight_decode_rows(pass->model->weights[index], r, 1, backward->decoded + r * w->cols);
    return backward->decoded;
}

qn_status qni_linear_backward(const qni_backward *backward, int64_t index, int64_t bias_index,
                              const float *dy, const float *x, int64_t n_tokens, bool add_dx, float *dx,
                              qn_error *err) {
    const qni_pass *pass = backward->pass;
    const qni_matrix *w = &pass->matrices[index];
    const qni_linear_backward_args args = {
        .bf16 = pass->bf16,
        .add_dx = add_dx,
        .m = n_tokens,
        .n = w->rows,
        .k = w->cols,
        .dy = dy,
        .x = x,
        .w = dx ? dense_values(backward, index) : NULL,
        .signs = w->signs,
        .dx = dx,
        .dw = x ? qni_wanted_gradient(backward, index) : NULL,
        .set_dw = x && is_to_set(backward, index),
        .dbias = x ? qni_gradient_to_add(backward, bias_index) : NULL,
    };
    if (!args.dx && !args.dw && !args.dbias) return QN_OK;
    return pass->ops->linear_backward(pass->ops, &args, pass->n_threads, err);
}

qn_status qni_norm_backward(const qni_backward *backward, int64_t index, const float *x, const float *dy,
                            int64_t rows, int64_t n, bool add_dx, float *dx, qn_error *err) {
    const qni_pass *pass = backward->pass;
    float *w = NULL;
    QN_TRY(qni_load_vector(pass->model, index, &w, err));
    const qni_rms_norm_backward_args args = {.x = x,
                                             .w = w,
                                             .dy = dy,
                                             .eps = pass->model->config->rms_norm_eps,
                                             .rows = rows,
                                             .n = n,
                                             .add_dx = add_dx,
                                             .dx = dx,
                                             .dw = qni_gradient_to_add(backward, index)};
    const qn_status status = pass->ops->rms_norm_backward(pass->ops, &args, pass->n_threads, err);
    free(w);
    return status;
}
