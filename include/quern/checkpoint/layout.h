/* The tensors a config implies: every name and shape, in canonical order. The strict check of a checkpoint, the planner's
 * byte counts (before any weight is touched) and the model's binding all read this one list. */
#ifndef QUERN_CHECKPOINT_LAYOUT_H
#define QUERN_CHECKPOINT_LAYOUT_H

#include "quern/checkpoint/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_tensor_kind {
    QN_TENSOR_EMBED,
    QN_TENSOR_HEAD,
    QN_TENSOR_FINAL_NORM,
    QN_TENSOR_INPUT_NORM,
    QN_TENSOR_POST_NORM,
    QN_TENSOR_Q,
    QN_TENSOR_K,
    QN_TENSOR_V,
    QN_TENSOR_O,
    QN_TENSOR_Q_BIAS,
    QN_TENSOR_K_BIAS,
    QN_TENSOR_V_BIAS,
    QN_TENSOR_O_BIAS,
    QN_TENSOR_Q_NORM,
    QN_TENSOR_K_NORM,
    QN_TENSOR_GATE,
    QN_TENSOR_UP,
    QN_TENSOR_DOWN,
    QN_TENSOR_KIND_COUNT
} qn_tensor_kind;

typedef struct qn_layout_entry {
    char *name; /* owned, for example "model.layers.3.mlp.up_proj.weight" */
    qn_tensor_kind kind;
    int64_t layer;      /* -1 outside the layers */
    int64_t rows, cols; /* a vector has rows 1 */
    bool is_matrix;
} qn_layout_entry;

typedef struct qn_layout {
    qn_layout_entry *entries; /* owned: embedding, layers in order, final norm, head (absent when tied) */
    int64_t n, n_matrices;
    int64_t n_parameters; /* distinct parameters, as sum(p.numel()) of the loaded model */
} qn_layout;

QN_NODISCARD QN_API qn_status qn_layout_make(const qn_config *config, qn_layout *out, qn_error *err);
QN_API void qn_layout_release(qn_layout *layout);

/* Index of the entry of that kind and layer, or -1. */
QN_API int64_t qn_layout_find(const qn_layout *layout, qn_tensor_kind kind, int64_t layer);

#ifdef __cplusplus
}
#endif
#endif
