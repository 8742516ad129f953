/* A Hugging Face config.json of the Qwen family, checked and resolved.
 *
 * Both generations of spelling are read (rope_theta + rope_scaling, rope_parameters; torch_dtype, dtype). What would
 * change the arithmetic and is not implemented is refused with what was found and what is supported: another
 * model_type, hidden_act other than silu, an unknown rope_type. Source: shared rules in docs/format.md and the
 * configuration classes of transformers. */
#ifndef QUERN_CHECKPOINT_CONFIG_H
#define QUERN_CHECKPOINT_CONFIG_H

#include "quern/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_architecture { QN_ARCH_NONE, QN_ARCH_QWEN2, QN_ARCH_QWEN3 } qn_architecture;
QN_API const char *qn_architecture_name(qn_architecture architecture); /* "qwen3" */

typedef enum qn_rope_kind { QN_ROPE_DEFAULT, QN_ROPE_YARN } qn_rope_kind;

typedef struct qn_rope {
    qn_rope_kind kind;
    double theta;
    /* yarn only */
    double factor, beta_fast, beta_slow, attention_factor; /* attention_factor resolved; 1 for "default" */
    double original_positions;
    bool truncate;
} qn_rope;

typedef struct qn_config {
    qn_architecture architecture;
    int64_t vocab_size;        /* V */
    int64_t hidden_size;       /* h */
    int64_t intermediate_size; /* I */
    int64_t n_layers;          /* L */
    int64_t n_heads;           /* Hq */
    int64_t n_kv_heads;        /* Hkv */
    int64_t head_dim;          /* D */
    int64_t max_positions;
    double rms_norm_eps;
    bool tied;             /* the head is the embedding */
    bool qkv_bias, o_bias; /* qwen2: true, false; qwen3: attention_bias for both */
    qn_rope rope;
    int64_t sliding_window; /* keys visible to a query in the sliding layers; 0 when none slides */
    bool *layer_slides;     /* [L] owned */
    int64_t eos_token_id;   /* first one when the file lists several; -1 when absent */
    char *json;             /* the file's text as read, owned: unknown keys survive a rewrite */
} qn_config;

/* Parses the text of a config.json. NAME is for messages. */
QN_NODISCARD QN_API qn_status qn_config_parse(const void *text, size_t n_bytes, const char *name,
                                              qn_config *out, qn_error *err);
QN_NODISCARD QN_API qn_status qn_config_copy(const qn_config *config, qn_config *out, qn_error *err);
QN_API void qn_config_release(qn_config *config);

#ifdef __cplusplus
}
#endif
#endif
