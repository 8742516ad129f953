/* ternary: the exact least-squares scale and support without sorting the group.
 *
 * Let a = |w| and, for a threshold t, let M(t) be the h-weighted mean of the a above t. For a given scale s
 * the best support is {a > s/2}; for a given support the best scale is its mean. So the optimum is a fixed
 * point of G(t) = M(t)/2 at t = s/2 (a tie a = s/2 is left out: keeping it only lowers S^2/H). M does not
 * decrease with t, so iterating G from 0 climbs towards the smallest fixed point, from max/2 it falls towards
 * the largest, and the optimum lies between at every step. Usually both supports meet; otherwise the few
 * magnitudes in between are sorted and every prefix is tried. The bounds are widened by more than the
 * rounding of the sums, so the argument survives floating point; what is stored is computed in double.
 *
 * Sixteen groups of bf16 numbers are sorted at once instead, and the fixed points read off: with S_k the sum of the k
 * largest, those k are one when 2k a_k > S_k >= 2k a_(k+1). Of any other support moving one column gains 1/(4k(k+1))
 * of S^2/k or more, far above rounding, so both ways choose among the same supports. There S_k is a sum of multiples
 * of ulp(a_k) and below 2k a_k, which float holds exactly; where it does not, S_k exceeds 2k a_k with and without
 * rounding. */
#include "base/clones.h"
#include "fit/group_fit.h"
#include "fit/lanes.h"
#include "fit/ternary_eight.h"
#include "fit/ternary_sorted.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/banned.h"

typedef int16_t shorts __attribute__((vector_size(32)));
typedef int8_t bytes __attribute__((vector_size(32)));

/* Every second element, which keeps the lower half of numbers twice as wide. */
#define EVEN_OF_16(a, b)                                                                                     \
    __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define EVEN_OF_32(a, b)                                                                                     \
    __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, \
                            40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62)

/* A group below this gets the smallest scale, and no magnitude exceeds half of it; with a magnitude above
 * `enormous`, a mean of up to 2^60 of them exceeds the largest scale. Between both no float sum overflows. */
static const float vanishing = 0x1p-26f, enormous = 0x1p60f;

/* The columns above a threshold: sum h a, sum h, how many. */
typedef struct support {
    double s, h;
    int64_t count;
} support;

/* Bounds of the optimum: low.threshold <= s/2 <= high.threshold, and the supports there. */
typedef struct bracket {
    float low_threshold, high_threshold;
    support low, high;
} bracket;

/* magnitude[i] = |w[i]|, or 0 where h is 0: such a column has no say in the support. Returns the largest. */
QNI_CLONES
static float take_magnitudes(const float *w, const float *h, int64_t n, float *magnitude) {
    qni_f8 max = {0};
    for (int64_t i = 0; i < n; i += QNI_LANES8) {
        qni_f8 a;
        qni_load_f8(&a, w, i, n);
        qni_abs_f8(&a);
        if (h) {
            qni_f8 hi;
            qni_load_f8(&hi, h, i, n);
            qni_i8 counts = hi > 0;
            qni_keep_f8(&a, &counts);
        }
        qni_max_f8(&max, &a);
        memcpy(magnitude + i, &a, sizeof a);
    }
    return qni_top_f8(&max);
}

/* One support in double. */
QNI_LANE_INLINE support sum_above(const float *magnitude, const float *h, int64_t n, float threshold) {
    qni_d8 s = {0}, h_sum = {0};
    qni_i8 count = {0};
    for (int64_t i = 0; i < n; i += QNI_LANES8) {
        qni_f8 x;
        qni_d8 ad, hd;
        memcpy(&x, magnitude + i, sizeof x);
        qni_i8 above = x > threshold;
        count -= above;
        qni_keep_f8(&x, &above);
        qni_widen(&ad, &x);
        if (h) {
            qni_load_f8(&x, h, i, n);
            qni_keep_f8(&x, &above);
            qni_widen(&hd, &x);
            h_sum += hd;
            s += hd * ad;
        } else {
            s += ad;
        }
    }
    support result = {qni_sum_d8(&s), qni_sum_d8(&h_sum), qni_sum_i8(&count)};
    if (!h) result.h = (double)result.count;
    return result;
}

