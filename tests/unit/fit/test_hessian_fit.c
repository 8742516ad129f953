/* Fits in the full metric: against exhaustive search, a textbook GPTQ, and their own report, in every shape. */
#include "hessian_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The report is summed in double from panels of f32 sums over at most 200 terms, of which half cancel. */
static const double report_tolerance = 2e-5;

static double relative(double a, double b) {
    return fabs(a - b) / fmax(fabs(a), fabs(b));
}

/* --- every shape ----------------------------------------------------------------------------------------- */

static void check_codes(const qn_banded *b) {
    for (int i = 0; i < b->n_bands; i++) {
        const qn_banded_band *band = &b->bands[i];
        const int most = qn_code_max(band->spec.code);
        for (int p = 0; p < band->spec.n_planes; p++) {
            for (int64_t k = 0; k < band->rows * band->cols; k++) {
                const int q = band->planes[p].q[k];
                assert_in_range(q + most, 0, 2 * most);
                if (band->spec.code == QN_CODE_SIGN) assert_true(q != 0);
            }
            for (int64_t k = 0; k < band->rows * band->groups; k++) {
                const float scale = qn_f16_to_f32(band->planes[p].scales[k]);
                assert_true(isfinite(scale) && scale >= 0);
            }
        }
    }
}

/* All three methods: legal codes, a true report, and each method better than the one before. */
static void check_shape(const qn_band_shape *shape) {
    float *w = random_weights(shape->rows, shape->cols), *h = random_metric(shape->cols);
    const double energy = metric_error(w, NULL, h, shape->rows, shape->cols);
    double last = (double)INFINITY;
    for (int method = QN_HESSIAN_WEIGHTED; method <= QN_HESSIAN_DESCENT; method++) {
        qn_hessian_fit_options options = qn_hessian_fit_defaults();
        qn_hessian_fit_report report;
        float *decoded;
        options.method = (qn_hessian_method)method;
        qn_banded out = fit_or_fail(w, h, shape, &options, 2, &report, &decoded);
        const double error = metric_error(w, decoded, h, shape->rows, shape->cols);
        check_codes(&out);
        if (relative(report.energy, energy) > report_tolerance ||
            relative(report.error, error) > report_tolerance)
            fail_msg("reported %.9g of %.9g, true %.9g of %.9g", report.error, report.energy, error, energy);
        assert_true(fabs(report.relative_error - error / energy) <= report_tolerance);
        if (method == QN_HESSIAN_FEEDBACK && relative(report.feedback_error, error) > report_tolerance)
            fail_msg("feedback error %.9g, true %.9g", report.feedback_error, error);
        /* one or two lines leave room for luck */
        if (shape->rows > 8 && shape->cols > 8 && !(error < last))
            fail_msg("method %d: %g after %g", method, error, last);
        last = error;
        free(decoded);
        qn_banded_release(&out);
    }
    free(w);
    free(h);
}

static void test_every_axis_band_and_group(void **state) {
    (void)state;
    seed_random(11);
    for (int axis = QN_AXIS_ROWS; axis <= QN_AXIS_COLUMNS; axis++) {
        for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
            const int32_t groups[] = {16, 0, 50};
            for (int g = 0; g < 3; g++) {
                const int64_t rows = 135, cols = 101;
                uint8_t *bands = random_bands(axis == QN_AXIS_ROWS ? rows : cols);
                const qn_band_shape shape =
                    three_bands(rows, cols, (qn_axis)axis, code, groups[g], g == 1, bands);
                check_shape(&shape);
                free(bands);
            }
        }
    }
}

static void test_single_bands(void **state) {
    (void)state;
    const qn_band_spec specs[] = {{QN_CODE_SIGN, 1, 32, false}, {QN_CODE_TERNARY, 1, 7, true},
                                  {QN_CODE_SIGN, 2, 32, true},  {QN_CODE_TERNARY, 2, 0, false},
                                  {QN_CODE_Q4, 1, 64, false},   {QN_CODE_Q4, 1, 0, true}};
    seed_random(12);
    for (size_t i = 0; i < sizeof specs / sizeof specs[0]; i++) {
        for (int axis = QN_AXIS_ROWS; axis <= QN_AXIS_COLUMNS; axis++) {
            const qn_band_shape shape = one_band(70, 65, (qn_axis)axis, specs[i]);
            check_shape(&shape);
        }
    }
}

