/* Built with AVX-512 F, BW, DQ and VL; reached only on processors that have them. The AMX table differs in
 * products. */
#define QNI_LANES 16
#include "tensor/kernels_vector.h"

#include "tensor/kernels_signs.h"

const qni_kernels qni_kernels_avx512 = QNI_VECTOR_KERNELS(QN_ISA_AVX512, NULL, &k_sign_kernels);
const qni_kernels qni_kernels_amx = QNI_VECTOR_KERNELS(QN_ISA_AMX, &qni_packed_amx, NULL);
