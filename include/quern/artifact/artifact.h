/* Writing artifacts: the exact size first, then the bytes (docs/format.md).
 *
 * A plan knows everything about the final file but the weights. Given the shape of every encoded matrix (bands, codecs, line
 * counts, bytes of a zlib stream) it tells how many bytes the smallest file takes; a shape is cheap to ask for, so that a planner can try many. Then
 * the shapes and the size are fixed, and writing brings the file to exactly that size: what the matrices leave over becomes
 * padding. Streams are known when the codes are: a plan of shapes without them says what the file takes at most, and the shapes
 * with streams are fixed before the file is written. Output bytes do not depend on time, umask, working directory, file order or threads. */
#ifndef QUERN_ARTIFACT_ARTIFACT_H
#define QUERN_ARTIFACT_ARTIFACT_H

#include "quern/artifact/profile.h"
#include "quern/base/context.h"
#include "quern/base/sha256.h"
#include "quern/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of a recipe's name, without the zero at its end. */
enum { QN_MAX_RECIPE_NAME = 63 };

typedef struct qn_artifact_options {
    const qn_profile *profile; /* borrowed during the call */
    bool with_tokenizer;
    bool as_archive;         /* zip, else folder */
    int64_t max_shard_bytes; /* 0: 2 GiB */
    /* Provenance, or NULL; borrowed during qn_artifact_plan_new. Neither name nor digest moves the size of the artifact. The
     * name is UTF-8 text of at most QN_MAX_RECIPE_NAME bytes without control characters, quotes and backslashes. */
    const char *recipe_name, *recipe_sha256, *isa;
    uint64_t seed;
    bool f16_vectors; /* all of them; else the source's 16-bit ones stay as they are */
} qn_artifact_options;

typedef struct qn_artifact_plan qn_artifact_plan;

/* Plans an artifact of SOURCE, which is borrowed and must outlive *out. Reads config, layout, dtypes and the
 * text files that go along (they are deflated here to know their size), no weight. QN_E_ARGUMENT for options that do not fit
 * together. Cost: a second for a tokenizer of 10 MB. */
QN_NODISCARD QN_API qn_status qn_artifact_plan_new(const qn_checkpoint *source,
                                                   const qn_artifact_options *options, qn_artifact_plan **out,
                                                   qn_error *err);
QN_API void qn_artifact_plan_free(qn_artifact_plan *plan);

/* *n_bytes = the smallest file (archive) or sum of files (folder) that is sure to hold matrices of these shapes
 * [layout.n] (those of vectors are not read); the manifest's unknown digests are counted at the most they can take. Errors:
 * QN_E_ARGUMENT for a shape that is not that of its matrix, those of qn_encoded_check_shape, QN_E_UNSUPPORTED for a manifest
 * too long for an archive. Cost: some ten milliseconds for a thousand tensors. */
QN_NODISCARD QN_API qn_status qn_artifact_plan_need(const qn_artifact_plan *plan, const qn_encoded *shapes,
                                                    int64_t *n_bytes, qn_error *err);

/* Fixes the shapes (copied) and the size of the file: at least what qn_artifact_plan_need says, else QN_E_BUDGET;
 * QN_E_REJECTED for shapes that the profile forbids. May be called again; on failure the plan keeps what was fixed before. */
QN_NODISCARD QN_API qn_status qn_artifact_plan_fix(qn_artifact_plan *plan, const qn_encoded *shapes,
                                                   int64_t n_bytes, qn_error *err);

/* Norms and biases to be written instead of the source's: VECTORS [layout.n], entries NULL for those that stay; borrowed until the
 * artifact is written. Of plans with f16_vectors (else QN_E_ARGUMENT). */
QN_NODISCARD QN_API qn_status qn_artifact_plan_set_vectors(qn_artifact_plan *plan,
                                                           const float *const *vectors, qn_error *err);

/* Gives matrix ENTRY encoded in its planned shape, with the planned stream_bytes; called once per matrix in layout order, on the calling thread. The writer checks it (qn_encoded_bind) and releases *out, on
 * failure too. */
typedef qn_status (*qn_artifact_provider)(void *user, int64_t entry, qn_encoded *out, qn_error *err);

typedef struct qn_artifact_result {
    char sha256[QN_SHA256_HEX]; /* of the archive; of the payload digests as `<hex>  <name>\n` lines for a
                                   folder */
    int64_t bytes;
    int64_t parameters;
    int64_t rescued_parameters;
    int64_t role_bytes[QN_ROLE_COUNT]; /* sum = bytes */
} qn_artifact_result;

/* Writes the artifact at PATH, with the shapes and the size that were fixed. Durable: until it is complete nothing stands at
 * PATH; an existing file is replaced, an existing non-empty folder refused. An archive's payload is staged in a folder beside
 * PATH, so the disk needs room for it twice. Errors: QN_E_ARGUMENT for a plan that nothing was fixed in or a matrix (or its stream) other
 * than planned, QN_E_VALUE for illegal codes or a vector beyond fp16, QN_E_IO, whatever the provider returns. */
QN_NODISCARD QN_API qn_status qn_artifact_write(const qn_artifact_plan *plan, const char *path,
                                                qn_artifact_provider provider, void *user,
                                                const qn_context *ctx, qn_artifact_result *out,
                                                qn_error *err);

/* Deterministic zip of an artifact or checkpoint folder: config.json first, then name order; safetensors
 * stored, the rest deflated; fixed time, mode and order. Refuses with QN_E_REJECTED what an artifact must not
 * hold: notebooks, caches, repositories, secrets and access tokens, paths of somebody's machine, pickled
 * weights, archives, links, names that do not travel, files that are no part of a model folder. The message
 * names the first and counts the others. */
QN_NODISCARD QN_API qn_status qn_pack(const char *folder, const char *path, const qn_context *ctx,
                                      char sha256[QN_SHA256_HEX], int64_t *n_bytes, qn_error *err);

/* An ordinary Hugging Face checkpoint with the dequantised weights, in a new folder: config, tokenizer and
 * generation files, model.safetensors (shards with an index above max_shard_bytes; 0: 4 GiB). dtype F32
 * (exact), F16 or BF16. */
QN_NODISCARD QN_API qn_status qn_export_dense(const qn_checkpoint *checkpoint, qn_dtype dtype,
                                              int64_t max_shard_bytes, const char *folder,
                                              const qn_context *ctx, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
