/* The parts of a calibrated fit one by one: the panel product, the factor, refit and descent of a tile, the asymmetric target. */
#include "fit/hessian_tile.h"
#include "hessian_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- panel product ----------------------------------------------------------------------------------------- */

static int64_t depth_whole(const void *user, int64_t col) {
    (void)col;
    return *(const int64_t *)user;
}

/* Every sum is one chain of fused multiply-adds: the plain loop gives the same bits, however the product is cut. */
static void test_panel_product_is_one_chain(void **state) {
    (void)state;
    const int64_t n = 301;
    const qn_error none = {0};
    qn_error err = none;
    seed_random(31);
    float *m = random_weights(n, n), *x = random_weights(n, QNI_LANES);
    float *out = calloc(QNI_BLOCK * QNI_LANES, sizeof *out);
    qni_strips strips = {0};
    assert_int_equal(qni_strips_alloc(&strips, n, depth_whole, &n, &err), QN_OK);
    qni_strips_fill(&strips, m, NULL, NULL, 1, 2);
    const int64_t first = 42, cut = 77;
    qni_panel_add(&strips, first, 8, 0, cut, x, out);
    qni_panel_add(&strips, first, 8, cut, n, x + cut * QNI_LANES, out);
    for (int64_t j = 0; j < QNI_BLOCK && first * QNI_STRIP + j < n; j++) {
        for (int64_t t = 0; t < QNI_LANES; t++) {
            float sum = 0;
            for (int64_t k = 0; k < n; k++)
                sum = fmaf(m[k * n + first * QNI_STRIP + j], x[k * QNI_LANES + t], sum);
            assert_memory_equal(&sum, &out[j * QNI_LANES + t], sizeof sum);
        }
    }
    qni_strips_release(&strips);
    qni_strips_release(&strips);
    free(m);
    free(x);
    free(out);
}

/* --- factor ------------------------------------------------------------------------------------------------ */

/* Cholesky in double loses some n ulps. */
static const double factor_tolerance = 1e-11;

static void check_factor(int64_t n, bool activation_order) {
    float *h = random_metric(n);
    qni_metric metric = {0};
    qni_factor f = {0};
    const qn_context ctx = {.n_threads = 2};
    assert_int_equal(qni_metric_init(&metric, h, n, activation_order, 2, NULL), QN_OK);
    assert_int_equal(qni_factor_init(&f, &metric, 0.01, &ctx, NULL), QN_OK);
    assert_true(fabs(f.damping - 0.01 * metric.mean_diagonal) < 1e-12 * metric.mean_diagonal);
    for (int64_t i = 0; i < n; i++) {
        if (i > 0 && activation_order)
            assert_true(h[metric.order[i] * (n + 1)] <= h[metric.order[i - 1] * (n + 1)]);
        for (int64_t j = 0; j <= i; j++) {
            double sum = i == j ? f.pivot[i] : f.pivot[i] * qni_factor_upper(&f, j, i);
            for (int64_t k = i + 1; k < n; k++)
                sum += qni_factor_upper(&f, i, k) * f.pivot[k] * qni_factor_upper(&f, j, k);
            double expected = (double)h[metric.order[i] * n + metric.order[j]] + (i == j ? f.damping : 0);
            expected *= (double)metric.unit;
            if (fabs(sum - expected) > factor_tolerance)
                fail_msg("[%d, %d]: %.17g, expected %.17g", (int)i, (int)j, sum, expected);
        }
    }
    qni_factor_release(&f);
    qni_metric_release(&metric);
    free(h);
}

static void test_factor_reconstructs_the_metric(void **state) {
    (void)state;
    const int64_t sizes[] = {1, 5, 6, 59, 60, 61, 130, 187};
    seed_random(32);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) check_factor(sizes[i], i % 2 == 0);
}

/* --- refit and descent ------------------------------------------------------------------------------------- */

/* A problem and one tile of it, with rounded codes. */
typedef struct bench {
    float *w, *h;
    uint8_t *bands;
    qn_hessian_fit_options options;
    qn_banded out;
    qni_metric metric;
    qni_problem problem;
    qni_tile tile;
} bench;