static void test_one_row_one_column_and_empty_bands(void **state) {
    (void)state;
    seed_random(13);
    for (int axis = QN_AXIS_ROWS; axis <= QN_AXIS_COLUMNS; axis++) {
        const int64_t sizes[][2] = {{1, 1}, {1, 9}, {9, 1}, {64, 48}, {65, 49}};
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            const int64_t rows = sizes[i][0], cols = sizes[i][1];
            uint8_t *bands = calloc((size_t)(rows > cols ? rows : cols), 1);
            for (int only = 0; only < 3; only++) {
                memset(bands, only, (size_t)(rows > cols ? rows : cols));
                const qn_band_shape shape =
                    three_bands(rows, cols, (qn_axis)axis, QN_CODE_TERNARY, 64, only == 1, bands);
                check_shape(&shape);
            }
            free(bands);
        }
    }
}

/* More unknowns a row than one system takes: overlapping runs of them. */
static void test_many_scales_a_row(void **state) {
    (void)state;
    seed_random(14);
    const qn_band_shape shape =
        one_band(12, 330, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_TERNARY, 2, 2, false});
    check_shape(&shape);
}

/* --- determinism ----------------------------------------------------------------------------------------- */

static void expect_same(const qn_banded *a, const qn_banded *b) {
    for (int i = 0; i < a->n_bands; i++) {
        const qn_banded_band *x = &a->bands[i], *y = &b->bands[i];
        for (int p = 0; p < x->spec.n_planes; p++) {
            const size_t n_scales = (size_t)(x->rows * x->groups);
            assert_memory_equal(x->planes[p].q, y->planes[p].q, (size_t)(x->rows * x->cols));
            assert_memory_equal(x->planes[p].scales, y->planes[p].scales, 2 * n_scales);
            if (x->spec.log6_scales)
                assert_memory_equal(x->planes[p].scale_codes, y->planes[p].scale_codes, n_scales);
            assert_memory_equal(&x->planes[p].grid_base, &y->planes[p].grid_base, sizeof(float));
            assert_memory_equal(&x->planes[p].grid_ratio, &y->planes[p].grid_ratio, sizeof(float));
        }
    }
}

static void test_same_bytes_for_any_number_of_threads(void **state) {
    (void)state;
    const int64_t rows = 300, cols = 150;
    seed_random(15);
    float *w = random_weights(rows, cols), *h = random_metric(cols);
    uint8_t *bands = random_bands(rows);
    const qn_hessian_fit_options options = qn_hessian_fit_defaults();
    for (int axis = QN_AXIS_ROWS; axis <= QN_AXIS_COLUMNS; axis++) {
        const qn_band_shape shape = three_bands(rows, cols, (qn_axis)axis, QN_CODE_TERNARY, 32, true, bands);
        qn_hessian_fit_report first_report, report;
        qn_banded first = fit_or_fail(w, h, &shape, &options, 1, &first_report, NULL);
        for (int n_threads = 2; n_threads <= 3; n_threads++) {
            qn_banded other = fit_or_fail(w, h, &shape, &options, n_threads, &report, NULL);
            expect_same(&first, &other);
            assert_memory_equal(&first_report.error, &report.error, sizeof report.error);
            assert_memory_equal(&first_report.energy, &report.energy, sizeof report.energy);
            qn_banded_release(&other);
        }
        qn_banded_release(&first);
    }
    free(w);
    free(h);
    free(bands);
}

/* --- against exhaustive search --------------------------------------------------------------------------- */

/* The least error of one row over all codes, each with its best scale. */
static double exhaustive_error(qn_code code, const float *w, const float *h, int64_t n) {
    const int64_t base = code == QN_CODE_SIGN ? 2 : 3;
    double hw[8], best = 0;
    int64_t n_codes = 1;
    for (int64_t j = 0; j < n; j++) {
        n_codes *= base;
        hw[j] = 0;
        for (int64_t k = 0; k < n; k++) hw[j] += (double)h[j * n + k] * (double)w[k];
    }
    for (int64_t c = 0; c < n_codes; c++) {
        double q[8], wq = 0, qq = 0;
        for (int64_t j = 0, rest = c; j < n; j++, rest /= base)
            q[j] = base == 2 ? (rest % 2 ? 1 : -1) : (double)(rest % 3 - 1);
        for (int64_t j = 0; j < n; j++) {
            wq += q[j] * hw[j];
            for (int64_t k = 0; k < n; k++) qq += q[j] * (double)h[j * n + k] * q[k];
        }
        if (wq > 0 && wq * wq / qq > best) best = wq * wq / qq;
    }
    return metric_error(w, NULL, h, 1, n) - best;
}

