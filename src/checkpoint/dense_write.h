/* An ordinary Hugging Face checkpoint out of weights of any kind. */
#ifndef QUERN_SRC_CHECKPOINT_DENSE_WRITE_H
#define QUERN_SRC_CHECKPOINT_DENSE_WRITE_H

#include "quern/base/context.h"
#include "quern/checkpoint/checkpoint.h"

/* What to write; everything borrowed. */
typedef struct qni_dense {
    const qn_config *config;
    const qn_layout *layout;
    const qn_weight *const *weights; /* [layout->n] */
    qn_store *companions;            /* tokenizer and generation files are copied from here; NULL: none */
    qn_dtype dtype;                  /* F32, F16 or BF16 */
    int64_t max_shard_bytes;         /* 0: 4 GiB; a larger model becomes several files and an index */
} qni_dense;

/* Writes companions, weights and, last, config.json (config_write.h) into the existing FOLDER, each file
 * durably and in one piece. NaN, infinity and a value that the dtype cannot hold are QN_E_VALUE naming
 * tensor, row and column; a failure leaves the files written until then. Same weights, same bytes. Memory:
 * one block of rows. */
QN_NODISCARD qn_status qni_dense_write(const qni_dense *dense, const char *folder, const qn_context *ctx,
                                       qn_error *err);

#endif
