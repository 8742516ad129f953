#include "quern/codec/codec.h"

#include "base/alloc.h"
#include "codec/code_ops.h"

#include <stdlib.h>

#include "base/banned.h"

static qn_part make_part(const char *suffix, qn_role role, const void *data, qn_dtype dtype, int64_t rows,
                         int64_t cols) {
    qn_part part = {suffix, role, {.data = data, .dtype = dtype, .n_dims = 2, .shape = {rows, cols}}};
    return part;
}

int qn_encoded_parts(const qn_encoded *e, qn_part parts[QN_MAX_PARTS]) {
    int n = 0;
    int64_t n_rescue = e->n_rescue_rows, n_native = e->rows - n_rescue;
    if (n_native > 0) {
        parts[n++] = make_part(".codes", qni_code_ops_of(e->native.code)->role, e->codes, QN_DTYPE_U8,
                               n_native, qn_codec_code_bytes(e->native, e->cols));
        parts[n++] = make_part(".scales", QN_ROLE_SCALE, e->scales, QN_DTYPE_F16, n_native,
                               qn_codec_groups(e->native, e->cols));
    }
    if (n_rescue > 0) {
        int64_t mask_bytes = e->rows / 8 + (e->rows % 8 != 0);
        parts[n] = make_part(".rescue_mask", QN_ROLE_SIDE, e->rescue_mask, QN_DTYPE_U8, mask_bytes, 0);
        parts[n++].view.n_dims = 1;
        parts[n++] = make_part(".rescue_codes", qni_code_ops_of(e->rescue.code)->role, e->rescue_codes,
                               QN_DTYPE_U8, n_rescue, qn_codec_code_bytes(e->rescue, e->cols));
        parts[n++] = make_part(".rescue_scales", QN_ROLE_SCALE, e->rescue_scales, QN_DTYPE_F16, n_rescue,
                               qn_codec_groups(e->rescue, e->cols));
    }
    return n;
}

static int64_t part_bytes(const qn_part *part) {
    return qn_view_elements(&part->view) * (int64_t)qn_dtype_bytes(part->view.dtype);
}

int64_t qn_encoded_bytes(const qn_encoded *e) {
    qn_part parts[QN_MAX_PARTS];
    int n = qn_encoded_parts(e, parts);
    int64_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += part_bytes(&parts[i]);
    return bytes;
}

qn_status qn_encoded_alloc(qn_encoded *e, qn_encoded_arrays *arrays, qn_error *err) {
    qn_encoded fresh = {.rows = e->rows,
                        .cols = e->cols,
                        .native = e->native,
                        .rescue = e->rescue,
                        .n_rescue_rows = e->n_rescue_rows};
    if (fresh.n_rescue_rows == 0) fresh.rescue = (qn_codec){QN_CODE_NONE, 0};
    QN_TRY(qni_encoded_check_shape(&fresh, "new matrix", err));

    /* Scales first: they need the alignment. */
    int64_t n_native = fresh.rows - fresh.n_rescue_rows, n_rescue = fresh.n_rescue_rows;
    int64_t n_scales = n_native * qn_codec_groups(fresh.native, fresh.cols);
    int64_t n_rescue_scales = n_rescue * qn_codec_groups(fresh.rescue, fresh.cols);
    int64_t n_codes = n_native * qn_codec_code_bytes(fresh.native, fresh.cols);
    int64_t n_rescue_codes = n_rescue * qn_codec_code_bytes(fresh.rescue, fresh.cols);
    uint8_t *block = qni_alloc_array(qn_encoded_bytes(&fresh), 1);
    if (!block) return qni_fail_nomem(err, "an encoded matrix");

    qn_encoded_arrays a = {0};
    a.scales = (uint16_t *)(void *)block;
    a.rescue_scales = a.scales + n_scales;
    a.codes = (uint8_t *)(a.rescue_scales + n_rescue_scales);
    a.rescue_codes = a.codes + n_codes;
    a.rescue_mask = n_rescue ? a.rescue_codes + n_rescue_codes : NULL;

    fresh.owned = block;
    fresh.rescue_mask = a.rescue_mask;
    fresh.codes = a.codes;
    fresh.scales = a.scales;
    fresh.rescue_codes = a.rescue_codes;
    fresh.rescue_scales = a.rescue_scales;
    *e = fresh;
    *arrays = a;
    return QN_OK;
}

void qn_encoded_release(qn_encoded *e) {
    free(e->slot);
    free(e->owned);
    *e = (qn_encoded){0};
}

static void decode_one_row(const qn_encoded *e, int64_t row, float *out) {
    int64_t slot = e->slot[row];
    bool is_rescued = slot < 0;
    int64_t index = is_rescued ? ~slot : slot;
    qn_codec codec = is_rescued ? e->rescue : e->native;
    const uint8_t *codes = is_rescued ? e->rescue_codes : e->codes;
    const uint16_t *scales = is_rescued ? e->rescue_scales : e->scales;
    qn_codec_decode_row(codec, codes + index * qn_codec_code_bytes(codec, e->cols),
                        scales + index * qn_codec_groups(codec, e->cols), e->cols, out);
}

void qn_encoded_decode_rows(const qn_encoded *e, int64_t row0, int64_t n_rows, float *out) {
    for (int64_t i = 0; i < n_rows; i++) decode_one_row(e, row0 + i, out + i * e->cols);
}
