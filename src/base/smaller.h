/* The smaller of two counts. */
#ifndef QUERN_SRC_BASE_SMALLER_H
#define QUERN_SRC_BASE_SMALLER_H

#include <stdint.h>

static inline int64_t qni_min(int64_t a, int64_t b) {
    return a < b ? a : b;
}

#endif
