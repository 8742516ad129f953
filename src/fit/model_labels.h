/* What a model itself predicts at each token: labels drawn from its softmax, and the Fisher diagonal of its head. */
#ifndef QUERN_SRC_FIT_MODEL_LABELS_H
#define QUERN_SRC_FIT_MODEL_LABELS_H

#include "quern/model/walk.h"

/* labels [n] from hidden [n, h], the stream after the final norm; head [V] += p (1 - p) of each token. The token at place i
 * draws from stream FIRST_TOKEN + i of SEED. At most 128 MiB of logits exist at once. */
QN_NODISCARD qn_status qni_model_labels(const qn_model *model, const float *hidden, int64_t n,
                                        qn_compute compute, uint64_t seed, uint32_t first_token,
                                        const qn_context *ctx, int32_t *labels, double *head, qn_error *err);

#endif
