#include "fit/teacher_cache_code.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

#define LAST_NATS 24.0 /* of code 255 */
enum {
    LAST_CODE = QNI_CACHE_CODES - 1,
    BLOCK = 64 /* logits that are passed over together when none is large enough */
};

void qni_cache_code_init(qni_cache_code *code, int64_t vocab, int64_t k) {
    *code = (qni_cache_code){.vocab = vocab, .k = k, .n_planes = 1};
    for (int64_t left = (vocab - 1) >> 8; left > 0; left >>= 8) code->n_planes++;
    for (int c = 0; c < QNI_CACHE_CODES; c++) {
        const double share = c / (double)LAST_CODE;
        code->nats[c] = LAST_NATS * share * share;
        code->mass[c] = exp(-code->nats[c]);
    }
}

bool qni_cache_code_bytes(const qni_cache_code *code, int64_t n_tokens, size_t *out) {
    int64_t bytes;
    if (!qni_multiply_i64(n_tokens, code->k * (code->n_planes + 1) + 1, &bytes)) return false;
    *out = (size_t)bytes;
    return true;
}

/* ---- which ids stay ---- */

static bool is_less(qni_cache_entry a, qni_cache_entry b) {
    return a.logit < b.logit || (a.logit == b.logit && a.id > b.id);
}

/* Moves the entry at I down to its place in a heap whose first entry is the least. */
static void sift(qni_cache_entry *heap, int64_t n, int64_t i) {
    const qni_cache_entry moved = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_less(heap[child + 1], heap[child])) child++;
        if (!is_less(heap[child], moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static int by_id(const void *a, const void *b) {
    const int32_t x = ((const qni_cache_entry *)a)->id, y = ((const qni_cache_entry *)b)->id;
    return (x > y) - (x < y);
}

/* The k largest, in the order of their ids. */
static void select_largest(const qni_cache_code *code, const qni_kernels *kernels, const float *logits,
                           qni_cache_entry *heap) {
    const int64_t k = code->k;
    for (int64_t i = 0; i < k; i++) heap[i] = (qni_cache_entry){logits[i], (int32_t)i};
    for (int64_t i = k / 2 - 1; i >= 0; i--) sift(heap, k, i);
    for (int64_t first = k; first < code->vocab; first += BLOCK) {
        const int64_t n = code->vocab - first < BLOCK ? code->vocab - first : BLOCK;
        if (!(kernels->max(logits + first, n) > heap[0].logit)) continue;
        for (int64_t i = first; i < first + n; i++) {
            if (!(logits[i] > heap[0].logit)) continue;
            heap[0] = (qni_cache_entry){logits[i], (int32_t)i};
            sift(heap, k, 0);
        }
    }
    qsort(heap, (size_t)k, sizeof *heap, by_id);
}

/* ---- codes ---- */

/* The code nearest to so many nats. */
static uint8_t code_of(const qni_cache_code *code, double nats) {
    if (!(nats < LAST_NATS)) return LAST_CODE;
    if (nats <= 0.0) return 0;
    int c = (int)(LAST_CODE * sqrt(nats / LAST_NATS));
    if (c < LAST_CODE && code->nats[c + 1] - nats < nats - code->nats[c]) c++;
    return (uint8_t)c;
}

void qni_cache_code_row(const qni_cache_code *code, const qni_kernels *kernels, float *logits,
                        qni_cache_entry *entries, int64_t n_tokens, int64_t token, uint8_t *bytes) {
    const int64_t k = code->k, plane = n_tokens * k;
    uint8_t *gaps = bytes + token * k, *codes = gaps + code->n_planes * plane;
    select_largest(code, kernels, logits, entries);
    const float shift = kernels->max(logits, code->vocab);
    const double sum = kernels->exp_in_place(logits, code->vocab, shift);
    const double log_sum = (double)shift + log(sum);
    double rest = sum; /* rounds to 1e-7 of the whole, a mass that no loss can feel */
    int64_t before = -1;
    for (int64_t i = 0; i < k; i++) {
        int64_t gap = entries[i].id - before - 1;
        before = entries[i].id;
        rest -= (double)logits[before];
        for (int p = 0; p < code->n_planes; p++, gap >>= 8) gaps[p * plane + i] = (uint8_t)(gap & 255);
        codes[i] = code_of(code, log_sum - (double)entries[i].logit);
    }
    uint8_t *tail = bytes + (code->n_planes + 1) * plane + token;
    *tail = k < code->vocab && rest > 0.0 ? code_of(code, log(sum / rest)) : LAST_CODE;
}

bool qni_cache_code_read(const qni_cache_code *code, const uint8_t *bytes, int64_t n_tokens, int32_t *ids,
                         float *log_probs, float *tail_log_prob) {
    const int64_t k = code->k, plane = n_tokens * k;
    const uint8_t *gaps = bytes, *codes = bytes + code->n_planes * plane, *tails = codes + plane;
    for (int64_t t = 0; t < n_tokens; t++, gaps += k, codes += k, ids += k, log_probs += k) {
        const bool has_tail = tails[t] != LAST_CODE;
        double mass = has_tail ? code->mass[tails[t]] : 0.0;
        int64_t id = -1;
        for (int64_t i = 0; i < k; i++) {
            int64_t gap = 0;
            for (int p = 0; p < code->n_planes; p++) gap |= (int64_t)gaps[p * plane + i] << (8 * p);
            id += gap + 1;
            if (id >= code->vocab) return false;
            ids[i] = (int32_t)id;
            mass += code->mass[codes[i]];
        }
        const double log_mass = log(mass);
        for (int64_t i = 0; i < k; i++) log_probs[i] = (float)(-code->nats[codes[i]] - log_mass);
        tail_log_prob[t] = has_tail ? (float)(-code->nats[tails[t]] - log_mass) : -INFINITY;
    }
    return true;
}
