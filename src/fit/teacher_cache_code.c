#include "fit/teacher_cache_code.h"

#include "base/alloc.h"
#include "fit/systematic.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

#define LAST_NATS 24.0 /* of code 255 */
enum {
    LAST_CODE = QNI_CACHE_CODES - 1,
    LAST_FINE_CODE = 65535, /* of two bytes, linear up to as many nats */
    BLOCK = 64              /* logits that are passed over together when none is large enough */
};

void qni_cache_code_init(qni_cache_code *code, int64_t vocab, int64_t k, int64_t n_samples) {
    *code = (qni_cache_code){.vocab = vocab, .k = k, .n_samples = n_samples, .n_planes = 1};
    for (int64_t left = (vocab - 1) >> 8; left > 0; left >>= 8) code->n_planes++;
    for (int c = 0; c < QNI_CACHE_CODES; c++) {
        const double share = c / (double)LAST_CODE;
        code->nats[c] = LAST_NATS * share * share;
        code->mass[c] = exp(-code->nats[c]);
    }
}

/* Where what follows the gaps stands in the bytes of N tokens; those of the samples only where there are any. */
typedef struct planes {
    int64_t codes, tails, sample_gaps, sample_nats, end;
} planes;

static planes planes_of(const qni_cache_code *code, int64_t n) {
    planes p = {.codes = code->n_planes * n * code->k};
    p.tails = p.codes + n * code->k;
    p.sample_gaps = p.tails + n;
    p.sample_nats = p.sample_gaps + code->n_planes * n * code->n_samples;
    p.end = p.sample_nats + (code->n_samples > 0 ? 2 * n : 0);
    return p;
}

bool qni_cache_code_bytes(const qni_cache_code *code, int64_t n_tokens, size_t *out) {
    int64_t bytes;
    if (!qni_multiply_i64(n_tokens, planes_of(code, 1).end, &bytes)) return false;
    *out = (size_t)bytes;
    return true;
}

/* ---- which ids stay ---- */

