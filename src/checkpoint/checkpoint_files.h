/* The inside of an open checkpoint, shared by the files that open and check it. */
#ifndef QUERN_SRC_CHECKPOINT_CHECKPOINT_FILES_H
#define QUERN_SRC_CHECKPOINT_CHECKPOINT_FILES_H

#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/safetensors.h"

typedef struct qni_weight_file {
    char *member; /* owned; name in the store */
    char *name;   /* owned; for messages: path of the store and member */
    qn_safetensors *tensors;
    const uint8_t *data; /* borrowed from the store */
    size_t n_bytes;
} qni_weight_file;

struct qn_checkpoint {
    qn_store *store;
    qn_config config;
    qn_layout layout;
    bool is_artifact;
    qni_weight_file *files; /* [n_files] in name order */
    size_t n_files;
    qn_weight *weights; /* [layout.n] */
    size_t *file_of;    /* [layout.n] index of the file a weight lies in */
    int64_t *by_name;   /* [layout.n] layout indices in name order */
};

/* PATH/MEMBER for messages, owned by the caller; NULL when memory is short. */
char *qni_checkpoint_member_name(const qn_checkpoint *c, const char *member);

/* Lists, maps and parses the weight files; fills is_artifact, files, n_files. */
QN_NODISCARD qn_status qni_checkpoint_open_files(qn_checkpoint *c, qn_error *err);

/* Index of the layout entry called NAME, or -1. */
int64_t qni_checkpoint_find(const qn_checkpoint *c, const char *name);

/* Binds tensor INDEX of file FILE to the dense weight ENTRY, once. */
QN_NODISCARD qn_status qni_checkpoint_bind_dense(qn_checkpoint *c, int64_t entry, size_t file, size_t index,
                                                 qn_error *err);

/* Records that ENTRY lies in FILE; fails when it already lies somewhere. */
QN_NODISCARD qn_status qni_checkpoint_claim(qn_checkpoint *c, int64_t entry, size_t file, qn_error *err);

/* Binds everything an artifact's payload files hold. */
QN_NODISCARD qn_status qni_checkpoint_bind_payload(qn_checkpoint *c, qn_error *err);

QN_NODISCARD qn_status qni_checkpoint_fail_surplus(const qn_checkpoint *c, size_t file, const char *tensor,
                                                   qn_error *err);

/* Runs CHECK on every weight in parallel; of all failures the one of the lowest entry is reported, whatever
 * the number of threads. STAGE (may be NULL) names the progress. */
typedef qn_status (*qni_weight_check)(const qn_checkpoint *c, int64_t entry, qn_error *err);
QN_NODISCARD qn_status qni_checkpoint_for_each(const qn_checkpoint *c, const qn_context *ctx,
                                               const char *stage, qni_weight_check check, qn_error *err);

#endif