static void open_bench(bench *b, qn_code code, int64_t rows, int64_t cols, int32_t group_size, double ridge) {
    *b = (bench){.options = qn_hessian_fit_defaults()};
    b->options.ridge = ridge;
    b->w = random_weights(rows, cols);
    b->h = random_metric(cols);
    b->bands = random_bands(cols);
    const qn_band_shape shape = three_bands(rows, cols, QN_BAND_COLUMNS, code, group_size, false, b->bands);
    assert_int_equal(qn_banded_alloc(&shape, &b->out, NULL), QN_OK);
    assert_int_equal(qni_metric_init(&b->metric, b->h, cols, true, 1, NULL), QN_OK);
    assert_int_equal(qni_problem_init(&b->problem, b->w, &b->metric, NULL, &b->options, -1, &b->out, 1, NULL),
                     QN_OK);
    assert_int_equal(qni_start_scales(&b->problem, NULL, NULL), QN_OK);
    assert_int_equal(qni_tile_init(&b->tile, &b->problem, NULL), QN_OK);
    qni_tile_load(&b->tile, 0, false);
    qni_tile_round(&b->tile);
    qni_tile_multiply(&b->tile);
}

static void close_bench(bench *b) {
    qni_tile_release(&b->tile);
    qni_problem_release(&b->problem);
    qni_metric_release(&b->metric);
    qn_banded_release(&b->out);
    free(b->w);
    free(b->h);
    free(b->bands);
}

/* b_k^T H (w - q) and b_k^T H b_k of slot K and row T, in double, from the tile's codes and residuals. */
static void slot_gradient(const bench *b, int64_t k, int64_t t, double *gradient, double *diagonal) {
    const qni_problem *p = &b->problem;
    const qni_slot *slot = &p->slots[k];
    const int8_t *q = b->tile.q[slot->plane];
    *gradient = *diagonal = 0;
    for (int64_t i = slot->first; i < slot->last; i++) {
        const double qi = q[p->place_position[i] * QNI_LANES + t];
        const float *row = b->h + p->place_input[i] * p->cols;
        double he = 0, hb = 0;
        for (int64_t j = 0; j < p->cols; j++)
            he += (double)row[p->place_input[j]] * (double)b->tile.e[p->place_position[j] * QNI_LANES + t];
        for (int64_t j = slot->first; j < slot->last; j++)
            hb += (double)row[p->place_input[j]] * q[p->place_position[j] * QNI_LANES + t];
        *gradient += qi * he;
        *diagonal += qi * hb;
    }
}

/* Without a ridge the gradient of every scale that was free to move is zero: within what f32 sums of A and H w leave, relative to
 * the gradient that a change of the scale by itself would bring. */
static const double gradient_tolerance = 2e-5;

static void check_stationary(qn_code code, int32_t group_size) {
    enum { ROWS = 40, COLS = 150 };
    bench b;
    open_bench(&b, code, ROWS, COLS, group_size, 0);
    const int64_t n = b.problem.n_native;
    float *before = malloc((size_t)(n * QNI_LANES) * sizeof *before);
    assert_non_null(before);
    memcpy(before, b.tile.scales, (size_t)(n * QNI_LANES) * sizeof *before);
    qni_tile_refit(&b.tile);
    int64_t moved = 0;
    for (int64_t i = 0; i < n * ROWS; i++) {
        const int64_t k = i / ROWS, t = i % ROWS, at = k * QNI_LANES + t;
        double gradient, diagonal;
        if (before[at] == b.tile.scales[at]) continue; /* refused: the others are the best beside it */
        moved++;
        slot_gradient(&b, k, t, &gradient, &diagonal);
        const double change = diagonal * (double)b.tile.scales[at];
        if (!(fabs(gradient) <= gradient_tolerance * change))
            fail_msg("row %d slot %d: gradient %g beside %g", (int)t, (int)k, gradient, change);
    }
    assert_true(moved > n * ROWS * 9 / 10); /* the test has something to test */
    free(before);
    close_bench(&b);
}

static void test_refit_is_the_least_squares_optimum(void **state) {
    (void)state;
    seed_random(33);
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
        check_stationary(code, 32);
        check_stationary(code, 0);
        check_stationary(code, 11);
    }
}