/* No single code of the row can be changed to the better. */
static void expect_coordinate_optimum(const qn_banded *out, const float *w, float *decoded, const float *h,
                                      int64_t n) {
    const double error = metric_error(w, decoded, h, 1, n), energy = metric_error(w, NULL, h, 1, n);
    const float scale = qn_f16_to_f32(out->bands[0].planes[0].scales[0]);
    for (int64_t j = 0; j < n; j++) {
        const float kept = decoded[j];
        for (int q = -1; q <= 1; q++) {
            if (q == 0 && out->bands[0].spec.code == QN_CODE_SIGN) continue;
            decoded[j] = scale * (float)q;
            const double other = metric_error(w, decoded, h, 1, n);
            if (other < error - 1e-6 * energy)
                fail_msg("input %lld: %d gives %g, %g was kept", (long long)j, q, other, error);
        }
        decoded[j] = kept;
    }
}

typedef struct toy_result {
    double
        optimal_share;  /* of rows that reach the least error (within what rounding a scale to fp16 costs) */
    double mean_excess; /* mean error over mean least error, less 1 */
} toy_result;

static toy_result fit_toys(qn_code code, qn_hessian_method method, int sweeps) {
    enum { TRIALS = 200 };
    double sum = 0, least_sum = 0;
    int optimal = 0;
    seed_random(16);
    for (int trial = 0; trial < TRIALS; trial++) {
        const int64_t n = 6 + trial % 3;
        float *w = random_weights(1, n), *h = random_metric(n), *decoded;
        const qn_band_shape shape = one_band(1, n, QN_AXIS_COLUMNS, (qn_band_spec){code, 1, 0, false});
        qn_hessian_fit_options options = qn_hessian_fit_defaults();
        options.method = method;
        options.sweeps = sweeps;
        qn_banded out = fit_or_fail(w, h, &shape, &options, 1, NULL, &decoded);
        const double error = metric_error(w, decoded, h, 1, n), least = exhaustive_error(code, w, h, n);
        const double allowance = 1e-6 * metric_error(w, NULL, h, 1, n);
        assert_true(error >= least - allowance);
        if (method == QN_HESSIAN_DESCENT) expect_coordinate_optimum(&out, w, decoded, h, n);
        optimal += error <= least + allowance;
        sum += error;
        least_sum += least;
        free(w);
        free(h);
        free(decoded);
        qn_banded_release(&out);
    }
    const toy_result result = {(double)optimal / TRIALS, sum / least_sum - 1};
    print_message("toys: code %s method %d: optimal %.3f, excess %.4f\n", qn_code_name(code), (int)method,
                  result.optimal_share, result.mean_excess);
    return result;
}

/* Descent ends where no single code can be bettered; how often that is the best of all codes, and how far it is from it on the
 * mean, is what 200 toys gave, with a margin. */
static void test_toys_come_close_to_the_best_of_all_codes(void **state) {
    (void)state;
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
        const toy_result weighted = fit_toys(code, QN_HESSIAN_WEIGHTED, 0);
        const toy_result feedback = fit_toys(code, QN_HESSIAN_FEEDBACK, 0);
        const toy_result descent = fit_toys(code, QN_HESSIAN_DESCENT, 30);
        assert_true(descent.optimal_share > 0.6);
        assert_true(descent.mean_excess < 0.16);
        assert_true(descent.mean_excess < feedback.mean_excess &&
                    feedback.mean_excess < weighted.mean_excess);
    }
}

/* --- against a textbook GPTQ ------------------------------------------------------------------------------ */

