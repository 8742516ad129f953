/* The check an encoded matrix passes before anything trusts it. */
#include "base/alloc.h"
#include "base/clones.h"
#include "codec/code_ops.h"

#include <stdlib.h>

#include "base/banned.h"

/* The exclusive upper end of finite, non-negative fp16 bit patterns. */
enum { F16_INFINITY_BITS = 0x7c00 };

static qn_status check_codec(qn_codec codec, const char *what, const char *name, qn_error *err) {
    if (!qni_code_ops_of(codec.code) || codec.group_size < 0) {
        return qn_fail(err, QN_E_FORMAT, "%s: %s code %d with group size %d is unknown to this version", name,
                       what, (int)codec.code, (int)codec.group_size);
    }
    return QN_OK;
}

qn_status qni_encoded_check_shape(const qn_encoded *e, const char *name, qn_error *err) {
    long long rows = (long long)e->rows, cols = (long long)e->cols, n_rescue = (long long)e->n_rescue_rows;
    int64_t n_weights = 0;
    /* Below 2^58 weights no byte count can overflow: a weight needs at most one byte and one 16-bit scale. */
    if (rows <= 0 || cols <= 0 || rows > INT32_MAX || !qni_multiply_i64(rows, cols, &n_weights) ||
        n_weights > INT64_MAX / 32) {
        return qn_fail(err, QN_E_SHAPE, "%s: %lld rows and %lld columns are not a possible matrix", name,
                       rows, cols);
    }
    if (n_rescue < 0 || n_rescue > rows) {
        return qn_fail(err, QN_E_SHAPE, "%s: %lld rescued rows of %lld", name, n_rescue, rows);
    }
    QN_TRY(check_codec(e->native, "native", name, err));
    if (n_rescue > 0) return check_codec(e->rescue, "rescue", name, err);
    if (e->rescue.code != QN_CODE_NONE || e->rescue.group_size != 0) {
        return qn_fail(err, QN_E_FORMAT, "%s: a rescue code (%s/%d) without rescued rows; expected none/0",
                       name, qn_code_name(e->rescue.code), (int)e->rescue.group_size);
    }
    return QN_OK;
}

static qn_status check_present(const qn_encoded *e, const char *name, qn_error *err) {
    qn_part parts[QN_MAX_PARTS];
    int n = qn_encoded_parts(e, parts);
    for (int i = 0; i < n; i++) {
        if (!parts[i].view.data) return qn_fail(err, QN_E_FORMAT, "%s: %s is missing", name, parts[i].suffix);
    }
    return QN_OK;
}

QNI_CLONES
static bool scales_are_legal(const uint16_t *scales, int64_t first, int64_t n, uint16_t smallest) {
    unsigned bad = 0;
    for (int64_t i = first; i < first + n; i++) {
        uint16_t bits = qni_load_scale(scales, i);
        bad |= (unsigned)(bits < smallest) | (unsigned)(bits >= F16_INFINITY_BITS);
    }
    return bad == 0;
}

static qn_status check_scales(const uint16_t *scales, int64_t n_rows, int64_t n_groups, qn_code code,
                              const char *what, const char *name, qn_error *err) {
    uint16_t smallest = qni_code_ops_of(code)->zero_scale_ok ? 0 : 1;
    if (scales_are_legal(scales, 0, n_rows * n_groups, smallest)) return QN_OK;
    int64_t i = 0;
    while (scales_are_legal(scales, i, 1, smallest)) i++;
    uint16_t bits = qni_load_scale(scales, i);
    return qn_fail(err, QN_E_VALUE,
                   "%s: scale 0x%04x (%g) at [%lld, %lld] of %s; expected a finite %s fp16 number", name,
                   bits, (double)qn_f16_to_f32(bits), (long long)(i / n_groups), (long long)(i % n_groups),
                   what, smallest ? "positive" : "non-negative");
}

static qn_status check_codes(const uint8_t *codes, int64_t n_rows, int64_t cols, qn_code code,
                             const char *what, const char *name, qn_error *err) {
    const qni_code_ops *ops = qni_code_ops_of(code);
    int64_t row_bytes = ops->bytes(cols);
    for (int64_t row = 0; row < n_rows; row++) {
        int64_t col = ops->find_illegal(codes + row * row_bytes, cols);
        if (col < 0) continue;
        return qn_fail(err, QN_E_VALUE, "%s: illegal %s code at row %lld, column %lld of %s: %s", name,
                       ops->name, (long long)row, (long long)col, what, ops->rule);
    }
    return QN_OK;
}

static bool row_is_rescued(const qn_encoded *e, int64_t row) {
    return e->n_rescue_rows > 0 && (e->rescue_mask[row / 8] >> row % 8 & 1);
}

static qn_status check_mask(const qn_encoded *e, const char *name, qn_error *err) {
    if (e->n_rescue_rows == 0) return QN_OK;
    int64_t n_set = 0;
    for (int64_t row = 0; row < e->rows; row++) n_set += row_is_rescued(e, row);
    if (n_set != e->n_rescue_rows) {
        return qn_fail(err, QN_E_FORMAT, "%s: .rescue_mask marks %lld rows, %lld are stored", name,
                       (long long)n_set, (long long)e->n_rescue_rows);
    }
    if (e->rows % 8 && e->rescue_mask[e->rows / 8] >> e->rows % 8) {
        return qn_fail(err, QN_E_FORMAT, "%s: padding bits of .rescue_mask are not 0", name);
    }
    return QN_OK;
}

static void fill_slots(const qn_encoded *e, int32_t *slot) {
    int32_t n_native = 0, n_rescue = 0;
    for (int64_t row = 0; row < e->rows; row++) slot[row] = row_is_rescued(e, row) ? ~n_rescue++ : n_native++;
}

qn_status qn_encoded_bind(qn_encoded *e, const char *name, qn_error *err) {
    QN_TRY(qni_encoded_check_shape(e, name, err));
    QN_TRY(check_present(e, name, err));
    QN_TRY(check_mask(e, name, err));
    int64_t n_native = e->rows - e->n_rescue_rows;
    if (n_native > 0) {
        QN_TRY(check_codes(e->codes, n_native, e->cols, e->native.code, ".codes", name, err));
        QN_TRY(check_scales(e->scales, n_native, qn_codec_groups(e->native, e->cols), e->native.code,
                            ".scales", name, err));
    }
    if (e->n_rescue_rows > 0) {
        QN_TRY(check_codes(e->rescue_codes, e->n_rescue_rows, e->cols, e->rescue.code, ".rescue_codes", name,
                           err));
        QN_TRY(check_scales(e->rescue_scales, e->n_rescue_rows, qn_codec_groups(e->rescue, e->cols),
                            e->rescue.code, ".rescue_scales", name, err));
    }
    int32_t *slot = qni_alloc_array(e->rows, sizeof *slot);
    if (!slot) return qni_fail_nomem(err, "the row index of an encoded matrix");
    fill_slots(e, slot);
    free(e->slot);
    e->slot = slot;
    return QN_OK;
}
