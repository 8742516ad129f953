#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/banned.h"

enum {
    ALIGNMENT = 64,
    LARGE_PAGE = 2 << 20,
    LARGE_BLOCK = 4 << 20 /* from here on, rounding up to large pages costs little */
};

/* *bytes = max(1, n * size), or false when that is no size of an object. */
static bool block_bytes(int64_t n, size_t size, size_t *bytes) {
    size_t product;
    if (n < 0 || __builtin_mul_overflow((uint64_t)n, size, &product) || product > PTRDIFF_MAX) return false;
    *bytes = product ? product : 1;
    return true;
}

void *qni_alloc_array(int64_t n, size_t size) {
    size_t bytes;
    return block_bytes(n, size, &bytes) ? calloc(1, bytes) : NULL;
}

void *qni_alloc_aligned(int64_t n, size_t size) {
    size_t bytes;
    if (!block_bytes(n, size, &bytes) || bytes > PTRDIFF_MAX - LARGE_PAGE) return NULL;
    const size_t alignment = bytes < LARGE_BLOCK ? ALIGNMENT : LARGE_PAGE;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    void *block = aligned_alloc(alignment, bytes);
#ifdef MADV_HUGEPAGE
    /* Products walk columns of matrices, each row on another small page. Where the system has no large pages, nothing changes. */
    if (block && alignment == LARGE_PAGE) (void)madvise(block, bytes, MADV_HUGEPAGE);
#endif
    return block;
}

qn_status qni_grow_array(void **array, int64_t n, size_t size, qn_error *err) {
    size_t bytes;
    void *grown = block_bytes(n, size, &bytes) ? realloc(*array, bytes) : NULL;
    if (!grown) {
        return qn_fail(err, QN_E_NOMEM, "out of memory: an array of %lld elements of %zu bytes", (long long)n,
                       size);
    }
    *array = grown;
    return QN_OK;
}

char *qni_copy_string(const char *text) {
    return strdup(text);
}

bool qni_multiply_i64(int64_t a, int64_t b, int64_t *out) {
    int64_t product;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

qn_status(qni_fail_nomem)(qn_error *err, const char *what) {
    return qn_fail(err, QN_E_NOMEM, "out of memory: %s", what);
}
