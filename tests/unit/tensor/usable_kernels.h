/* The kernel tables of the vector instruction sets that this machine has, whichever the library would choose. */
#ifndef QUERN_TESTS_UNIT_TENSOR_USABLE_KERNELS_H
#define QUERN_TESTS_UNIT_TENSOR_USABLE_KERNELS_H

#include "tensor/kernels.h"

enum { MOST_USABLE = 2 };

/* Returns how many. */
static inline int find_usable_kernels(const qni_kernels *usable[MOST_USABLE]) {
    int n = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) usable[n++] = &qni_kernels_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        usable[n++] = &qni_kernels_avx512;
#elif defined(__aarch64__)
    usable[n++] = &qni_kernels_neon;
#endif
    return n;
}

#endif
