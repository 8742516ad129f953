#include "text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#include "base/banned.h"

qn_status qni_added_tokens_append(qni_added_tokens *added, const char *content, size_t n_bytes, int32_t id,
                                  qn_error *err) {
    void *items = added->items;
    QN_TRY(qni_grow_array(&items, added->n + 1, sizeof *added->items, err));
    added->items = items;
    char *copy = qni_alloc_array((int64_t)n_bytes + 1, 1);
    if (!copy) return qni_fail_nomem(err, "added token");
    memcpy(copy, content, n_bytes);
    added->items[added->n++] = (qni_added_token){copy, n_bytes, id};
    return QN_OK;
}

void qni_added_tokens_release(qni_added_tokens *added) {
    for (int64_t i = 0; i < added->n; i++) free(added->items[i].content);
    free(added->items);
    *added = (qni_added_tokens){0};
}

int32_t qni_added_tokens_id(const qni_added_tokens *added, const char *content, size_t n_bytes) {
    for (int64_t i = 0; i < added->n; i++) {
        const qni_added_token *token = &added->items[i];
        if (token->n_bytes == n_bytes && memcmp(token->content, content, n_bytes) == 0) return token->id;
    }
    return -1;
}

static int first_byte(const qni_added_token *token) {
    return (unsigned char)token->content[0];
}

/* By first byte, the longest first. */
static int compare(const void *left, const void *right) {
    const qni_added_token *a = left, *b = right;
    if (first_byte(a) != first_byte(b)) return first_byte(a) < first_byte(b) ? -1 : 1;
    return a->n_bytes == b->n_bytes ? 0 : a->n_bytes > b->n_bytes ? -1 : 1;
}

void qni_added_tokens_sort(qni_added_tokens *added) {
    if (added->n > 0) qsort(added->items, (size_t)added->n, sizeof *added->items, compare);
    int64_t i = 0;
    for (int b = 0; b <= 256; b++) {
        while (i < added->n && first_byte(&added->items[i]) < b) i++;
        added->of_byte[b] = i;
    }
    added->only_byte = -1;
    if (added->n > 0 && first_byte(&added->items[0]) == first_byte(&added->items[added->n - 1])) {
        added->only_byte = first_byte(&added->items[0]);
    }
}

/* The next place where a token may start, or n_bytes. */
static size_t next_start(const qni_added_tokens *added, const uint8_t *text, size_t n_bytes, size_t i) {
    if (added->only_byte >= 0) {
        const uint8_t *found = memchr(text + i, added->only_byte, n_bytes - i);
        return found ? (size_t)(found - text) : n_bytes;
    }
    while (i < n_bytes && added->of_byte[text[i]] == added->of_byte[text[i] + 1]) i++;
    return i;
}

int32_t qni_added_tokens_search(const qni_added_tokens *added, const uint8_t *text, size_t n_bytes,
                                size_t *first, size_t *end) {
    if (added->n == 0) return -1;
    for (size_t i = *first; i < n_bytes && (i = next_start(added, text, n_bytes, i)) < n_bytes; i++) {
        for (int64_t t = added->of_byte[text[i]]; t < added->of_byte[text[i] + 1]; t++) {
            const qni_added_token *token = &added->items[t];
            if (token->n_bytes > n_bytes - i || memcmp(token->content, text + i, token->n_bytes) != 0)
                continue;
            *first = i;
            *end = i + token->n_bytes;
            return token->id;
        }
    }
    return -1;
}
