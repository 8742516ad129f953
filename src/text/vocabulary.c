#include "text/vocabulary.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "text/utf8.h"

#include "base/banned.h"

static uint64_t hash_bytes(const uint8_t *bytes,
                           size_t n_bytes) { /* FNV-1a, mixed once more for the low bits */
    uint64_t hash = UINT64_C(0xCBF29CE484222325);
    for (size_t i = 0; i < n_bytes; i++) hash = (hash ^ bytes[i]) * UINT64_C(0x100000001B3);
    return hash ^ hash >> 29;
}

/* The slot of the index that holds the bytes, or the free one where they belong. */
static uint64_t find_slot(const qni_vocabulary *v, const uint8_t *bytes, size_t n_bytes) {
    uint64_t slot = hash_bytes(bytes, n_bytes) & v->index_mask;
    for (; v->index[slot] >= 0; slot = (slot + 1) & v->index_mask) {
        const qni_token *token = &v->tokens[v->index[slot]];
        if (token->n_bytes == n_bytes && memcmp(qni_vocabulary_bytes(v, token), bytes, n_bytes) == 0) break;
    }
    return slot;
}

qn_status qni_vocabulary_init(qni_vocabulary *vocabulary, int64_t n_ids, int64_t n_indexed, qn_error *err) {
    int64_t n_slots = 16;
    while (n_slots < 2 * n_indexed) n_slots *= 2;
    qni_vocabulary made = {.n_ids = n_ids, .index_mask = (uint64_t)n_slots - 1};
    made.tokens = qni_alloc_array(n_ids, sizeof *made.tokens);
    made.index = qni_alloc_array(n_slots, sizeof *made.index);
    if (!made.tokens || !made.index || qni_buffer_reserve(&made.bytes, 1, NULL) != QN_OK) {
        qni_vocabulary_release(&made);
        return qni_fail_nomem(err, "vocabulary");
    }
    memset(made.index, 0xFF, (size_t)n_slots * sizeof *made.index);
    *vocabulary = made;
    return QN_OK;
}

void qni_vocabulary_release(qni_vocabulary *vocabulary) {
    free(vocabulary->tokens);
    free(vocabulary->index);
    qni_buffer_release(&vocabulary->bytes);
    *vocabulary = (qni_vocabulary){0};
}

qn_status qni_vocabulary_add(qni_vocabulary *vocabulary, int64_t id, const uint8_t *bytes, size_t n_bytes,
                             bool indexed, const char *name, qn_error *err) {
    if (id < 0 || id >= vocabulary->n_ids) {
        return qn_fail(err, QN_E_FORMAT, "%s: token id %lld is outside 0 .. %lld", name, (long long)id,
                       (long long)vocabulary->n_ids - 1);
    }
    qni_token *token = &vocabulary->tokens[id];
    if (token->flags & QNI_TOKEN_PRESENT) {
        return qn_fail(err, QN_E_FORMAT, "%s: two tokens have the id %lld", name, (long long)id);
    }
    if (n_bytes > UINT32_MAX - vocabulary->bytes.n) {
        return qn_fail(err, QN_E_FORMAT, "%s: its tokens hold more than 4 GiB of text", name);
    }
    uint64_t slot = indexed ? find_slot(vocabulary, bytes, n_bytes) : 0;
    if (indexed && vocabulary->index[slot] >= 0) {
        return qn_fail(err, QN_E_FORMAT, "%s: the ids %d and %lld stand for the same bytes", name,
                       (int)vocabulary->index[slot], (long long)id);
    }
    uint32_t first_byte = (uint32_t)vocabulary->bytes.n;
    QN_TRY(qni_buffer_append(&vocabulary->bytes, bytes, n_bytes, err));
    *token =
        (qni_token){first_byte, (uint32_t)n_bytes, QNI_TOKEN_PRESENT | (indexed ? QNI_TOKEN_INDEXED : 0)};
    vocabulary->n_tokens++;
    if (indexed) vocabulary->index[slot] = (int32_t)id;
    return QN_OK;
}

qn_status qni_vocabulary_extend(qni_vocabulary *vocabulary, int64_t n_more, qn_error *err) {
    int64_t n_ids = vocabulary->n_ids + n_more;
    void *tokens = vocabulary->tokens;
    QN_TRY(qni_grow_array(&tokens, n_ids, sizeof *vocabulary->tokens, err));
    vocabulary->tokens = tokens;
    memset(vocabulary->tokens + vocabulary->n_ids, 0, (size_t)n_more * sizeof *vocabulary->tokens);
    vocabulary->n_ids = n_ids;
    return QN_OK;
}

int32_t qni_vocabulary_find(const qni_vocabulary *vocabulary, const uint8_t *bytes, size_t n_bytes) {
    return vocabulary->index[find_slot(vocabulary, bytes, n_bytes)];
}

/* The byte a character of the byte-level alphabet stands for, or -1. Printable Latin-1 stands for itself; the
 * other 68 bytes follow from U+0100 on, ascending. */
static int byte_of_character(uint32_t c) {
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF)) return (int)c;
    if (c >= 0x100 && c <= 0x120) return (int)c - 0x100;
    if (c >= 0x121 && c <= 0x142) return (int)c - 0x121 + 0x7F;
    return c == 0x143 ? 0xAD : -1;
}

bool qni_bytes_of_spelling(const char *spelling, size_t n_bytes, uint8_t *out, size_t *n_out) {
    const uint8_t *text = (const uint8_t *)spelling;
    size_t n = 0;
    for (size_t i = 0; i < n_bytes;) {
        uint32_t c;
        i += qni_utf8_read(text + i, &c);
        int byte = byte_of_character(c);
        if (byte < 0) return false;
        out[n++] = (uint8_t)byte;
    }
    *n_out = n;
    return true;
}
