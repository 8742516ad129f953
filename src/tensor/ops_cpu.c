/* The CPU table, its row-wise operations, and the helpers of the others. */
#include "tensor/ops_cpu.h"

#include "base/alloc.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_VALUES = 1 << 15 }; /* of an element-wise task: 128 KiB, a share of a level-2 cache */

int64_t qni_ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

int64_t qni_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

size_t qni_slice_bytes(int64_t n, size_t size) {
    return ((size_t)n * size + 63) / 64 * 64;
}

qn_status qni_scratch_make(qni_scratch *out, int n_threads, size_t slice_bytes, qn_error *err) {
    const size_t aligned = qni_slice_bytes((int64_t)slice_bytes, 1);
    char *block = qni_alloc_aligned(n_threads, aligned);
    if (!block) return qni_fail_nomem(err, "work space of the threads");
    *out = (qni_scratch){.block = block, .slice_bytes = aligned};
    return QN_OK;
}

void qni_scratch_release(qni_scratch *scratch) {
    free(scratch->block);
    *scratch = (qni_scratch){0};
}

void *qni_scratch_slice(const qni_scratch *scratch) {
    return scratch->block + (size_t)omp_get_thread_num() * scratch->slice_bytes;
}

void qni_raise_bits(uint32_t *largest, uint32_t bits) {
#pragma omp critical(qni_raise_bits)
    if (bits > *largest) *largest = bits;
}

float qni_float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void rms_norm(const qn_ops *ops, const float *x, const float *w, double eps, int64_t rows, int64_t n,
                     float *y, int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t r = 0; r < rows; r++) ops->kernels->rms_norm(x + r * n, w, eps, n, y + r * n);
}

static void rope(const qn_ops *ops, float *x, const qni_rope_table *table, const int64_t *positions,
                 int64_t rows, int64_t heads, int64_t head_dim, int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
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
    uint32_t bits = 0;
#pragma omp parallel for schedule(static) num_threads(n_threads) reduction(max : bits)
    for (int64_t c = 0; c < n_chunks; c++) {
        const int64_t first = c * CHUNK_VALUES;
        const uint32_t chunk_bits = kernel(x + first, y + first, qni_min(CHUNK_VALUES, n - first));
        if (chunk_bits > bits) bits = chunk_bits;
    }
    *largest = qni_float_of_bits(bits);
}

static void swiglu(const qn_ops *ops, float *gate, const float *up, int64_t n, int n_threads,
                   float *largest) {
    each_chunk(ops->kernels->swiglu, gate, up, n, n_threads, largest);
}

static void add(const qn_ops *ops, float *x, const float *y, int64_t n, int n_threads, float *largest) {
    each_chunk(ops->kernels->add, x, y, n, n_threads, largest);
}

qn_ops qni_ops_cpu(const qni_kernels *kernels) {
    return (qn_ops){
        .kernels = kernels,
        .gemm = qni_cpu_gemm,
        .linear = qni_cpu_linear,
        .rms_norm = rms_norm,
        .rope = rope,
        .swiglu = swiglu,
        .add = add,
        .attention = qni_cpu_attention,
        .nll = qni_cpu_nll,
    };
}

qn_status qni_ops_get(qn_ops *out, qn_error *err) {
    const qni_kernels *kernels = NULL;
    QN_TRY(qni_kernels_get(&kernels, err));
    *out = qni_ops_cpu(kernels);
    return QN_OK;
}
