/* Which instruction set the kernels use. Chosen once, at the first call, from what processor and operating system
 * offer; QN_ISA=ref|avx2|avx512|amx|neon forces one, and an impossible or unknown value is refused, never ignored.
 * The choice is the only global state of libquern. */
#ifndef QUERN_TENSOR_ISA_H
#define QUERN_TENSOR_ISA_H

#include "quern/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_isa { QN_ISA_REF, QN_ISA_NEON, QN_ISA_AVX2, QN_ISA_AVX512, QN_ISA_AMX } qn_isa;

QN_NODISCARD QN_API qn_status qn_isa_select(qn_isa *out, qn_error *err);
QN_API const char *qn_isa_name(qn_isa isa); /* "avx512" */

#ifdef __cplusplus
}
#endif
#endif
