/* Shared by the files that make up the CPU table: its functions, and the scratch memory of parallel tasks. */
#ifndef QUERN_SRC_TENSOR_OPS_CPU_H
#define QUERN_SRC_TENSOR_OPS_CPU_H

#include "tensor/ops.h"

/* One 64-byte aligned slice a thread. */
typedef struct qni_scratch {
    char *block;
    size_t slice_bytes;
} qni_scratch;

QN_NODISCARD qn_status qni_scratch_make(qni_scratch *out, int n_threads, size_t slice_bytes, qn_error *err);
void qni_scratch_release(qni_scratch *scratch);
void *qni_scratch_slice(const qni_scratch *scratch); /* of the calling OpenMP thread */

/* Bytes of n elements, rounded up so that what follows is aligned too. */
size_t qni_slice_bytes(int64_t n, size_t size);

/* Keeps the largest of values that several threads hand in. */
void qni_raise_bits(uint32_t *largest, uint32_t bits);

float qni_float_of_bits(uint32_t bits);

int64_t qni_ceil_div(int64_t a, int64_t b);
int64_t qni_min(int64_t a, int64_t b);

/* The rows [row0, + n) of W as an operand of a product: in place where the dtype fits, else decoded, widened
 * or narrowed into SCRATCH (qni_rows_scratch_bytes). The result is f32, or bf16 when asked for. */
size_t qni_rows_scratch_bytes(const qni_matrix *w, int64_t n_rows, bool bf16);
const void *qni_rows_operand(const qni_kernels *kernels, const qni_matrix *w, int64_t row0, int64_t n_rows,
                             bool bf16, void *scratch);

/* x as the left operand of a bf16 product: a fresh bf16 copy of n values. */
QN_NODISCARD qn_status qni_narrow_copy(const qni_kernels *kernels, const float *x, int64_t n, int n_threads,
                                       uint16_t **out, qn_error *err);

qn_status qni_cpu_gemm(const qn_ops *ops, const qni_gemm_args *args, int n_threads, qn_error *err);
qn_status qni_cpu_linear(const qn_ops *ops, const qni_linear_args *args, int n_threads, float *largest,
                         qn_error *err);
qn_status qni_cpu_attention(const qn_ops *ops, const qni_attention_args *args, int n_threads, qn_error *err);
qn_status qni_cpu_nll(const qn_ops *ops, const qni_nll_args *args, int n_threads, float *largest,
                      qn_error *err);

#endif
