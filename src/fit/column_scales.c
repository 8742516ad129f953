#include "quern/fit/column_scales.h"

#include "base/alloc.h"
#include "quern/tensor/dtype.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

enum { STEPS = 8 };
static const double LARGEST = 1024; /* far within fp16, and so is its inverse */

/* numerator / denominator of the best c_j for given r, or of the best r_i for given c: the other way round. */
typedef struct ratios {
    double *above, *below;
} ratios;

static double ratio_at(const ratios *r, int64_t j) {
    return r->below[j] > 0 ? r->above[j] / r->below[j] : 0;
}

/* One step: r_i from c, which stands in C, and the sums of the next c. */
static void step(const float *w, const float *weights, int64_t rows, int64_t cols, const double *c,
                 ratios *next) {
    for (int64_t j = 0; j < cols; j++) next->above[j] = next->below[j] = 0;
    for (int64_t i = 0; i < rows; i++) {
        const float *row = w + i * cols;
        double above = 0, below = 0;
        for (int64_t j = 0; j < cols; j++) {
            const double weighted = (double)weights[j] * c[j];
            above += weighted * fabs((double)row[j]);
            below += weighted * c[j];
        }
        const double r = below > 0 ? above / below : 0;
        for (int64_t j = 0; j < cols; j++) {
            next->above[j] += r * fabs((double)row[j]);
            next->below[j] += r * r;
        }
    }
}

static void normalise(double *c, int64_t cols) {
    double sum = 0;
    int64_t n = 0;
    for (int64_t j = 0; j < cols; j++) {
        if (!(c[j] > 0)) continue;
        sum += log(c[j]);
        n++;
    }
    const double mean = n ? exp(sum / (double)n) : 1;
    for (int64_t j = 0; j < cols; j++) c[j] = fmin(fmax(c[j] / mean, 1 / LARGEST), LARGEST);
}

qn_status qn_column_scales(const float *w, const float *weights, int64_t rows, int64_t cols, uint16_t *scales,
                           qn_error *err) {
    double *c = qni_alloc_array(cols, sizeof *c);
    ratios next = {qni_alloc_array(cols, sizeof *next.above), qni_alloc_array(cols, sizeof *next.below)};
    qn_status status = c && next.above && next.below ? QN_OK : qni_fail_nomem(err, "column scales");
    for (int64_t j = 0; j < cols && status == QN_OK; j++) c[j] = 1;
    for (int k = 0; k < STEPS && status == QN_OK; k++) {
        step(w, weights, rows, cols, c, &next);
        for (int64_t j = 0; j < cols; j++) c[j] = ratio_at(&next, j);
        normalise(c, cols);
    }
    for (int64_t j = 0; j < cols && status == QN_OK; j++) scales[j] = qn_f32_to_f16((float)c[j]);
    free(next.below);
    free(next.above);
    free(c);
    return status;
}

void qn_column_scales_fold(const uint16_t *scales, int64_t rows, int64_t cols, float *w, float *hessian) {
    for (int64_t j = 0; j < cols; j++) {
        const float c = qn_f16_to_f32(scales[j]);
        for (int64_t i = 0; i < rows; i++) w[i * cols + j] /= c;
        for (int64_t i = 0; hessian && i < cols; i++) {
            hessian[i * cols + j] *= c;
            hessian[j * cols + i] *= c;
        }
    }
}
