/* Kernels compiled once per vector width and chosen when the program is loaded.
 *
 * Only for loops whose result cannot depend on the width: integer work, exact products, and sums kept in a
 * fixed number of lanes. Such kernels need no QN_ISA path of their own. Their names differ from file to file, also where they
 * are static: clang 14 gives the function that chooses external linkage. */
#ifndef QUERN_SRC_BASE_CLONES_H
#define QUERN_SRC_BASE_CLONES_H

/* The choice is made before a thread sanitizer has set itself up, and would crash in it. */
#if defined(__SANITIZE_THREAD__)
#define QNI_THREAD_SANITIZER 1
#elif defined(__has_feature)
#define QNI_THREAD_SANITIZER __has_feature(thread_sanitizer)
#else
#define QNI_THREAD_SANITIZER 0
#endif

#if defined(__x86_64__) && defined(__gnu_linux__) && !QNI_THREAD_SANITIZER
#define QNI_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QNI_CLONES
#endif

#endif
