/* The checks an encoded matrix passes before anything trusts it. */
#include "base/alloc.h"
#include "base/clones.h"
#include "codec/code_ops.h"

#include <stdlib.h>

#include "base/banned.h"

/* The exclusive upper end of finite, non-negative fp16 bit patterns. */
enum { F16_INFINITY_BITS = 0x7c00 };

/* An index entry is four times a line number and a band. */
static const int64_t MAX_LINES = INT32_MAX / 4;

/* ------------------------------------------------------------------------------------------- shape */

static qn_status check_band(const qn_band *band, int b, const char *name, qn_error *err) {
    const qn_codec codec = band->codec;
    if (!qni_code_ops_of(codec.code) || codec.group_size < 0 || (int)codec.scale < 0 ||
        codec.scale >= QN_SCALE_COUNT) {
        return qn_fail(
            err, QN_E_FORMAT,
            "%s: band %d has code %d, group size %d and scale code %d, which this version does not know",
            name, b, (int)codec.code, (int)codec.group_size, (int)codec.scale);
    }
    const int most = codec.code == QN_CODE_Q4 ? 1 : QN_MAX_PLANES;
    if (band->n_planes < 1 || band->n_planes > most) {
        return qn_fail(err, QN_E_FORMAT, "%s: band %d (%s) has %d planes, expected 1 to %d", name, b,
                       qn_code_name(codec.code), band->n_planes, most);
    }
    return QN_OK;
}

static qn_status check_lines(const qn_encoded *e, const char *name, qn_error *err) {
    const int64_t n_lines = qn_encoded_lines(e);
    int64_t left = n_lines;
    for (int b = 0; b < e->n_bands; b++) {
        const int64_t n = e->bands[b].n_lines;
        if (n < 1 || n > left) {
            return qn_fail(err, QN_E_SHAPE, "%s: band %d has %lld of %lld lines; %lld are left for it", name,
                           b, (long long)n, (long long)n_lines, (long long)left);
        }
        left -= n;
    }
    if (left == 0) return QN_OK;
    return qn_fail(err, QN_E_SHAPE, "%s: %lld of %lld lines lie in no band", name, (long long)left,
                   (long long)n_lines);
}

/* Deflate never packs more than 1032 bytes into one: a longer block would only be memory that nothing fills. */
enum { DEFLATE_MAX_RATIO = 1032 };

static qn_status check_stream(const qn_encoded *e, const char *name, qn_error *err) {
    const int64_t n_bytes = qn_encoded_bytes(e);
    if (e->stream_bytes == 0) return QN_OK;
    if (e->stream_bytes > n_bytes / DEFLATE_MAX_RATIO && e->stream_bytes < n_bytes) return QN_OK;
    return qn_fail(err, QN_E_FORMAT,
                   "%s: a zlib stream of %lld bytes for %lld; expected less, and more than 1 in %d", name,
                   (long long)e->stream_bytes, (long long)n_bytes, DEFLATE_MAX_RATIO);
}

static bool block_is_possible(int32_t block, int64_t cols) {
    return block == 0 || (block > 1 && (block & (block - 1)) == 0 && cols % block == 0);
}

qn_status qn_encoded_check_shape(const qn_encoded *e, const char *name, qn_error *err) {
    const long long rows = (long long)e->rows, cols = (long long)e->cols;
    int64_t n_weights = 0;
    /* Below 2^58 weights no byte count can overflow: two planes need at most 6 bytes a weight. */
    if (rows <= 0 || cols <= 0 || rows > MAX_LINES || cols > MAX_LINES ||
        !qni_multiply_i64(rows, cols, &n_weights) || n_weights > INT64_MAX / 32) {
        return qn_fail(err, QN_E_SHAPE, "%s: %lld rows and %lld columns are not a possible matrix", name,
                       rows, cols);
    }
    if (e->n_bands < 1 || e->n_bands > QN_MAX_BANDS)
        return qn_fail(err, QN_E_FORMAT, "%s: %d bands, expected 1 to %d", name, e->n_bands, QN_MAX_BANDS);
    if (e->axis != QN_AXIS_ROWS && (e->axis != QN_AXIS_COLUMNS || e->n_bands == 1))
        return qn_fail(err, QN_E_FORMAT, "%s: axis %d with %d bands; expected rows, or columns with several",
                       name, (int)e->axis, e->n_bands);
    if (!block_is_possible(e->hadamard, e->cols))
        return qn_fail(err, QN_E_FORMAT,
                       "%s: rotated blocks of %d of %lld columns; expected a power of two that divides them",
                       name, (int)e->hadamard, cols);
    for (int b = 0; b < e->n_bands; b++) QN_TRY(check_band(&e->bands[b], b, name, err));
    QN_TRY(check_lines(e, name, err));
    return check_stream(e, name, err);
}

