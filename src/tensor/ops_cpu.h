/* Shared by the files that make up the CPU table: its functions and its work space. */
#ifndef QUERN_SRC_TENSOR_OPS_CPU_H
#define QUERN_SRC_TENSOR_OPS_CPU_H

#include "base/smaller.h"
#include "tensor/ops.h"

/* Work space is laid out first and taken at once: each reserve returns an offset, aligned to 64 bytes. */
typedef struct qni_work {
    size_t bytes;       /* reserved so far */
    size_t slices;      /* offset of the threads' slices */
    size_t slice_bytes; /* of one thread */
    char *base;         /* after qni_work_take */
} qni_work;

size_t qni_work_reserve(qni_work *work, int64_t n, size_t size);
void qni_work_reserve_slices(qni_work *work, int n_threads, size_t slice_bytes);

/* Makes base valid until the next call on the same instance. */
QN_NODISCARD qn_status qni_work_take(qn_ops *ops, qni_work *work, qn_error *err);

void *qni_work_slice(const qni_work *work); /* of the calling OpenMP thread */

/* Bytes of n elements, rounded up so that what follows is aligned too. */
size_t qni_aligned_bytes(int64_t n, size_t size);

/* How many of N_THREADS are worth waking for so many multiply-adds: none for less than some 10 microseconds
 * each. */
int qni_useful_threads(int n_threads, int64_t n_operations);

float qni_float_of_bits(uint32_t bits);
int64_t qni_ceil_div(int64_t a, int64_t b);

qn_status qni_cpu_gemm(qn_ops *ops, const qni_gemm_args *args, int n_threads, qn_error *err);
qn_status qni_cpu_linear(qn_ops *ops, const qni_linear_args *args, int n_threads, float *largest,
                         qn_error *err);
qn_status qni_cpu_attention(qn_ops *ops, const qni_attention_args *args, int n_threads, qn_error *err);
qn_status qni_cpu_nll(qn_ops *ops, const qni_nll_args *args, int n_threads, float *largest, qn_error *err);
qn_status qni_cpu_linear_backward(qn_ops *ops, const qni_linear_backward_args *args, int n_threads,
                                  qn_error *err);
qn_status qni_cpu_rms_norm_backward(qn_ops *ops, const qni_rms_norm_backward_args *args, int n_threads,
                                    qn_error *err);
void qni_cpu_swiglu_into(qn_ops *ops, const float *gate, const float *up, int64_t n, float *y, int n_threads);
void qni_cpu_swiglu_backward(qn_ops *ops, float *gate, float *up, float *dy, int64_t n, int n_threads);
qn_status qni_cpu_attention_backward(qn_ops *ops, const qni_attention_backward_args *args, int n_threads,
                                     qn_error *err);
/* One row of qni_cpu_loss whose teacher is args->top, but for the target's own part of the gradient. */
void qni_loss_row_top(const qni_kernels *kernels, const qni_loss_args *args, int64_t row, float *s);

void qni_cpu_loss(qn_ops *ops, const qni_loss_args *args, int n_threads);
void qni_cpu_compare(qn_ops *ops, const qni_compare_args *args, int n_threads);
void qni_cpu_scatter_add(qn_ops *ops, const int32_t *ids, const float *dy, int64_t rows, int64_t n, float *dw,
                         int n_threads);

#endif
