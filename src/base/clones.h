/* Kernels compiled once per vector width and chosen when the program is loaded.
 *
 * Only for loops whose result cannot depend on the width: integer work, exact products, and sums kept in a
 * fixed number of lanes. Such kernels need no QN_ISA path of their own. */
#ifndef QUERN_SRC_BASE_CLONES_H
#define QUERN_SRC_BASE_CLONES_H

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_THREAD__)
#define QNI_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QNI_CLONES
#endif

#endif
