/* Writing artifacts: the exact size first, then the bytes (docs/format.md).
 *
 * A plan is made from config and layout alone, before any weight is touched, and knows the size of the final file to the
 * byte for a given allowance of rescue bytes. Writing brings the file to exactly that size: what the chosen rows leave
 * over becomes padding. Output bytes do not depend on time, umask, working directory, file order or threads. */
#ifndef QUERN_ARTIFACT_ARTIFACT_H
#define QUERN_ARTIFACT_ARTIFACT_H

#include "quern/artifact/profile.h"
#include "quern/base/context.h"
#include "quern/base/sha256.h"
#include "quern/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_artifact_options {
    const qn_profile *profile;       /* borrowed during the call */
    qn_codec          native;        /* of every matrix */
    qn_codec          rescue;        /* {QN_CODE_Q4, 128}, or code NONE: no rescue rows at all */
    bool              with_tokenizer;
    bool              as_archive;    /* zip, else folder */
    int64_t           max_shard_bytes; /* 0: 2 GiB */
    const char       *recipe_name, *recipe_sha256, *isa; /* provenance; borrowed during qn_artifact_plan_new */
    uint64_t          seed;
} qn_artifact_options;

typedef struct qn_artifact_plan qn_artifact_plan;

QN_NODISCARD QN_API qn_status qn_artifact_plan_new(const qn_checkpoint *source, const qn_artifact_options *options,
                                                   qn_artifact_plan **out, qn_error *err);
QN_API void qn_artifact_plan_free(qn_artifact_plan *plan);

/* Exact bytes of the finished file (archive) or of all its files (folder) when rescued rows may cost up to
 * extra_bytes more than their native form; 0: no rescued row, no mask. Grows by one byte per extra byte above 0. */
QN_API int64_t qn_artifact_plan_bytes(const qn_artifact_plan *plan, int64_t extra_bytes);

/* Extra bytes one rescued row of matrix ENTRY costs. */
QN_API int64_t qn_artifact_plan_row_price(const qn_artifact_plan *plan, int64_t entry);

/* The most extra bytes that any choice of rows holding at most max_weights weights can cost (upper bound by weights sorted
 * by price per weight). */
QN_API int64_t qn_artifact_plan_extra_bound(const qn_artifact_plan *plan, int64_t max_weights);

/* Gives matrix ENTRY encoded, ready to be stored; called once per matrix in layout order; the writer releases *out. */
typedef qn_status (*qn_artifact_provider)(void *user, int64_t entry, qn_encoded *out, qn_error *err);

typedef struct qn_artifact_result {
    char    sha256[QN_SHA256_HEX]; /* of the archive; of the payload digests as `<hex>  <name>\n` lines for a folder */
    int64_t bytes;
    int64_t parameters;
    int64_t rescued_parameters;
    int64_t role_bytes[QN_ROLE_COUNT]; /* sum = bytes */
} qn_artifact_result;

/* Writes the artifact at PATH. n_rescued_rows [layout.n] (matrices only) must fit extra_bytes; the file has exactly
 * qn_artifact_plan_bytes(plan, extra_bytes) bytes. Durable: until it is complete nothing stands at PATH; an existing
 * file is replaced, an existing non-empty folder refused. */
QN_NODISCARD QN_API qn_status qn_artifact_write(const qn_artifact_plan *plan, const char *path,
                                                const int64_t *n_rescued_rows, int64_t extra_bytes,
                                                qn_artifact_provider provider, void *user, const qn_context *ctx,
                                                qn_artifact_result *out, qn_error *err);

/* Deterministic zip of an artifact or checkpoint folder: config.json first, then name order; safetensors stored, the
 * rest deflated; fixed time, mode and order. Refuses what an artifact must not hold (lint), naming it. */
QN_NODISCARD QN_API qn_status qn_pack(const char *folder, const char *path, const qn_context *ctx,
                                      char sha256[QN_SHA256_HEX], int64_t *n_bytes, qn_error *err);

/* An ordinary Hugging Face checkpoint with the dequantised weights, in a new folder: config, tokenizer and generation
 * files, model.safetensors (shards with an index above max_shard_bytes; 0: 4 GiB). dtype F32 (exact), F16 or BF16. */
QN_NODISCARD QN_API qn_status qn_export_dense(const qn_checkpoint *checkpoint, qn_dtype dtype, int64_t max_shard_bytes,
                                              const char *folder, const qn_context *ctx, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
