#include "fit/ternary_sorted.h"

#include "base/clones.h"
#include "fit/lanes.h"

#include "base/banned.h"

enum { LANES = QNI_SORTED_GROUPS, LONGEST = QNI_SORTED_LONGEST, WORD = 32, BLOCK = 8 };

/* One key of each group: the upper half of a magnitude, which orders as the magnitude does. */
typedef int16_t half_keys __attribute__((vector_size(LANES)));
typedef int16_t keys __attribute__((vector_size(2 * LANES)));

#define LOWER_IN_TURNS(a, b)                                                                                 \
    __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27)
#define UPPER_IN_TURNS(a, b)                                                                                 \
    __builtin_shufflevector(a, b, 4, 20, 5, 21, 6, 22, 7, 23, 12, 28, 13, 29, 14, 30, 15, 31)

typedef struct prefixes {
    float sum[LONGEST][LANES];             /* [k]: of the k + 1 largest magnitudes */
    uint32_t fixed[LONGEST / WORD][LANES]; /* bit k: these are a fixed point */
} prefixes;

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float magnitude_of(int16_t key) {
    const uint32_t bits = (uint32_t)(uint16_t)key << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

QNI_CLONES
bool qni_all_bf16(const float *w, int64_t n) {
    uint32_t any = 0;
    for (int64_t i = 0; i < n; i++) any |= bits_of(w[i]);
    return (any & 0xffff) == 0;
}

/* Every two rows four apart become rows of their elements in turns, within the lower lanes and within the upper ones. */
QNI_LANE_INLINE void interleave(const keys *rows, keys *out) {
    for (int i = 0; i < BLOCK / 2; i++) {
        out[2 * i] = LOWER_IN_TURNS(rows[i], rows[i + 4]);
        out[2 * i + 1] = UPPER_IN_TURNS(rows[i], rows[i + 4]);
    }
}

/* out[..][g] = the keys of group g in some order, with zeros behind its end; SIZE is a multiple of BLOCK. */
QNI_LANE_INLINE void take_keys(const float *w, int64_t cols, int64_t group_size, int64_t size, keys *out) {
    int16_t by_group[LANES][LONGEST];
    for (int64_t g = 0; g < LANES; g++) {
        const int64_t left = cols - g * group_size, n = left < 0 ? 0 : left < group_size ? left : group_size;
        for (int64_t i = 0; i < n; i++)
            by_group[g][i] = (int16_t)(bits_of(w[g * group_size + i]) >> 16 & INT16_MAX);
        for (int64_t i = n; i < size; i++) by_group[g][i] = 0;
    }
    for (int64_t first = 0; first < size; first += BLOCK) {
        keys rows[BLOCK], turned[BLOCK];
        for (int g = 0; g < LANES / 2; g++) {
            half_keys low, high;
            memcpy(&low, by_group[g] + first, sizeof low);
            memcpy(&high, by_group[g + LANES / 2] + first, sizeof high);
            rows[g] =
                __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        }
        interleave(rows, turned);
        interleave(turned, rows);
        interleave(rows, out + first);
    }
}

/* Orders a >= b in every lane. A loop over elements where they lie: compilers make two instructions of it, of masks they do not, and
 * copies of a vector they may move by halves, which the next load of the whole then waits for. */
QNI_LANE_INLINE void order(keys *restrict a, keys *restrict b) {
    int16_t *x = (int16_t *)a, *y = (int16_t *)b;
    for (int l = 0; l < LANES; l++) {
        const int16_t first = x[l], second = y[l];
        x[l] = first > second ? first : second;
        y[l] = first > second ? second : first;
    }
}

/* settle: sorts what rises and then falls, or the reverse (Batcher, 1968). */
QNI_LANE_INLINE void settle_4(keys *x) {
    order(x, x + 2);
    order(x + 1, x + 3);
    order(x, x + 1);
    order(x + 2, x + 3);
}

QNI_LANE_INLINE void settle_8(keys *x) {
    order(x, x + 4);
    order(x + 1, x + 5);
    order(x + 2, x + 6);
    order(x + 3, x + 7);
    settle_4(x);
    settle_4(x + 4);
}

QNI_LANE_INLINE void sort_4(keys *x) {
    order(x, x + 1);
    order(x + 2, x + 3);
    order(x, x + 3);
    order(x + 1, x + 2);
    order(x, x + 1);
    order(x + 2, x + 3);
}

QNI_LANE_INLINE void sort_8(keys *x) {
    sort_4(x);
    sort_4(x + 4);
    order(x, x + 7);
    order(x + 1, x + 6);
    order(x + 2, x + 5);
    order(x + 3, x + 4);
    settle_4(x);
    settle_4(x + 4);
}

/* Merges every two sorted runs of RUN keys, BLOCK or more; the last steps work on a block in registers. */
QNI_LANE_INLINE void merge_runs(keys *x, int64_t run, int64_t size) {
    for (int64_t first = 0; first < size; first += 2 * run) {
        for (int64_t i = 0; i < run; i++) order(x + first + i, x + first + 2 * run - 1 - i);
    }
    for (int64_t step = run / 2; step >= BLOCK; step /= 2) {
        for (int64_t first = 0; first < size; first += 2 * step) {
            for (int64_t i = first; i < first + step; i++) order(x + i, x + i + step);
        }
    }
    for (int64_t first = 0; first < size; first += BLOCK) settle_8(x + first);
}

QNI_LANE_INLINE void sort_keys(keys *x, int64_t size) {
    for (int64_t first = 0; first < size; first += BLOCK) sort_8(x + first);
    for (int64_t run = BLOCK; run < size; run *= 2) merge_runs(x, run, size);
}

/* The magnitudes of keys as floats, eight by eight; place_of says which are where. */
QNI_LANE_INLINE void widen_keys(const keys *x, qni_f8 out[2]) {
    const keys zero = {0};
    out[0] = (qni_f8)LOWER_IN_TURNS(zero, *x);
    out[1] = (qni_f8)UPPER_IN_TURNS(zero, *x);
}

static int64_t place_of(int64_t group) {
    return group % 4 + group / 8 * 4 + group / 4 % 2 * 8;
}

/* Conditions and sums in float: exact at every fixed point, see fit_ternary.c. */
QNI_LANE_INLINE void find_fixed_points(const keys *sorted, int64_t size, prefixes *p) {
    qni_f8 sum[2] = {{0}}, a[2];
    float twice = 0;
    widen_keys(sorted, a);
    for (int64_t first = 0; first < size; first += WORD) {
        qni_i8 fixed[2] = {{0}};
        for (int64_t k = 0; k < WORD; k++) {
            const int32_t bit = (int32_t)(1u << k);
            qni_f8 next[2];
            widen_keys(sorted + first + k + 1, next);
            twice += 2;
            for (int half = 0; half < 2; half++) {
                sum[half] += a[half];
                fixed[half] |= (a[half] * twice > sum[half]) & (next[half] * twice <= sum[half]) & bit;
                a[half] = next[half];
                memcpy(p->sum[first + k] + half * QNI_LANES8, &sum[half], sizeof sum[half]);
            }
        }
        for (int half = 0; half < 2; half++)
            memcpy(p->fixed[first / WORD] + half * QNI_LANES8, &fixed[half], sizeof fixed[half]);
    }
}

/* The scale of the best fixed point, of equal ones the first. */
static double best_of_fixed_points(const prefixes *p, int64_t size, int64_t place) {
    double best = 0, scale = 0;
    for (int64_t first = 0; first < size; first += WORD) {
        for (uint32_t left = p->fixed[first / WORD][place]; left; left &= left - 1) {
            const int64_t k = first + __builtin_ctz(left);
            const double sum = (double)p->sum[k][place], count = (double)(k + 1);
            if (sum * sum / count <= best) continue;
            best = sum * sum / count;
            scale = sum / count;
        }
    }
    return scale;
}

QNI_CLONES
static void sort_groups(const float *w, int64_t cols, int64_t group_size, int64_t size, keys *sorted,
                        prefixes *p) {
    take_keys(w, cols, group_size, size, sorted);
    sort_keys(sorted, size);
    find_fixed_points(sorted, size, p);
}

void qni_sorted_scales(const float *w, int64_t cols, int64_t group_size, float least, float most,
                       double *scales) {
    keys sorted[LONGEST + 1];
    prefixes p;
    int64_t size = WORD;
    while (size < group_size) size *= 2;
    sorted[size] = (keys){0};
    sort_groups(w, cols, group_size, size, sorted, &p);
    for (int64_t g = 0; g * group_size < cols; g++) {
        const float max = magnitude_of(sorted[0][g]);
        scales[g] = max < least || max > most ? (double)max : best_of_fixed_points(&p, size, place_of(g));
    }
}
