/* Built with -mavx2 -mfma; reached only on processors that have both. */
#define QNI_LANES 8
#include "tensor/kernels_vector.h"

#include "tensor/kernels_signs.h"

const qni_kernels qni_kernels_avx2 = QNI_VECTOR_KERNELS(QN_ISA_AVX2, NULL, &k_sign_kernels);
