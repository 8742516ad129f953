/* AdamW with a clip of the gradient's global norm.
 *
 *   c = min(1, clip / (||g|| + 1e-6)),  ||g|| over all groups      (no clip: c = 1)
 *   g' = c g;   w <- w (1 - lr wd);   m <- m + (1 - b1)(g' - m);   v <- b2 v + (1 - b2) g'^2
 *   w <- w - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
 *
 * with lr the step's rate times the group's lr_scale and t the step from 1. The order of operations is that
 * of torch.optim.AdamW and torch.nn.utils.clip_grad_norm_ in f32, so that both follow the same path up to
 * single roundings. Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
 *
 * Deterministic: the same bytes for any number of threads and any instruction set; the norm is summed in
 * double over fixed tiles. Cost: one pass over the gradients and one over all four arrays, at the speed of
 * memory. */
#ifndef QUERN_FIT_ADAMW_H
#define QUERN_FIT_ADAMW_H

#include "quern/base/context.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_adamw_options {
    double beta1, beta2; /* in [0, 1) */
    double eps;
    double clip; /* largest norm; 0: no clip */
} qn_adamw_options;

/* 0.9, 0.95, 1e-8, clip at 1. */
QN_API qn_adamw_options qn_adamw_options_default(void);

/* QN_E_ARGUMENT naming the option that makes no sense. */
QN_NODISCARD QN_API qn_status qn_adamw_check(const qn_adamw_options *options, qn_error *err);

/* Parameters that share a rate and a decay; all arrays [n], borrowed, f32. m and v start as zeros. */
typedef struct qn_adamw_group {
    const char *name; /* for messages */
    float *param;
    const float *grad;
    float *m, *v;
    int64_t n;
    double lr_scale;
    double weight_decay;
} qn_adamw_group;

/* One step, STEP from 1, at learning rate LR. *norm (may be NULL) receives ||g|| before the clip. A gradient
 * that is NaN or infinite is QN_E_VALUE naming the first such group and element, and nothing is changed. */
QN_NODISCARD QN_API qn_status qn_adamw_step(const qn_adamw_group *groups, int64_t n_groups,
                                            const qn_adamw_options *options, double lr, int64_t step,
                                            const qn_context *ctx, double *norm, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
