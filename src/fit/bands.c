#include "quern/fit/bands.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static qn_status check_spec(const qn_band_spec *spec, int band, qn_error *err) {
    bool known = spec->code > QN_CODE_NONE && spec->code < QN_CODE_COUNT;
    int most_planes = spec->code == QN_CODE_Q4 ? 1 : QN_MAX_PLANES;
    if (known && spec->n_planes >= 1 && spec->n_planes <= most_planes && spec->group_size >= 0) return QN_OK;
    return qn_fail(
        err, QN_E_ARGUMENT,
        "band %d: code %s in %d planes with groups of %d; expected sign or ternary in 1 or 2 planes "
        "or q4 in 1, and a group size of 0 or more",
        band, qn_code_name(spec->code), spec->n_planes, (int)spec->group_size);
}

static qn_status check_shape(const qn_band_shape *shape, qn_error *err) {
    int64_t weights;
    if (shape->rows <= 0 || shape->cols <= 0 || !qni_multiply_i64(shape->rows, shape->cols, &weights)) {
        return qn_fail(err, QN_E_ARGUMENT, "a banded matrix of %lld x %lld", (long long)shape->rows,
                       (long long)shape->cols);
    }
    if (shape->n_bands < 1 || shape->n_bands > QN_MAX_BANDS) {
        return qn_fail(err, QN_E_ARGUMENT, "%d bands; expected 1 to %d", shape->n_bands, QN_MAX_BANDS);
    }
    for (int b = 0; b < shape->n_bands; b++) QN_TRY(check_spec(&shape->bands[b], b, err));
    return QN_OK;
}

static qn_status take_lines(const qn_band_shape *shape, qn_banded *out, qn_error *err) {
    const int64_t n_lines = shape->axis == QN_AXIS_ROWS ? shape->rows : shape->cols;
    if (!(out->line_band = qni_alloc_array(n_lines, 1))) return qni_fail_nomem(err, "the bands of lines");
    for (int64_t i = 0; i < n_lines; i++) {
        const int band = shape->line_band ? shape->line_band[i] : 0;
        if (band >= shape->n_bands) {
            return qn_fail(err, QN_E_ARGUMENT, "line %lld lies in band %d of %d", (long long)i, band,
                           shape->n_bands);
        }
        out->line_band[i] = (uint8_t)band;
        out->bands[band].n_lines++;
    }
    return QN_OK;
}

static qn_status alloc_band(const qn_banded *banded, qn_banded_band *band, qn_error *err) {
    const bool by_rows = banded->axis == QN_AXIS_ROWS, transposed = band->spec.code == QN_CODE_Q4;
    int64_t n_codes, n_scales;
    band->rows = by_rows || transposed ? band->n_lines : banded->rows;
    band->cols = by_rows ? banded->cols : transposed ? banded->rows : band->n_lines;
    const qn_codec codec = {.code = band->spec.code, .group_size = band->spec.group_size};
    band->groups = band->cols ? qn_codec_groups(codec, band->cols) : 0;
    if (!qni_multiply_i64(band->rows, band->cols, &n_codes) ||
        !qni_multiply_i64(band->rows, band->groups, &n_scales))
        return qni_fail_nomem(err, "a banded matrix");
    for (int p = 0; p < band->spec.n_planes; p++) {
        qn_banded_plane *plane = &band->planes[p];
        plane->q = qni_alloc_array(n_codes, sizeof *plane->q);
        plane->scales = qni_alloc_array(n_scales, sizeof *plane->scales);
        if (band->spec.log6_scales) plane->scale_codes = qni_alloc_array(n_scales, 1);
        if (!plane->q || !plane->scales || (band->spec.log6_scales && !plane->scale_codes))
            return qni_fail_nomem(err, "a banded matrix");
    }
    return QN_OK;
}

qn_status qn_banded_alloc(const qn_band_shape *shape, qn_banded *out, qn_error *err) {
    QN_TRY(check_shape(shape, err));
    qn_banded banded = {
        .rows = shape->rows, .cols = shape->cols, .axis = shape->axis, .n_bands = shape->n_bands};
    for (int b = 0; b < shape->n_bands; b++) banded.bands[b].spec = shape->bands[b];
    qn_status status = take_lines(shape, &banded, err);
    for (int b = 0; b < shape->n_bands && status == QN_OK; b++)
        status = alloc_band(&banded, &banded.bands[b], err);
    if (status == QN_OK) {
        *out = banded;
        banded = (qn_banded){0};
    }
    qn_banded_release(&banded);
    return status;
}

void qn_banded_release(qn_banded *banded) {
    for (int b = 0; b < QN_MAX_BANDS; b++) {
        for (int p = 0; p < QN_MAX_PLANES; p++) {
            free(banded->bands[b].planes[p].q);
            free(banded->bands[b].planes[p].scales);
            free(banded->bands[b].planes[p].scale_codes);
        }
    }
    free(banded->line_band);
    free(banded->column_scales);
    *banded = (qn_banded){0};
}

static float decode_at(const qn_banded_band *band, int64_t row, int64_t col) {
    const int64_t group = band->spec.group_size ? col / band->spec.group_size : 0;
    float value = 0;
    for (int p = 0; p < band->spec.n_planes; p++) {
        const qn_banded_plane *plane = &band->planes[p];
        value += qn_f16_to_f32(plane->scales[row * band->groups + group]) *
                 (float)plane->q[row * band->cols + col];
    }
    return value;
}

static void decode_line(const qn_banded *banded, int64_t line, int64_t place, float *out) {
    const qn_banded_band *band = &banded->bands[banded->line_band[line]];
    if (banded->axis == QN_AXIS_ROWS) {
        for (int64_t c = 0; c < banded->cols; c++) out[line * banded->cols + c] = decode_at(band, place, c);
        return;
    }
    const bool transposed = band->spec.code == QN_CODE_Q4;
    for (int64_t r = 0; r < banded->rows; r++) {
        out[r * banded->cols + line] = transposed ? decode_at(band, place, r) : decode_at(band, r, place);
    }
}

void qn_banded_decode(const qn_banded *banded, float *out) {
    const int64_t n_lines = banded->axis == QN_AXIS_ROWS ? banded->rows : banded->cols;
    int64_t next[QN_MAX_BANDS] = {0};
    for (int64_t i = 0; i < n_lines; i++) decode_line(banded, i, next[banded->line_band[i]]++, out);
    for (int64_t i = 0; banded->column_scales && i < banded->rows * banded->cols; i++)
        out[i] *= qn_f16_to_f32(banded->column_scales[i % banded->cols]);
}
