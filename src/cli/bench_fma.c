/* The arithmetic ceiling: multiply-adds that need no memory. Compiled with contraction (CMakeLists.txt). */
#include "bench.h"

#include <string.h>

/* Ten chains hide the latency of a multiply-add on two ports; with AVX2 they and two constants still fit the sixteen
 * registers. */
enum { CHAINS = 10 };

typedef float lanes_4 __attribute__((vector_size(16)));
#if defined(__x86_64__)
typedef float lanes_8 __attribute__((vector_size(32)));
typedef float lanes_16 __attribute__((vector_size(64)));
#endif

/* The body of bench_fma for one width. Every chain starts elsewhere, and none at 1, where it would stand still: the
 * compiler would compute such chains once. */
#define RUN_CHAINS(lanes, n_rounds, sink)                                                                    \
    do {                                                                                                     \
        const int64_t n_lanes = (int64_t)(sizeof(lanes) / sizeof(float));                                    \
        lanes sums[CHAINS], factor = {0}, addend = {0};                                                      \
        factor += 0.75f;                                                                                     \
        addend += 0.25f;                                                                                     \
        for (int j = 0; j < CHAINS; j++) sums[j] = addend + (float)j;                                        \
        for (int64_t i = 0; i < (n_rounds); i++)                                                             \
            for (int j = 0; j < CHAINS; j++) sums[j] = sums[j] * factor + addend;                            \
        for (int j = 1; j < CHAINS; j++) sums[0] += sums[j];                                                 \
        memcpy((sink), &sums[0], sizeof(float));                                                             \
        return (double)(2 * CHAINS * n_lanes * (n_rounds));                                                  \
    } while (0)

static double run_4(int64_t n_rounds, float *sink) {
    RUN_CHAINS(lanes_4, n_rounds, sink);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static double run_8(int64_t n_rounds, float *sink) {
    RUN_CHAINS(lanes_8, n_rounds, sink);
}

__attribute__((target("avx512f"))) static double run_16(int64_t n_rounds, float *sink) {
    RUN_CHAINS(lanes_16, n_rounds, sink);
}
#endif

double bench_fma(qn_isa isa, int64_t n_rounds, float *sink) {
#if defined(__x86_64__)
    if (isa == QN_ISA_AVX512 || isa == QN_ISA_AMX) return run_16(n_rounds, sink);
    if (isa == QN_ISA_AVX2) return run_8(n_rounds, sink);
#endif
    (void)isa;
    return run_4(n_rounds, sink);
}
