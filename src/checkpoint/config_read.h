/* Reading a config.json: what the architectures share. A new architecture is a new file with one reader, and
 * one line in the table of config.c. */
#ifndef QUERN_SRC_CHECKPOINT_CONFIG_READ_H
#define QUERN_SRC_CHECKPOINT_CONFIG_READ_H

#include "quern/checkpoint/config.h"

#include <jansson.h>

/* Fills *out (zeroed; released by the caller on failure) from the object ROOT. */
typedef qn_status (*qni_config_reader)(const json_t *root, const char *name, qn_config *out, qn_error *err);

QN_NODISCARD qn_status qni_config_read_qwen2(const json_t *root, const char *name, qn_config *out,
                                             qn_error *err);
QN_NODISCARD qn_status qni_config_read_qwen3(const json_t *root, const char *name, qn_config *out,
                                             qn_error *err);

/* Reads an integer within [1, max]; *out holds the default on entry unless `required`. */
QN_NODISCARD qn_status qni_config_dimension(const json_t *root, const char *key, bool required, int64_t max,
                                            const char *name, int64_t *out, qn_error *err);

/* Resolves the rotary embedding; needs out->max_positions. */
QN_NODISCARD qn_status qni_config_read_rope(const json_t *root, const char *name, qn_config *out,
                                            qn_error *err);

#endif