/* Both supports of B in one pass in float, for h = 1: the margin of the bracket covers the rounding. */
QNI_LANE_INLINE void sum_both_plain(const float *magnitude, int64_t n, bracket *b) {
    qni_f8 low_s = {0}, high_s = {0};
    qni_i8 low_count = {0}, high_count = {0};
    for (int64_t i = 0; i < n; i += QNI_LANES8) {
        qni_f8 low, high;
        memcpy(&low, magnitude + i, sizeof low);
        high = low;
        qni_i8 above_low = low > b->low_threshold, above_high = high > b->high_threshold;
        qni_keep_f8(&low, &above_low);
        qni_keep_f8(&high, &above_high);
        low_s += low;
        high_s += high;
        low_count -= above_low;
        high_count -= above_high;
    }
    b->low = (support){.s = (double)qni_sum_f8(&low_s), .count = qni_sum_i8(&low_count)};
    b->high = (support){.s = (double)qni_sum_f8(&high_s), .count = qni_sum_i8(&high_count)};
    b->low.h = (double)b->low.count;
    b->high.h = (double)b->high.count;
}

/* Widens bounds that come from sums in float of n magnitudes by more than those may be off. */
static inline double plain_margin(int64_t n) {
    return 0x1p-23 * (double)(n / QNI_LANES8 + 16);
}

/* Narrows the bounds until the supports are one or stand still. Every bound on the way is valid, so the loop
 * may end at any time; each turn but the last shrinks the set between the two. */
QNI_LANE_INLINE void narrow(const float *magnitude, const float *h, int64_t n, float max, bracket *b) {
    const double margin = h ? 0x1p-20 : plain_margin(n);
    int64_t between = INT64_MAX;
    b->low_threshold = 0;
    b->high_threshold = (float)((double)max / 2 * (1 + margin));
    for (;;) {
        if (h) {
            b->low = sum_above(magnitude, h, n, b->low_threshold);
            b->high = sum_above(magnitude, h, n, b->high_threshold);
        } else {
            sum_both_plain(magnitude, n, b);
        }
        int64_t now = b->low.count - b->high.count;
        if (now == 0 || now >= between) return;
        between = now;
        b->low_threshold = (float)(b->low.s / b->low.h / 2 * (1 - margin));
        b->high_threshold = (float)(b->high.s / b->high.h / 2 * (1 + margin));
    }
}

QNI_CLONES
static void bracket_support(const float *magnitude, const float *h, int64_t n, float max, bracket *b) {
    if (h) {
        narrow(magnitude, h, n, max, b);
    } else {
        narrow(magnitude, NULL, n, max, b);
        b->high = sum_above(magnitude, NULL, n, b->high_threshold);
    }
}

/* pairs[..] = (|w|, h) of the columns between both bounds; returns how many. */
static int64_t take_between(const float *magnitude, const float *h, int64_t n, const bracket *b,
                            float *pairs) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        pairs[2 * count] = magnitude[i];
        pairs[2 * count + 1] = h ? h[i] : 1.0f;
        count += (magnitude[i] > b->low_threshold) & (magnitude[i] <= b->high_threshold);
    }
    return count;
}

static int by_magnitude_descending(const void *a, const void *b) {
    const float *x = a, *y = b;
    return (*x < *y) - (*x > *y);
}

enum {
    FEW = 24
}; /* pairs that are sorted faster by insertion; in the same order, for qsort of glibc is stable, too */

static void sort_pairs(float *pairs, int64_t n) {
    if (n > FEW) {
        qsort(pairs, (size_t)n, 2 * sizeof *pairs, by_magnitude_descending);
        return;
    }
    for (int64_t i = 1; i < n; i++) {
        const float magnitude = pairs[2 * i], h = pairs[2 * i + 1];
        int64_t at = i;
        for (; at > 0 && pairs[2 * at - 2] < magnitude; at--)
            memcpy(pairs + 2 * at, pairs + 2 * at - 2, 2 * sizeof *pairs);
        pairs[2 * at] = magnitude;
        pairs[2 * at + 1] = h;
    }
}

/* The best scale among the supports between both bounds. */
static double search_between(const float *magnitude, const float *h, int64_t n, const bracket *b,
                             float *pairs) {
    int64_t count = take_between(magnitude, h, n, b, pairs);
    sort_pairs(pairs, count);
    double s = b->high.s, h_sum = b->high.h, best = s * s / h_sum, scale = s / h_sum;
    for (int64_t i = 0; i < count; i++) {
        s += (double)pairs[2 * i + 1] * (double)pairs[2 * i];
        h_sum += (double)pairs[2 * i + 1];
        if (s * s / h_sum <= best) continue;
        best = s * s / h_sum;
        scale = s / h_sum;
    }
    return scale;
}

