#include "tensor/operand.h"

#include "base/banned.h"

enum {
    ROUND_CHUNK = 1 << 15,  /* values of a task */
    PANEL_VALUES = 1 << 22, /* of a panel: 16 MiB in f32 */
    LOAD_ROWS = 16          /* of a task */
};

qni_precision qni_precision_of(const qni_kernels *kernels, bool bf16) {
    if (!bf16) return QNI_F32;
    return kernels->bf16_gemm ? QNI_BF16 : QNI_ROUNDED;
}

size_t qni_precision_bytes(qni_precision precision) {
    return precision == QNI_BF16 ? sizeof(uint16_t) : sizeof(float);
}

void qni_round_values(const qni_kernels *kernels, const float *x, int64_t n, qni_precision precision,
                      void *out) {
#pragma omp for schedule(static)
    for (int64_t c = 0; c < qni_ceil_div(n, ROUND_CHUNK); c++) {
        const int64_t first = c * ROUND_CHUNK, count = qni_min(ROUND_CHUNK, n - first);
        if (precision == QNI_BF16) {
            kernels->narrow_bf16(x + first, count, (uint16_t *)out + first);
        } else {
            kernels->round_bf16(x + first, count, (float *)out + first);
        }
    }
}

void qni_panel_plan(qni_panel *panel, const qni_kernels *kernels, const qni_matrix *w,
                    qni_precision precision, int64_t row_step, qni_work *work) {
    const int64_t steps = PANEL_VALUES / w->cols / row_step;
    *panel = (qni_panel){.kernels = kernels, .w = w, .precision = precision};
    panel->in_place = (precision == QNI_F32 && w->f32) || (precision == QNI_BF16 && w->bf16);
    panel->max_rows = panel->in_place ? w->rows : qni_min(w->rows, (steps > 1 ? steps : 1) * row_step);
    if (!panel->in_place)
        panel->buffer = qni_work_reserve(work, panel->max_rows * w->cols, qni_precision_bytes(precision));
}

size_t qni_panel_slice_bytes(const qni_panel *panel) {
    return panel->in_place || panel->precision != QNI_BF16 ? 0
                                                           : qni_aligned_bytes(panel->w->cols, sizeof(float));
}

/* One row as f32 values. */
static void decode_row(const qni_panel *panel, int64_t row, float *out) {
    const qni_matrix *w = panel->w;
    if (w->bf16) {
        panel->kernels->widen_bf16(w->bf16 + row * w->cols, w->cols, out);
    } else if (w->f32) {
        panel->kernels->scale(w->f32 + row * w->cols, 1.0f, w->cols, out);
    } else {
        w->decode(w->source, row, 1, out);
    }
}

static void load_row(const qni_panel *panel, const qni_work *work, int64_t row) {
    const int64_t cols = panel->w->cols, at = (row - panel->row0) * cols;
    void *buffer = work->base + panel->buffer;
    if (panel->precision == QNI_BF16) {
        float *wide = qni_work_slice(work);
        decode_row(panel, row, wide);
        panel->kernels->narrow_bf16(wide, cols, (uint16_t *)buffer + at);
        return;
    }
    float *out = (float *)buffer + at;
    decode_row(panel, row, out);
    if (panel->precision == QNI_ROUNDED && !panel->w->bf16) panel->kernels->round_bf16(out, cols, out);
}

void qni_panel_load(qni_panel *panel, const qni_work *work, int64_t row0) {
    const int64_t end = qni_min(row0 + panel->max_rows, panel->w->rows);
#pragma omp single
    panel->row0 = row0;
    if (panel->in_place) return;
#pragma omp for schedule(static, LOAD_ROWS)
    for (int64_t r = row0; r < end; r++) load_row(panel, work, r);
}

const void *qni_panel_row(const qni_panel *panel, const qni_work *work, int64_t row) {
    const int64_t cols = panel->w->cols;
    if (!panel->in_place) {
        const size_t bytes = qni_precision_bytes(panel->precision);
        return work->base + panel->buffer + (size_t)((row - panel->row0) * cols) * bytes;
    }
    if (panel->precision == QNI_BF16) return panel->w->bf16 + row * cols;
    return panel->w->f32 + row * cols;
}
