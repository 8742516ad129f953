/* Checked allocation. All blocks are freed with free(). */
#ifndef QUERN_SRC_BASE_ALLOC_H
#define QUERN_SRC_BASE_ALLOC_H

#include "quern/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* n * size zeroed bytes; NULL when the product overflows or memory is short. n == 0 gives a valid pointer. */
void *qni_alloc_array(int64_t n, size_t size);

/* As above, without zeroing and aligned to 64 bytes: for numeric buffers that are filled at once. From 4 MiB on they are
 * aligned to 2 MiB and take large pages. */
void *qni_alloc_aligned(int64_t n, size_t size);

/* Resizes *array from its present block to n * size bytes; *array is unchanged on failure. */
QN_NODISCARD qn_status qni_grow_array(void **array, int64_t n, size_t size, qn_error *err);

/* Copies a string; NULL when memory is short. */
char *qni_copy_string(const char *text);

/* *out = a * b for non-negative factors; false on overflow or a negative factor. */
bool qni_multiply_i64(int64_t a, int64_t b, int64_t *out);

/* Reports that an allocation for WHAT failed. */
qn_status qni_fail_nomem(qn_error *err, const char *what);

#ifdef __clang_analyzer__ /* as for qn_fail */
#define qni_fail_nomem(err, what) (qni_fail_nomem((err), (what)), QN_E_NOMEM)
#endif

/* A numeric buffer or an error message: p = qni_alloc_aligned, with "out of memory: WHAT". */
#define QNI_ALLOC(pointer, n, what, err)                                                                     \
    (((pointer) = qni_alloc_aligned((n), sizeof *(pointer))) ? QN_OK : qni_fail_nomem((err), (what)))

#endif