/* Moves the value at I down to its place in a heap whose first value is the least. */
static void sift(float *heap, int64_t n, int64_t i) {
    const float moved = heap[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (!(heap[child] < moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* HEAP [k] receives the k largest values, the least of them first. */
static void find_largest(const qni_cache_code *code, const qni_kernels *kernels, const float *logits,
                         float *heap) {
    const int64_t k = code->k;
    memcpy(heap, logits, (size_t)k * sizeof *heap);
    for (int64_t i = k / 2 - 1; i >= 0; i--) sift(heap, k, i);
    for (int64_t first = k; first < code->vocab; first += BLOCK) {
        const int64_t n = code->vocab - first < BLOCK ? code->vocab - first : BLOCK;
        if (!(kernels->max(logits + first, n) > heap[0])) continue;
        for (int64_t i = first; i < first + n; i++) {
            if (!(logits[i] > heap[0])) continue;
            heap[0] = logits[i];
            sift(heap, k, 0);
        }
    }
}

/* The ids of the k largest, ascending. */
static void select_largest(const qni_cache_code *code, const qni_kernels *kernels, const float *logits,
                           const qni_cache_work *work) {
    find_largest(code, kernels, logits, work->largest);
    const float least = work->largest[0];
    int64_t n_least = 0, kept = 0;
    for (int64_t i = 0; i < code->k; i++) n_least += work->largest[i] == least;
    for (int64_t first = 0; first < code->vocab && kept < code->k; first += BLOCK) {
        const int64_t n = code->vocab - first < BLOCK ? code->vocab - first : BLOCK;
        if (kernels->max(logits + first, n) < least) continue;
        for (int64_t i = first; i < first + n; i++) {
            if (logits[i] < least || (logits[i] == least && n_least-- <= 0)) continue;
            work->ids[kept++] = (int32_t)i;
        }
    }
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

static void put_gap(const qni_cache_code *code, int64_t gap, int64_t plane, uint8_t *at) {
    for (int p = 0; p < code->n_planes; p++, gap >>= 8) at[p * plane] = (uint8_t)(gap & 255);
}

static int64_t get_gap(const qni_cache_code *code, int64_t plane, const uint8_t *at) {
    int64_t gap = 0;
    for (int p = 0; p < code->n_planes; p++) gap |= (int64_t)at[p * plane] << (8 * p);
    return gap;
}

/* The mass of each id that is not among the k largest, theirs being 0, becomes samples. */
static void code_samples(const qni_cache_code *code, const float *mass, double sum, double u,
                         int32_t *samples, int64_t n_tokens, int64_t token, const planes *at,
                         uint8_t *bytes) {
    const int64_t m = code->n_samples, plane = n_tokens * m;
    uint8_t *gaps = bytes + at->sample_gaps + token * m, *nats = bytes + at->sample_nats + token;
    double logs = 0.0;
    memset(samples, 0, (size_t)m * sizeof *samples);
    if (sum > 0.0) qni_sample_systematic(mass, code->vocab, sum, m, u, samples);
    for (int64_t i = 0; i < m; i++) {
        put_gap(code, samples[i] - (i > 0 ? samples[i - 1] : 0), plane, gaps + i);
        if (sum > 0.0) logs += log(sum / (double)mass[samples[i]]);
    }
    const double share = logs / (double)m / LAST_NATS;
    const int fine = share < 1.0 ? (int)(LAST_FINE_CODE * share + 0.5) : LAST_FINE_CODE;
    nats[0] = (uint8_t)(fine & 255);
    nats[n_tokens] = (uint8_t)(fine >> 8);
}

void qni_cache_code_row(const qni_cache_code *code, const qni_kernels *kernels, float *logits, double u,
                        const qni_cache_work *work, int64_t n_tokens, int64_t token, uint8_t *bytes) {
    const int64_t k = code->k, plane = n_tokens * k;
    const planes at = planes_of(code, n_tokens);
    uint8_t *gaps = bytes + token * k, *codes = bytes + at.codes + token * k;
    select_largest(code, kernels, logits, work);
    const float shift = kernels->max(logits, code->vocab);
    for (int64_t i = 0; i < k; i++) work->largest[i] = logits[work->ids[i]];
    const double sum = kernels->exp_in_place(logits, code->vocab, shift);
    const double log_sum = (double)shift + log(sum);
    for (int64_t i = 0; i < k; i++) {
        const int32_t id = work->ids[i];
        put_gap(code, id - (i > 0 ? work->ids[i - 1] + 1 : 0), plane, gaps + i);
        codes[i] = code_of(code, log_sum - (double)work->largest[i]);
        logits[id] = 0.0f;
    }
    double rest = 0.0;
    for (int64_t i = 0; i < code->vocab; i++) rest += (double)logits[i];
    bytes[at.tails + token] = rest > 0.0 ? code_of(code, log(sum / rest)) : LAST_CODE;
    if (code->n_samples > 0) code_samples(code, logits, rest, u, work->samples, n_tokens, token, &at, bytes);
}

/* ---- reading ---- */

/* IDS [n] from their gaps, each less STEP. */
static bool read_ids(const qni_cache_code *code, const uint8_t *gaps, int64_t n, int64_t plane, int64_t step,
                     int32_t *ids) {
    int64_t id = -step;
    for (int64_t i = 0; i < n; i++) {
        id += get_gap(code, plane, gaps + i) + step;
        if (id >= code->vocab) return false;
        ids[i] = (int32_t)id;
    }
    return true;
}

bool qni_cache_code_read(const qni_cache_code *code, const uint8_t *bytes, int64_t n_tokens,
                         const qn_teacher_rows *rows, int64_t first) {
    const int64_t k = code->k, m = code->n_samples;
    const planes at = planes_of(code, n_tokens);
    for (int64_t t = 0; t < n_tokens; t++) {
        const uint8_t *codes = bytes + at.codes + t * k, tail = bytes[at.tails + t];
        float *log_probs = rows->log_probs + (first + t) * k,
              *tail_log_prob = rows->tail_log_prob + first + t;
        double mass = tail != LAST_CODE ? code->mass[tail] : 0.0;
        if (!read_ids(code, bytes + t * k, k, n_tokens * k, 1, rows->ids + (first + t) * k)) return false;
        for (int64_t i = 0; i < k; i++) mass += code->mass[codes[i]];
        const double log_mass = log(mass);
        for (int64_t i = 0; i < k; i++) log_probs[i] = (float)(-code->nats[codes[i]] - log_mass);
        *tail_log_prob = tail != LAST_CODE ? (float)(-code->nats[tail] - log_mass) : -INFINITY;
        if (m == 0) continue;
        const uint8_t *nats = bytes + at.sample_nats + t;
        if (!read_ids(code, bytes + at.sample_gaps + t * m, m, n_tokens * m, 0,
                      rows->sample_ids + (first + t) * m))
            return false;
        rows->sample_log_prob[first + t] =
            *tail_log_prob - (float)((nats[0] + 256 * nats[n_tokens]) * (LAST_NATS / LAST_FINE_CODE));
    }
    return true;
}
