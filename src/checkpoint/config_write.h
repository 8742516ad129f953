/* A checkpoint's config.json for a file made from it. */
#ifndef QUERN_SRC_CHECKPOINT_CONFIG_WRITE_H
#define QUERN_SRC_CHECKPOINT_CONFIG_WRITE_H

#include "quern/checkpoint/config.h"

#include <jansson.h>

/* The source's config as a JSON object, keys in the source's order, fit to be written beside new weights:
 *   - `dtype` and `torch_dtype` are DTYPE_NAME ("float16"), whichever the source spelled;
 *   - `rope_theta`, `rope_parameters` and `rope_scaling` all say the same, because one generation of
 * transformers reads only the first and the last of them and silently takes theta 10000 without;
 *   - `auto_map`, `quern` and `quantization_config` are gone; the caller adds its own keys.
 * All other keys stay as they are. The caller owns *out (json_decref). */
QN_NODISCARD qn_status qni_config_json(const qn_config *config, const char *dtype_name, json_t **out,
                                       qn_error *err);

#endif
