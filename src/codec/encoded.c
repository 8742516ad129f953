/* The shape of an encoded matrix: where its parts lie, and how many bytes they take. */
#include "quern/codec/codec.h"

#include "base/alloc.h"
#include "codec/code_ops.h"

#include <stdlib.h>

#include "base/banned.h"

int64_t qn_encoded_lines(const qn_encoded *e) {
    return e->axis == QN_AXIS_ROWS ? e->rows : e->cols;
}

static bool lies_along_columns(const qn_encoded *e, int band) {
    return e->axis == QN_AXIS_COLUMNS && e->bands[band].codec.code == QN_CODE_Q4;
}

int64_t qn_band_rows(const qn_encoded *e, int band) {
    if (e->axis == QN_AXIS_ROWS || lies_along_columns(e, band)) return e->bands[band].n_lines;
    return e->rows;
}

int64_t qn_band_cols(const qn_encoded *e, int band) {
    if (e->axis == QN_AXIS_ROWS) return e->cols;
    return lies_along_columns(e, band) ? e->rows : e->bands[band].n_lines;
}

static int mask_bits(int n_bands) {
    return n_bands - 1; /* ceil(log2) of 1, 2, 3 */
}

void qn_mask_set(uint8_t *mask, int n_bands, int64_t line, int band) {
    const int64_t bit = line * mask_bits(n_bands);
    mask[bit / 8] |= (uint8_t)(band << bit % 8);
}

int qn_mask_get(const uint8_t *mask, int n_bands, int64_t line) {
    const int bits = mask_bits(n_bands);
    const int64_t bit = line * bits;
    return bits ? mask[bit / 8] >> bit % 8 & ((1 << bits) - 1) : 0;
}

/* ------------------------------------------------------------------------------------------- parts */

__extension__ typedef __int128 i128;

typedef struct part_list {
    qn_part *parts;
    int n;
    int64_t offset;
} part_list;

static void add_part(part_list *list, qn_part part) {
    part.offset = list->offset;
    part.stored_bytes = part.n_bytes;
    list->offset += part.n_bytes;
    list->parts[list->n++] = part;
}

static void add_plane(part_list *list, const qn_encoded *e, int b, int p) {
    const qn_codec codec = e->bands[b].codec;
    const int64_t rows = qn_band_rows(e, b), cols = qn_band_cols(e, b);
    qn_part part = {.band = b, .plane = p, .role = QN_ROLE_SCALE};

    if (codec.scale == QN_SCALE_LOG6) {
        part.kind = QN_PART_GRID;
        part.n_bytes = QN_LOG6_GRID_BYTES;
        add_part(list, part);
    }
    part.kind = QN_PART_SCALES;
    part.n_bytes = qn_scales_bytes(codec.scale, rows * qn_codec_groups(codec, cols));
    add_part(list, part);
    part.kind = QN_PART_CODES;
    part.role = p == 0 ? qni_code_ops_of(codec.code)->role : QN_ROLE_RESIDUAL;
    part.n_bytes = rows * qn_codec_code_bytes(codec, cols);
    part.n_weights = p == 0 ? rows * cols : 0;
    add_part(list, part);
}

/* Of a stream all parts have the same rate, rounded so that nothing is lost: a part ends where its end in the block, scaled
 * to the stream, is rounded down. */
static void share_stream(part_list *list, int64_t stream_bytes) {
    int64_t first = 0;
    for (int i = 0; i < list->n; i++) {
        const i128 end = (i128)(list->parts[i].offset + list->parts[i].n_bytes);
        const int64_t last = (int64_t)(end * (i128)stream_bytes / (i128)list->offset);
        list->parts[i].stored_bytes = last - first;
        first = last;
    }
}

int qn_encoded_parts(const qn_encoded *e, qn_part parts[QN_MAX_PARTS]) {
    part_list list = {.parts = parts};

    if (e->n_bands > 1) {
        const int64_t bits = qn_encoded_lines(e) * mask_bits(e->n_bands);
        add_part(&list, (qn_part){.kind = QN_PART_MASK, .role = QN_ROLE_SIDE, .n_bytes = (bits + 7) / 8});
    }
    if (e->column_scaled)
        add_part(&list,
                 (qn_part){.kind = QN_PART_COLUMN_SCALES, .role = QN_ROLE_SCALE, .n_bytes = 2 * e->cols});
    for (int b = 0; b < e->n_bands; b++) {
        for (int p = 0; p < e->bands[b].n_planes; p++) add_plane(&list, e, b, p);
    }
    if (e->stream_bytes) share_stream(&list, e->stream_bytes);
    return list.n;
}