/* Upper Cholesky factor of the inverse of M [n, n], as GPTQ wants it: M^-1 = U^T U. Plain Gauss-Jordan and Cholesky. */
static void inverse_factor(const double *m, int64_t n, double *u) {
    double *a = calloc((size_t)(n * 2 * n), sizeof *a), *inverse = calloc((size_t)(n * n), sizeof *inverse);
    for (int64_t i = 0; i < n; i++) {
        memcpy(a + i * 2 * n, m + i * n, (size_t)n * sizeof *a);
        a[i * 2 * n + n + i] = 1;
    }
    for (int64_t c = 0; c < n; c++) {
        const double pivot = a[c * 2 * n + c];
        for (int64_t k = 0; k < 2 * n; k++) a[c * 2 * n + k] /= pivot;
        for (int64_t i = 0; i < n; i++) {
            const double factor = a[i * 2 * n + c];
            for (int64_t k = 0; k < 2 * n && i != c; k++) a[i * 2 * n + k] -= factor * a[c * 2 * n + k];
        }
    }
    for (int64_t i = 0; i < n; i++) memcpy(inverse + i * n, a + i * 2 * n + n, (size_t)n * sizeof *a);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = i; j < n; j++) {
            double sum = inverse[i * n + j];
            for (int64_t k = 0; k < i; k++) sum -= u[k * n + i] * u[k * n + j];
            u[i * n + j] = i == j ? sqrt(sum) : sum / u[i * n + i];
        }
    }
    free(a);
    free(inverse);
}

static void order_by_energy(const float *h, int64_t n, int64_t *order) {
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t i = 1; i < n; i++) {
        for (int64_t k = i; k > 0 && h[order[k] * (n + 1)] > h[order[k - 1] * (n + 1)]; k--) {
            const int64_t swap = order[k];
            order[k] = order[k - 1];
            order[k - 1] = swap;
        }
    }
}

static double nearest_level(qn_code code, double v, double s) {
    if (code == QN_CODE_SIGN) return v < 0 ? -1 : 1;
    return v > s / 2 ? 1 : v < -s / 2 ? -1 : 0;
}

/* GPTQ of one row with the scales of OUT (groups of natural columns): codes [n]. */
static void textbook_gptq(const qn_banded *out, const float *w, const double *u, const int64_t *order,
                          int64_t row, int8_t *q) {
    const qn_banded_band *band = &out->bands[0];
    const int64_t n = out->cols;
    double *left = calloc((size_t)n, sizeof *left);
    for (int64_t i = 0; i < n; i++) left[i] = (double)w[row * n + order[i]];
    for (int64_t i = 0; i < n; i++) {
        const int64_t group = order[i] / band->spec.group_size;
        const double s = (double)qn_f16_to_f32(band->planes[0].scales[row * band->groups + group]);
        const double code = nearest_level(band->spec.code, left[i], s),
                     error = (left[i] - s * code) / u[i * n + i];
        q[order[i]] = (int8_t)code;
        for (int64_t k = i; k < n; k++) left[k] -= error * u[i * n + k];
    }
    free(left);
}

static void check_against_gptq(qn_code code, bool activation_order) {
    enum { ROWS = 9, COLS = 130 };
    static double damped[COLS * COLS], u[COLS * COLS], d[COLS];
    int64_t order[COLS];
    int8_t q[COLS];
    float *w = random_weights(ROWS, COLS), *h = random_metric(COLS);
    const qn_band_shape shape = one_band(ROWS, COLS, QN_AXIS_COLUMNS, (qn_band_spec){code, 1, 32, false});
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    qn_hessian_fit_report report;
    options.method = QN_HESSIAN_FEEDBACK;
    options.activation_order = activation_order;
    qn_banded out = fit_or_fail(w, h, &shape, &options, 1, &report, NULL);
    order_by_energy(h, COLS, order);
    for (int64_t i = 0; i < COLS && !activation_order; i++) order[i] = i;
    for (int64_t i = 0; i < COLS; i++) {
        for (int64_t k = 0; k < COLS; k++) damped[i * COLS + k] = (double)h[order[i] * COLS + order[k]];
        damped[i * COLS + i] += report.damping;
    }
    memset(u, 0, sizeof u);
    inverse_factor(damped, COLS, u);
    for (int64_t r = 0; r < ROWS; r++) {
        textbook_gptq(&out, w, u, order, r, q);
        assert_memory_equal(q, out.bands[0].planes[0].q + r * COLS, COLS);
    }
    assert_int_equal(qn_feedback_diagonal(h, COLS, options.damping, activation_order, NULL, d, NULL), QN_OK);
    for (int64_t i = 0; i < COLS; i++) {
        const double expected = 1 / (u[i * COLS + i] * u[i * COLS + i]);
        if (relative(d[order[i]], expected) > 1e-9) fail_msg("D %.12g, 1 / U^2 %.12g", d[order[i]], expected);
    }
    qn_banded_release(&out);
    free(w);
    free(h);
}

