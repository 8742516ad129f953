/* Matrices, metrics and plain references for the tests of calibrated fits. */
#ifndef QUERN_TESTS_HESSIAN_SUPPORT_H
#define QUERN_TESTS_HESSIAN_SUPPORT_H

#include "quern/fit/hessian_fit.h"

#include "test_data.h"

/* Restarts the sequence of random numbers of all functions here. */
void seed_random(uint64_t seed);
double random_uniform(void);
double random_normal(void);

/* W [rows, cols] normal with deviation 0.02; owned. */
float *random_weights(int64_t rows, int64_t cols);

/* E[x x^T] of 4 * cols correlated inputs with log-normal energies (deviation of their logarithm 1); owned. */
float *random_metric(int64_t cols);

/* Row and column j become zero. */
void kill_input(float *h, int64_t cols, int64_t j);

/* Lines dealt to three bands at random, about 70, 20 and 10 in a hundred; owned. */
uint8_t *random_bands(int64_t lines);

/* sum_i x_i H x_i^T in double; x = a - b (b NULL: a). */
double metric_error(const float *a, const float *b, const float *h, int64_t rows, int64_t cols);

/* SHAPE with one band. */
qn_band_shape one_band(int64_t rows, int64_t cols, qn_band_axis axis, qn_band_spec spec);

/* CODE in one plane, CODE in two, q4: the bands a recipe uses. */
qn_band_shape three_bands(int64_t rows, int64_t cols, qn_band_axis axis, qn_code code, int32_t group_size,
                          bool log6, const uint8_t *line_band);

/* Fits or fails the test; the decoded weights [rows, cols] go to *decoded (owned) unless it is NULL. */
qn_banded fit_or_fail(const float *w, const float *h, const qn_band_shape *shape,
                      const qn_hessian_fit_options *options, int n_threads, qn_hessian_fit_report *report,
                      float **decoded);

#endif
