#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#include "base/banned.h"

enum {
    SHORT_PIECE = 48, /* up to here a scan for the lowest rank beats a heap */
    CACHE_SLOTS = 1 << 13,
    CACHED_BYTES = 23,
    CACHED_IDS = 9,
    CACHE_LINE = 64
};

/* ---- merges ---- */

static uint64_t merge_slot(int32_t left, int32_t right, uint64_t mask) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= UINT64_C(0x9E3779B97F4A7C15);
    return (key ^ key >> 32) & mask;
}

static inline const qni_merge *find_merge(const qni_bpe *bpe, int32_t left, int32_t right) {
    const qni_merge *merge = &bpe->merges[merge_slot(left, right, bpe->mask)];
    while (merge->rank != QNI_NO_RANK && (merge->left != left || merge->right != right)) {
        merge = merge == &bpe->merges[bpe->mask] ? bpe->merges : merge + 1;
    }
    return merge;
}

qn_status qni_bpe_init(qni_bpe *bpe, const qni_vocabulary *vocabulary, int64_t n_merges, qn_error *err) {
    int64_t n_slots = 16;
    while (n_slots < 2 * n_merges) n_slots *= 2;
    qni_bpe made = {.vocabulary = vocabulary, .mask = (uint64_t)n_slots - 1};
    made.merges = qni_alloc_array(n_slots, sizeof *made.merges);
    if (!made.merges) return qni_fail_nomem(err, "merges");
    for (int64_t i = 0; i < n_slots; i++) made.merges[i].rank = QNI_NO_RANK;
    for (int b = 0; b < 256; b++)
        made.byte_ids[b] = qni_vocabulary_find(vocabulary, &(uint8_t){(uint8_t)b}, 1);
    *bpe = made;
    return QN_OK;
}

void qni_bpe_release(qni_bpe *bpe) {
    free(bpe->merges);
    *bpe = (qni_bpe){0};
}

static qn_status fail_merge(uint32_t rank, const char *left, size_t n_left, const char *right, size_t n_right,
                            const char *name, qn_error *err) {
    return qn_fail(err, QN_E_FORMAT,
                   "%s: merge %u, \"%.*s\" and \"%.*s\": a half or the whole is not in the vocabulary", name,
                   rank, n_left > 100 ? 100 : (int)n_left, left, n_right > 100 ? 100 : (int)n_right, right);
}

qn_status qni_bpe_add_merge(qni_bpe *bpe, uint32_t rank, const char *left, size_t n_left, const char *right,
                            size_t n_right, const char *name, qn_error *err) {
    uint8_t stack[256];
    uint8_t *whole = stack;
    size_t a = 0, b = 0;
    if (n_left > sizeof stack - n_right || n_right > sizeof stack)
        whole = qni_alloc_array((int64_t)(n_left + n_right), 1);
    if (!whole) return qni_fail_nomem(err, "merge");
    qni_merge made = {-1, -1, rank, -1};
    if (qni_bytes_of_spelling(left, n_left, whole, &a) &&
        qni_bytes_of_spelling(right, n_right, whole + a, &b)) {
        made.left = qni_vocabulary_find(bpe->vocabulary, whole, a);
        made.right = qni_vocabulary_find(bpe->vocabulary, whole + a, b);
        made.merged = qni_vocabulary_find(bpe->vocabulary, whole, a + b);
    }
    if (whole != stack) free(whole);
    if (made.left < 0 || made.right < 0 || made.merged < 0) {
        return fail_merge(rank, left, n_left, right, n_right, name, err);
    }
    bpe->merges[find_merge(bpe, made.left, made.right) - bpe->merges] = made;
    return QN_OK;
}

qn_status qni_ids_reserve(qn_ids *ids, size_t n_more, qn_error *err) {
    if (n_more <= (size_t)(ids->capacity - ids->n)) return QN_OK;
    if (n_more > (size_t)(INT64_MAX / 4 - ids->n)) return qni_fail_nomem(err, "ids");
    int64_t capacity = ids->n + (int64_t)n_more;
    if (capacity < 2 * ids->capacity) capacity = 2 * ids->capacity;
    void *grown = ids->ids;
    QN_TRY(qni_grow_array(&grown, capacity, sizeof *ids->ids, err));
    ids->ids = grown;
    ids->capacity = capacity;
    return QN_OK;
}

static qn_status fail_byte(uint8_t byte, qn_error *err) {
    return qn_fail(err, QN_E_VALUE,
                   "the text holds the byte 0x%02X, for which the tokenizer's vocabulary has no token", byte);
}

/* ---- short pieces: scan for the lowest rank ---- */

static inline void set_rank(const qni_bpe *bpe, const int32_t *ids, uint32_t *ranks, int32_t *merged,
                            size_t i) {
    const qni_merge *merge = find_merge(bpe, ids[i], ids[i + 1]);
    ranks[i] = merge->rank;
    merged[i] = merge->merged;
}

