/* A model: a checkpoint bound to the blocks that compute with it. Immutable once opened and shared by any number of walks. */
#ifndef QUERN_MODEL_MODEL_H
#define QUERN_MODEL_MODEL_H

#include "quern/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_model qn_model;

QN_NODISCARD QN_API qn_status qn_model_open(const char *path, qn_model **out, qn_error *err);
QN_API void qn_model_close(qn_model *model);

QN_API const qn_checkpoint *qn_model_checkpoint(const qn_model *model);
QN_API const qn_config *qn_model_config(const qn_model *model);

/* Replaces the weight of layout entry INDEX by a borrowed one of the same shape (a fake-quantised or a packed matrix):
 * how a student is walked. NULL restores the checkpoint's own. Not while a walk runs. */
QN_NODISCARD QN_API qn_status qn_model_set_weight(qn_model *model, int64_t index, const qn_weight *weight,
                                                  qn_error *err);
QN_API const qn_weight *qn_model_weight(const qn_model *model, int64_t index);

#ifdef __cplusplus
}
#endif
#endif