/* ------------------------------------------------------------------------------------------- mask */

static qn_status check_mask(const qn_encoded *e, const char *name, qn_error *err) {
    const int64_t n_lines = qn_encoded_lines(e), n_bits = n_lines * (e->n_bands - 1);
    int64_t n_in[QN_MAX_BANDS + 1] = {0}; /* two bits can name a band too many */

    if (e->n_bands == 1) return QN_OK;
    for (int64_t line = 0; line < n_lines; line++) n_in[qn_mask_get(e->mask, e->n_bands, line)]++;
    for (int b = 0; b < e->n_bands; b++) {
        if (n_in[b] == e->bands[b].n_lines) continue;
        return qn_fail(err, QN_E_FORMAT, "%s: the mask puts %lld lines into band %d, %lld are stored", name,
                       (long long)n_in[b], b, (long long)e->bands[b].n_lines);
    }
    if (n_bits % 8 && e->mask[n_bits / 8] >> n_bits % 8)
        return qn_fail(err, QN_E_FORMAT, "%s: padding bits of the mask are not 0", name);
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- planes */

QNI_CLONES
static bool scales_are_legal(const uint8_t *scales, int64_t first, int64_t n, uint16_t smallest) {
    unsigned bad = 0;
    for (int64_t i = first; i < first + n; i++) {
        uint16_t bits = qni_f16_get(scales, i);
        bad |= (unsigned)(bits < smallest) | (unsigned)(bits >= F16_INFINITY_BITS);
    }
    return bad == 0;
}

/* What a message needs to say where something lies. */
typedef struct place {
    const char *name;
    int band, plane;
    qn_code code;
    int64_t rows, cols, n_groups;
} place;

static qn_status check_f16(const uint8_t *scales, const place *at, qn_error *err) {
    const uint16_t smallest = qni_code_ops_of(at->code)->zero_scale_ok ? 0 : 1;
    if (scales_are_legal(scales, 0, at->rows * at->n_groups, smallest)) return QN_OK;
    int64_t i = 0;
    while (scales_are_legal(scales, i, 1, smallest)) i++;
    const uint16_t bits = qni_f16_get(scales, i);
    return qn_fail(
        err, QN_E_VALUE,
        "%s: scale 0x%04x (%g) at [%lld, %lld] of band %d, plane %d; expected a finite %s fp16 number",
        at->name, bits, (double)qn_f16_to_f32(bits), (long long)(i / at->n_groups),
        (long long)(i % at->n_groups), at->band, at->plane, smallest ? "positive" : "non-negative");
}

static qn_status check_log6(const qn_plane *plane, const place *at, float values[QN_LOG6_VALUES],
                            qn_error *err) {
    const int64_t n_bits = 6 * at->rows * at->n_groups;
    float base, ratio;
    memcpy(&base, plane->grid, sizeof base);
    memcpy(&ratio, plane->grid + sizeof base, sizeof ratio);
    if (!qn_log6_table(base, ratio, values)) {
        return qn_fail(err, QN_E_VALUE,
                       "%s: base %g and ratio %g of band %d, plane %d; expected 64 values in (0, 65504] that "
                       "do not fall",
                       at->name, (double)base, (double)ratio, at->band, at->plane);
    }
    if (n_bits % 8 && plane->scales[n_bits / 8] >> n_bits % 8) {
        return qn_fail(err, QN_E_FORMAT, "%s: padding bits of the scales of band %d, plane %d are not 0",
                       at->name, at->band, at->plane);
    }
    return QN_OK;
}

static qn_status check_codes(const uint8_t *codes, const place *at, qn_error *err) {
    const qni_code_ops *ops = qni_code_ops_of(at->code);
    const int64_t row_bytes = ops->bytes(at->cols);
    for (int64_t row = 0; row < at->rows; row++) {
        const int64_t col = ops->find_illegal(codes + row * row_bytes, at->cols);
        if (col < 0) continue;
        return qn_fail(err, QN_E_VALUE,
                       "%s: illegal %s code at row %lld, column %lld of band %d, plane %d: %s", at->name,
                       ops->name, (long long)row, (long long)col, at->band, at->plane, ops->rule);
    }
    return QN_OK;
}

static qn_status check_plane(qn_encoded *e, int b, int p, const char *name, qn_error *err) {
    const qn_codec codec = e->bands[b].codec;
    qn_plane *plane = &e->bands[b].planes[p];
    const place at = {.name = name,
                      .band = b,
                      .plane = p,
                      .code = codec.code,
                      .rows = qn_band_rows(e, b),
                      .cols = qn_band_cols(e, b),
                      .n_groups = qn_codec_groups(codec, qn_band_cols(e, b))};

    QN_TRY(check_codes(plane->codes, &at, err));
    if (codec.scale == QN_SCALE_F16) return check_f16(plane->scales, &at, err);
    return check_log6(plane, &at, plane->values, err);
}

static qn_status check_column_scales(const qn_encoded *e, const char *name, qn_error *err) {
    if (!e->column_scaled || scales_are_legal(e->column_scales, 0, e->cols, 1)) return QN_OK;
    int64_t c = 0;
    while (scales_are_legal(e->column_scales, c, 1, 1)) c++;
    const uint16_t bits = qni_f16_get(e->column_scales, c);
    return qn_fail(err, QN_E_VALUE,
                   "%s: scale 0x%04x (%g) of column %lld; expected a finite positive fp16 number", name, bits,
                   (double)qn_f16_to_f32(bits), (long long)c);
}

/* ------------------------------------------------------------------------------------------- index */

static void fill_index(const qn_encoded *e, int32_t *index) {
    int32_t first[QN_MAX_BANDS] = {0}, n_seen[QN_MAX_BANDS] = {0};
    const int64_t n_lines = qn_encoded_lines(e);

    for (int b = 1; b < e->n_bands; b++) first[b] = first[b - 1] + (int32_t)e->bands[b - 1].n_lines;
    for (int64_t line = 0; line < n_lines; line++) {
        const int b = qn_mask_get(e->mask, e->n_bands, line);
        const int32_t i = n_seen[b]++;
        if (e->axis == QN_AXIS_ROWS)
            index[line] = 4 * i + b;
        else
            index[first[b] + i] = (int32_t)line;
    }
}

qn_status qn_encoded_bind(qn_encoded *e, const char *name, qn_error *err) {
    qn_encoded bound = *e;

    QN_TRY(qn_encoded_check_shape(e, name, err));
    if (!e->data) return qn_fail(err, QN_E_ARGUMENT, "%s: an encoded matrix without data", name);
    QN_TRY(check_mask(e, name, err));
    QN_TRY(check_column_scales(e, name, err));
    for (int b = 0; b < e->n_bands; b++) {
        for (int p = 0; p < e->bands[b].n_planes; p++) QN_TRY(check_plane(&bound, b, p, name, err));
    }
    bound.index = qni_alloc_array(qn_encoded_lines(e), sizeof *bound.index);
    bound.column_values = e->column_scaled ? qni_alloc_array(e->cols, sizeof *bound.column_values) : NULL;
    if (!bound.index || (e->column_scaled && !bound.column_values)) {
        free(bound.index);
        return qni_fail_nomem(err, "the line index of an encoded matrix");
    }
    fill_index(e, bound.index);
    for (int64_t c = 0; bound.column_values && c < e->cols; c++)
        bound.column_values[c] = qn_f16_to_f32(qni_f16_get(e->column_scales, c));
    free(e->index);
    free(e->column_values);
    *e = bound;
    return QN_OK;
}
