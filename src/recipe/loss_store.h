/* The loss model as a file of a run's work folder, so that a run that is taken up again need not measure its teacher again.
 *
 * `losses-KEY.safetensors`, KEY the first digits of the key that its metadata `quern.run` says whole. Of layout entry N and its basis B:
 * `N.B.basis` F64 [1 + kinds of bands] (columns of a rotated block, relative errors), `N.B.columns` and `N.B.rows` F64 (sensitivities);
 * `N.fisher` F32 [rows]; and `lookup_gradient`, `token_frequency`, `head_hessian` F32. All as measured, to the last bit. */
#ifndef QUERN_SRC_RECIPE_LOSS_STORE_H
#define QUERN_SRC_RECIPE_LOSS_STORE_H

#include "quern/base/sha256.h"
#include "recipe/loss_model.h"

/* Saves durably; the file appears when it is whole. */
QN_NODISCARD qn_status qni_loss_store_save(const char *folder, const char *key, const qni_loss_model *loss,
                                           qn_error *err);

/* *found false: there is no such file. LAYOUT is borrowed by *out. QN_E_ARGUMENT when the file is of another run, QN_E_FORMAT when it is
 * damaged. */
QN_NODISCARD qn_status qni_loss_store_load(const char *folder, const char *key, const qn_layout *layout,
                                           bool *found, qni_loss_model *out, qn_error *err);

#endif
