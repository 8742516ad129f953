/* Byte-pair encoding of one piece: start from single bytes, merge the adjacent pair of lowest rank (the
 * leftmost among equals) until none applies. Source: Sennrich, Haddow, Birch, "Neural Machine Translation of
 * Rare Words with Subword Units", 2016, in the byte-level form of GPT-2. */
#ifndef QUERN_SRC_TEXT_BPE_H
#define QUERN_SRC_TEXT_BPE_H

#include "quern/base/status.h"
#include "quern/text/tokenizer.h"
#include "text/vocabulary.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct qni_merge {
    int32_t left, right;
    uint32_t rank;
    int32_t merged;
} qni_merge;

typedef struct qni_bpe {
    const qni_vocabulary *vocabulary; /* borrowed */
    qni_merge *merges;                /* owned; open addressing, rank QNI_NO_RANK is free */
    uint64_t mask;
    int32_t byte_ids[256]; /* -1: the vocabulary has no such byte */
    bool ignore_merges;    /* a piece that is a token is that token */
} qni_bpe;

#define QNI_NO_RANK UINT32_MAX

/* Room for n_merges, and the ids of the single bytes from VOCABULARY. */
QN_NODISCARD qn_status qni_bpe_init(qni_bpe *bpe, const qni_vocabulary *vocabulary, int64_t n_merges,
                                    qn_error *err);
void qni_bpe_release(qni_bpe *bpe);

/* Adds the merge of two spelled tokens (spelling as in vocabulary.h); the later of two equal merges counts,
 * as in the reference. Both halves and the whole must be in the vocabulary. NAME is the file for messages. */
QN_NODISCARD qn_status qni_bpe_add_merge(qni_bpe *bpe, uint32_t rank, const char *left, size_t n_left,
                                         const char *right, size_t n_right, const char *name, qn_error *err);

/* Working memory of one encoding: zeroed is valid. */
typedef struct qni_bpe_scratch {
    void *symbols; /* owned */
    void *heap;    /* owned */
    int64_t symbol_capacity, heap_capacity;
    void *cache; /* owned; results of short pieces */
} qni_bpe_scratch;

/* Lets SCRATCH remember the results of short pieces: worth it from some kilobytes of text on. */
QN_NODISCARD qn_status qni_bpe_scratch_enable_cache(qni_bpe_scratch *scratch, qn_error *err);
void qni_bpe_scratch_release(qni_bpe_scratch *scratch);

/* Appends the ids of one piece (n_bytes > 0) to *out. Cost O(n log n). QN_E_VALUE when a byte of the piece is
 * in no token. */
QN_NODISCARD qn_status qni_bpe_encode(const qni_bpe *bpe, qni_bpe_scratch *scratch, const uint8_t *piece,
                                      size_t n_bytes, qn_ids *out, qn_error *err);

/* Makes room for n_more ids. */
QN_NODISCARD qn_status qni_ids_reserve(qn_ids *ids, size_t n_more, qn_error *err);

#endif