static void test_feedback_gives_the_codes_of_gptq(void **state) {
    (void)state;
    seed_random(17);
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
        check_against_gptq(code, true);
        check_against_gptq(code, false);
    }
}

static void test_no_feedback_is_rounding(void **state) {
    (void)state;
    seed_random(18);
    float *w = random_weights(20, 60), *h = random_metric(60);
    const qn_band_shape shape =
        one_band(20, 60, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_TERNARY, 1, 16, true});
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    options.method = QN_HESSIAN_WEIGHTED;
    qn_banded rounded = fit_or_fail(w, h, &shape, &options, 1, NULL, NULL);
    options.method = QN_HESSIAN_FEEDBACK;
    options.error_decay = 0;
    qn_banded fed = fit_or_fail(w, h, &shape, &options, 1, NULL, NULL);
    expect_same(&rounded, &fed);
    qn_banded_release(&rounded);
    qn_banded_release(&fed);
    free(w);
    free(h);
}

/* --- dead inputs, singular metrics, refusals -------------------------------------------------------------- */

static void test_dead_inputs_take_the_nearest_code(void **state) {
    (void)state;
    enum { ROWS = 66, COLS = 60, DEAD = 7 };
    seed_random(19);
    float *w = random_weights(ROWS, COLS), *h = random_metric(COLS), *decoded, *other;
    kill_input(h, COLS, DEAD);
    kill_input(h, COLS, COLS - 1);
    const qn_band_shape shape =
        one_band(ROWS, COLS, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_TERNARY, 1, 20, false});
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    for (int method = QN_HESSIAN_WEIGHTED; method <= QN_HESSIAN_DESCENT; method++) {
        qn_hessian_fit_report report;
        options.method = (qn_hessian_method)method;
        qn_banded out = fit_or_fail(w, h, &shape, &options, 2, &report, &decoded);
        assert_int_equal(report.n_dead, 2);
        for (int64_t r = 0; r < ROWS; r++) {
            const float s = qn_f16_to_f32(out.bands[0].planes[0].scales[r * 3]);
            assert_int_equal(out.bands[0].planes[0].q[r * COLS + DEAD],
                             (int)nearest_level(QN_CODE_TERNARY, (double)w[r * COLS + DEAD], (double)s));
        }
        for (int64_t r = 0; r < ROWS; r++) w[r * COLS + DEAD] += 5; /* changes nothing but its own codes */
        qn_banded changed = fit_or_fail(w, h, &shape, &options, 2, NULL, &other);
        for (int64_t i = 0; i < ROWS * COLS; i++) {
            if (i % COLS != DEAD) assert_true(decoded[i] == other[i]);
        }
        for (int64_t r = 0; r < ROWS; r++) w[r * COLS + DEAD] -= 5;
        free(decoded);
        free(other);
        qn_banded_release(&out);
        qn_banded_release(&changed);
    }
    free(w);
    free(h);
}

static void test_singular_and_zero_metrics(void **state) {
    (void)state;
    enum { ROWS = 5, COLS = 90 };
    seed_random(20);
    float *w = random_weights(ROWS, COLS), *h = calloc(COLS * COLS, sizeof *h);
    const qn_band_shape shape =
        one_band(ROWS, COLS, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_SIGN, 1, 30, false});
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    qn_hessian_fit_report report;
    qn_banded out = fit_or_fail(w, h, &shape, &options, 1, &report, NULL);
    assert_int_equal(report.n_dead, COLS);
    assert_true(report.error == 0 && report.relative_error == 0 && report.energy == 0);
    qn_banded_release(&out);
    for (int64_t j = 0; j < COLS; j++) { /* rank one */
        for (int64_t k = 0; k < COLS; k++) h[j * COLS + k] = (float)(1 + j % 3) * (float)(1 + k % 3);
    }
    for (int undamped = 0; undamped < 2; undamped++) {
        options.damping = undamped ? 0 : 0.01;
        out = fit_or_fail(w, h, &shape, &options, 1, &report, NULL);
        assert_true(report.damping > 0);
        assert_true(report.relative_error >= 0 && report.relative_error < 1);
        qn_banded_release(&out);
    }
    free(w);
    free(h);
}

