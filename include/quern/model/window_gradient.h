/* A window of consecutive blocks walked there and back: how far its output is from a target stream, and the exact gradients of
 * its parameters. What block-wise distillation minimises.
 *
 *   loss = sum_t sum_j w_j rho(y_tj - target_tj),   y = block_{l+n-1}( ... block_l(x))
 *   rho(e) = e^2                                    squared
 *   rho(e) = e^2 where |e| <= delta, else 2 delta |e| - delta^2     Huber: a few tokens with huge errors do not rule the sum
 *   w_j    1, or channel_weights: with the teacher's Fisher diagonal E[g_j^2] of the stream the loss is that of the head to
 *          second order
 *   gradients += scale * d loss / d parameter
 *
 * Memory: (n + 2) * T * h * 4 bytes for a window of n blocks, one block's activations, and the gradients; work space is kept in the
 * gradients for the next call, as in quern/model/gradient.h. The loss is summed in double. Deterministic: the same bytes for any
 * number of threads, given one ISA. */
#ifndef QUERN_MODEL_WINDOW_GRADIENT_H
#define QUERN_MODEL_WINDOW_GRADIENT_H

#include "quern/model/gradient.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_window_options {
    int64_t first_layer, n_layers;
    qn_compute compute;
    double huber_delta;           /* in units of the stream; 0: squared */
    const float *channel_weights; /* [h] borrowed, or NULL */
    double scale;                 /* of the gradients */
    int64_t keep_bytes;           /* as in qn_loss_options */
} qn_window_options;

/* STREAM and TARGET [T, h] in front of and behind the window; of SEQUENCES only the starts are read. GRADIENTS NULL: the loss alone;
 * else those of entries outside the window are not touched. *LOSS: the sum above. Errors: QN_E_ARGUMENT for a window outside the
 * model, QN_E_VALUE for a loss that is not finite. */
QN_NODISCARD QN_API qn_status qn_window_gradient(const qn_model *model, const qn_sequences *sequences,
                                                 const float *stream, const float *target,
                                                 const qn_window_options *options, const qn_context *ctx,
                                                 qn_gradients *gradients, double *loss, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
