#include "model/gain_gradient.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

/* Of the largest gain: quotients by less than this are left to the plain way. */
static const double k_least_gain = 1e-4;

static const qn_tensor_kind k_readers[] = {QN_TENSOR_Q, QN_TENSOR_K, QN_TENSOR_V};
enum { N_READERS = sizeof k_readers / sizeof *k_readers };

static int64_t width_of(const qni_gain_gradient *g) {
    return g->backward->pass->model->config->hidden_size;
}

/* sums[j] = sum of W_ij dW_ij over the rows of all readers, in order; what is still to be set counts as zero. */
static qn_status sum_products(const qni_gain_gradient *g, double *sums, qn_error *err) {
    const qn_model *model = g->backward->pass->model;
    const int64_t h = width_of(g);
    float *row = NULL;
    QN_TRY(QNI_ALLOC(row, h, "a row of a matrix", err));
    for (int64_t j = 0; j < h; j++) sums[j] = 0.0;
    for (int m = 0; m < N_READERS; m++) {
        const int64_t index = g->layer->tensor[k_readers[m]];
        const float *gradient = qni_wanted_gradient(g->backward, index);
        if (g->backward->gradients->is_renewed[index]) continue;
        for (int64_t i = 0; i < model->layout->entries[index].rows; i++) {
            qn_weight_decode_rows(model->weights[index], i, 1, row);
            for (int64_t j = 0; j < h; j++) sums[j] += (double)row[j] * (double)gradient[i * h + j];
        }
    }
    free(row);
    return QN_OK;
}

static bool are_large_enough(const float *gain, int64_t n) {
    double largest = 0.0, least = HUGE_VAL;
    for (int64_t j = 0; j < n; j++) {
        const double size = fabs((double)gain[j]);
        largest = size > largest ? size : largest;
        least = size < least ? size : least;
    }
    return least > k_least_gain * largest;
}

qn_status qni_gain_gradient_open(qni_gain_gradient *g, const qni_backward *backward, const qni_layer *layer,
                                 qn_error *err) {
    const int64_t norm = layer->tensor[QN_TENSOR_INPUT_NORM];
    *g = (qni_gain_gradient){.backward = backward, .layer = layer, .is_used = true};
    if (!qni_wanted_gradient(backward, norm)) return QN_OK;
    for (int m = 0; m < N_READERS; m++)
        g->is_used = g->is_used && qni_wanted_gradient(backward, layer->tensor[k_readers[m]]);
    if (!g->is_used) return QN_OK;
    QN_TRY(qni_load_vector(backward->pass->model, norm, &g->gain, err));
    g->is_used = are_large_enough(g->gain, width_of(g));
    if (!g->is_used) return QN_OK;
    QN_TRY(QNI_ALLOC(g->before, width_of(g), "sums of gradients", err));
    return sum_products(g, g->before, err);
}

qn_status qni_gain_gradient_finish(const qni_gain_gradient *g, qn_error *err) {
    if (!g->is_used || !g->gain) return QN_OK;
    float *gradient = qni_gradient_to_add(g->backward, g->layer->tensor[QN_TENSOR_INPUT_NORM]);
    const int64_t h = width_of(g);
    double *after = NULL;
    QN_TRY(QNI_ALLOC(after, h, "sums of gradients", err));
    const qn_status status = sum_products(g, after, err);
    for (int64_t j = 0; j < h && status == QN_OK; j++)
        gradient[j] += (float)((after[j] - g->before[j]) / (double)g->gain[j]);
    free(after);
    return status;
}

void qni_gain_gradient_close(qni_gain_gradient *g) {
    free(g->gain);
    free(g->before);
    *g = (qni_gain_gradient){0};
}
