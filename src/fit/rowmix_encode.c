#include "base/alloc.h"
#include "fit/each_row.h"
#include "fit/rowmix_options.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/banned.h"

static qn_status check_codec(qn_codec codec, const char *what, qn_error *err) {
    if (codec.code > QN_CODE_NONE && codec.code < QN_CODE_COUNT && codec.group_size >= 0) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%s code %d with group size %d; expected sign, ternary or q4 and a size >= 0", what,
                   (int)codec.code, (int)codec.group_size);
}

qn_status qni_rowmix_check_options(const qn_rowmix_options *options, qn_error *err) {
    QN_TRY(check_codec(options->native, "native", err));
    QN_TRY(check_codec(options->rescue, "rescue", err));
    if (options->rule == QN_FIT_OPTIMAL || options->rule == QN_FIT_PUBLISHED) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "fit rule %d is unknown", (int)options->rule);
}

typedef struct encode_pass {
    const qn_rowmix_options *options;
    const float *h;
    const qn_encoded *e;
    qn_encoded_arrays arrays;
    const int32_t *slot; /* [rows] as in qn_encoded */
} encode_pass;

static void encode_row(void *user, int64_t row, const float *w, qni_row_tools *tools) {
    const encode_pass *pass = user;
    int64_t slot = pass->slot[row], cols = pass->e->cols;
    bool is_rescued = slot < 0;
    int64_t index = is_rescued ? ~slot : slot;
    qn_codec codec = is_rescued ? pass->e->rescue : pass->e->native;
    uint8_t *codes = is_rescued ? pass->arrays.rescue_codes : pass->arrays.codes;
    uint16_t *scales = is_rescued ? pass->arrays.rescue_scales : pass->arrays.scales;
    qn_fit_row(codec, pass->options->rule, w, pass->h, cols, &tools->scratch, tools->q,
               scales + index * qn_codec_groups(codec, cols));
    qn_codec_pack_row(codec, tools->q, cols, codes + index * qn_codec_code_bytes(codec, cols));
}

static int64_t count_rescued(const uint8_t *rescued, int64_t rows) {
    int64_t n = 0;
    for (int64_t row = 0; rescued && row < rows; row++) n += rescued[row] != 0;
    return n;
}

/* Sets the mask and says where each row goes. */
static void assign_slots(const uint8_t *rescued, int64_t rows, uint8_t *mask, int32_t *slot) {
    int32_t n_native = 0, n_rescue = 0;
    for (int64_t row = 0; row < rows; row++) {
        bool is_rescued = rescued && rescued[row];
        if (is_rescued) mask[row / 8] |= (uint8_t)(1u << row % 8);
        slot[row] = is_rescued ? ~n_rescue++ : n_native++;
    }
}

static qn_status fill_and_bind(const qn_weight *weight, const char *name, const uint8_t *rescued,
                               encode_pass *pass, const qn_context *ctx, qn_encoded *e, qn_error *err) {
    int32_t *slot = qni_alloc_array(e->rows, sizeof *slot);
    if (!slot) return qni_fail_nomem(err, "an encoded matrix");
    assign_slots(rescued, e->rows, pass->arrays.rescue_mask, slot);
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
    qn_encoded e = {.rows = qn_weight_rows(weight),
                    .cols = qn_weight_cols(weight),
                    .native = options->native,
                    .rescue = options->rescue};
    e.n_rescue_rows = count_rescued(rescued, e.rows);
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