static void test_damping_rises_where_a_metric_is_indefinite(void **state) {
    (void)state;
    enum { COLS = 20 };
    seed_random(21);
    float *w = random_weights(3, COLS), *h = random_metric(COLS);
    const qn_band_shape shape = one_band(3, COLS, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_SIGN, 1, 0, false});
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    qn_hessian_fit_report report;
    double mean = 0;
    for (int64_t j = 0; j < COLS; j++) mean += (double)h[j * (COLS + 1)] / COLS;
    h[1] = h[COLS] = 1.5f * sqrtf(h[0] * h[COLS + 1]); /* more than the inputs' own energies allow */
    qn_banded out = fit_or_fail(w, h, &shape, &options, 1, &report, NULL);
    assert_true(report.damping > 0.02 * mean);
    qn_banded_release(&out);
    free(w);
    free(h);
}

static void expect_refusal(const float *w, const float *h, const qn_band_shape *shape,
                           const qn_hessian_fit_options *options, qn_status status, const char *words) {
    qn_banded out = {.rows = -7};
    qn_hessian_fit_report report = {.error = -7};
    qn_error err = {0};
    assert_int_equal(qn_hessian_fit(w, h, shape, options, NULL, &out, &report, &err), status);
    if (!strstr(err.message, words)) fail_msg("'%s' lacks '%s'", err.message, words);
    assert_int_equal(out.rows, -7);
    assert_null(out.line_band);
    assert_true(report.error == -7);
}

static void test_bad_values_are_refused(void **state) {
    (void)state;
    enum { ROWS = 4, COLS = 30 };
    seed_random(22);
    float *w = random_weights(ROWS, COLS), *h = random_metric(COLS);
    const qn_band_shape shape =
        one_band(ROWS, COLS, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_TERNARY, 1, 16, false});
    const qn_hessian_fit_options options = qn_hessian_fit_defaults();
    const float kept_h = h[5 * COLS + 6], kept_w = w[2 * COLS + 9];
    h[5 * COLS + 6] = NAN;
    expect_refusal(w, h, &shape, &options, QN_E_VALUE, "H[5, 6] is nan");
    h[5 * COLS + 6] = kept_h + 3;
    expect_refusal(w, h, &shape, &options, QN_E_VALUE, "not symmetric");
    h[5 * COLS + 6] = kept_h;
    h[7 * COLS + 7] *= -1;
    expect_refusal(w, h, &shape, &options, QN_E_VALUE, "negative second moment");
    h[7 * COLS + 7] *= -1;
    w[2 * COLS + 9] = INFINITY;
    expect_refusal(w, h, &shape, &options, QN_E_VALUE, "weight [2, 9] is inf");
    w[2 * COLS + 9] = kept_w;
    free(w);
    free(h);
}

static void test_bad_arguments_are_refused(void **state) {
    (void)state;
    seed_random(23);
    float *w = random_weights(2, 4), *h = random_metric(4);
    const uint8_t lines[] = {0, 0, 3, 0};
    const qn_band_spec ternary = {QN_CODE_TERNARY, 1, 16, false}, good_q4 = {QN_CODE_Q4, 1, 16, false};
    const qn_hessian_fit_options good = qn_hessian_fit_defaults();
    const qn_band_shape shape = one_band(2, 4, QN_AXIS_COLUMNS, ternary);
    qn_band_shape bad = one_band(2, 4, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_Q4, 2, 16, false});
    expect_refusal(w, h, &bad, &good, QN_E_ARGUMENT, "q4 in 2 planes");
    bad = one_band(2, 4, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_NONE, 1, 16, false});
    expect_refusal(w, h, &bad, &good, QN_E_ARGUMENT, "code none");
    bad = one_band(0, 4, QN_AXIS_COLUMNS, ternary);
    expect_refusal(w, h, &bad, &good, QN_E_ARGUMENT, "0 x 4");
    bad = one_band(2, 4, QN_AXIS_COLUMNS, good_q4);
    bad.n_bands = 4;
    expect_refusal(w, h, &bad, &good, QN_E_ARGUMENT, "4 bands");
    bad.n_bands = 1;
    bad.line_band = lines;
    expect_refusal(w, h, &bad, &good, QN_E_ARGUMENT, "line 2 lies in band 3 of 1");
    for (int i = 0; i < 7; i++) {
        qn_hessian_fit_options options = good;
        if (i == 0) options.damping = (double)NAN;
        if (i == 1) options.damping = -1;
        if (i == 2) options.ridge = -1;
        if (i == 3) options.error_decay = 1.5;
        if (i == 4) options.sweeps = -1;
        if (i == 5) options.q4_ratios = 0;
        if (i == 6) options.method = (qn_hessian_method)9;
        expect_refusal(w, h, &shape, &options, QN_E_ARGUMENT, "");
    }
    free(w);
    free(h);
}

