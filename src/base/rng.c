#include "quern/base/rng.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

__extension__ typedef unsigned __int128 u128;

enum { POOL_WORDS = 4, KEY_WORDS = 2 };

/* SeedSequence: spreads the entropy words over a pool by hashing, then mixes every pool word with every
 * other. The constants are those of NumPy's bit_generator.pyx (after O'Neill's seed_seq_fe). */
static uint32_t hash_entropy(uint32_t value, uint32_t *multiplier) {
    value ^= *multiplier;
    *multiplier *= 0x931e8875u;
    value *= *multiplier;
    return value ^ value >> 16;
}

static uint32_t mix(uint32_t x, uint32_t y) {
    uint32_t result = 0xca01f9ddu * x - 0x4973f715u * y;
    return result ^ result >> 16;
}

/* The words of a spawn key come after a whole pool of entropy and are mixed into every word of it. */
static void seed_pool(uint64_t seed, const uint32_t *key, uint32_t pool[POOL_WORDS]) {
    const uint32_t entropy[POOL_WORDS] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t multiplier = 0x43b0d7e5u;
    for (int i = 0; i < POOL_WORDS; i++) pool[i] = hash_entropy(entropy[i], &multiplier);
    for (int from = 0; from < POOL_WORDS; from++) {
        for (int to = 0; to < POOL_WORDS; to++) {
            if (from != to) pool[to] = mix(pool[to], hash_entropy(pool[from], &multiplier));
        }
    }
    for (int i = 0; key && i < KEY_WORDS; i++) {
        for (int to = 0; to < POOL_WORDS; to++) pool[to] = mix(pool[to], hash_entropy(key[i], &multiplier));
    }
}

static void generate_state(const uint32_t pool[POOL_WORDS], uint64_t out[4]) {
    uint32_t multiplier = 0x8b51f9ddu;
    for (int i = 0; i < 8; i++) {
        uint32_t value = pool[i % POOL_WORDS] ^ multiplier;
        multiplier *= 0x58f38dedu;
        value *= multiplier;
        value ^= value >> 16;
        out[i / 2] = i % 2 ? out[i / 2] | (uint64_t)value << 32 : value;
    }
}

static u128 join(const uint64_t words[2]) {
    return (u128)words[1] << 64 | words[0];
}

static void split(u128 value, uint64_t words[2]) {
    words[0] = (uint64_t)value;
    words[1] = (uint64_t)(value >> 64);
}

static u128 advance(qn_rng *rng) {
    const u128 multiplier = (u128)UINT64_C(0x2360ed051fc65da4) << 64 | UINT64_C(0x4385df649fccf645);
    u128 state = join(rng->state) * multiplier + join(rng->increment);
    split(state, rng->state);
    return state;
}

static void seed_from(qn_rng *rng, uint64_t seed, const uint32_t *key) {
    uint32_t pool[POOL_WORDS];
    uint64_t words[4];
    seed_pool(seed, key, pool);
    generate_state(pool, words);
    const u128 initial = (u128)words[0] << 64 | words[1];
    const u128 sequence = (u128)words[2] << 64 | words[3];
    *rng = (qn_rng){0};
    split(sequence << 1 | 1, rng->increment);
    (void)advance(rng);
    split(join(rng->state) + initial, rng->state);
    (void)advance(rng);
}

void qn_rng_seed(qn_rng *rng, uint64_t seed) {
    seed_from(rng, seed, NULL);
}

void qn_rng_seed_stream(qn_rng *rng, uint64_t seed, uint32_t purpose, uint32_t index) {
    const uint32_t key[KEY_WORDS] = {purpose, index};
    seed_from(rng, seed, key);
}

uint64_t qn_rng_next_u64(qn_rng *rng) {
    u128 state = advance(rng);
    uint64_t folded = (uint64_t)(state >> 64) ^ (uint64_t)state;
    unsigned turn = (unsigned)(state >> 122);
    return folded >> turn | folded << (-turn & 63);
}

uint32_t qn_rng_next_u32(qn_rng *rng) {
    if (rng->has_spare) {
        rng->has_spare = 0;
        return rng->spare;
    }
    uint64_t both = qn_rng_next_u64(rng);
    rng->spare = (uint32_t)(both >> 32);
    rng->has_spare = 1;
    return (uint32_t)both;
}

double qn_rng_uniform(qn_rng *rng) {
    return (double)(qn_rng_next_u64(rng) >> 11) * 0x1p-53;
}

double qn_rng_normal(qn_rng *rng) {
    const double two_pi = 6.283185307179586476925286766559;
    double radius = sqrt(-2.0 * log(1.0 - qn_rng_uniform(rng)));
    return radius * cos(two_pi * qn_rng_uniform(rng));
}

uint64_t qn_rng_interval(qn_rng *rng, uint64_t n) {
    uint64_t mask = n, value;
    if (n == 0) return 0;
    for (unsigned shift = 1; shift < 64; shift *= 2) mask |= mask >> shift;
    do {
        value = mask & (n <= UINT32_MAX ? qn_rng_next_u32(rng) : qn_rng_next_u64(rng));
    } while (value > n);
    return value;
}

void qn_rng_permutation(qn_rng *rng, int64_t n, int64_t *out) {
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)qn_rng_interval(rng, (uint64_t)i);
        int64_t moved = out[i];
        out[i] = out[j];
        out[j] = moved;
    }
}