int64_t qn_encoded_bytes(const qn_encoded *e) {
    qn_part parts[QN_MAX_PARTS];
    const int n = qn_encoded_parts(e, parts);
    return n > 0 ? parts[n - 1].offset + parts[n - 1].n_bytes : 0;
}

int64_t qn_encoded_stored_bytes(const qn_encoded *e) {
    return e->stream_bytes ? e->stream_bytes : qn_encoded_bytes(e);
}

/* ------------------------------------------------------------------------------------------- comparison */

qn_encoded qn_encoded_shape(const qn_encoded *e) {
    qn_encoded shape = {.rows = e->rows,
                        .cols = e->cols,
                        .axis = e->axis,
                        .hadamard = e->hadamard,
                        .column_scaled = e->column_scaled,
                        .n_bands = e->n_bands,
                        .stream_bytes = e->stream_bytes};
    for (int b = 0; b < e->n_bands && b < QN_MAX_BANDS; b++) {
        shape.bands[b] = (qn_band){
            .codec = e->bands[b].codec, .n_planes = e->bands[b].n_planes, .n_lines = e->bands[b].n_lines};
    }
    return shape;
}

static bool same_band(const qn_band *a, const qn_band *b) {
    return a->n_lines == b->n_lines && a->n_planes == b->n_planes && a->codec.code == b->codec.code &&
           a->codec.group_size == b->codec.group_size && a->codec.scale == b->codec.scale;
}

bool qn_encoded_same_shape(const qn_encoded *a, const qn_encoded *b) {
    bool same = a->rows == b->rows && a->cols == b->cols && a->axis == b->axis &&
                a->hadamard == b->hadamard && a->column_scaled == b->column_scaled &&
                a->n_bands == b->n_bands && a->stream_bytes == b->stream_bytes;
    for (int i = 0; same && i < a->n_bands; i++) same = same_band(&a->bands[i], &b->bands[i]);
    return same;
}

/* ------------------------------------------------------------------------------------------- memory */

void qn_encoded_attach(qn_encoded *e, const uint8_t *data) {
    qn_part parts[QN_MAX_PARTS];
    const int n = qn_encoded_parts(e, parts);

    e->data = data;
    for (int i = 0; i < n; i++) {
        qn_plane *plane = &e->bands[parts[i].band].planes[parts[i].plane];
        const uint8_t *at = data + parts[i].offset;
        if (parts[i].kind == QN_PART_MASK) e->mask = at;
        if (parts[i].kind == QN_PART_COLUMN_SCALES) e->column_scales = at;
        if (parts[i].kind == QN_PART_GRID) plane->grid = at;
        if (parts[i].kind == QN_PART_SCALES) plane->scales = at;
        if (parts[i].kind == QN_PART_CODES) plane->codes = at;
    }
}

static qn_encoded_arrays arrays_of(const qn_encoded *e, uint8_t *block) {
    qn_encoded_arrays arrays = {0};
    qn_part parts[QN_MAX_PARTS];
    const int n = qn_encoded_parts(e, parts);

    for (int i = 0; i < n; i++) {
        qn_plane_arrays *plane = &arrays.planes[parts[i].band][parts[i].plane];
        uint8_t *at = block + parts[i].offset;
        if (parts[i].kind == QN_PART_MASK) arrays.mask = at;
        if (parts[i].kind == QN_PART_COLUMN_SCALES) arrays.column_scales = at;
        if (parts[i].kind == QN_PART_GRID) plane->grid = at;
        if (parts[i].kind == QN_PART_SCALES) plane->scales = at;
        if (parts[i].kind == QN_PART_CODES) plane->codes = at;
    }
    return arrays;
}

qn_status qn_encoded_alloc(qn_encoded *e, qn_encoded_arrays *arrays, qn_error *err) {
    qn_encoded fresh = qn_encoded_shape(e);

    QN_TRY(qn_encoded_check_shape(e, "new matrix", err));
    uint8_t *block = qni_alloc_array(qn_encoded_bytes(&fresh), 1);
    if (!block) return qni_fail_nomem(err, "an encoded matrix");
    fresh.owned = block;
    qn_encoded_attach(&fresh, block);
    *arrays = arrays_of(&fresh, block);
    *e = fresh;
    return QN_OK;
}

void qn_encoded_release(qn_encoded *e) {
    free(e->index);
    free(e->column_values);
    free(e->owned);
    *e = (qn_encoded){0};
}
