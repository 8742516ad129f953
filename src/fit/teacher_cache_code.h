/* One sequence of a teacher cache as bytes: which ids of a row of logits stay, how their probabilities are rounded, and where
 * both stand (quern/fit/teacher_cache.h has the layout). */
#ifndef QUERN_SRC_FIT_TEACHER_CACHE_CODE_H
#define QUERN_SRC_FIT_TEACHER_CACHE_CODE_H

#include "tensor/kernels.h"

#include <stddef.h>

#define QNI_CACHE_GRID "24*(c/255)^2" /* nats of a code */

enum { QNI_CACHE_CODES = 256 };

typedef struct qni_cache_code {
    int64_t vocab, k;
    int n_planes;                 /* bytes of a gap between ids */
    double nats[QNI_CACHE_CODES]; /* -log p of a code */
    double mass[QNI_CACHE_CODES]; /* p of a code */
} qni_cache_code;

void qni_cache_code_init(qni_cache_code *code, int64_t vocab, int64_t k);

/* Bytes of a sequence before they are deflated; false when they cannot be counted. */
bool qni_cache_code_bytes(const qni_cache_code *code, int64_t n_tokens, size_t *out);

/* An id with its logit. */
typedef struct qni_cache_entry {
    float logit;
    int32_t id;
} qni_cache_entry;

/* Codes a row of logits [V] as position TOKEN of a sequence of N_TOKENS in BYTES. Of equal logits the smaller ids stay. The logits are
 * used up; entries [k] is work space. */
void qni_cache_code_row(const qni_cache_code *code, const qni_kernels *kernels, float *logits,
                        qni_cache_entry *entries, int64_t n_tokens, int64_t token, uint8_t *bytes);

/* The positions of a sequence: ids, log_probs [n_tokens, k], tail_log_prob [n_tokens]. False when an id leaves the vocabulary. */
bool qni_cache_code_read(const qni_cache_code *code, const uint8_t *bytes, int64_t n_tokens, int32_t *ids,
                         float *log_probs, float *tail_log_prob);

#endif
