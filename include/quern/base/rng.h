/* PCG64 (XSL-RR 128/64) seeded through numpy's SeedSequence.
 *
 * The same seed gives the same numbers as numpy.random.default_rng(seed), so that samples and permutations
 * drawn by the reference stack can be reproduced. Source: O'Neill, "PCG", 2014; NumPy's SeedSequence and
 * Generator.permutation. Deterministic on every machine. Not for cryptography. */
#ifndef QUERN_BASE_RNG_H
#define QUERN_BASE_RNG_H

#include "quern/base/status.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_rng {
    uint64_t state[2]; /* 128 bits, low word first */
    uint64_t increment[2];
    uint32_t spare; /* upper half of the last 64-bit draw, used by 32-bit draws */
    uint32_t has_spare;
} qn_rng;

QN_API void qn_rng_seed(qn_rng *rng, uint64_t seed);

/* Independent streams of one seed: stream INDEX of PURPOSE, a number the caller sets aside for one use. As
 * numpy's SeedSequence(seed, spawn_key=(purpose, index)). */
QN_API void qn_rng_seed_stream(qn_rng *rng, uint64_t seed, uint32_t purpose, uint32_t index);

QN_API uint64_t qn_rng_next_u64(qn_rng *rng);
QN_API uint32_t qn_rng_next_u32(qn_rng *rng);

/* Uniform on [0, 1), 53 bits. */
QN_API double qn_rng_uniform(qn_rng *rng);

/* Standard normal by Box-Muller (not numpy's ziggurat: for initial weights and tests, not for replay). */
QN_API double qn_rng_normal(qn_rng *rng);

/* Uniform integer on [0, n]; both ends included. As numpy's random_interval (masked rejection), which its
 * shuffles use; Generator.integers draws differently. */
QN_API uint64_t qn_rng_interval(qn_rng *rng, uint64_t n);

/* out[0..n) becomes numpy's default_rng(seed).permutation(n) for a freshly seeded RNG (Fisher-Yates from the
 * end). */
QN_API void qn_rng_permutation(qn_rng *rng, int64_t n, int64_t *out);

#ifdef __cplusplus
}
#endif
#endif