static void test_refit_refuses_wild_scales(void **state) {
    (void)state;
    bench b;
    seed_random(34);
    open_bench(&b, QN_CODE_TERNARY, 20, 60, 16, 1e-3);
    for (int64_t t = 0; t < 20; t++)
        b.tile.scales[t] *= 1000; /* as if found for other weights: the optimum is far below */
    const float wild = b.tile.scales[3];
    qni_tile_refit(&b.tile);
    assert_true(b.tile.scales[3] == wild);
    close_bench(&b);
}

/* f32 residuals and sums: an exact optimum may seem to rise by this share of the energy. */
static const double rise_tolerance = 1e-6;

static void check_never_rises(qn_code code, int32_t group_size, int64_t cols) {
    bench b;
    open_bench(&b, code, 64, cols, group_size, 1e-3);
    const double energy = qni_tile_energy(&b.tile, b.tile.w);
    double error = qni_tile_energy(&b.tile, b.tile.e), first = error;
    for (int sweep = 0; sweep < 6; sweep++) {
        qni_tile_refit(&b.tile);
        const double refitted = qni_tile_energy(&b.tile, b.tile.e);
        double reported;
        qni_tile_descend(&b.tile, &reported);
        const double descended = qni_tile_energy(&b.tile, b.tile.e);
        assert_true(fabs(reported - descended) < rise_tolerance * energy);
        if (refitted > error + rise_tolerance * energy || descended > refitted + rise_tolerance * energy)
            fail_msg("sweep %d: %.9g, refitted %.9g, descended %.9g", sweep, error, refitted, descended);
        error = descended;
    }
    assert_true(error < 0.9 * first);
    close_bench(&b);
}

static void test_error_never_rises_over_sweeps(void **state) {
    (void)state;
    seed_random(35);
    for (qn_code code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
        check_never_rises(code, 64, 200);
        check_never_rises(code, 16, 149);
        check_never_rises(code, 1, 320); /* overlapping runs of unknowns */
    }
}

/* --- asymmetric target ------------------------------------------------------------------------------------- */

/* Solves X M = B for a row: M [n, n] symmetric positive definite; plain Gauss elimination. */
static void solve_row(const double *m, double *b, int64_t n) {
    double *a = malloc((size_t)(n * n) * sizeof *a);
    assert_non_null(a);
    memcpy(a, m, (size_t)(n * n) * sizeof *a);
    for (int64_t c = 0; c < n; c++) {
        for (int64_t i = c + 1; i < n; i++) {
            const double factor = a[i * n + c] / a[c * n + c];
            for (int64_t k = c; k < n; k++) a[i * n + k] -= factor * a[c * n + k];
            b[i] -= factor * b[c];
        }
    }
    for (int64_t c = n - 1; c >= 0; c--) {
        for (int64_t k = c + 1; k < n; k++) b[c] -= a[c * n + k] * b[k];
        b[c] /= a[c * n + c];
    }
    free(a);
}

/* f32 products and substitutions on a matrix of condition some hundreds. */
static const double target_tolerance = 2e-4;

