/* A vocabulary: the bytes every id stands for, and the id of given bytes. Immutable once the tokenizer is
 * open. */
#ifndef QUERN_SRC_TEXT_VOCABULARY_H
#define QUERN_SRC_TEXT_VOCABULARY_H

#include "quern/base/status.h"
#include "text/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Far above any published vocabulary: an id beyond it is a broken file, not a table to allocate. */
enum { QNI_MAX_VOCAB_SIZE = 1 << 24 };

enum {
    QNI_TOKEN_PRESENT = 1,
    QNI_TOKEN_SPECIAL = 2, /* left out by "skip special tokens" */
    QNI_TOKEN_INDEXED = 4  /* can be found by its bytes */
};

typedef struct qni_token {
    uint32_t first_byte, n_bytes; /* in qni_vocabulary.bytes */
    uint32_t flags;
} qni_token;

typedef struct qni_vocabulary {
    qni_token *tokens; /* owned; [n_ids] */
    int64_t n_ids;     /* largest id + 1 */
    int64_t n_tokens;  /* ids that are present */
    qni_buffer bytes;
    int32_t *index; /* owned; open addressing, -1 is free */
    uint64_t index_mask;
} qni_vocabulary;

/* An empty vocabulary for ids below n_ids, with room in its index for n_indexed tokens. */
QN_NODISCARD qn_status qni_vocabulary_init(qni_vocabulary *vocabulary, int64_t n_ids, int64_t n_indexed,
                                           qn_error *err);
void qni_vocabulary_release(qni_vocabulary *vocabulary);

/* Gives ID its bytes. `indexed`: qni_vocabulary_find will find it. Refuses an id that is taken, and indexed
 * bytes that are. NAME is the file for messages. */
QN_NODISCARD qn_status qni_vocabulary_add(qni_vocabulary *vocabulary, int64_t id, const uint8_t *bytes,
                                          size_t n_bytes, bool indexed, const char *name, qn_error *err);

/* Makes n_more ids available above the present ones. */
QN_NODISCARD qn_status qni_vocabulary_extend(qni_vocabulary *vocabulary, int64_t n_more, qn_error *err);

/* The id of indexed bytes, or -1. */
int32_t qni_vocabulary_find(const qni_vocabulary *vocabulary, const uint8_t *bytes, size_t n_bytes);

static inline const uint8_t *qni_vocabulary_bytes(const qni_vocabulary *vocabulary, const qni_token *token) {
    return vocabulary->bytes.data + token->first_byte;
}

/* The byte-level alphabet: files spell the byte 0x20 as U+0120 and so on, one printable character a byte.
 * Writes the bytes of SPELLING (valid UTF-8) to out, which has room for n_bytes; false when it uses another
 * character. */
bool qni_bytes_of_spelling(const char *spelling, size_t n_bytes, uint8_t *out, size_t *n_out);

#endif
