#include "quern/fit/closed_form.h"

#include "base/alloc.h"
#include "fit/group_fit.h"
#include "fit/lanes.h"
#include "fit/ternary_sorted.h"

#include <stdlib.h>

#include "base/banned.h"

static qni_group_fit *const fit_table[QN_CODE_COUNT][2] = {
    [QN_CODE_SIGN] = {[QN_FIT_OPTIMAL] = qni_fit_sign, [QN_FIT_PUBLISHED] = qni_fit_sign_published},
    [QN_CODE_TERNARY] = {[QN_FIT_OPTIMAL] = qni_fit_ternary, [QN_FIT_PUBLISHED] = qni_fit_ternary_published},
    [QN_CODE_Q4] = {[QN_FIT_OPTIMAL] = qni_fit_q4, [QN_FIT_PUBLISHED] = qni_fit_q4_published},
};

/* The block of a scratch: values, pairs, scales, two rows of codes, each for this many columns. */
static int64_t padded(int64_t cols) {
    return (cols / QNI_LANES8 + 1) * QNI_LANES8;
}

qn_status qn_fit_scratch_init(qn_fit_scratch *scratch, int64_t cols, qn_error *err) {
    if (cols <= 0 || cols > INT64_MAX / 64) {
        return qn_fail(err, QN_E_ARGUMENT, "a fit of rows of %lld columns", (long long)cols);
    }
    void *block = qni_alloc_aligned(padded(cols), 3 * sizeof(float) + sizeof(uint16_t) + 2 * sizeof(int8_t));
    if (!block) return qni_fail_nomem(err, "the scratch of a closed-form fit");
    *scratch = (qn_fit_scratch){block, cols};
    return QN_OK;
}

void qn_fit_scratch_release(qn_fit_scratch *scratch) {
    free(scratch->block);
    *scratch = (qn_fit_scratch){0};
}

/* Where codes and scales go when the caller wants none. */
typedef struct spare_row {
    int8_t *q;
    uint16_t *scales;
} spare_row;

static qni_group_work divide_scratch(const qn_fit_scratch *scratch, spare_row *spare) {
    int64_t n = padded(scratch->cols);
    qni_group_work work = {.values = scratch->block};
    work.pairs = work.values + n;
    spare->scales = (uint16_t *)(work.pairs + 2 * n);
    work.q = (int8_t *)(spare->scales + n);
    spare->q = work.q + n;
    return work;
}

static int64_t group_columns(int64_t first, int64_t cols, int64_t group_size) {
    return cols - first < group_size ? cols - first : group_size;
}

static int64_t group_size_of(qn_codec codec, int64_t cols) {
    return codec.group_size > 0 ? codec.group_size : cols;
}

/* Whether several groups may be fitted at once: a way for bf16 numbers, and one for all numbers. */
static bool fits_many(qn_codec codec, qn_fit_rule rule, const float *h) {
    return codec.code == QN_CODE_TERNARY && rule == QN_FIT_OPTIMAL && !h && codec.group_size > 0;
}

static bool fits_sorted(qn_codec codec, const float *w, int64_t cols) {
    return codec.group_size <= QNI_SORTED_LONGEST && qni_all_bf16(w, cols);
}

static bool fits_eight(qn_codec codec) {
    return codec.group_size % QNI_LANES8 == 0;
}

static void fit_groups(qn_codec codec, qn_fit_rule rule, const float *w, const float *h, int64_t cols,
                       const qni_group_work *work, int8_t *q, uint16_t *scales) {
    qni_group_fit *fit = fit_table[codec.code][rule];
    const int64_t group_size = group_size_of(codec, cols);
    const bool many = fits_many(codec, rule, h);
    int64_t first = 0;
    if (many && fits_sorted(codec, w, cols)) {
        qni_fit_ternary_sorted(w, cols, group_size, q, scales);
        return;
    }
    const int64_t eight = QNI_LANES8 * group_size;
    for (; many && fits_eight(codec) && cols - first >= eight; first += eight, scales += QNI_LANES8)
        qni_fit_ternary_eight(w + first, group_size, work, q + first, scales);
    for (; first < cols; first += group_size)
        *scales++ =
            fit(w + first, h ? h + first : NULL, group_columns(first, cols, group_size), work, q + first);
}

void qn_fit_row_codes(qn_codec codec, qn_fit_rule rule, const float *w, const float *h, int64_t cols,
                      qn_fit_scratch *scratch, int8_t *q, uint16_t *scales) {
    spare_row spare;
    const qni_group_work work = divide_scratch(scratch, &spare);
    fit_groups(codec, rule, w, h, cols, &work, q, scales);
}

double qn_fit_row(qn_codec codec, qn_fit_rule rule, const float *w, const float *h, int64_t cols,
                  qn_fit_scratch *scratch, int8_t *q, uint16_t *scales) {
    spare_row spare;
    const qni_group_work work = divide_scratch(scratch, &spare);
    const int64_t group_size = group_size_of(codec, cols);
    double error = 0;
    if (!q) q = spare.q;
    if (!scales) scales = spare.scales;
    fit_groups(codec, rule, w, h, cols, &work, q, scales);
    for (int64_t first = 0; first < cols; first += group_size)
        error += qni_group_error(w + first, h ? h + first : NULL, group_columns(first, cols, group_size),
                                 q + first, *scales++, &work);
    return error;
}