static bool always(void *user) {
    (void)user;
    return true;
}

static void test_a_fit_can_be_cancelled(void **state) {
    (void)state;
    seed_random(24);
    float *w = random_weights(200, 40), *h = random_metric(40);
    const qn_band_shape shape = one_band(200, 40, QN_AXIS_ROWS, (qn_band_spec){QN_CODE_SIGN, 1, 0, false});
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    const qn_context ctx = {.n_threads = 2, .is_cancelled = always};
    qn_banded out = {0};
    assert_int_equal(qn_hessian_fit(w, h, &shape, &options, &ctx, &out, NULL, NULL), QN_E_CANCELLED);
    options.method = QN_HESSIAN_WEIGHTED;
    assert_int_equal(qn_hessian_fit(w, h, &shape, &options, &ctx, &out, NULL, NULL), QN_E_CANCELLED);
    assert_null(out.line_band);
    free(w);
    free(h);
}

static int64_t count_zeros(const qn_banded *banded) {
    const qn_banded_band *band = &banded->bands[0];
    int64_t n = 0;
    for (int64_t i = 0; i < band->rows * band->cols; i++) n += band->planes[0].q[i] == 0;
    return n;
}

/* The dearer trits are, the more of them are 0 and the larger the error; without a price the product is the same to the bit. */
static void test_rate_buys_zeros(void **state) {
    (void)state;
    static const double rates[] = {0, 0.05, 0.2, 1};
    enum { R = 70, C = 200 };
    seed_random(61);
    float *w = random_weights(R, C), *h = random_metric(C), *decoded[4], *plain;
    const qn_band_shape shape = one_band(R, C, QN_AXIS_ROWS, (qn_band_spec){QN_CODE_TERNARY, 1, 64, false});
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    int64_t zeros[4];
    double errors[4];
    qn_banded banded = fit_or_fail(w, h, &shape, &options, 1, NULL, &plain);
    qn_banded_release(&banded);
    for (int k = 0; k < 4; k++) {
        options.rate = rates[k];
        banded = fit_or_fail(w, h, &shape, &options, 1, NULL, &decoded[k]);
        zeros[k] = count_zeros(&banded);
        errors[k] = metric_error(w, decoded[k], h, R, C);
        qn_banded_release(&banded);
        if (k > 0) assert_true(zeros[k] > zeros[k - 1] + R * C / 100);
    }
    assert_memory_equal(plain, decoded[0], R * C * sizeof *plain);
    assert_true(errors[3] > errors[0] && errors[2] > errors[0]);
    options.rate = -1;
    assert_int_equal(qn_hessian_fit(w, h, &shape, &options, NULL, &banded, NULL, NULL), QN_E_ARGUMENT);
    for (int k = 0; k < 4; k++) free(decoded[k]);
    free(plain);
    free(w);
    free(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate_buys_zeros),
        cmocka_unit_test(test_every_axis_band_and_group),
        cmocka_unit_test(test_single_bands),
        cmocka_unit_test(test_one_row_one_column_and_empty_bands),
        cmocka_unit_test(test_many_scales_a_row),
        cmocka_unit_test(test_same_bytes_for_any_number_of_threads),
        cmocka_unit_test(test_toys_come_close_to_the_best_of_all_codes),
        cmocka_unit_test(test_feedback_gives_the_codes_of_gptq),
        cmocka_unit_test(test_no_feedback_is_rounding),
        cmocka_unit_test(test_dead_inputs_take_the_nearest_code),
        cmocka_unit_test(test_singular_and_zero_metrics),
        cmocka_unit_test(test_damping_rises_where_a_metric_is_indefinite),
        cmocka_unit_test(test_bad_values_are_refused),
        cmocka_unit_test(test_bad_arguments_are_refused),
        cmocka_unit_test(test_a_fit_can_be_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
