#include "quern/model/window_gradient.h"

#include "base/alloc.h"
#include "base/clones.h"
#include "model/gradient_walk.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* One token's loss; turns y [h], the output, into the gradient unless it is not wanted. */
QNI_CLONES
static double token_loss(const float *y, const float *target, const qn_window_options *o, int64_t h,
                         float *gradient) {
    const double delta = o->huber_delta > 0 ? o->huber_delta : (double)INFINITY;
    double sum = 0.0;
    for (int64_t j = 0; j < h; j++) {
        const double e = (double)y[j] - (double)target[j], size = fabs(e);
        const double weight = o->channel_weights ? (double)o->channel_weights[j] : 1.0;
        const bool is_far = size > delta;
        sum += weight * (is_far ? delta * (2.0 * size - delta) : e * e);
        if (gradient) gradient[j] = (float)(o->scale * weight * 2.0 * (is_far ? copysign(delta, e) : e));
    }
    return sum;
}

/* D may be NULL. Tokens are added up in order, whatever the number of threads. */
static qn_status stream_loss(const qni_gradient_walk *walk, const float *last, const float *target,
                             const qn_window_options *options, float *d, double *loss, qn_error *err) {
    const int64_t h = walk->pass.model->config->hidden_size, n = walk->plan.n_tokens;
    double *losses = NULL, sum = 0.0;
    QN_TRY(QNI_ALLOC(losses, n, "losses", err));
#pragma omp parallel for schedule(static) num_threads(walk->pass.n_threads)
    for (int64_t t = 0; t < n; t++)
        losses[t] = token_loss(last + t * h, target + t * h, options, h, d ? d + t * h : NULL);
    for (int64_t t = 0; t < n; t++) sum += losses[t];
    free(losses);
    if (!isfinite(sum))
        return qn_fail(err, QN_E_VALUE, "the distance of blocks %lld to %lld from their target is %g",
                       (long long)walk->first_layer, (long long)(walk->first_layer + walk->n_layers - 1),
                       sum);
    *loss = sum;
    return QN_OK;
}

static qn_status run(qni_gradient_walk *walk, const float *stream, const float *target,
                     const qn_window_options *options, double *loss, qn_error *err) {
    float *last, *d;
    memcpy(walk->streams, stream, (size_t)walk->stream_floats * sizeof *stream);
    QN_TRY(qni_gradient_walk_there(walk, &last, &d, err));
    QN_TRY(stream_loss(walk, last, target, options, d, loss, err));
    return d ? qni_gradient_walk_back(walk, d, err) : QN_OK;
}

qn_status qn_window_gradient(const qn_model *model, const qn_sequences *sequences, const float *stream,
                             const float *target, const qn_window_options *options, const qn_context *ctx,
                             qn_gradients *gradients, double *loss, qn_error *err) {
    const int64_t n_layers = model->config->n_layers;
    const qni_gradient_walk_options walk_options = {.first_layer = options->first_layer,
                                                    .n_layers = options->n_layers,
                                                    .compute = options->compute,
                                                    .with_gradient = gradients != NULL,
                                                    .without_input_gradient = true,
                                                    .keep_bytes = options->keep_bytes};
    qni_gradient_walk walk = {0};
    if (options->first_layer < 0 || options->n_layers < 1 ||
        options->n_layers > n_layers - options->first_layer)
        return qn_fail(err, QN_E_ARGUMENT, "a window of %lld blocks from block %lld in a model of %lld",
                       (long long)options->n_layers, (long long)options->first_layer, (long long)n_layers);
    qn_status status = qni_gradient_walk_open(&walk, model, sequences, &walk_options, gradients, ctx, err);
    if (status == QN_OK) status = run(&walk, stream, target, options, loss, err);
    qni_gradient_walk_release(&walk);
    return status;
}
