#include "fit/ternary_eight.h"

#include "base/clones.h"

#include "base/banned.h"

typedef struct lanes {
    qni_f8 low_threshold, high_threshold;
    qni_i8 low_count, high_count;
    qni_f8 low_sum, high_sum;
} lanes;

#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)

/* rows[i][j] <-> rows[j][i] */
QNI_LANE_INLINE void transpose(qni_f8 *rows) {
    qni_f8 two[8], four[8];
    for (int i = 0; i < 8; i += 2) {
        two[i] = SHUFFLE(rows[i], rows[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        two[i + 1] = SHUFFLE(rows[i], rows[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int k = 0; k < 2; k++) {
            four[i + 2 * k] = SHUFFLE(two[i + k], two[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            four[i + 2 * k + 1] = SHUFFLE(two[i + k], two[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    }
    for (int i = 0; i < 4; i++) {
        rows[i] = SHUFFLE(four[i], four[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        rows[i + 4] = SHUFFLE(four[i], four[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* by_column[j][group] = magnitude[group][j] = |w[group][j]|, and the largest of each group. */
QNI_LANE_INLINE void take_magnitudes(const float *w, int64_t n, float *magnitude, float *by_column,
                                     qni_f8 *max) {
    *max = (qni_f8){0};
    for (int64_t j = 0; j < n; j += QNI_LANES8) {
        qni_f8 rows[QNI_LANES8];
        for (int g = 0; g < QNI_LANES8; g++) {
            memcpy(&rows[g], w + g * n + j, sizeof rows[g]);
            qni_abs_f8(&rows[g]);
            memcpy(magnitude + g * n + j, &rows[g], sizeof rows[g]);
        }
        transpose(rows);
        for (int k = 0; k < QNI_LANES8; k++) qni_max_f8(max, &rows[k]);
        memcpy(by_column + j * QNI_LANES8, rows, sizeof rows);
    }
}

/* The sum of eight partial ones in the order of qni_sum_f8 and qni_sum_d8. */
#define SUM_OF_EIGHT(p) ((((p)[0] + (p)[4]) + ((p)[2] + (p)[6])) + (((p)[1] + (p)[5]) + ((p)[3] + (p)[7])))

QNI_LANE_INLINE void sum_both(const float *by_column, int64_t n, lanes *b) {
    const qni_f8 low = b->low_threshold, high = b->high_threshold;
    qni_f8 low_sums[QNI_LANES8], high_sums[QNI_LANES8];
    qni_i8 low_count = {0}, high_count = {0};
    for (int k = 0; k < QNI_LANES8; k++) {
        qni_f8 low_sum = {0}, high_sum = {0};
        for (int64_t j = k; j < n; j += QNI_LANES8) {
            qni_f8 x;
            memcpy(&x, by_column + j * QNI_LANES8, sizeof x);
            const qni_i8 above_low = x > low, above_high = x > high;
            low_sum += (qni_f8)((qni_i8)x & above_low);
            high_sum += (qni_f8)((qni_i8)x & above_high);
            low_count -= above_low;
            high_count -= above_high;
        }
        low_sums[k] = low_sum;
        high_sums[k] = high_sum;
    }
    b->low_sum = SUM_OF_EIGHT(low_sums);
    b->high_sum = SUM_OF_EIGHT(high_sums);
    b->low_count = low_count;
    b->high_count = high_count;
}

QNI_LANE_INLINE void sum_high(const float *by_column, int64_t n, const qni_f8 *threshold, double *out) {
    qni_d8 sums[QNI_LANES8], total;
    for (int k = 0; k < QNI_LANES8; k++) {
        qni_d8 sum = {0};
        for (int64_t j = k; j < n; j += QNI_LANES8) {
            qni_f8 x;
            qni_d8 wide;
            memcpy(&x, by_column + j * QNI_LANES8, sizeof x);
            const qni_i8 above = x > *threshold;
            qni_keep_f8(&x, &above);
            qni_widen(&wide, &x);
            sum += wide;
        }
        sums[k] = sum;
    }
    total = SUM_OF_EIGHT(sums);
    memcpy(out, &total, sizeof total);
}

/* threshold = sum / count / 2 * factor, in double, where a lane is active. */
QNI_LANE_INLINE void move_threshold(qni_f8 *threshold, const qni_f8 *sum, const qni_i8 *count, double factor,
                                    const qni_i8 *active) {
    float moved[QNI_LANES8];
    qni_f8 vector;
    for (int g = 0; g < QNI_LANES8; g++)
        moved[g] = (float)((double)(*sum)[g] / (double)(*count)[g] / 2 * factor);
    memcpy(&vector, moved, sizeof vector);
    *threshold = (qni_f8)(((qni_i8)vector & *active) | ((qni_i8)*threshold & ~*active));
}

/* A lane that is done keeps its thresholds, so its sums stay what they are. */
QNI_LANE_INLINE void narrow(const float *by_column, int64_t n, double margin, lanes *b) {
    qni_i8 active = {-1, -1, -1, -1, -1, -1, -1, -1};
    qni_i8 between = active & INT32_MAX;
    for (;;) {
        sum_both(by_column, n, b);
        const qni_i8 now = b->low_count - b->high_count;
        active &= (now != 0) & (now < between);
        between = (now & active) | (between & ~active);
        if (qni_sum_i8(&active) == 0) return;
        move_threshold(&b->low_threshold, &b->low_sum, &b->low_count, 1 - margin, &active);
        move_threshold(&b->high_threshold, &b->high_sum, &b->high_count, 1 + margin, &active);
    }
}

QNI_CLONES
void qni_bracket_eight(const float *w, int64_t n, double margin, float *magnitude, float *spare,
                       qni_eight_brackets *out) {
    lanes b = {0};
    qni_f8 max;
    take_magnitudes(w, n, magnitude, spare, &max);
    for (int g = 0; g < QNI_LANES8; g++) out->high_threshold[g] = (float)((double)max[g] / 2 * (1 + margin));
    memcpy(&b.high_threshold, out->high_threshold, sizeof b.high_threshold);
    narrow(spare, n, margin, &b);
    sum_high(spare, n, &b.high_threshold, out->high_sum);
    memcpy(out->max, &max, sizeof max);
    memcpy(out->low_threshold, &b.low_threshold, sizeof b.low_threshold);
    memcpy(out->high_threshold, &b.high_threshold, sizeof b.high_threshold);
    memcpy(out->low_count, &b.low_count, sizeof b.low_count);
    memcpy(out->high_count, &b.high_count, sizeof b.high_count);
}
