#include "checkpoint/pages.h"

#include "base/mapping.h"
#include "checkpoint/checkpoint_files.h"

#include "base/banned.h"

void qni_checkpoint_forget(const qn_checkpoint *checkpoint, int64_t entry) {
    const qn_weight *weight = &checkpoint->weights[entry];
    if (weight->kind == QN_WEIGHT_DENSE)
        qni_mapping_forget(weight->dense.data,
                           (size_t)qn_view_elements(&weight->dense) * qn_dtype_bytes(weight->dense.dtype));
    else if (weight->kind == QN_WEIGHT_ENCODED &&
             !weight->encoded.owned) /* a stream was inflated into memory */
        qni_mapping_forget(weight->encoded.data, (size_t)qn_encoded_bytes(&weight->encoded));
}

void qni_checkpoint_forget_layer(const qn_checkpoint *checkpoint, int64_t layer) {
    for (int64_t i = 0; i < checkpoint->layout.n; i++)
        if (checkpoint->layout.entries[i].layer == layer) qni_checkpoint_forget(checkpoint, i);
}
