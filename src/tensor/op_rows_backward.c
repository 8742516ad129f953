/* What only a walk backwards needs row by row: norms, the gate product, the embedding. */
#include "tensor/ops_cpu.h"

#include <string.h>

#include "base/banned.h"

enum {
    NORM_BLOCKS = 64,       /* partial sums of a norm's dw, put together in order */
    CHUNK_VALUES = 1 << 14, /* of an element-wise task: three arrays of 64 KiB */
    SCATTER_COLUMNS = 64    /* of a task, which goes through all rows */
};

qn_status qni_cpu_rms_norm_backward(qn_ops *ops, const qni_rms_norm_backward_args *args, int n_threads,
                                    qn_error *err) {
    const int64_t n = args->n, rows = args->rows, block_rows = qni_ceil_div(rows, NORM_BLOCKS);
    const int64_t n_blocks = rows > 0 ? qni_ceil_div(rows, block_rows) : 0;
    qni_work work = {0};
    const size_t stride = qni_aligned_bytes(n, sizeof(float));
    const size_t partials = qni_work_reserve(&work, n_blocks, stride);
    QN_TRY(qni_work_take(ops, &work, err));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t b = 0; b < n_blocks; b++) {
        float *dw = (float *)(void *)(work.base + partials + (size_t)b * stride);
        memset(dw, 0, stride);
        for (int64_t r = b * block_rows; r < qni_min((b + 1) * block_rows, rows); r++)
            ops->kernels->rms_norm_backward(args->x + r * n, args->w, args->eps, n, args->dy + r * n,
                                            args->add_dx, args->dx + r * n, dw);
    }
    for (int64_t b = 0; args->dw && b < n_blocks; b++)
        ops->kernels->add(args->dw, (const float *)(void *)(work.base + partials + (size_t)b * stride), n);
    return QN_OK;
}

void qni_cpu_swiglu_into(qn_ops *ops, const float *gate, const float *up, int64_t n, float *y,
                         int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t c = 0; c < qni_ceil_div(n, CHUNK_VALUES); c++) {
        const int64_t first = c * CHUNK_VALUES, count = qni_min(CHUNK_VALUES, n - first);
        memcpy(y + first, gate + first, (size_t)count * sizeof *y);
        ops->kernels->swiglu(y + first, up + first, count);
    }
}

void qni_cpu_swiglu_backward(qn_ops *ops, float *gate, float *up, float *dy, int64_t n, int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t c = 0; c < qni_ceil_div(n, CHUNK_VALUES); c++) {
        const int64_t first = c * CHUNK_VALUES;
        ops->kernels->swiglu_backward(gate + first, up + first, dy + first, qni_min(CHUNK_VALUES, n - first));
    }
}

void qni_cpu_scatter_add(qn_ops *ops, const int32_t *ids, const float *dy, int64_t rows, int64_t n, float *dw,
                         int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t c = 0; c < qni_ceil_div(n, SCATTER_COLUMNS); c++) {
        const int64_t first = c * SCATTER_COLUMNS, count = qni_min(SCATTER_COLUMNS, n - first);
        for (int64_t r = 0; r < rows; r++)
            ops->kernels->add(dw + ids[r] * n + first, dy + r * n + first, count);
    }
}
