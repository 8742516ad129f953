/* The CPU table, its row-wise operations, and the helpers of the others. */
#include "tensor/ops_cpu.h"

#include "base/alloc.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum {
    CHUNK_VALUES = 1 << 15,      /* of an element-wise task: 128 KiB, a share of a level-2 cache */
    THREAD_OPERATIONS = 1 << 19, /* multiply-adds that are worth a thread */
    OPERATIONS_A_VALUE = 16      /* what an element-wise step costs, in multiply-adds: it waits for memory */
};

int64_t qni_ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

size_t qni_aligned_bytes(int64_t n, size_t size) {
    return ((size_t)n * size + 63) / 64 * 64;
}

size_t qni_work_reserve(qni_work *work, int64_t n, size_t size) {
    const size_t offset = work->bytes;
    work->bytes += qni_aligned_bytes(n, size);
    return offset;
}

void qni_work_reserve_slices(qni_work *work, int n_threads, size_t slice_bytes) {
    work->slice_bytes = qni_aligned_bytes((int64_t)slice_bytes, 1);
    work->slices = qni_work_reserve(work, n_threads, work->slice_bytes);
}

qn_status qni_work_take(qn_ops *ops, qni_work *work, qn_error *err) {
    if (!ops->work || work->bytes > ops->work_bytes) { /* nothing at all has an address too */
        void *larger = qni_alloc_aligned((int64_t)work->bytes, 1);
        if (!larger) return qni_fail_nomem(err, "work space");
        free(ops->work);
        ops->work = larger;
        ops->work_bytes = work->bytes;
    }
    work->base = ops->work;
    return QN_OK;
}

void *qni_work_slice(const qni_work *work) {
    return work->base + work->slices + (size_t)omp_get_thread_num() * work->slice_bytes;
}

int qni_useful_threads(int n_threads, int64_t n_operations) {
    return (int)qni_min(n_threads, n_operations / THREAD_OPERATIONS + 1);
}

float qni_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void rms_norm(qn_ops *ops, const float *x, const float *w, double eps, int64_t rows, int64_t n,
                     float *y, int n_threads) {
    const int n_useful = qni_useful_threads(n_threads, rows * n * OPERATIONS_A_VALUE);
#pragma omp parallel for schedule(static) num_threads(n_useful)
    for (int64_t r = 0; r < rows; r++) ops->kernels->rms_norm(x + r * n, w, eps, n, y + r * n);
}

static void rope(qn_ops *ops, float *x, const qni_rope_table *table, const int64_t *positions, int64_t rows,
                 int64_t heads, int64_t head_dim, int n_threads) {
    const int n_useful = qni_useful_threads(n_threads, rows * heads * head_dim * OPERATIONS_A_VALUE);
#pragma omp parallel for schedule(static) num_threads(n_useful)
    for (int64_t r = 0; r < rows; r++) {
        const float *cosine = table->cosine + positions[r] * table->half;
        const float *sine = table->sine + positions[r] * table->half;
        for (int64_t h = 0; h < heads; h++)
            ops->kernels->rope(x + (r * heads + h) * head_dim, cosine, sine, table->half);
    }
}

/* Runs an element-wise kernel over chunks of n values and reports the largest magnitude written. */
static void each_chunk(uint32_t (*kernel)(float *, const float *, int64_t), float *x, const float *y,
                       int64_t n, int n_threads, float *largest) {
    const int64_t n_chunks = qni_ceil_div(n, CHUNK_VALUES);
    const int n_useful = qni_useful_threads(n_threads, n * OPERATIONS_A_VALUE);
    uint32_t bits = 0;
#pragma omp parallel for schedule(static) num_threads(n_useful) reduction(max : bits)
    for (int64_t c = 0; c < n_chunks; c++) {
        const int64_t first = c * CHUNK_VALUES;
        const uint32_t chunk_bits = kernel(x + first, y + first, qni_min(CHUNK_VALUES, n - first));
        if (chunk_bits > bits) bits = chunk_bits;
    }
    *largest = qni_float_of_bits(bits);
}

static void swiglu(qn_ops *ops, float *gate, const float *up, int64_t n, int n_threads, float *largest) {
    each_chunk(ops->kernels->swiglu, gate, up, n, n_threads, largest);
}

static void add(qn_ops *ops, float *x, const float *y, int64_t n, int n_threads, float *largest) {
    each_chunk(ops->kernels->add, x, y, n, n_threads, largest);
}

qn_status qni_ops_open_cpu(const qni_kernels *kernels, qn_ops **out, qn_error *err) {
    qn_ops *ops = qni_alloc_array(1, sizeof *ops);
    if (!ops) return qni_fail_nomem(err, "operation table");
    *ops = (qn_ops){
        .gemm = qni_cpu_gemm,
        .linear = qni_cpu_linear,
        .rms_norm = rms_norm,
        .rope = rope,
        .swiglu = swiglu,
        .add = add,
        .attention = qni_cpu_attention,
        .nll = qni_cpu_nll,
        .linear_backward = qni_cpu_linear_backward,
        .rms_norm_backward = qni_cpu_rms_norm_backward,
        .swiglu_into = qni_cpu_swiglu_into,
        .swiglu_backward = qni_cpu_swiglu_backward,
        .attention_backward = qni_cpu_attention_backward,
        .loss = qni_cpu_loss,
        .compare = qni_cpu_compare,
        .scatter_add = qni_cpu_scatter_add,
        .kernels = kernels,
    };
    *out = ops;
    return QN_OK;
}

qn_status qni_ops_open(qn_ops **out, qn_error *err) {
    const qni_kernels *kernels = NULL;
    QN_TRY(qni_kernels_get(&kernels, err));
    return qni_ops_open_cpu(kernels, out, err);
}

void qni_ops_close(qn_ops *ops) {
    if (!ops) return;
    free(ops->work);
    free(ops);
}
