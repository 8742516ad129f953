/* The work folder of a long run: what a killed run needs to go on, keyed by model, recipe and inputs. */
#ifndef QUERN_SRC_RECIPE_WORK_H
#define QUERN_SRC_RECIPE_WORK_H

#include "quern/fit/rowmix.h"
#include "quern/recipe/compress.h"

/* The key of a run: SHA-256 over everything that decides its bytes before rows are chosen (weights, recipe,
 * track's code, second moments). Cost: one pass over the weights. */
QN_NODISCARD qn_status qni_work_key(const qn_compress_options *options, const qn_rowmix_options *rowmix,
                                    const qn_checkpoint *source, const qn_context *ctx,
                                    char key[QN_SHA256_HEX], qn_error *err);

/* Makes the folder where it is missing. A folder that holds a run already is refused unless the caller
 * resumes: nothing is overwritten by accident. */
QN_NODISCARD qn_status qni_work_begin(const qn_compress_options *options, qn_error *err);

/* Saves the measured rows durably. */
QN_NODISCARD qn_status qni_work_save(const char *folder, const char *key, const qn_checkpoint *source,
                                     const qn_sensitivity *sensitivity, qn_error *err);

/* Takes the measured rows back: *found is false when the run was stopped before it had any. QN_E_ARGUMENT
 * when the folder belongs to another run. */
QN_NODISCARD qn_status qni_work_load(const char *folder, const char *key, const qn_checkpoint *source,
                                     const qn_rowmix_options *rowmix, bool *found, qn_sensitivity *out,
                                     qn_error *err);

#endif
