/* What an artifact plan knows: the text members, and for a set of shapes the shards and the size of everything. */
#ifndef QUERN_SRC_ARTIFACT_PLAN_H
#define QUERN_SRC_ARTIFACT_PLAN_H

#include "artifact/archive.h"
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
    int64_t data_bytes;   /* of their tensors */
    int64_t header_bytes; /* with the entry of the padding in the last shard */
} qni_shard;

/* The artifact that a set of shapes makes. */
typedef struct qni_sizing {
    const qn_encoded *shapes; /* [layout.n] borrowed */
    int64_t padding;          /* bytes of the tensor quern.padding in the last shard; -1: there is none */
    qni_shard *shards;        /* owned */
    int64_t n_shards;
    qni_text config;        /* config.json: it names the shards */
    int64_t manifest_bytes; /* the most that quern.json takes: deflated in an archive, as it is in a folder */
    int64_t total_bytes;
} qni_sizing;

struct qn_artifact_plan {
    const qn_checkpoint *source; /* borrowed */
    qn_profile profile;
    bool as_archive;
    int64_t max_shard_bytes;
    bool f16_vectors;
    const float *const *vectors; /* borrowed, or NULL: all are the source's */
    uint64_t seed;
    char *recipe_name, *recipe_sha256, *isa; /* owned */
    qni_texts texts;                         /* all but config.json */
    qn_encoded *shapes;                      /* [layout.n] owned; NULL: nothing is fixed */
    qni_sizing fixed;                        /* of these shapes, with the total that was asked for */
    int64_t spare; /* bytes of that total which nothing but comment or spaces takes */
};

void qni_text_release(qni_text *text);
qni_zip_member qni_text_member(const qni_text *text);
void qni_sizing_release(qni_sizing *sizing);

/* Cuts the payload into shards and finds the bytes of their headers (payload.c). */
QN_NODISCARD qn_status qni_size_shards(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err);
QN_NODISCARD qn_status qni_size_headers(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err);

/* The header of shard K, owned by the caller. */
QN_NODISCARD qn_status qni_shard_header(const qn_artifact_plan *plan, const qni_sizing *sizing, int64_t k,
                                        uint8_t **header, size_t *n_bytes, qn_error *err);

/* Bytes of the padding in shard K, and of the whole file. */
int64_t qni_shard_padding(const qni_sizing *sizing, int64_t k);
int64_t qni_shard_bytes(const qni_sizing *sizing, int64_t k);

/* Dtype in which vector ENTRY is stored. */
qn_dtype qni_plan_vector_dtype(const qn_artifact_plan *plan, int64_t entry);

/* Members that come with the source: loader, tokenizer and generation files (texts.c). */
QN_NODISCARD qn_status qni_texts_collect(const qn_artifact_plan *plan, bool with_tokenizer, qni_texts *out,
                                         qn_error *err);
void qni_texts_release(qni_texts *texts);

/* Makes config.json for the shards that are known. */
QN_NODISCARD qn_status qni_size_config(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err);

/* The manifest (manifest.c). */
typedef struct qni_manifest_facts {
    const qni_sizing *sizing;
    const char (*payload_sha256)[QN_SHA256_HEX]; /* [n_shards] */
    const char *source_sha256, *recipe_name, *recipe_sha256;
    int64_t total_bytes;
    bool summed; /* one entry a role instead of one for each tensor and role */
} qni_manifest_facts;

typedef struct qni_totals {
    int64_t role_bytes[QN_ROLE_COUNT]; /* metadata: what total_bytes leaves */
    int64_t role_parameters[QN_ROLE_COUNT];
    int64_t parameters;
} qni_totals;

qni_totals qni_count_totals(const qn_artifact_plan *plan, const qn_encoded *shapes, int64_t total_bytes);

/* Compact JSON, owned by the caller. */
QN_NODISCARD qn_status qni_manifest_render(const qn_artifact_plan *plan, const qni_manifest_facts *facts,
                                           char **text, size_t *n_bytes, qn_error *err);

/* Sets manifest_bytes to a size that the real manifest cannot exceed; the shards are known. */
QN_NODISCARD qn_status qni_size_manifest(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err);

/* The manifest of a finished payload, in at most RESERVE stored bytes: by tensor and role where that fits,
 * else summed by role, which always fits. *stored_bytes is its size in the archive (deflated) or folder. */
QN_NODISCARD qn_status qni_manifest_fit(const qn_artifact_plan *plan, qni_manifest_facts *facts,
                                        int64_t reserve, char **text, size_t *n_bytes, int64_t *stored_bytes,
                                        qn_error *err);

/* The tensor padding is worth its entry in the header from this many spare bytes on; fewer go into the archive's comment or
 * behind the manifest. What the entry and longer numbers take is held back. */
enum { QNI_PADDING_FROM = 4096, QNI_PADDING_COST = 1024 };

/* The carried loader, generated from modeling_quern.py at build time. */
extern const unsigned char qni_loader_source[];
extern const unsigned qni_loader_source_bytes;

#endif
