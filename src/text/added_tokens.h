/* Added tokens: strings that are cut out of the raw text before anything else happens to it. */
#ifndef QUERN_SRC_TEXT_ADDED_TOKENS_H
#define QUERN_SRC_TEXT_ADDED_TOKENS_H

#include "quern/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct qni_added_token {
    char *content; /* owned; n_bytes, then a NUL */
    size_t n_bytes;
    int32_t id;
} qni_added_token;

typedef struct qni_added_tokens {
    qni_added_token *items; /* owned */
    int64_t n;
    int64_t of_byte[257]; /* once sorted: items that start with byte b are [of_byte[b], of_byte[b + 1]) */
    int only_byte;        /* the one byte that all start with, or -1 */
} qni_added_tokens;

QN_NODISCARD qn_status qni_added_tokens_append(qni_added_tokens *added, const char *content, size_t n_bytes,
                                               int32_t id, qn_error *err);
void qni_added_tokens_release(qni_added_tokens *added);

/* The id of the token with this content, or -1. Any time. */
int32_t qni_added_tokens_id(const qni_added_tokens *added, const char *content, size_t n_bytes);

/* Once after the last append. */
void qni_added_tokens_sort(qni_added_tokens *added);

/* The leftmost token at or after *first, the longest of those that start there: [*first, *end) and its id. -1
 * when there is none. */
int32_t qni_added_tokens_search(const qni_added_tokens *added, const uint8_t *text, size_t n_bytes,
                                size_t *first, size_t *end);

#endif
