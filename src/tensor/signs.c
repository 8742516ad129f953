#include "tensor/signs.h"

#include "base/alloc.h"
#include "tensor/ops_cpu.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

int64_t qni_sign_places(int64_t n) {
    return qni_ceil_div(n, QNI_SIGN_BLOCK) * QNI_SIGN_BLOCK;
}

qn_status qni_signs_init(int64_t rows, int64_t cols, int64_t max_groups, int64_t max_places, qni_signs *out,
                         qn_error *err) {
    *out = (qni_signs){.rows = rows, .cols = cols, .padded_rows = qni_sign_places(rows)};
    out->groups = qni_alloc_array(max_groups, sizeof *out->groups);
    if (!out->groups) return qni_fail_nomem(err, "groups of signs");
    QN_TRY(QNI_ALLOC(out->places, max_places, "columns of signs", err));
    return QNI_ALLOC(out->rest, cols, "columns beside signs", err);
}

void qni_signs_add_group(qni_signs *s, const int64_t *columns, int64_t first, int64_t n, int n_planes,
                         int n_layers) {
    qni_sign_group *group = &s->groups[s->n_groups++];
    *group = (qni_sign_group){
        .first = s->n_places, .n = qni_sign_places(n), .n_planes = n_planes, .n_layers = n_layers};
    for (int64_t i = 0; i < group->n; i++)
        s->places[s->n_places++] = (int32_t)(i >= n ? s->cols : columns ? columns[first + i] : first + i);
    for (int p = 0; p < n_planes; p++) {
        group->planes[p] = (qni_sign_plane){.scales = s->n_scales, .words = s->n_words};
        s->n_scales += s->padded_rows;
        s->n_words += group->n / QNI_SIGN_BLOCK * n_layers * s->padded_rows;
    }
}

void qni_signs_add_rest(qni_signs *s, const int64_t *columns, int64_t n) {
    for (int64_t i = 0; i < n; i++) s->rest[s->n_rest++] = (int32_t)columns[i];
}

qn_status qni_signs_make(qni_signs *s, qn_error *err) {
    s->scales = qni_alloc_array(s->n_scales, sizeof *s->scales); /* zeros behind the last row */
    if (!s->scales) return qni_fail_nomem(err, "scales of signs");
    QN_TRY(QNI_ALLOC(s->along, s->n_words, "signs", err));
    QN_TRY(QNI_ALLOC(s->across, s->n_words, "signs", err));
    QN_TRY(QNI_ALLOC(s->dense, s->n_rest * s->rows, "columns beside signs", err));
    return QNI_ALLOC(s->transposed, s->n_rest * s->padded_rows, "columns beside signs", err);
}

void qni_signs_release(qni_signs *s) {
    free(s->groups);
    free(s->places);
    free(s->scales);
    free(s->along);
    free(s->across);
    free(s->rest);
    free(s->dense);
    free(s->transposed);
    *s = (qni_signs){0};
}

/* Eight codes to eight bits: those above LEAST. */
static uint64_t eight_signs(const int8_t *q, int8_t least) {
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits |= (uint64_t)(q[i] > least) << i;
    return bits;
}

/* Bit i of the word: the sign of q[i], i < n. */
static uint64_t sign_word(const int8_t *q, int64_t n, int8_t least) {
    int8_t filled[QNI_SIGN_BLOCK] = {0};
    uint64_t word = 0;
    memcpy(filled, q, (size_t)n);
    for (int i = 0; i < QNI_SIGN_BLOCK; i += 8) word |= eight_signs(filled + i, least) << i;
    return word;
}

/* Bit j of word i to bit i of word j: quarters change places, then quarters of quarters (Warren, "Hacker's Delight", 7-3). */
static void transpose_words(uint64_t w[QNI_SIGN_BLOCK]) {
    uint64_t mask = UINT64_C(0x00000000ffffffff);
    for (int half = QNI_SIGN_BLOCK / 2; half > 0; half /= 2, mask ^= mask << half) {
        for (int i = 0; i < QNI_SIGN_BLOCK; i = (i + half + 1) & ~half) {
            const uint64_t changed = ((w[i] >> half) ^ w[i + half]) & mask;
            w[i] ^= changed << half;
            w[i + half] ^= changed;
        }
    }
}

/* One layer of a block of rows and places. */
static void set_block(const int8_t *q, int64_t ld, int64_t n_rows, int64_t n_cols, int8_t least,
                      uint64_t *along, uint64_t *across) {
    uint64_t words[QNI_SIGN_BLOCK] = {0};
    for (int64_t r = 0; r < n_rows; r++) words[r] = sign_word(q + r * ld, n_cols, least);
    memcpy(along, words, sizeof words);
    transpose_words(words);
    memcpy(across, words, sizeof words);
}

void qni_signs_set_codes(qni_signs *s, const qni_sign_group *group, int plane, int64_t row, const int8_t *q,
                         int64_t ld, int64_t n) {
    const int64_t n_rows = qni_min(QNI_SIGN_BLOCK, s->rows - row), first = group->planes[plane].words;
    for (int64_t c = 0; c < n; c += QNI_SIGN_BLOCK) {
        for (int layer = 0; layer < group->n_layers; layer++) {
            uint64_t *along =
                s->along + first + (c / QNI_SIGN_BLOCK * group->n_layers + layer) * s->padded_rows + row;
            uint64_t *across =
                s->across + first + (row / QNI_SIGN_BLOCK * group->n_layers + layer) * group->n + c;
            set_block(q + c, ld, n_rows, qni_min(QNI_SIGN_BLOCK, n - c), (int8_t)(layer == 0 ? 0 : -1), along,
                      across);
        }
    }
}
