/* What an artifact plan knows: the text members, the shards, and the size of everything in its two forms. */
#ifndef QUERN_SRC_ARTIFACT_PLAN_H
#define QUERN_SRC_ARTIFACT_PLAN_H

#include "quern/artifact/artifact.h"

/* A member other than payload and manifest. The data is borrowed from the source's store, or owned. */
typedef struct qni_text {
    char *name; /* owned */
    const void *data;
    void *owned; /* NULL when borrowed */
    int64_t n_bytes, deflated_bytes;
} qni_text;

typedef struct qni_texts {
    qni_text *items; /* owned */
    size_t n;
} qni_texts;

/* Consecutive layout entries that share one payload file. */
typedef struct qni_shard {
    char name[64];
    int64_t first, n;     /* entries */
    int64_t native_bytes; /* all rows in the native code, and the vectors */
    int64_t mask_bytes;   /* masks of all its matrices */
    int64_t header_bytes[2];
} qni_shard;

/* An artifact has one of two forms: without any rescued row, or with room for rescued rows in every matrix.
 */
typedef enum qni_form { QNI_PLAIN, QNI_RESCUED } qni_form;

typedef struct qni_form_size {
    int64_t manifest_bytes; /* as stored: deflated in an archive, padded in a folder */
    int64_t total_bytes;    /* of the artifact without extra bytes */
} qni_form_size;

struct qn_artifact_plan {
    const qn_checkpoint *source; /* borrowed */
    qn_profile profile;
    qn_codec native, rescue;
    bool as_archive;
    uint64_t seed;
    char *recipe_name, *recipe_sha256, *isa; /* owned */
    qni_texts texts;
    qni_shard *shards; /* owned */
    int64_t n_shards;
    int64_t max_extra; /* the most that rows within the profile's rescue fraction can cost */
    qni_form_size form[2];
};

/* The last form the plan has: QNI_PLAIN when no row may be rescued. */
qni_form qni_plan_last_form(const qn_artifact_plan *plan);

/* Layout of the payload (payload.c). */
QN_NODISCARD qn_status qni_plan_shards(qn_artifact_plan *plan, int64_t max_shard_bytes, qn_error *err);
QN_NODISCARD qn_status qni_plan_headers(qn_artifact_plan *plan, qn_error *err);

/* Shape of matrix ENTRY with that many rescued rows; no arrays. */
qn_encoded qni_plan_encoded(const qn_artifact_plan *plan, int64_t entry, int64_t n_rescued);

/* Dtype in which vector ENTRY is stored. */
qn_dtype qni_plan_vector_dtype(const qn_artifact_plan *plan, int64_t entry);

/* The header of shard S for the rows really rescued; `padding` >= 0 adds that much padding at the end.
 * *header is owned. */
QN_NODISCARD qn_status qni_shard_header(const qn_artifact_plan *plan, const qni_shard *shard, qni_form form,
                                        const int64_t *n_rescued_rows, int64_t padding, uint8_t **header,
                                        size_t *n_bytes, qn_error *err);

/* Bytes of the shard's arrays for the rows really rescued. */
int64_t qni_shard_data_bytes(const qn_artifact_plan *plan, const qni_shard *shard,
                             const int64_t *n_rescued_rows);

/* Members that come with the source: config.json, loader, tokenizer and generation files (texts.c). */
QN_NODISCARD qn_status qni_texts_collect(const qn_artifact_plan *plan, bool with_tokenizer, qni_texts *out,
                                         qn_error *err);
void qni_texts_release(qni_texts *texts);

/* The manifest (manifest.c). */
typedef struct qni_rows {
    int64_t native, rescued;
} qni_rows;

typedef struct qni_manifest_facts {
    const qni_rows *rows;                        /* [layout.n], matrices only */
    const char (*payload_sha256)[QN_SHA256_HEX]; /* [n_shards] */
    const int64_t *payload_bytes;                /* [n_shards] */
    const char *source_sha256;
    int64_t total_bytes;
    bool summed; /* one entry a role instead of one for each tensor and role */
} qni_manifest_facts;

typedef struct qni_totals {
    int64_t role_bytes[QN_ROLE_COUNT]; /* metadata: what total_bytes leaves */
    int64_t role_parameters[QN_ROLE_COUNT];
    int64_t parameters;
} qni_totals;

qni_totals qni_count_totals(const qn_artifact_plan *plan, const qni_rows *rows, int64_t total_bytes);

/* Compact JSON, owned by the caller. */
QN_NODISCARD qn_status qni_manifest_render(const qn_artifact_plan *plan, const qni_manifest_facts *facts,
                                           char **text, size_t *n_bytes, qn_error *err);

/* Sets manifest_bytes of both forms to a size that the real manifest cannot exceed. */
QN_NODISCARD qn_status qni_plan_manifest(qn_artifact_plan *plan, qn_error *err);

/* The manifest of a finished payload, in at most RESERVE stored bytes: by tensor and role where that fits,
 * else summed by role, which always fits. *stored_bytes is its size in the archive (deflated) or folder. */
QN_NODISCARD qn_status qni_manifest_fit(const qn_artifact_plan *plan, qni_manifest_facts *facts,
                                        int64_t reserve, char **text, size_t *n_bytes, int64_t *stored_bytes,
                                        qn_error *err);

/* The carried loader, generated from modeling_quern.py at build time. */
extern const unsigned char qni_loader_source[];
extern const unsigned qni_loader_source_bytes;

#endif
