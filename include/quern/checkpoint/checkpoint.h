/* Where weights come from: a Hugging Face checkpoint (single file, or shards with an index), or a Quern artifact with
 * packed payload files (docs/format.md), in a folder or a zip.
 *
 * Opening checks everything against the config: each expected tensor present once with the expected shape and a float
 * dtype (F32, F16, BF16; in an artifact packed matrices and 16-bit vectors), no surplus tensor (a redundant
 * lm_head.weight of a tied model and old rotary tables, `*.rotary_emb.inv_freq`, are accepted and ignored), every shard
 * of the index present with the tensors the index puts there, encoded matrices legal (qn_encoded_bind, in parallel).
 * model.safetensors is taken before an index. Weights stay in the mapped files; nothing is converted. */
#ifndef QUERN_CHECKPOINT_CHECKPOINT_H
#define QUERN_CHECKPOINT_CHECKPOINT_H

#include "quern/base/context.h"
#include "quern/base/store.h"
#include "quern/checkpoint/layout.h"
#include "quern/codec/codec.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_checkpoint qn_checkpoint;

QN_NODISCARD QN_API qn_status qn_checkpoint_open(const char *path, qn_checkpoint **out, qn_error *err);
QN_API void qn_checkpoint_close(qn_checkpoint *checkpoint);

QN_API const qn_config *qn_checkpoint_config(const qn_checkpoint *checkpoint);
QN_API const qn_layout *qn_checkpoint_layout(const qn_checkpoint *checkpoint);
QN_API qn_store *qn_checkpoint_store(const qn_checkpoint *checkpoint);
QN_API bool qn_checkpoint_is_artifact(const qn_checkpoint *checkpoint);

/* The weight of layout entry INDEX; lives as long as the checkpoint. */
QN_API const qn_weight *qn_checkpoint_weight(const qn_checkpoint *checkpoint, int64_t index);

/* Reads all weights once and refuses NaN and infinity, naming tensor and index. Parallel; cost: one pass over the bytes. */
QN_NODISCARD QN_API qn_status qn_checkpoint_check_finite(const qn_checkpoint *checkpoint,
                                                         const qn_context *ctx, qn_error *err);

/* SHA-256 over the weight files in name order (each file's digest, hashed again as the lines `<hex>  <name>\n`), for provenance. */
QN_NODISCARD QN_API qn_status qn_checkpoint_sha256(const qn_checkpoint *checkpoint, const qn_context *ctx,
                                                   char hex[65], qn_error *err);

/* The shape of an encoded matrix as one line of a payload file's __metadata__ (docs/format.md), for example
 * "768x256 columns 200 ternary/64/log6 40 ternary+ternary/64/log6 16 q4/128/f16 hadamard/128". Format takes any shape
 * that qn_encoded_check_shape accepts; parse accepts exactly what format writes. */
enum { QN_PACKED_SPEC_BYTES = 256 };
QN_API void qn_packed_spec_format(const qn_encoded *e, char buffer[QN_PACKED_SPEC_BYTES]);
QN_NODISCARD QN_API qn_status qn_packed_spec_parse(const char *text, const char *name, qn_encoded *out,
                                                   qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
