/* Tokenizers: text to ids and back, exactly as the reference stack does it.
 *
 * Two kinds: a byte-level BPE described by a Hugging Face tokenizer.json (or vocab.json + merges.txt of a Qwen2 family
 * tokenizer), and the byte tokenizer (id = byte value + 1, vocabulary 257). Whatever tokenizer.json asks for and this
 * code does not implement is refused with its name. Unicode tables: \p{L}, \p{M}, \p{N} of Unicode 16.0 (the
 * reference regex engine), NFC of Unicode 9.0 (the reference normaliser). A tokenizer is immutable and thread-safe.
 * Invalid UTF-8 in the input: each maximal invalid sequence becomes U+FFFD, as Python's errors="replace". */
#ifndef QUERN_TEXT_TOKENIZER_H
#define QUERN_TEXT_TOKENIZER_H

#include "quern/base/status.h"
#include "quern/base/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_tokenizer qn_tokenizer;

/* PATH is "byte", a folder or zip with tokenizer.json (or vocab.json + merges.txt), or a .json file that is a
 * tokenizer.json. A folder's tokenizer_config.json adds the tokens it names, as the reference does; one that contradicts
 * tokenizer.json is refused. Errors: QN_E_IO (no such files), QN_E_FORMAT (broken files), QN_E_UNSUPPORTED (what the
 * files ask for is not implemented), each naming the file. */
QN_NODISCARD QN_API qn_status qn_tokenizer_open(const char *path, qn_tokenizer **out, qn_error *err);

/* The tokenizer of a model's own store; QN_E_IO naming the store when it carries none. */
QN_NODISCARD QN_API qn_status qn_tokenizer_from_store(qn_store *store, qn_tokenizer **out, qn_error *err);
QN_API void qn_tokenizer_free(qn_tokenizer *tokenizer);

QN_API int64_t qn_tokenizer_vocab_size(const qn_tokenizer *tokenizer); /* largest id + 1 */
/* "byte", or "bpe:" and 12 hex digits of its files */
QN_API const char *qn_tokenizer_name(const qn_tokenizer *tokenizer);

/* Growable list of ids; zeroed is valid and empty. */
typedef struct qn_ids {
    int32_t *ids; /* owned */
    int64_t n, capacity;
} qn_ids;
QN_API void qn_ids_release(qn_ids *ids);

/* Appends the ids of TEXT (n_bytes bytes, no BOS or EOS added; added tokens inside the text are recognised). QN_E_VALUE
 * when the vocabulary has no token for a byte of the text. Cost: linear but for single pieces of n bytes, O(n log n). */
QN_NODISCARD QN_API qn_status qn_tokenizer_encode(const qn_tokenizer *tokenizer, const char *text,
                                                  size_t n_bytes, qn_ids *out, qn_error *err);

/* Text of ids: the bytes of all pieces joined, then invalid UTF-8 replaced by U+FFFD. *text is owned (free()), with a NUL
 * after its *n_bytes. An id outside the vocabulary is QN_E_VALUE. skip_special leaves special tokens out. */
QN_NODISCARD QN_API qn_status qn_tokenizer_decode(const qn_tokenizer *tokenizer, const int32_t *ids,
                                                  int64_t n, bool skip_special, char **text, size_t *n_bytes,
                                                  qn_error *err);

/* Raw bytes of one token (borrowed; not NUL-terminated, may be half a character). False for an unknown id.
 * Stream decoders hold back incomplete UTF-8 sequences themselves. */
QN_API bool qn_tokenizer_token_bytes(const qn_tokenizer *tokenizer, int32_t id, const uint8_t **bytes,
                                     size_t *n_bytes);

/* The id of an added token by its content, or of an ordinary one by the text it stands for (" the", not its spelling in
 * the files); -1 for none. */
QN_API int32_t qn_tokenizer_token_id(const qn_tokenizer *tokenizer, const char *content);

#ifdef __cplusplus
}
#endif
#endif
