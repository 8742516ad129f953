#include "text/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"

#include "base/banned.h"

/* ---- vocabulary ---- */

static qn_status largest_id(const json_t *vocab, const char *name, int64_t *out, qn_error *err) {
    const char *spelling;
    json_t *value;
    int64_t largest = -1;
    json_object_foreach((json_t *)(uintptr_t)vocab, spelling, value) {
        int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= QNI_MAX_VOCAB_SIZE) {
            return qn_fail(err, QN_E_FORMAT, "%s: the id of token \"%.100s\" is not an integer in 0 .. %d",
                           name, spelling, QNI_MAX_VOCAB_SIZE - 1);
        }
        if (id > largest) largest = id;
    }
    *out = largest;
    return QN_OK;
}

/* A spelling with characters outside the byte-level alphabet is text itself, and no result of an encoding. */
static qn_status add_spelled(qn_tokenizer *tokenizer, const char *spelling, size_t n_bytes, int64_t id,
                             bool indexed, qni_buffer *scratch, const char *name, qn_error *err) {
    size_t n_spelled = 0;
    scratch->n = 0;
    QN_TRY(qni_buffer_reserve(scratch, n_bytes + 1, err));
    bool is_spelled = qni_bytes_of_spelling(spelling, n_bytes, scratch->data, &n_spelled);
    const uint8_t *bytes = is_spelled ? scratch->data : (const uint8_t *)spelling;
    return qni_vocabulary_add(&tokenizer->vocabulary, id, bytes, is_spelled ? n_spelled : n_bytes,
                              indexed && is_spelled, name, err);
}

qn_status qni_tokenizer_load_vocab(qn_tokenizer *tokenizer, const json_t *vocab, const char *name,
                                   qn_error *err) {
    if (!json_is_object(vocab) || json_object_size(vocab) == 0) {
        return qn_fail(err, QN_E_FORMAT, "%s: the vocabulary is %s, expected an object of at least one token",
                       name, json_is_object(vocab) ? "empty" : qni_json_type_name(vocab));
    }
    int64_t largest = -1;
    const char *spelling;
    json_t *value;
    size_t n_bytes;
    qni_buffer scratch = {0};
    qn_status status = QN_OK;
    QN_TRY(largest_id(vocab, name, &largest, err));
    QN_TRY(qni_vocabulary_init(&tokenizer->vocabulary, largest + 1, (int64_t)json_object_size(vocab), err));
    json_object_keylen_foreach((json_t *)(uintptr_t)vocab, spelling, n_bytes, value) {
        status =
            add_spelled(tokenizer, spelling, n_bytes, json_integer_value(value), true, &scratch, name, err);
        if (status != QN_OK) break;
    }
    qni_buffer_release(&scratch);
    return status;
}

/* ---- merges ---- */

qn_status qni_tokenizer_add_merge_line(qn_tokenizer *tokenizer, uint32_t rank, const char *line,
                                       size_t n_bytes, const char *name, qn_error *err) {
    const char *space = memchr(line, ' ', n_bytes);
    size_t n_left = space ? (size_t)(space - line) : 0;
    if (!space || memchr(space + 1, ' ', n_bytes - n_left - 1)) {
        return qn_fail(err, QN_E_FORMAT,
                       "%s: merge %u is \"%.*s\", expected two tokens with one space between", name, rank,
                       n_bytes > 100 ? 100 : (int)n_bytes, line);
    }
    return qni_bpe_add_merge(&tokenizer->bpe, rank, line, n_left, space + 1, n_bytes - n_left - 1, name, err);
}

/* ---- added tokens ---- */

/* The id that the reference gives the next token it has not seen: ids follow the vocabulary without gaps. */
static int64_t next_id(const qn_tokenizer *tokenizer) {
    int64_t next = tokenizer->n_base_tokens;
    for (int64_t i = 0; i < tokenizer->added.n; i++) {
        if (tokenizer->added.items[i].id >= next) next = (int64_t)tokenizer->added.items[i].id + 1;
    }
    return next;
}

