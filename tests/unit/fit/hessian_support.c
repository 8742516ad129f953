#include "hessian_support.h"

#include <math.h>
#include <stdlib.h>

static uint64_t random_state;

void seed_random(uint64_t seed) {
    random_state = seed;
}

double random_uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

double random_normal(void) {
    const double radius = sqrt(-2 * log(1 - random_uniform()));
    return radius * cos(6.283185307179586 * random_uniform());
}

static void *take(int64_t n, size_t size) {
    void *p = calloc((size_t)n, size);
    assert_non_null(p);
    return p;
}

float *random_weights(int64_t rows, int64_t cols) {
    float *w = take(rows * cols, sizeof *w);
    for (int64_t i = 0; i < rows * cols; i++) w[i] = (float)(0.02 * random_normal());
    return w;
}

/* Neighbours share a part of their input, and all of them a common one. */
static void draw_input(double *x, const double *energy, int64_t cols) {
    const double common = random_normal();
    double previous = random_normal();
    for (int64_t j = 0; j < cols; j++) {
        const double own = random_normal();
        x[j] = energy[j] * (0.8 * own + 0.5 * previous + 0.3 * common);
        previous = own;
    }
}

float *random_metric(int64_t cols) {
    const int64_t n = 4 * cols;
    double *energy = take(cols, sizeof *energy), *x = take(cols, sizeof *x),
           *sum = take(cols * cols, sizeof *sum);
    float *h = take(cols * cols, sizeof *h);
    for (int64_t j = 0; j < cols; j++) energy[j] = exp(0.5 * random_normal());
    for (int64_t i = 0; i < n; i++) {
        draw_input(x, energy, cols);
        for (int64_t j = 0; j < cols; j++) {
            for (int64_t k = 0; k < cols; k++) sum[j * cols + k] += x[j] * x[k];
        }
    }
    for (int64_t i = 0; i < cols * cols; i++) h[i] = (float)(sum[i] / (double)n);
    free(energy);
    free(x);
    free(sum);
    return h;
}

void kill_input(float *h, int64_t cols, int64_t j) {
    for (int64_t k = 0; k < cols; k++) h[j * cols + k] = h[k * cols + j] = 0;
}

uint8_t *random_bands(int64_t lines) {
    uint8_t *band = take(lines, 1);
    for (int64_t i = 0; i < lines; i++) {
        const double u = random_uniform();
        band[i] = u < 0.7 ? 0 : u < 0.9 ? 1 : 2;
    }
    return band;
}

double metric_error(const float *a, const float *b, const float *h, int64_t rows, int64_t cols) {
    double error = 0;
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < cols; j++) {
            double sum = 0;
            for (int64_t k = 0; k < cols; k++) {
                const int64_t at = r * cols + k;
                sum += (double)h[j * cols + k] * ((double)a[at] - (b ? (double)b[at] : 0));
            }
            error += sum * ((double)a[r * cols + j] - (b ? (double)b[r * cols + j] : 0));
        }
    }
    return error;
}

qn_band_shape one_band(int64_t rows, int64_t cols, qn_band_axis axis, qn_band_spec spec) {
    return (qn_band_shape){.rows = rows, .cols = cols, .axis = axis, .n_bands = 1, .bands = {spec}};
}

qn_band_shape three_bands(int64_t rows, int64_t cols, qn_band_axis axis, qn_code code, int32_t group_size,
                          bool log6, const uint8_t *line_band) {
    return (qn_band_shape){
        .rows = rows,
        .cols = cols,
        .axis = axis,
        .n_bands = 3,
        .bands = {{code, 1, group_size, log6}, {code, 2, group_size, log6}, {QN_CODE_Q4, 1, 128, false}},
        .line_band = line_band};
}

qn_banded fit_or_fail(const float *w, const float *h, const qn_band_shape *shape,
                      const qn_hessian_fit_options *options, int n_threads, qn_hessian_fit_report *report,
                      float **decoded) {
    const qn_context ctx = {.n_threads = n_threads};
    qn_banded out = {0};
    qn_error err;
    if (qn_hessian_fit(w, h, shape, options, &ctx, &out, report, &err) != QN_OK) fail_msg("%s", err.message);
    if (decoded) {
        *decoded = take(shape->rows * shape->cols, sizeof **decoded);
        qn_banded_decode(&out, *decoded);
    }
    return out;
}
