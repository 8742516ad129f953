/* From fitted bands to packed bytes. */
#include "base/alloc.h"
#include "quern/fit/bands.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

qn_band_shape qn_band_shape_of(const qn_encoded *shape, const uint8_t *line_band) {
    qn_band_shape out = {.rows = shape->rows,
                         .cols = shape->cols,
                         .axis = shape->axis,
                         .n_bands = shape->n_bands,
                         .line_band = line_band};
    for (int b = 0; b < shape->n_bands; b++) {
        const qn_band *band = &shape->bands[b];
        out.bands[b] = (qn_band_spec){.code = band->codec.code,
                                      .n_planes = band->n_planes,
                                      .group_size = band->codec.group_size,
                                      .log6_scales = band->codec.scale == QN_SCALE_LOG6};
    }
    return out;
}

static qn_encoded shape_of(const qn_banded *banded, int32_t hadamard) {
    qn_encoded shape = {.rows = banded->rows,
                        .cols = banded->cols,
                        .axis = banded->axis,
                        .hadamard = hadamard,
                        .column_scaled = banded->column_scales != NULL,
                        .n_bands = banded->n_bands};
    for (int b = 0; b < banded->n_bands; b++) {
        const qn_banded_band *band = &banded->bands[b];
        const qn_scale_code scale = band->spec.log6_scales ? QN_SCALE_LOG6 : QN_SCALE_F16;
        shape.bands[b] = (qn_band){.codec = {band->spec.code, band->spec.group_size, scale},
                                   .n_planes = band->spec.n_planes,
                                   .n_lines = band->n_lines};
    }
    return shape;
}

static qn_status encode_plane(const qn_banded_band *band, const qn_banded_plane *plane, qn_codec codec,
                              const qn_plane_arrays *out, qn_error *err) {
    const int64_t row_bytes = qn_codec_code_bytes(codec, band->cols), n_scales = band->rows * band->groups;
    for (int64_t r = 0; r < band->rows; r++)
        qn_codec_pack_row(codec, plane->q + r * band->cols, band->cols, out->codes + r * row_bytes);
    if (codec.scale == QN_SCALE_F16) {
        qn_scales_pack(codec.scale, plane->scales, n_scales, out->scales);
        return QN_OK;
    }
    uint16_t *numbers = qni_alloc_array(n_scales, sizeof *numbers);
    if (!numbers) return qni_fail_nomem(err, "scales");
    for (int64_t i = 0; i < n_scales; i++) numbers[i] = plane->scale_codes[i];
    qn_scales_pack(codec.scale, numbers, n_scales, out->scales);
    qn_log6_grid_pack(plane->grid_base, plane->grid_ratio, out->grid);
    free(numbers);
    return QN_OK;
}

static qn_status fill(const qn_banded *banded, const qn_encoded *e, const qn_encoded_arrays *arrays,
                      qn_error *err) {
    for (int b = 0; b < banded->n_bands; b++) {
        const qn_banded_band *band = &banded->bands[b];
        for (int p = 0; p < band->spec.n_planes; p++)
            QN_TRY(encode_plane(band, &band->planes[p], e->bands[b].codec, &arrays->planes[b][p], err));
    }
    if (e->column_scaled) memcpy(arrays->column_scales, banded->column_scales, 2 * (size_t)e->cols);
    for (int64_t i = 0; banded->n_bands > 1 && i < qn_encoded_lines(e); i++)
        qn_mask_set(arrays->mask, banded->n_bands, i, banded->line_band[i]);
    return QN_OK;
}

qn_status qn_banded_encode(const qn_banded *banded, int32_t hadamard, const char *name, qn_encoded *out,
                           qn_error *err) {
    qn_encoded e = shape_of(banded, hadamard);
    qn_encoded_arrays arrays;
    for (int b = 0; b < banded->n_bands; b++)
        if (banded->bands[b].n_lines == 0)
            return qn_fail(err, QN_E_ARGUMENT, "%s: band %d has no lines and cannot be packed", name, b);
    QN_TRY(qn_encoded_check_shape(&e, name, err));
    QN_TRY(qn_encoded_alloc(&e, &arrays, err));
    qn_status status = fill(banded, &e, &arrays, err);
    if (status == QN_OK) status = qn_encoded_bind(&e, name, err);
    if (status == QN_OK)
        *out = e;
    else
        qn_encoded_release(&e);
    return status;
}
