/* The gradient of an input norm's gain, taken from those of the matrices behind it.
 *
 * q, k and v read u = g * x^, and dW = dy^T u. So with du, the gradient of u,
 *
 *   sum over q, k, v and rows i of W_ij dW_ij = sum_t u_tj du_tj = g_j dg_j
 *
 * and du is not needed, three products of a block's backward less, where nobody asks for the gradient in front of the block. */
#ifndef QUERN_SRC_MODEL_GAIN_GRADIENT_H
#define QUERN_SRC_MODEL_GAIN_GRADIENT_H

#include "model/backward.h"

typedef struct qni_gain_gradient {
    const qni_backward *backward;
    const qni_layer *layer;
    bool is_used;   /* else the block must be walked with its du */
    float *gain;    /* owned [h]; NULL: no gradient of it is wanted */
    double *before; /* owned [h]: the sums of what the gradients held before */
} qni_gain_gradient;

/* Decides whether LAYER can do without du: the gradients of its q, k and v are wanted, or nothing of its input norm is, and no gain is
 * so small that the quotient would be rounding. To be closed in every case. */
QN_NODISCARD qn_status qni_gain_gradient_open(qni_gain_gradient *g, const qni_backward *backward,
                                              const qni_layer *layer, qn_error *err);

/* After the block's backward: adds dg. */
QN_NODISCARD qn_status qni_gain_gradient_finish(const qni_gain_gradient *g, qn_error *err);

void qni_gain_gradient_close(qni_gain_gradient *g);

#endif
