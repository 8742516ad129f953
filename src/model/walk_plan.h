/* Sequences grouped into chunks that pass a block together. */
#ifndef QUERN_SRC_MODEL_WALK_PLAN_H
#define QUERN_SRC_MODEL_WALK_PLAN_H

#include "model/block.h"

typedef struct qni_walk_plan {
    qni_chunk *chunks;  /* owned */
    qni_span *spans;    /* owned [n sequences] */
    int64_t *positions; /* owned [T] */
    int64_t n_chunks, n_tokens;
    int64_t longest_chunk, longest_sequence;
} qni_walk_plan;

/* A chunk holds whole sequences up to CHUNK_TOKENS tokens, or one longer sequence. QN_E_ARGUMENT when the
 * starts do not rise from 0. */
QN_NODISCARD qn_status qni_walk_plan_make(const qn_sequences *sequences, int64_t chunk_tokens,
                                          qni_walk_plan *out, qn_error *err);
void qni_walk_plan_release(qni_walk_plan *plan);

#endif
