/* Gradients of linear layers and norms, and the work space of a walk backwards. */
#include "model/backward.h"

#include "base/alloc.h"

#include <stdlib.h>

#include "base/banned.h"

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
        .w = w->f32,
        .dx = dx,
        .dw = x ? backward->gradients[index] : NULL,
        .dbias = x && bias_index >= 0 ? backward->gradients[bias_index] : NULL,
    };
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
                                             .dw = backward->gradients[index]};
    const qn_status status = pass->ops->rms_norm_backward(pass->ops, &args, pass->n_threads, err);
    free(w);
    return status;
}