static void check_target(int64_t rows, int64_t cols, double blend) {
    float *w = random_weights(rows, cols), *h = random_metric(cols), *cross = random_metric(cols);
    float *out = calloc((size_t)(rows * cols), sizeof *out);
    double *damped = calloc((size_t)(cols * cols), sizeof *damped), *b = calloc((size_t)cols, sizeof *b),
           mean = 0;
    const qn_context ctx = {.n_threads = 2};
    for (int64_t j = 0; j < cols; j++) mean += (double)h[j * (cols + 1)] / (double)cols;
    for (int64_t i = 0; i < cols * cols; i++) {
        cross[i] = 0.9f * h[i] + 0.1f * cross[i] * (float)(1 + i % 3) / 2; /* no longer symmetric */
        damped[i] = (double)h[i] + (i % (cols + 1) == 0 ? 0.03 * mean : 0);
    }
    assert_int_equal(qn_asymmetric_target(w, h, cross, rows, cols, blend, 0.03, &ctx, out, NULL), QN_OK);
    for (int64_t r = 0; r < rows; r++) {
        double largest = 0;
        for (int64_t j = 0; j < cols; j++) {
            b[j] = 0;
            for (int64_t k = 0; k < cols; k++)
                b[j] += (double)w[r * cols + k] * ((double)cross[k * cols + j] - (double)h[k * cols + j]);
        }
        solve_row(damped, b, cols);
        for (int64_t j = 0; j < cols; j++) largest = fmax(largest, fabs(b[j]));
        for (int64_t j = 0; j < cols; j++) {
            const double expected = (double)w[r * cols + j] + blend * b[j];
            if (fabs((double)out[r * cols + j] - expected) > target_tolerance * largest)
                fail_msg("[%d, %d]: %g, expected %g", (int)r, (int)j, (double)out[r * cols + j], expected);
        }
    }
    assert_int_equal(qn_asymmetric_target(w, h, cross, rows, cols, blend, 0.03, &ctx, w, NULL),
                     QN_OK); /* in place */
    assert_memory_equal(w, out, (size_t)(rows * cols) * sizeof *w);
    free(w);
    free(h);
    free(cross);
    free(out);
    free(damped);
    free(b);
}

static void test_asymmetric_target_solves_its_system(void **state) {
    (void)state;
    seed_random(36);
    check_target(3, 1, 1);
    check_target(70, 101, 0.5);
    check_target(2, 97, 1);
    check_target(2, 48, 0);
}

static void test_same_inputs_leave_the_weights(void **state) {
    (void)state;
    seed_random(37);
    float *w = random_weights(5, 50), *h = random_metric(50), *out = calloc(250, sizeof *out);
    assert_int_equal(qn_asymmetric_target(w, h, h, 5, 50, 0.5, 0.03, NULL, out, NULL), QN_OK);
    assert_memory_equal(w, out, 250 * sizeof *w);
    free(w);
    free(h);
    free(out);
}

static void test_bad_targets_are_refused(void **state) {
    (void)state;
    seed_random(38);
    float *w = random_weights(2, 6), *h = random_metric(6), *cross = random_metric(6), out[12] = {-7};
    qn_error err;
    cross[8] = NAN;
    assert_int_equal(qn_asymmetric_target(w, h, cross, 2, 6, 0.5, 0.03, NULL, out, &err), QN_E_VALUE);
    assert_non_null(strstr(err.message, "C [1, 2] is nan"));
    cross[8] = 0;
    h[0] = INFINITY;
    assert_int_equal(qn_asymmetric_target(w, h, cross, 2, 6, 0.5, 0.03, NULL, out, &err), QN_E_VALUE);
    assert_non_null(strstr(err.message, "H[0, 0] is inf"));
    h[0] = 1;
    w[7] = NAN;
    assert_int_equal(qn_asymmetric_target(w, h, cross, 2, 6, 0.5, 0.03, NULL, out, &err), QN_E_VALUE);
    assert_non_null(strstr(err.message, "weight [1, 1]"));
    w[7] = 0;
    assert_int_equal(qn_asymmetric_target(w, h, cross, 2, 6, 0.5, -1, NULL, out, NULL), QN_E_ARGUMENT);
    assert_int_equal(qn_asymmetric_target(w, h, cross, 2, 6, (double)NAN, 0, NULL, out, NULL), QN_E_ARGUMENT);
    assert_int_equal(qn_asymmetric_target(w, h, cross, 0, 6, 1, 0, NULL, out, NULL), QN_E_ARGUMENT);
    assert_true(out[0] == -7);
    free(w);
    free(h);
    free(cross);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_panel_product_is_one_chain),
        cmocka_unit_test(test_factor_reconstructs_the_metric),
        cmocka_unit_test(test_refit_is_the_least_squares_optimum),
        cmocka_unit_test(test_refit_refuses_wild_scales),
        cmocka_unit_test(test_error_never_rises_over_sweeps),
        cmocka_unit_test(test_asymmetric_target_solves_its_system),
        cmocka_unit_test(test_same_inputs_leave_the_weights),
        cmocka_unit_test(test_bad_targets_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
