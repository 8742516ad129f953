/* How a checkpoint becomes a model: every layer knows where its tensors stand in the layout and which mixer
 * it has. */
#ifndef QUERN_SRC_MODEL_BINDING_H
#define QUERN_SRC_MODEL_BINDING_H

#include "quern/model/model.h"
#include "tensor/ops.h"

struct qni_mixer; /* block.h */

typedef struct qni_layer {
    int64_t index;
    const struct qni_mixer *mixer;
    int64_t window;                       /* keys a query sees; 0: all before it */
    int64_t tensor[QN_TENSOR_KIND_COUNT]; /* layout index, or -1 */
} qni_layer;

struct qn_model {
    qn_checkpoint *checkpoint; /* owned */
    const qn_config *config;   /* of the checkpoint, as is layout */
    const qn_layout *layout;
    const qn_weight **weights;       /* owned array [layout->n]; borrowed weights */
    qni_layer *layers;               /* owned [L] */
    int64_t embed, head, final_norm; /* layout indices; head is embed when tied */
    float *inv_freq;                 /* owned [D / 2] */
};

/* The weight of layout entry INDEX as a source of rows; in place where its dtype and alignment allow. */
qni_matrix qni_matrix_of(const qn_model *model, int64_t index);

/* A vector (norm, bias) as f32; *out is owned by the caller. INDEX -1 gives NULL. */
QN_NODISCARD qn_status qni_load_vector(const qn_model *model, int64_t index, float **out, qn_error *err);

/* inv_freq [D / 2] of the config's rotary embedding (default, yarn). */
void qni_rope_frequencies(const qn_config *config, float *inv_freq);

#endif
