/* A product on the calling thread, for operations that are parallel themselves: packed where that pays, else the kernel's. */
#ifndef QUERN_SRC_TENSOR_SERIAL_GEMM_H
#define QUERN_SRC_TENSOR_SERIAL_GEMM_H

#include "tensor/kernels.h"
#include "tensor/ops.h"

/* Of the scratch, aligned to 64 bytes, that products take whose columns are up to N and whose depth is up to K, or the other way
 * round. */
size_t qni_serial_gemm_bytes(const qni_kernels *kernels, int64_t n, int64_t k);

/* Where it is not packed it is in f32, whatever args->bf16 says. Returns 0, or oneDNN's error number. */
int qni_serial_gemm(const qni_kernels *kernels, const qni_gemm_args *args, void *scratch);

#endif