static qn_status find_spelled(const qn_tokenizer *tokenizer, const char *content, size_t n_bytes, int64_t *id,
                              qn_error *err) {
    qni_buffer scratch = {0};
    size_t n_spelled = 0;
    QN_TRY(qni_buffer_reserve(&scratch, n_bytes, err));
    *id = -1;
    if (qni_bytes_of_spelling(content, n_bytes, scratch.data, &n_spelled)) {
        *id = qni_vocabulary_find(&tokenizer->vocabulary, scratch.data, n_spelled);
    }
    qni_buffer_release(&scratch);
    return QN_OK;
}

static qn_status add_new_token(qn_tokenizer *tokenizer, const char *content, size_t n_bytes, int64_t id,
                               const char *name, qn_error *err) {
    int64_t missing = id + 1 - tokenizer->vocabulary.n_ids;
    if (id >= QNI_MAX_VOCAB_SIZE)
        return qn_fail(err, QN_E_FORMAT, "%s: more than %d tokens", name, QNI_MAX_VOCAB_SIZE);
    if (missing > 0) QN_TRY(qni_vocabulary_extend(&tokenizer->vocabulary, missing, err));
    qni_buffer scratch = {0};
    qn_status status = add_spelled(tokenizer, content, n_bytes, id, false, &scratch, name, err);
    qni_buffer_release(&scratch);
    return status;
}

qn_status qni_tokenizer_add_token(qn_tokenizer *tokenizer, const char *content, size_t n_bytes, int64_t id,
                                  bool special, const char *name, qn_error *err) {
    if (n_bytes == 0) return qn_fail(err, QN_E_FORMAT, "%s: an added token is an empty string", name);
    int64_t given = qni_added_tokens_id(&tokenizer->added, content, n_bytes);
    bool is_known = given >= 0, is_in_vocabulary = false;
    if (!is_known) {
        QN_TRY(find_spelled(tokenizer, content, n_bytes, &given, err));
        is_in_vocabulary = given >= 0;
    }
    if (given < 0) given = next_id(tokenizer);
    if (id >= 0 && id != given) {
        return qn_fail(
            err, QN_E_FORMAT,
            "%s: added token \"%.100s\" has the id %lld, but the reference would give it %lld: ids of added "
            "tokens must follow the vocabulary without gaps",
            name, content, (long long)id, (long long)given);
    }
    if (!is_known) {
        if (!is_in_vocabulary) QN_TRY(add_new_token(tokenizer, content, n_bytes, given, name, err));
        QN_TRY(qni_added_tokens_append(&tokenizer->added, content, n_bytes, (int32_t)given, err));
    }
    if (special) tokenizer->vocabulary.tokens[given].flags |= QNI_TOKEN_SPECIAL;
    return QN_OK;
}

qn_status qni_tokenizer_add_token_object(qn_tokenizer *tokenizer, const json_t *object, int64_t id,
                                         const char *name, qn_error *err) {
    static const char *const must_be_false[] = {"single_word", "lstrip", "rstrip", "normalized"};
    const char *content = NULL;
    bool special = false;
    QN_TRY(qni_json_get_string(object, "content", true, name, &content, err));
    QN_TRY(qni_json_get_bool(object, "special", false, name, &special, err));
    for (size_t i = 0; i < sizeof must_be_false / sizeof must_be_false[0]; i++) {
        bool value =
            i == 3 &&
            !special; /* an ordinary added token is matched after normalising unless it says otherwise */
        QN_TRY(qni_json_get_bool(object, must_be_false[i], false, name, &value, err));
        if (value) {
            return qn_fail(err, QN_E_UNSUPPORTED, "%s: added token \"%.100s\": \"%s\": true is not supported",
                           name, content, must_be_false[i]);
        }
    }
    return qni_tokenizer_add_token(tokenizer, content, strlen(content), id, special, name, err);
}
