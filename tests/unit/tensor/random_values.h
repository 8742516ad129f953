/* Normal numbers for the operands of products; owned by the caller. */
#ifndef QUERN_TESTS_UNIT_TENSOR_RANDOM_VALUES_H
#define QUERN_TESTS_UNIT_TENSOR_RANDOM_VALUES_H

#include "quern/base/rng.h"
#include "test_data.h"

#include <stdlib.h>

static inline float *random_values(int64_t n, uint64_t seed) {
    qn_rng rng;
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    assert_non_null(x);
    qn_rng_seed(&rng, seed);
    for (int64_t i = 0; i < n; i++) x[i] = (float)qn_rng_normal(&rng);
    return x;
}

#endif
