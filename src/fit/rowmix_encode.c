#include "base/alloc.h"
#include "fit/each_row.h"
#include "fit/rowmix_options.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/banned.h"

static qn_status check_codec(qn_codec codec, const char *what, qn_error *err) {
    if (codec.code > QN_CODE_NONE && codec.code < QN_CODE_COUNT && codec.group_size >= 0 &&
        codec.scale == QN_SCALE_F16)
        return QN_OK;
    return qn_fail(
        err, QN_E_ARGUMENT,
        "%s code %d with group size %d and scale code %d; expected sign, ternary or q4, a size >= 0 and f16",
        what, (int)codec.code, (int)codec.group_size, (int)codec.scale);
}

qn_status qni_rowmix_check_options(const qn_rowmix_options *options, qn_error *err) {
    QN_TRY(check_codec(options->native, "native", err));
    QN_TRY(check_codec(options->rescue, "rescue", err));
    if (options->rule == QN_FIT_OPTIMAL || options->rule == QN_FIT_PUBLISHED) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "fit rule %d is unknown", (int)options->rule);
}

qn_encoded qn_rowmix_shape(const qn_rowmix_options *options, int64_t rows, int64_t cols,
                           int64_t n_rescued_rows) {
    qn_encoded e = {.rows = rows, .cols = cols, .axis = QN_AXIS_ROWS};
    const qn_band native = {.codec = options->native, .n_planes = 1, .n_lines = rows - n_rescued_rows};
    const qn_band rescue = {.codec = options->rescue, .n_planes = 1, .n_lines = n_rescued_rows};
    if (native.n_lines > 0) e.bands[e.n_bands++] = native;
    if (rescue.n_lines > 0) e.bands[e.n_bands++] = rescue;
    return e;
}

typedef struct encode_pass {
    const qn_rowmix_options *options;
    const float *h;
    const qn_encoded *e;
    qn_encoded_arrays arrays;
    const int32_t *slot; /* [rows] as qn_encoded.index */
} encode_pass;

static void encode_row(void *user, int64_t row, const float *w, qni_row_tools *tools) {
    const encode_pass *pass = user;
    const int64_t band = pass->slot[row] % 4, i = pass->slot[row] / 4, cols = pass->e->cols;
    const qn_codec codec = pass->e->bands[band].codec;
    const qn_plane_arrays *to = &pass->arrays.planes[band][0];
    const int64_t n_groups = qn_codec_groups(codec, cols);
    qn_fit_row_codes(codec, pass->options->rule, w, pass->h, cols, &tools->scratch, tools->q, tools->scales);
    qn_codec_pack_row(codec, tools->q, cols, to->codes + i * qn_codec_code_bytes(codec, cols));
    qn_scales_pack(QN_SCALE_F16, tools->scales, n_groups, to->scales + 2 * i * n_groups);
}

static int64_t count_rescued(const uint8_t *rescued, int64_t rows) {
    int64_t n = 0;
    for (int64_t row = 0; rescued && row < rows; row++) n += rescued[row] != 0;
    return n;
}

/* Sets the mask and says where each row goes. */
static void assign_slots(const qn_encoded *e, const uint8_t *rescued, uint8_t *mask, int32_t *slot) {
    int32_t n_in[2] = {0};
    for (int64_t row = 0; row < e->rows; row++) {
        const int band = e->n_bands > 1 && rescued[row];
        slot[row] = 4 * n_in[band]++ + band;
        if (mask) qn_mask_set(mask, e->n_bands, row, band);
    }
}

static qn_status fill_and_bind(const qn_weight *weight, const char *name, const uint8_t *rescued,
                               encode_pass *pass, const qn_context *ctx, qn_encoded *e, qn_error *err) {
    int32_t *slot = qni_alloc_array(e->rows, sizeof *slot);
    if (!slot) return qni_fail_nomem(err, "an encoded matrix");
    assign_slots(e, rescued, pass->arrays.mask, slot);
    pass->slot = slot;
    qn_status status = qni_each_row(weight, name, ctx, encode_row, pass, err);
    if (status == QN_OK) status = qn_encoded_bind(e, name, err);
    free(slot);
    return status;
}

qn_status qn_rowmix_encode(const qn_weight *weight, const char *name, const qn_rowmix_options *options,
                           const float *h, const uint8_t *rescued, const qn_context *ctx, qn_encoded *out,
                           qn_error *err) {
    QN_TRY(qni_rowmix_check_options(options, err));
    const int64_t rows = qn_weight_rows(weight);
    qn_encoded e = qn_rowmix_shape(options, rows, qn_weight_cols(weight), count_rescued(rescued, rows));
    encode_pass pass = {.options = options, .h = h, .e = &e};
    QN_TRY(qn_encoded_alloc(&e, &pass.arrays, err));
    qn_status status = fill_and_bind(weight, name, rescued, &pass, ctx, &e, err);
    if (status != QN_OK) {
        qn_encoded_release(&e);
        return status;
    }
    *out = e;
    return QN_OK;
}
