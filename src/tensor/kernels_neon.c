/* Built for any 64-bit Arm processor; NEON is part of the base instruction set there. */
#define QNI_LANES 4
#include "tensor/kernels_vector.h"

#include "tensor/kernels_signs.h"

const qni_kernels qni_kernels_neon = QNI_VECTOR_KERNELS(QN_ISA_NEON, NULL, &k_sign_kernels);
