/* The walk as part of a longer operation, which counts progress over several walks. */
#ifndef QUERN_SRC_MODEL_WALK_STAGE_H
#define QUERN_SRC_MODEL_WALK_STAGE_H

#include "quern/model/walk.h"

/* Progress counts tokens times layers. */
typedef struct qni_stage {
    const char *name;
    uint64_t done, total;
} qni_stage;

QN_NODISCARD qn_status qni_walk(const qn_model *model, const qn_sequences *sequences,
                                const qn_walk_options *options, const qn_context *ctx, qni_stage *stage,
                                float *hidden, qn_walk_stats *stats, qn_error *err);

#endif
