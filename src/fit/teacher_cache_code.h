/* One sequence of a teacher cache as bytes: which ids of a row of logits stay, which others are drawn, how their probabilities are
 * rounded, and where all stand (quern/fit/teacher_cache.h has the layout). */
#ifndef QUERN_SRC_FIT_TEACHER_CACHE_CODE_H
#define QUERN_SRC_FIT_TEACHER_CACHE_CODE_H

#include "quern/model/gradient.h"
#include "tensor/kernels.h"

#include <stddef.h>

#define QNI_CACHE_GRID "24*(c/255)^2" /* nats of a code */

enum { QNI_CACHE_CODES = 256 };

typedef struct qni_cache_code {
    int64_t vocab, k, n_samples;
    int n_planes;                 /* bytes of a gap between ids */
    double nats[QNI_CACHE_CODES]; /* -log p of a code */
    double mass[QNI_CACHE_CODES]; /* p of a code */
} qni_cache_code;

void qni_cache_code_init(qni_cache_code *code, int64_t vocab, int64_t k, int64_t n_samples);

/* Bytes of a sequence before they are deflated; false when they cannot be counted. */
bool qni_cache_code_bytes(const qni_cache_code *code, int64_t n_tokens, size_t *out);

/* Work space of a row. */
typedef struct qni_cache_work {
    float *largest;         /* [k] */
    int32_t *ids, *samples; /* [k], [n_samples] */
} qni_cache_work;

/* Codes a row of logits [V] as position TOKEN of a sequence of N_TOKENS in BYTES. Of equal logits the smaller ids stay; U in [0, 1)
 * decides which others are drawn. The logits are used up. */
void qni_cache_code_row(const qni_cache_code *code, const qni_kernels *kernels, float *logits, double u,
                        const qni_cache_work *work, int64_t n_tokens, int64_t token, uint8_t *bytes);

/* The positions of a sequence to ROWS from row FIRST on. False when an id leaves the vocabulary. */
bool qni_cache_code_read(const qni_cache_code *code, const uint8_t *bytes, int64_t n_tokens,
                         const qn_teacher_rows *rows, int64_t first);

#endif
