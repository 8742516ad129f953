/* Keys of what a calibrated run leaves in its work folder: SHA-256 over all that decides the bytes of a thing, and nothing that comes
 * after it. Another setting of a later stage leaves the work of the earlier ones good. */
#ifndef QUERN_SRC_RECIPE_RUN_KEYS_H
#define QUERN_SRC_RECIPE_RUN_KEYS_H

#include "recipe/calibrated.h"

/* Of the loss model that is measured on the run's text (loss_store.h). */
QN_NODISCARD qn_status qni_loss_key(qni_calibrated *c, const qn_context *ctx, char key[QN_SHA256_HEX],
                                    qn_error *err);

/* Of the stages (matrix_store.h), once the plan is made. START: the artifact that training goes on from, or NULL. */
QN_NODISCARD qn_status qni_stage_keys(qni_calibrated *c, const qn_checkpoint *start, const qn_context *ctx,
                                      char keys[QNI_STAGE_COUNT][QN_SHA256_HEX], qn_error *err);

#endif