/* ids[0..n) are the single bytes on entry; returns how many ids are left. */
static size_t merge_short(const qni_bpe *bpe, int32_t *ids, size_t n) {
    uint32_t ranks[SHORT_PIECE];
    int32_t merged[SHORT_PIECE];
    for (size_t i = 0; i + 1 < n; i++) set_rank(bpe, ids, ranks, merged, i);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) best = ranks[i] < ranks[best] ? i : best;
        if (ranks[best] == QNI_NO_RANK) break;
        ids[best] = merged[best];
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        if (best + 1 < n) {
            memmove(ranks + best + 1, ranks + best + 2, (n - best - 2) * sizeof *ranks);
            memmove(merged + best + 1, merged + best + 2, (n - best - 2) * sizeof *merged);
            set_rank(bpe, ids, ranks, merged, best);
        }
        if (best > 0) set_rank(bpe, ids, ranks, merged, best - 1);
    }
    return n;
}

/* ---- long pieces: a heap of candidate merges over a linked list of symbols ---- */

typedef struct symbol {
    int32_t id;
    uint32_t rank; /* of the pair with the next symbol */
    int32_t merged;
    int64_t previous, next; /* -1 at the ends */
} symbol;

/* Candidates are ordered by rank, then position: the key is both in one number. A candidate whose symbol has
 * another rank by now is stale. */
typedef struct candidate {
    uint32_t rank;
    int64_t position;
} candidate;

typedef struct long_piece {
    const qni_bpe *bpe;
    symbol *symbols;
    candidate *heap;
    int64_t n_heap;
} long_piece;

