/* The arithmetic ceiling: multiply-adds that need no memory. Compiled with contraction (CMakeLists.txt). */
#include "bench.h"

#include <string.h>

/* Ten chains hide the latency of a multiply-add on two ports; with AVX2 they and two constants still fit the sixteen
 * registers. */
enum { CHAINS = 10 };

#define DEFINE_CHAINS(name, bytes, attributes)                                                               \
    typedef float name##_lanes __attribute__((vector_size(bytes)));                                          \
    attributes static double name(int64_t n_rounds, float *sink) {                                           \
        name##_lanes sums[CHAINS], factor = {0}, addend = {0};                                               \
        factor += 0.75f;                                                                                     \
        addend += 0.25f;                                                                                     \
        for (int j = 0; j < CHAINS; j++) sums[j] = addend * (float)j; /* else they are one chain */          \
        for (int64_t i = 0; i < n_rounds; i++)                                                               \
            for (int j = 0; j < CHAINS; j++) sums[j] = sums[j] * factor + addend;                            \
        for (int j = 1; j < CHAINS; j++) sums[0] += sums[j];                                                 \
        memcpy(sink, &sums[0], sizeof *sink);                                                                \
        return 2.0 * (double)(bytes / sizeof(float)) * CHAINS * (double)n_rounds;                            \
    }

DEFINE_CHAINS(chains_128, 16, )
#if defined(__x86_64__)
DEFINE_CHAINS(chains_avx2, 32, __attribute__((target("avx2,fma"))))
DEFINE_CHAINS(chains_avx512, 64, __attribute__((target("avx512f,prefer-vector-width=512"))))
#endif

double bench_fma(qn_isa isa, int64_t n_rounds, float *sink) {
#if defined(__x86_64__)
    if (isa == QN_ISA_AVX512 || isa == QN_ISA_AMX) return chains_avx512(n_rounds, sink);
    if (isa == QN_ISA_AVX2) return chains_avx2(n_rounds, sink);
#endif
    (void)isa;
    return chains_128(n_rounds, sink);
}