static double best_scale(const float *magnitude, const float *h, int64_t n, const bracket *b, float *pairs) {
    return b->low.count == b->high.count ? b->high.s / b->high.h : search_between(magnitude, h, n, b, pairs);
}

/* The codes of 32 weights. */
QNI_LANE_INLINE void choose_32(const float *w, float threshold, int8_t *q) {
    qni_i8 codes[4];
    for (int i = 0; i < 4; i++) {
        qni_f8 x;
        memcpy(&x, w + QNI_LANES8 * i, sizeof x);
        codes[i] = (x < -threshold) - (x > threshold); /* a condition that holds is -1 */
    }
    const shorts low = EVEN_OF_16((shorts)codes[0], (shorts)codes[1]);
    const shorts high = EVEN_OF_16((shorts)codes[2], (shorts)codes[3]);
    const bytes all = EVEN_OF_32((bytes)low, (bytes)high);
    memcpy(q, &all, sizeof all);
}

QNI_CLONES
static void choose_above(const float *w, int64_t n, float threshold, int8_t *q) {
    int64_t i = 0;
    for (; n - i >= 32; i += 32) choose_32(w + i, threshold, q + i);
    for (; i < n; i++) q[i] = (int8_t)((w[i] > threshold) - (w[i] < -threshold));
}

static uint16_t choose_for_scale(const float *w, int64_t n, double scale, int8_t *q) {
    uint16_t bits = qni_scale_bits(scale);
    choose_above(w, n, qn_f16_to_f32(bits) / 2, q);
    return bits;
}

uint16_t qni_fit_ternary(const float *w, const float *h, int64_t n, const qni_group_work *work, int8_t *q) {
    float *magnitude = work->values;
    float max = take_magnitudes(w, h, n, magnitude);
    if (h && !(max > 0)) return qni_fit_ternary(w, NULL, n, work, q); /* the weights say nothing */
    if (max < vanishing || max > enormous) return choose_for_scale(w, n, (double)max, q);

    bracket b;
    bracket_support(magnitude, h, n, max, &b);
    return choose_for_scale(w, n, best_scale(magnitude, h, n, &b, work->pairs), q);
}

void qni_fit_ternary_eight(const float *w, int64_t n, const qni_group_work *work, int8_t *q,
                           uint16_t *scales) {
    qni_eight_brackets all;
    qni_bracket_eight(w, n, plain_margin(n), work->values, work->pairs, &all);
    for (int64_t g = 0; g < QNI_LANES8; g++) {
        const float *magnitude = work->values + g * n;
        const bracket b = {
            .low_threshold = all.low_threshold[g],
            .high_threshold = all.high_threshold[g],
            .low = {.count = all.low_count[g]},
            .high = {.s = all.high_sum[g], .h = (double)all.high_count[g], .count = all.high_count[g]}};
        const float max = all.max[g];
        const double scale =
            max < vanishing || max > enormous ? (double)max : best_scale(magnitude, NULL, n, &b, work->pairs);
        scales[g] = choose_for_scale(w + g * n, n, scale, q + g * n);
    }
}

void qni_fit_ternary_sorted(const float *w, int64_t cols, int64_t group_size, int8_t *q, uint16_t *scales) {
    const int64_t most = QNI_SORTED_GROUPS * group_size;
    double best[QNI_SORTED_GROUPS];
    for (int64_t first = 0; first < cols; first += most) {
        const int64_t n = cols - first < most ? cols - first : most;
        qni_sorted_scales(w + first, n, group_size, vanishing, enormous, best);
        for (int64_t g = 0; g * group_size < n; g++) {
            const int64_t at = first + g * group_size, some = cols - at < group_size ? cols - at : group_size;
            *scales++ = choose_for_scale(w + at, some, best[g], q + at);
        }
    }
}

QNI_CLONES
static support sum_kept(const float *magnitude, int64_t n, float threshold) {
    return sum_above(magnitude, NULL, n, threshold);
}

/* Ternary weight networks: threshold 0.7 mean|w|, scale the mean of what it keeps. Source: Li, Zhang, Liu,
 * 2016. */
uint16_t qni_fit_ternary_published(const float *w, const float *h, int64_t n, const qni_group_work *work,
                                   int8_t *q) {
    (void)h;
    take_magnitudes(w, NULL, n, work->values);
    float threshold = (float)(0.7 * qni_sum_magnitudes(w, NULL, n).plain / (double)n);
    support kept = sum_kept(work->values, n, threshold);
    choose_above(w, n, threshold, q);
    return kept.count ? qni_scale_bits(kept.s / kept.h) : 0;
}
