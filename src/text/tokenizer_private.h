/* What the files of the tokenizer share. */
#ifndef QUERN_SRC_TEXT_TOKENIZER_PRIVATE_H
#define QUERN_SRC_TEXT_TOKENIZER_PRIVATE_H

#include "quern/base/store.h"
#include "quern/text/tokenizer.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/split.h"
#include "text/vocabulary.h"

#include <jansson.h>

struct qn_tokenizer {
    bool is_byte;     /* the byte tokenizer: of the rest it has only the vocabulary */
    bool normalizes;  /* NFC */
    uint8_t *classes; /* owned; table of char_class.h */
    qni_vocabulary vocabulary;
    int64_t n_base_tokens; /* of the vocabulary, without the added ones */
    qni_bpe bpe;
    qni_splitter splitter;
    qni_added_tokens added;
    char name[24];
};

/* ---- tokenizer_files.c: fill a zeroed tokenizer; what was filled is released by the caller on failure ----
 */

QN_NODISCARD qn_status qni_tokenizer_load_store(qn_tokenizer *tokenizer, qn_store *store, qn_error *err);
QN_NODISCARD qn_status qni_tokenizer_load_file(qn_tokenizer *tokenizer, const char *path, qn_error *err);

/* ---- tokenizer_json.c ---- */

/* A whole tokenizer.json; refuses what it does not understand. */
QN_NODISCARD qn_status qni_tokenizer_load_json(qn_tokenizer *tokenizer, const json_t *root, const char *name,
                                               qn_error *err);

/* ---- tokenizer_model.c ---- */

/* The table {"spelling": id, ...} of vocab.json or of a BPE model. */
QN_NODISCARD qn_status qni_tokenizer_load_vocab(qn_tokenizer *tokenizer, const json_t *vocab,
                                                const char *name, qn_error *err);

/* One line of merges, "left right". */
QN_NODISCARD qn_status qni_tokenizer_add_merge_line(qn_tokenizer *tokenizer, uint32_t rank, const char *line,
                                                    size_t n_bytes, const char *name, qn_error *err);

/* Adds a token as the reference does: a content that the vocabulary spells keeps that id; any other gets the
 * next one. ID (-1: any) is the one the file states, and must be that one. A content that was added before
 * only gains `special`. */
QN_NODISCARD qn_status qni_tokenizer_add_token(qn_tokenizer *tokenizer, const char *content, size_t n_bytes,
                                               int64_t id, bool special, const char *name, qn_error *err);

/* An entry of added_tokens or added_tokens_decoder: checks its flags, then qni_tokenizer_add_token. */
QN_NODISCARD qn_status qni_tokenizer_add_token_object(qn_tokenizer *tokenizer, const json_t *object,
                                                      int64_t id, const char *name, qn_error *err);

/* ---- encoder.c ---- */

/* Working memory of encodings with one tokenizer, for one thread: worth keeping when many short texts follow.
 */
typedef struct qni_encoder {
    const qn_tokenizer *tokenizer; /* borrowed */
    qni_bpe_scratch bpe;
    qni_split split;
    qni_buffer repaired, normalized;
    size_t n_bytes_seen;
} qni_encoder;

/* As qn_tokenizer_encode. */
QN_NODISCARD qn_status qni_encoder_encode(qni_encoder *encoder, const char *text, size_t n_bytes, qn_ids *out,
                                          qn_error *err);
void qni_encoder_release(qni_encoder *encoder);

#endif
