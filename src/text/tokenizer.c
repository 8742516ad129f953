#include "quern/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "text/tokenizer_private.h"
#include "text/utf8.h"

#include "base/banned.h"

enum { BYTE_VOCAB_SIZE = 257 };

/* id = byte + 1; id 0 is padding and stands for no bytes. */
static qn_status load_byte(qn_tokenizer *tokenizer, qn_error *err) {
    static const char name[] = "byte";
    tokenizer->is_byte = true;
    memcpy(tokenizer->name, name, sizeof name);
    QN_TRY(qni_vocabulary_init(&tokenizer->vocabulary, BYTE_VOCAB_SIZE, BYTE_VOCAB_SIZE - 1, err));
    QN_TRY(qni_vocabulary_add(&tokenizer->vocabulary, 0, NULL, 0, false, name, err));
    for (int b = 0; b < 256; b++) {
        QN_TRY(qni_vocabulary_add(&tokenizer->vocabulary, b + 1, &(uint8_t){(uint8_t)b}, 1, true, name, err));
    }
    return QN_OK;
}

static qn_status load_folder_or_zip(qn_tokenizer *tokenizer, const char *path, qn_error *err) {
    qn_store *store = NULL;
    QN_TRY(qn_store_open(path, &store, err));
    qn_status status = qni_tokenizer_load_store(tokenizer, store, err);
    qn_store_close(store);
    return status;
}

static bool is_json_file(const char *path) {
    struct stat info;
    const char *extension = strrchr(path, '.');
    return extension && strcmp(extension, ".json") == 0 && stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static qn_status load_path(qn_tokenizer *tokenizer, const char *path, qn_error *err) {
    if (strcmp(path, "byte") == 0) return load_byte(tokenizer, err);
    if (is_json_file(path)) return qni_tokenizer_load_file(tokenizer, path, err);
    return load_folder_or_zip(tokenizer, path, err);
}

/* Publishes a loaded tokenizer, or frees what was loaded of it. */
static qn_status finish(qn_tokenizer *tokenizer, qn_status status, qn_tokenizer **out) {
    if (status == QN_OK) {
        *out = tokenizer;
    } else {
        qn_tokenizer_free(tokenizer);
    }
    return status;
}

qn_status qn_tokenizer_open(const char *path, qn_tokenizer **out, qn_error *err) {
    qn_tokenizer *tokenizer = qni_alloc_array(1, sizeof *tokenizer);
    if (!tokenizer) return qni_fail_nomem(err, "tokenizer");
    return finish(tokenizer, load_path(tokenizer, path, err), out);
}

qn_status qn_tokenizer_from_store(qn_store *store, qn_tokenizer **out, qn_error *err) {
    qn_tokenizer *tokenizer = qni_alloc_array(1, sizeof *tokenizer);
    if (!tokenizer) return qni_fail_nomem(err, "tokenizer");
    return finish(tokenizer, qni_tokenizer_load_store(tokenizer, store, err), out);
}

void qn_tokenizer_free(qn_tokenizer *tokenizer) {
    if (!tokenizer) return;
    qni_added_tokens_release(&tokenizer->added);
    qni_splitter_release(&tokenizer->splitter);
    qni_bpe_release(&tokenizer->bpe);
    qni_vocabulary_release(&tokenizer->vocabulary);
    free(tokenizer->classes);
    free(tokenizer);
}

int64_t qn_tokenizer_vocab_size(const qn_tokenizer *tokenizer) {
    return tokenizer->vocabulary.n_ids;
}

const char *qn_tokenizer_name(const qn_tokenizer *tokenizer) {
    return tokenizer->name;
}

void qn_ids_release(qn_ids *ids) {
    free(ids->ids);
    *ids = (qn_ids){0};
}

qn_status qn_tokenizer_encode(const qn_tokenizer *tokenizer, const char *text, size_t n_bytes, qn_ids *out,
                              qn_error *err) {
    qni_encoder encoder = {.tokenizer = tokenizer};
    qn_status status = qni_encoder_encode(&encoder, text, n_bytes, out, err);
    qni_encoder_release(&encoder);
    return status;
}

static const qni_token *find_token(const qn_tokenizer *tokenizer, int32_t id) {
    if (id < 0 || id >= tokenizer->vocabulary.n_ids) return NULL;
    const qni_token *token = &tokenizer->vocabulary.tokens[id];
    return token->flags & QNI_TOKEN_PRESENT ? token : NULL;
}

static qn_status append_pieces(const qn_tokenizer *tokenizer, const int32_t *ids, int64_t n,
                               bool skip_special, qni_buffer *out, qn_error *err) {
    for (int64_t i = 0; i < n; i++) {
        const qni_token *token = find_token(tokenizer, ids[i]);
        if (!token) {
            return qn_fail(err, QN_E_VALUE, "id %d at position %lld is not in the vocabulary of %lld ids",
                           (int)ids[i], (long long)i, (long long)tokenizer->vocabulary.n_ids);
        }
        if (skip_special && token->flags & QNI_TOKEN_SPECIAL) continue;
        QN_TRY(
            qni_buffer_append(out, qni_vocabulary_bytes(&tokenizer->vocabulary, token), token->n_bytes, err));
    }
    return QN_OK;
}

qn_status qn_tokenizer_decode(const qn_tokenizer *tokenizer, const int32_t *ids, int64_t n, bool skip_special,
                              char **text, size_t *n_bytes, qn_error *err) {
    qni_buffer pieces = {0}, valid = {0};
    qn_status status = append_pieces(tokenizer, ids, n, skip_special, &pieces, err);
    if (status == QN_OK) status = qni_utf8_append_repaired(&valid, pieces.data, pieces.n, err);
    if (status == QN_OK) status = qni_buffer_append(&valid, "", 1, err);
    qni_buffer_release(&pieces);
    if (status != QN_OK) {
        qni_buffer_release(&valid);
        return status;
    }
    *text = (char *)valid.data;
    *n_bytes = valid.n - 1;
    return QN_OK;
}

bool qn_tokenizer_token_bytes(const qn_tokenizer *tokenizer, int32_t id, const uint8_t **bytes,
                              size_t *n_bytes) {
    const qni_token *token = find_token(tokenizer, id);
    if (!token) return false;
    *bytes = qni_vocabulary_bytes(&tokenizer->vocabulary, token);
    *n_bytes = token->n_bytes;
    return true;
}

int32_t qn_tokenizer_token_id(const qn_tokenizer *tokenizer, const char *content) {
    size_t n_bytes = strlen(content);
    int32_t id = qni_added_tokens_id(&tokenizer->added, content, n_bytes);
    return id >= 0 ? id : qni_vocabulary_find(&tokenizer->vocabulary, (const uint8_t *)content, n_bytes);
}
