/* A dense checkpoint out of any other. */
#include "quern/artifact/artifact.h"

#include "base/alloc.h"
#include "checkpoint/dense_write.h"
#include "quern/base/writer.h"

#include <stdlib.h>

#include "base/banned.h"

static qn_status write_aside(const qni_dense *dense, const char *folder, const qn_context *ctx,
                             qn_error *err) {
    char *temporary = NULL;
    QN_TRY(qn_folder_begin(folder, &temporary, err));
    qn_status status = qni_dense_write(dense, temporary, ctx, err);
    if (status == QN_OK) status = qn_folder_commit(temporary, folder, err);
    if (status != QN_OK) qn_folder_abandon(temporary);
    free(temporary);
    return status;
}

qn_status qn_export_dense(const qn_checkpoint *checkpoint, qn_dtype dtype, int64_t max_shard_bytes,
                          const char *folder, const qn_context *ctx, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(checkpoint);
    const qn_weight **weights = qni_alloc_array(layout->n, sizeof *weights);
    if (!weights) return qni_fail_nomem(err, "the list of weights");
    for (int64_t i = 0; i < layout->n; i++) weights[i] = qn_checkpoint_weight(checkpoint, i);
    const qni_dense dense = {.config = qn_checkpoint_config(checkpoint),
                             .layout = layout,
                             .weights = weights,
                             .companions = qn_checkpoint_store(checkpoint),
                             .dtype = dtype,
                             .max_shard_bytes = max_shard_bytes};
    const qn_status status = write_aside(&dense, folder, ctx, err);
    free(weights);
    return status;
}