static bool comes_before(candidate a, candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static void push(long_piece *piece, candidate item) {
    int64_t i = piece->n_heap++;
    for (; i > 0 && comes_before(item, piece->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        piece->heap[i] = piece->heap[(i - 1) / 2];
    }
    piece->heap[i] = item;
}

static candidate pop(long_piece *piece) {
    candidate top = piece->heap[0], last = piece->heap[--piece->n_heap];
    int64_t i = 0;
    for (int64_t child = 1; child < piece->n_heap; child = 2 * i + 1) {
        if (child + 1 < piece->n_heap && comes_before(piece->heap[child + 1], piece->heap[child])) child++;
        if (!comes_before(piece->heap[child], last)) break;
        piece->heap[i] = piece->heap[child];
        i = child;
    }
    piece->heap[i] = last;
    return top;
}

static void consider(long_piece *piece, int64_t i) {
    symbol *s = &piece->symbols[i];
    s->rank = QNI_NO_RANK;
    if (s->next < 0) return;
    const qni_merge *merge = find_merge(piece->bpe, s->id, piece->symbols[s->next].id);
    s->rank = merge->rank;
    s->merged = merge->merged;
    if (s->rank != QNI_NO_RANK) push(piece, (candidate){s->rank, i});
}

static void merge_at(long_piece *piece, int64_t i) {
    symbol *s = &piece->symbols[i], *absorbed = &piece->symbols[s->next];
    s->id = s->merged;
    s->next = absorbed->next;
    absorbed->rank = QNI_NO_RANK;
    if (s->next >= 0) piece->symbols[s->next].previous = i;
    if (s->previous >= 0) consider(piece, s->previous);
    consider(piece, i);
}

static qn_status grow(void **array, int64_t *capacity, int64_t n, size_t size, qn_error *err) {
    if (n <= *capacity) return QN_OK;
    QN_TRY(qni_grow_array(array, n, size, err));
    *capacity = n;
    return QN_OK;
}

static qn_status encode_long(const qni_bpe *bpe, qni_bpe_scratch *scratch, const uint8_t *bytes,
                             size_t n_bytes, qn_ids *out, qn_error *err) {
    int64_t n = (int64_t)n_bytes;
    if (n > INT64_MAX / 4) return qni_fail_nomem(err, "a long piece of text");
    QN_TRY(grow(&scratch->symbols, &scratch->symbol_capacity, n, sizeof(symbol), err));
    /* Each of the n - 1 pairs is pushed once, and each of the at most n - 1 merges pushes two more. */
    QN_TRY(grow(&scratch->heap, &scratch->heap_capacity, 3 * n, sizeof(candidate), err));
    QN_TRY(qni_ids_reserve(out, n_bytes, err));
    long_piece piece = {.bpe = bpe, .symbols = scratch->symbols, .heap = scratch->heap};
    for (int64_t i = 0; i < n; i++) {
        int32_t id = bpe->byte_ids[bytes[i]];
        if (id < 0) return fail_byte(bytes[i], err);
        piece.symbols[i] = (symbol){.id = id, .previous = i - 1, .next = i + 1 < n ? i + 1 : -1};
    }
    for (int64_t i = 0; i < n; i++) consider(&piece, i);
    while (piece.n_heap > 0) {
        candidate top = pop(&piece);
        if (piece.symbols[top.position].rank == top.rank) merge_at(&piece, top.position);
    }
    for (int64_t i = 0; i >= 0; i = piece.symbols[i].next) out->ids[out->n++] = piece.symbols[i].id;
    return QN_OK;
}

/* ---- a small direct-mapped cache, one line an entry ---- */

typedef struct cache_key {
    uint64_t words[3]; /* the bytes, zero padded; the last byte is their number */
} cache_key;

typedef struct cache_entry {
    cache_key key;
    int32_t n_ids;
    int32_t ids[CACHED_IDS];
} cache_entry;

_Static_assert(sizeof(cache_key) == CACHED_BYTES + 1, "the key has no padding");
_Static_assert(sizeof(cache_entry) == CACHE_LINE, "an entry is one cache line");

static cache_key make_key(const uint8_t *bytes, size_t n_bytes) {
    uint8_t padded[CACHED_BYTES + 1] = {0};
    memcpy(padded, bytes, n_bytes);
    padded[CACHED_BYTES] = (uint8_t)n_bytes;
    cache_key key;
    memcpy(&key, padded, sizeof key);
    return key;
}

static cache_entry *cache_slot(cache_entry *cache, const cache_key *key) {
    uint64_t hash = key->words[0] * UINT64_C(0x9E3779B97F4A7C15);
    hash = (hash ^ hash >> 32 ^ key->words[1]) * UINT64_C(0xC2B2AE3D27D4EB4F);
    hash = (hash ^ hash >> 32 ^ key->words[2]) * UINT64_C(0x165667B19E3779F9);
    return &cache[(hash >> 32) & (CACHE_SLOTS - 1)];
}

static bool is_key(const cache_entry *entry, const cache_key *key) {
    return entry->key.words[0] == key->words[0] && entry->key.words[1] == key->words[1] &&
           entry->key.words[2] == key->words[2];
}

qn_status qni_bpe_scratch_enable_cache(qni_bpe_scratch *scratch, qn_error *err) {
    if (scratch->cache) return QN_OK;
    cache_entry *cache = qni_alloc_aligned(CACHE_SLOTS, sizeof *cache);
    if (!cache) return qni_fail_nomem(err, "cache of the tokenizer");
    memset(cache, 0, CACHE_SLOTS * sizeof *cache);
    scratch->cache = cache;
    return QN_OK;
}

void qni_bpe_scratch_release(qni_bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch->cache);
    *scratch = (qni_bpe_scratch){0};
}

/* ---- one piece ---- */

static qn_status encode_short(const qni_bpe *bpe, const uint8_t *piece, size_t n_bytes, qn_ids *out,
                              qn_error *err) {
    QN_TRY(qni_ids_reserve(out, n_bytes, err));
    int32_t *ids = out->ids + out->n;
    for (size_t i = 0; i < n_bytes; i++) {
        ids[i] = bpe->byte_ids[piece[i]];
        if (ids[i] < 0) return fail_byte(piece[i], err);
    }
    out->n += (int64_t)merge_short(bpe, ids, n_bytes);
    return QN_OK;
}

static qn_status encode_cached(const qni_bpe *bpe, cache_entry *cache, const uint8_t *piece, size_t n_bytes,
                               qn_ids *out, qn_error *err) {
    cache_key key = make_key(piece, n_bytes);
    cache_entry *entry = cache_slot(cache, &key);
    if (is_key(entry, &key)) {
        QN_TRY(qni_ids_reserve(out, CACHED_IDS, err));
        memcpy(out->ids + out->n, entry->ids, sizeof entry->ids);
        out->n += entry->n_ids;
        return QN_OK;
    }
    int64_t first = out->n;
    QN_TRY(encode_short(bpe, piece, n_bytes, out, err));
    if (out->n - first <= CACHED_IDS) {
        entry->key = key;
        entry->n_ids = (int32_t)(out->n - first);
        memcpy(entry->ids, out->ids + first, (size_t)entry->n_ids * sizeof *entry->ids);
    }
    return QN_OK;
}

qn_status qni_bpe_encode(const qni_bpe *bpe, qni_bpe_scratch *scratch, const uint8_t *piece, size_t n_bytes,
                         qn_ids *out, qn_error *err) {
    if (bpe->ignore_merges) {
        int32_t id = qni_vocabulary_find(bpe->vocabulary, piece, n_bytes);
        if (id >= 0) {
            QN_TRY(qni_ids_reserve(out, 1, err));
            out->ids[out->n++] = id;
            return QN_OK;
        }
    }
    if (scratch->cache && n_bytes <= CACHED_BYTES) {
        return encode_cached(bpe, scratch->cache, piece, n_bytes, out, err);
    }
    if (n_bytes <= SHORT_PIECE) return encode_short(bpe, piece, n_bytes, out, err);
    return encode_long(bpe, scratch, piece, n_bytes, out, err);
}
