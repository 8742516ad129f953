/* From packed bytes back to bands: the start of training that goes on from an artifact. */
#include "base/alloc.h"
#include "fit/scale_grid.h"
#include "quern/fit/bands.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static qn_status unpack_scales(const qn_plane *from, int64_t n, qn_scale_code code, qn_banded_plane *to,
                               qn_error *err) {
    if (code == QN_SCALE_F16) {
        qn_scales_unpack(code, from->scales, n, to->scales);
        return QN_OK;
    }
    qni_scale_grid grid;
    float ends[2];
    uint16_t *numbers = qni_alloc_array(n, sizeof *numbers);
    if (!numbers) return qni_fail_nomem(err, "scales");
    memcpy(ends, from->grid, sizeof ends); /* little endian, as all of Quern */
    qni_scale_grid_init(&grid, ends[0], ends[1]);
    qn_scales_unpack(code, from->scales, n, numbers);
    for (int64_t i = 0; i < n; i++) {
        to->scale_codes[i] = (uint8_t)numbers[i];
        to->scales[i] = grid.bits[numbers[i]];
    }
    to->grid_base = ends[0];
    to->grid_ratio = ends[1];
    free(numbers);
    return QN_OK;
}

static qn_status unpack_plane(const qn_band *band, const qn_plane *from, const qn_banded_band *shape,
                              qn_banded_plane *to, qn_error *err) {
    const int64_t row_bytes = qn_codec_code_bytes(band->codec, shape->cols);
    for (int64_t r = 0; r < shape->rows; r++)
        QN_TRY(qn_codec_unpack_row(band->codec, from->codes + r * row_bytes, shape->cols,
                                   to->q + r * shape->cols, err));
    return unpack_scales(from, shape->rows * shape->groups, band->codec.scale, to, err);
}

static qn_status unpack_column_scales(const qn_encoded *e, qn_banded *out, qn_error *err) {
    out->column_scales = qni_alloc_array(e->cols, sizeof *out->column_scales);
    if (!out->column_scales) return qni_fail_nomem(err, "column scales");
    memcpy(out->column_scales, e->column_scales, (size_t)e->cols * sizeof *out->column_scales);
    return QN_OK;
}

qn_status qn_banded_unpack(const qn_encoded *e, qn_banded *out, qn_error *err) {
    const int64_t n_lines = qn_encoded_lines(e);
    qn_banded banded = {0};
    uint8_t *lines = qni_alloc_array(n_lines, sizeof *lines);
    if (!lines) return qni_fail_nomem(err, "the bands of lines");
    for (int64_t i = 0; e->mask && i < n_lines; i++) lines[i] = (uint8_t)qn_mask_get(e->mask, e->n_bands, i);
    const qn_band_shape shape = qn_band_shape_of(e, lines);
    qn_status status = qn_banded_alloc(&shape, &banded, err);
    for (int b = 0; b < e->n_bands; b++)
        for (int p = 0; p < e->bands[b].n_planes && status == QN_OK; p++)
            status = unpack_plane(&e->bands[b], &e->bands[b].planes[p], &banded.bands[b],
                                  &banded.bands[b].planes[p], err);
    free(lines);
    if (status == QN_OK && e->column_scaled) status = unpack_column_scales(e, &banded, err);
    if (status == QN_OK)
        *out = banded;
    else
        qn_banded_release(&banded);
    return status;
}
