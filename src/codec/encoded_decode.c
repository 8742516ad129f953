/* Decoding rows of an encoded matrix, along either axis. */
#include "base/clones.h"
#include "codec/code_ops.h"

#include "base/banned.h"

/* Rows of the column axis that are decoded together: the columns of a q4 band are then written while the rows lie in
 * the cache. */
enum { TILE_ROWS = 32 };

/* Stored columns [first, first + n) of a stored row, at most a chunk, from a byte boundary of the codes. */
typedef struct stretch {
    int64_t row, first, n;
    int64_t group_size, n_groups; /* of the whole stored row */
    int64_t row_bytes;
} stretch;

static stretch stretch_of(qn_codec codec, int64_t row, int64_t cols) {
    return (stretch){.row = row,
                     .n = cols,
                     .group_size = codec.group_size > 0 ? codec.group_size : cols,
                     .n_groups = qn_codec_groups(codec, cols),
                     .row_bytes = qn_codec_code_bytes(codec, cols)};
}

static float scale_at(const qn_plane *plane, qn_scale_code scale, int64_t i) {
    if (scale == QN_SCALE_F16) return qn_f16_to_f32(qni_f16_get(plane->scales, i));
    return plane->values[qni_log6_get(plane->scales, i)];
}

/* out = scale * q, each with the scale of its group. */
QNI_CLONES
static void scale_codes(const qn_plane *plane, qn_scale_code scale, const stretch *s, const int8_t *q,
                        float *out) {
    for (int64_t i = 0; i < s->n;) {
        const int64_t group = (s->first + i) / s->group_size;
        int64_t end = (group + 1) * s->group_size - s->first;
        if (end > s->n) end = s->n;
        const float value = scale_at(plane, scale, s->row * s->n_groups + group);
        for (; i < end; i++) out[i] = value * (float)q[i];
    }
}

/* out += scale * q */
QNI_CLONES
static void add_codes(const qn_plane *plane, qn_scale_code scale, const stretch *s, const int8_t *q,
                      float *out) {
    for (int64_t i = 0; i < s->n;) {
        const int64_t group = (s->first + i) / s->group_size;
        int64_t end = (group + 1) * s->group_size - s->first;
        if (end > s->n) end = s->n;
        const float value = scale_at(plane, scale, s->row * s->n_groups + group);
        for (; i < end; i++) out[i] += value * (float)q[i];
    }
}

static void decode_stretch(const qn_band *band, const stretch *s, float *out) {
    const qni_code_ops *ops = qni_code_ops_of(band->codec.code);
    int8_t q[QNI_CODE_CHUNK];
    for (int p = 0; p < band->n_planes; p++) {
        const qn_plane *plane = &band->planes[p];
        ops->unpack(plane->codes + s->row * s->row_bytes + ops->bytes(s->first), s->n, q);
        if (p == 0)
            scale_codes(plane, band->codec.scale, s, q, out);
        else
            add_codes(plane, band->codec.scale, s, q, out);
    }
}

static int64_t chunk(int64_t n) {
    return n < QNI_CODE_CHUNK ? n : QNI_CODE_CHUNK;
}

/* ------------------------------------------------------------------------------------------- axis rows */

static void decode_stored_row(const qn_band *band, int64_t row, int64_t cols, float *out) {
    stretch s = stretch_of(band->codec, row, cols);
    for (; s.first < cols; s.first += s.n) {
        s.n = chunk(cols - s.first);
        decode_stretch(band, &s, out + s.first);
    }
}

void qn_codec_decode_row(qn_codec codec, const uint8_t *codes, const uint16_t *scales, int64_t cols,
                         float *out) {
    const qn_band band = {.codec = {codec.code, codec.group_size, QN_SCALE_F16},
                          .n_planes = 1,
                          .planes = {{.scales = (const uint8_t *)scales, .codes = codes}}};
    decode_stored_row(&band, 0, cols, out);
}

/* ------------------------------------------------------------------------------------------- axis columns */

QNI_CLONES
static void scatter(const float *values, const int32_t *columns, int64_t n, float *row) {
    /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): decode_stretch has written all n */
    for (int64_t i = 0; i < n; i++) row[columns[i]] = values[i];
}

/* A band that is stored row by row. */
static void decode_row_part(const qn_encoded *e, int band, const int32_t *columns, int64_t row, float *out) {
    const int64_t n_lines = e->bands[band].n_lines;
    float values[QNI_CODE_CHUNK];
    stretch s = stretch_of(e->bands[band].codec, row, n_lines);
    for (; s.first < n_lines; s.first += s.n) {
        s.n = chunk(n_lines - s.first);
        decode_stretch(&e->bands[band], &s, values);
        scatter(values, columns + s.first, s.n, out);
    }
}

/* A band that is stored column by column: codes lie in pairs, so that an odd first row costs one more. */
static void decode_columns(const qn_encoded *e, int band, const int32_t *columns, int64_t row0,
                           int64_t n_rows, float *out) {
    float values[QNI_CODE_CHUNK];
    for (int64_t line = 0; line < e->bands[band].n_lines; line++) {
        stretch s = stretch_of(e->bands[band].codec, line, e->rows);
        for (s.first = row0 - row0 % 2; s.first < row0 + n_rows; s.first += s.n) {
            s.n = chunk(row0 + n_rows - s.first);
            decode_stretch(&e->bands[band], &s, values);
            for (int64_t i = s.first < row0; i < s.n; i++)
                /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign): decode_stretch has written all s.n */
                out[(s.first + i - row0) * e->cols + columns[line]] = values[i];
        }
    }
}

static void decode_tile(const qn_encoded *e, int64_t row0, int64_t n_rows, float *out) {
    const int32_t *columns = e->index;
    for (int b = 0; b < e->n_bands; b++) {
        if (e->bands[b].codec.code == QN_CODE_Q4) {
            decode_columns(e, b, columns, row0, n_rows, out);
        } else {
            for (int64_t i = 0; i < n_rows; i++) decode_row_part(e, b, columns, row0 + i, out + i * e->cols);
        }
        columns += e->bands[b].n_lines;
    }
}

QNI_CLONES
static void scale_columns(const float *factors, int64_t n_rows, int64_t cols, float *out) {
    for (int64_t i = 0; i < n_rows; i++) {
        float *row = out + i * cols;
        for (int64_t c = 0; c < cols; c++) row[c] *= factors[c];
    }
}

void qn_encoded_decode_rows(const qn_encoded *e, int64_t row0, int64_t n_rows, float *out) {
    if (e->axis == QN_AXIS_ROWS) {
        for (int64_t i = 0; i < n_rows; i++) {
            const int32_t slot = e->index[row0 + i];
            decode_stored_row(&e->bands[slot % 4], slot / 4, e->cols, out + i * e->cols);
        }
    } else {
        for (int64_t i = 0; i < n_rows; i += TILE_ROWS)
            decode_tile(e, row0 + i, n_rows - i < TILE_ROWS ? n_rows - i : TILE_ROWS, out + i * e->cols);
    }
    if (e->column_scaled) scale_columns(e->column_values, n_rows, e->cols, out);
    if (e->hadamard) qn_hadamard_rows(out, n_rows, e->cols, e->hadamard, true);
}
