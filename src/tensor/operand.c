#include "tensor/operand.h"

#include "base/banned.h"

enum {
    ROUND_CHUNK = 1 << 15,  /* values of a task */
    PANEL_VALUES = 1 << 22, /* of a panel: 16 MiB in f32 */
    LOAD_ROWS = 16,         /* of a task */
    LEAST_SIDE = 32,        /* of a product that is worth packing for: as much as a panel holds; */
    LEAST_ROWS_F32 = 128    /* in f32 as many rows as make up for packing a large right side */
};

qni_precision qni_precision_of(const qni_kernels *kernels, bool bf16, int64_t m, int64_t n, int64_t k) {
    if (kernels->packed && m >= (bf16 ? LEAST_SIDE : LEAST_ROWS_F32) && n >= LEAST_SIDE && k >= LEAST_SIDE)
        return bf16 ? QNI_PACKED_BF16 : QNI_PACKED_F32;
    return bf16 ? QNI_ROUNDED : QNI_F32;
}

int qni_precision_parts(qni_precision precision) {
    if (precision == QNI_PACKED_F32) return QNI_PARTS_F32;
    return precision == QNI_PACKED_BF16 ? QNI_PARTS_BF16 : 0;
}

/* From the first stored value to the last. */
static int64_t stored_values(const qni_packing *stored) {
    const int64_t n_lines = stored->across ? stored->depth : stored->rows,
                  length = stored->across ? stored->rows : stored->depth;
    return n_lines > 0 ? (n_lines - 1) * stored->ld + length : 0;
}

/* ---- activations and gradients ---- */

void qni_operand_plan(qni_operand *o, const qni_kernels *kernels, qni_precision precision,
                      const qni_packing *stored, qni_work *work) {
    *o = (qni_operand){.kernels = kernels, .precision = precision, .stored = *stored, .data = stored->values};
    o->stored.parts = stored->right ? qni_precision_parts(precision) : 0;
    if (precision == QNI_ROUNDED) {
        o->copy = qni_work_reserve(work, stored_values(stored), sizeof(float));
    } else if (o->stored.parts > 0) {
        const int64_t rows = qni_ceil_div(stored->rows, QNI_PACKED_ROWS) * QNI_PACKED_ROWS;
        o->copy = qni_work_reserve(work, rows, (size_t)qni_packed_row_bytes(stored->depth, o->stored.parts));
    }
}

static void round_values(const qni_operand *o, float *out) {
    const int64_t n = stored_values(&o->stored);
#pragma omp for schedule(static)
    for (int64_t c = 0; c < qni_ceil_div(n, ROUND_CHUNK); c++) {
        const int64_t first = c * ROUND_CHUNK;
        o->kernels->round_bf16(o->stored.values + first, qni_min(ROUND_CHUNK, n - first), out + first);
    }
}

static void pack_values(const qni_operand *o, uint16_t *out) {
    const int64_t n_tasks = qni_packing_tasks(&o->stored);
#pragma omp for schedule(static)
    for (int64_t t = 0; t < n_tasks; t++) o->kernels->packed->pack(&o->stored, t, out);
}

void qni_operand_load(qni_operand *o, const qni_work *work) {
    void *copy = work->base + o->copy;
    if (!o->stored.values) return;
    if (o->stored.parts > 0) {
        pack_values(o, copy);
    } else if (o->precision == QNI_ROUNDED) {
        round_values(o, copy);
    } else {
        return;
    }
#pragma omp single
    o->data = copy;
}

/* ---- weights ---- */

/* Bytes of a row in the buffer; a packed one's are those of its share of a panel. */
static int64_t row_bytes(const qni_panel *panel) {
    const int parts = qni_precision_parts(panel->precision);
    const int64_t cols = panel->w->cols;
    return parts > 0 ? qni_packed_row_bytes(cols, parts) : cols * (int64_t)sizeof(float);
}

void qni_panel_plan(qni_panel *panel, const qni_kernels *kernels, const qni_matrix *w,
                    qni_precision precision, int64_t row_step, qni_work *work) {
    const int64_t steps = PANEL_VALUES / w->cols / row_step;
    *panel = (qni_panel){.kernels = kernels, .w = w, .precision = precision};
    panel->in_place = precision == QNI_F32 && w->f32;
    panel->max_rows = panel->in_place ? w->rows : qni_min(w->rows, (steps > 1 ? steps : 1) * row_step);
    if (panel->in_place) return;
    const int64_t rows = qni_ceil_div(panel->max_rows, QNI_PACKED_ROWS) * QNI_PACKED_ROWS;
    panel->buffer = qni_work_reserve(work, rows, (size_t)row_bytes(panel));
}

/* Rows to pack are decoded there first. */
size_t qni_panel_slice_bytes(const qni_panel *panel) {
    if (qni_precision_parts(panel->precision) == 0 || panel->w->f32) return 0;
    return qni_aligned_bytes(QNI_PACKED_ROWS * panel->w->cols, sizeof(float));
}

/* Rows as f32 values; of f32 ones, rounded copies. */
static void decode_rows(const qni_panel *panel, int64_t row, int64_t n_rows, float *out) {
    const qni_matrix *w = panel->w;
    const int64_t first = row * w->cols, n = n_rows * w->cols;
    if (w->bf16) { /* as rounded as it gets */
        panel->kernels->widen_bf16(w->bf16 + first, n, out);
    } else if (w->f32) {
        panel->kernels->round_bf16(w->f32 + first, n, out);
    } else {
        w->decode(w->source, row, n_rows, out);
        if (panel->precision == QNI_ROUNDED) panel->kernels->round_bf16(out, n, out);
    }
}

/* As many rows as a packed panel holds. */
static void pack_rows(const qni_panel *panel, int64_t row, int64_t n_rows, float *slice, char *out) {
    const qni_matrix *w = panel->w;
    const qni_packing packing = {.values = w->f32 ? w->f32 + row * w->cols : slice,
                                 .ld = w->cols,
                                 .rows = n_rows,
                                 .depth = w->cols,
                                 .right = true,
                                 .parts = qni_precision_parts(panel->precision)};
    if (!w->f32) decode_rows(panel, row, n_rows, slice);
    panel->kernels->packed->pack(&packing, 0, (uint16_t *)(void *)out);
}

void qni_panel_load(qni_panel *panel, const qni_work *work, int64_t row0) {
    const int64_t end = qni_min(row0 + panel->max_rows, panel->w->rows);
    const bool is_packed = qni_precision_parts(panel->precision) > 0;
    const int64_t task_rows = is_packed ? QNI_PACKED_ROWS : LOAD_ROWS;
#pragma omp single
    panel->row0 = row0;
    if (panel->in_place) return;
#pragma omp for schedule(static)
    for (int64_t t = 0; t < qni_ceil_div(end - row0, task_rows); t++) {
        const int64_t row = row0 + t * task_rows, n_rows = qni_min(task_rows, end - row);
        char *out = work->base + panel->buffer + t * task_rows * row_bytes(panel);
        if (is_packed) {
            pack_rows(panel, row, n_rows, qni_work_slice(work), out);
        } else {
            decode_rows(panel, row, n_rows, (float *)(void *)out);
        }
    }
}

const void *qni_panel_row(const qni_panel *panel, const qni_work *work, int64_t row) {
    if (panel->in_place) return panel->w->f32 + row * panel->w->cols;
    return work->base + panel->buffer + (row - panel->row0) * row_bytes(panel);
}
