/* Banded matrices: their geometry, decoding, nearest levels, and grids of scales. */
#include "fit/levels.h"
#include "fit/scale_grid.h"
#include "hessian_support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_geometry(void **state) {
    (void)state;
    const uint8_t lines[] = {2, 0, 1, 0, 2, 0, 0};
    qn_banded b = {0};
    qn_band_shape shape = three_bands(5, 7, QN_AXIS_COLUMNS, QN_CODE_SIGN, 3, true, lines);
    shape.bands[2].group_size = 2;
    assert_int_equal(qn_banded_alloc(&shape, &b, NULL), QN_OK);
    const int64_t columns[3][4] = {
        {4, 5, 4, 2}, {1, 5, 1, 1}, {2, 2, 5, 3}}; /* lines, stored rows, cols, groups */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(b.bands[i].n_lines, columns[i][0]);
        assert_int_equal(b.bands[i].rows, columns[i][1]);
        assert_int_equal(b.bands[i].cols, columns[i][2]);
        assert_int_equal(b.bands[i].groups, columns[i][3]);
    }
    assert_non_null(b.bands[1].planes[1].scale_codes);
    assert_null(b.bands[2].planes[0].scale_codes);
    qn_banded_release(&b);
    qn_banded_release(&b);
    shape.rows = 7;
    shape.cols = 5;
    shape.axis = QN_AXIS_ROWS;
    assert_int_equal(qn_banded_alloc(&shape, &b, NULL), QN_OK);
    const int64_t rows[3][4] = {{4, 4, 5, 2}, {1, 1, 5, 2}, {2, 2, 5, 3}};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(b.bands[i].rows, rows[i][1]);
        assert_int_equal(b.bands[i].cols, rows[i][2]);
        assert_int_equal(b.bands[i].groups, rows[i][3]);
    }
    qn_banded_release(&b);
}

static void test_decoding(void **state) {
    (void)state;
    const uint8_t lines[] = {2, 0, 1, 0};
    qn_banded b = {0};
    qn_band_shape shape = three_bands(3, 4, QN_AXIS_COLUMNS, QN_CODE_TERNARY, 1, false, lines);
    shape.bands[2].group_size = 2;
    assert_int_equal(qn_banded_alloc(&shape, &b, NULL), QN_OK);
    const uint16_t one = qn_f32_to_f16(1), two = qn_f32_to_f16(2), half = qn_f32_to_f16(0.5f);
    for (int r = 0; r < 3; r++) { /* native columns 1 and 3: codes r - 1 and 1, scales 1 and 2 */
        b.bands[0].planes[0].q[2 * r] = (int8_t)(r - 1);
        b.bands[0].planes[0].q[2 * r + 1] = 1;
        b.bands[0].planes[0].scales[2 * r] = one;
        b.bands[0].planes[0].scales[2 * r + 1] = two;
        b.bands[1].planes[0].q[r] = 1;
        b.bands[1].planes[1].q[r] = -1;
        b.bands[1].planes[0].scales[r] = two;
        b.bands[1].planes[1].scales[r] = half;
        b.bands[2].planes[0].q[r] = (int8_t)(2 * r + 3);
    }
    b.bands[2].planes[0].scales[0] = half;
    b.bands[2].planes[0].scales[1] = two;
    float out[12];
    qn_banded_decode(&b, out);
    const float expected[] = {1.5f, -1, 1.5f, 2, 2.5f, 0, 1.5f, 2, 14, 1, 1.5f, 2};
    assert_memory_equal(out, expected, sizeof expected);
    qn_banded_release(&b);
}

/* The nearest of all levels, by trying them. */
static double nearest_distance(const qn_band_spec *spec, double v, double s1, double s2) {
    const int most = qn_code_max(spec->code);
    double best = (double)INFINITY;
    for (int a = -most; a <= most; a++) {
        for (int b = -1; b <= 1; b++) {
            if (spec->code == QN_CODE_SIGN && (a == 0 || (spec->n_planes == 2 && b == 0))) continue;
            if (spec->n_planes == 1 && b != 0) continue;
            best = fmin(best, fabs(v - s1 * a - s2 * b));
        }
    }
    return best;
}

static void test_nearest_levels(void **state) {
    (void)state;
    const qn_band_spec specs[] = {{QN_CODE_SIGN, 1, 0, false},
                                  {QN_CODE_SIGN, 2, 0, false},
                                  {QN_CODE_TERNARY, 1, 0, false},
                                  {QN_CODE_TERNARY, 2, 0, false},
                                  {QN_CODE_Q4, 1, 0, false}};
    float v[QNI_LANES], s1[QNI_LANES], s2[QNI_LANES], value[QNI_LANES];
    int8_t q1[QNI_LANES], q2[QNI_LANES];
    seed_random(41);
    for (int trial = 0; trial < 500; trial++) {
        const qn_band_spec *spec = &specs[trial % 5];
        for (int t = 0; t < QNI_LANES; t++) {
            v[t] = (float)random_normal();
            s1[t] = t % 16 == 0 ? 0 : (float)(1.5 * random_uniform());
            s2[t] = t % 16 == 8 ? 0 : (float)random_uniform(); /* also larger than the first */
        }
        qni_level_chooser(spec)(v, s1, s2, value, q1, q2);
        for (int t = 0; t < QNI_LANES; t++) {
            const double second = spec->n_planes == 2 ? (double)s2[t] * q2[t] : 0;
            const double decoded = (double)s1[t] * q1[t] + second, distance = fabs((double)v[t] - decoded);
            const double best = nearest_distance(spec, (double)v[t], (double)s1[t], (double)s2[t]);
            assert_true(fabs((double)value[t] - decoded) < 1e-6);
            if (distance > best + 1e-6)
                fail_msg("%g -> %g with %g, %g", (double)v[t], decoded, (double)s1[t], (double)s2[t]);
            if (spec->code != QN_CODE_SIGN && s1[t] == 0) assert_int_equal(q1[t], 0);
        }
    }
}

/* Squared error and price of the cheapest of all levels of trits, by trying them. */
static double cheapest(int n_planes, double v, double s1, double s2, double price) {
    double best = (double)INFINITY;
    for (int a = -1; a <= 1; a++) {
        for (int b = n_planes > 1 ? -1 : 0; b <= (n_planes > 1); b++) {
            const double left = v - s1 * a - s2 * b;
            best = fmin(best, left * left + price * (abs(a) + abs(b)));
        }
    }
    return best;
}

static void test_priced_levels(void **state) {
    (void)state;
    float v[QNI_LANES], s1[QNI_LANES], s2[QNI_LANES], value[QNI_LANES];
    int8_t q1[QNI_LANES], q2[QNI_LANES];
    seed_random(43);
    for (int trial = 0; trial < 500; trial++) {
        const qn_band_spec spec = {QN_CODE_TERNARY, 1 + trial % 2, 0, false};
        const float price = (float)(0.5 * random_uniform());
        for (int t = 0; t < QNI_LANES; t++) {
            v[t] = (float)random_normal();
            s1[t] = t % 16 == 0 ? 0 : (float)(1.5 * random_uniform());
            s2[t] = t % 16 == 8 ? 0 : (float)random_uniform();
        }
        qni_priced_chooser (&spec)(v, s1, s2, price, value, q1, q2);
        for (int t = 0; t < QNI_LANES; t++) {
            const int b = spec.n_planes == 2 ? q2[t] : 0;
            const double decoded = (double)s1[t] * q1[t] + (double)s2[t] * b, left = (double)v[t] - decoded;
            const double cost = left * left + (double)price * (abs(q1[t]) + abs(b));
            assert_true(fabs((double)value[t] - decoded) < 1e-6);
            assert_true(cost < 1e-5 + cheapest(spec.n_planes, (double)v[t], (double)s1[t], (double)s2[t],
                                               (double)price));
        }
    }
    assert_null(qni_priced_chooser(&(qn_band_spec){QN_CODE_SIGN, 1, 0, false}));
    assert_null(qni_priced_chooser(&(qn_band_spec){QN_CODE_Q4, 1, 0, false}));
}

static double worst_rounding(const qni_scale_grid *grid, double low, double high) {
    double worst = 0;
    for (int i = 0; i <= 5000; i++) {
        const float s = qn_f16_to_f32(qn_f32_to_f16((float)(low * pow(high / low, i / 5000.0))));
        const double level = (double)grid->level[qni_scale_grid_nearest(grid, s)];
        worst = fmax(worst, fabs(level / (double)s - 1));
    }
    return worst;
}

/* Scales spread evenly over octaves: the grid spans them, and rounding costs at most half a step and what fp16 adds. */
static void test_grid_rounding_bound(void **state) {
    (void)state;
    const double ranges[][2] = {{0.01, 0.04}, {1e-3, 0.5}, {3e-4, 3.1e-4}, {100, 60000}};
    for (int i = 0; i < 4; i++) {
        const double low = ranges[i][0], high = ranges[i][1], step = pow(high / low, 1.0 / 63) - 1;
        qni_scale_census *census;
        qni_scale_grid grid;
        assert_int_equal(qni_scale_census_new(&census, NULL), QN_OK);
        for (int k = 0; k <= 2000; k++)
            qni_scale_census_add(census, (float)(low * pow(high / low, k / 2000.0)), 1);
        qni_scale_grid_choose(census, &grid);
        qni_scale_census_free(census);
        const double bound = fmax(step, 0x1p-10) / 2 * 1.05 + 0x1p-10,
                     worst = worst_rounding(&grid, low, high);
        if (worst > bound) fail_msg("%g .. %g: %g above %g", low, high, worst, bound);
        for (int k = 1; k < QNI_GRID_LEVELS; k++) assert_true(grid.level[k] >= grid.level[k - 1]);
        assert_true(isfinite(grid.level[QNI_GRID_LEVELS - 1]));
    }
}

static void test_a_tiny_scale_does_not_waste_the_grid(void **state) {
    (void)state;
    qni_scale_census *census;
    qni_scale_grid grid;
    assert_int_equal(qni_scale_census_new(&census, NULL), QN_OK);
    for (int k = 0; k <= 1000; k++) {
        const double s = 0.01 * pow(4, k / 1000.0);
        qni_scale_census_add(census, (float)s, s * s);
    }
    qni_scale_census_add(census, 1e-7f, 1e-14);
    qni_scale_census_add(census, 0, 1);
    qni_scale_grid_choose(census, &grid);
    qni_scale_census_free(census);
    assert_true(worst_rounding(&grid, 0.011, 0.039) < 0.02); /* the whole range would give 0.16 */
}

static void test_grids_of_one_scale_and_of_none(void **state) {
    (void)state;
    const float scales[] = {0x1p-24f, 0.0123f, 1, 65504};
    for (int i = -1; i < 4; i++) {
        qni_scale_census *census;
        qni_scale_grid grid, again;
        assert_int_equal(qni_scale_census_new(&census, NULL), QN_OK);
        const float s = i < 0 ? 0 : qn_f16_to_f32(qn_f32_to_f16(scales[i]));
        qni_scale_census_add(census, s, 1);
        qni_scale_grid_choose(census, &grid);
        qni_scale_census_free(census);
        assert_true(grid.level[0] > 0 && isfinite(grid.level[QNI_GRID_LEVELS - 1]));
        if (i >= 0) assert_true(grid.level[qni_scale_grid_nearest(&grid, s)] == s);
        qni_scale_grid_init(&again, grid.base, grid.ratio);
        assert_memory_equal(again.bits, grid.bits, sizeof grid.bits);
    }
}

/* The definition, written out. */
static void test_grid_values_are_fp16_of_repeated_products(void **state) {
    (void)state;
    qni_scale_grid grid;
    qni_scale_grid_init(&grid, 0.0031f, 1.0717f);
    double value = (double)0.0031f;
    for (int k = 0; k < QNI_GRID_LEVELS; k++) {
        assert_int_equal(grid.bits[k], qn_f32_to_f16((float)value));
        value *= (double)1.0717f;
    }
}

/* Stored scales of a log6 band are numbers of its grid; a matrix of zeros stays one within the smallest scale. */
static void test_fitted_scales_lie_on_their_grid(void **state) {
    (void)state;
    seed_random(42);
    float *w = random_weights(40, 90), *h = random_metric(90), *decoded;
    uint8_t *bands = random_bands(90);
    const qn_band_shape shape = three_bands(40, 90, QN_AXIS_COLUMNS, QN_CODE_TERNARY, 16, true, bands);
    const qn_hessian_fit_options options = qn_hessian_fit_defaults();
    memset(w + 90, 0, 90 * sizeof *w);
    for (int zeros = 0; zeros < 2; zeros++) {
        if (zeros) memset(w, 0, 40 * 90 * sizeof *w);
        qn_banded out = fit_or_fail(w, h, &shape, &options, 2, NULL, &decoded);
        for (int b = 0; b < 2; b++) {
            const qn_banded_band *band = &out.bands[b];
            for (int p = 0; p < band->spec.n_planes; p++) {
                qni_scale_grid grid;
                qni_scale_grid_init(&grid, band->planes[p].grid_base, band->planes[p].grid_ratio);
                for (int64_t i = 0; i < band->rows * band->groups; i++) {
                    assert_in_range(band->planes[p].scale_codes[i], 0, QNI_GRID_LEVELS - 1);
                    assert_int_equal(band->planes[p].scales[i], grid.bits[band->planes[p].scale_codes[i]]);
                }
            }
        }
        for (int64_t i = 0; i < 90; i++) assert_true(fabsf(decoded[90 + i]) < 1e-6f);
        free(decoded);
        qn_banded_release(&out);
    }
    free(w);
    free(h);
    free(bands);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_nearest_levels),
        cmocka_unit_test(test_priced_levels),
        cmocka_unit_test(test_grid_rounding_bound),
        cmocka_unit_test(test_a_tiny_scale_does_not_waste_the_grid),
        cmocka_unit_test(test_grids_of_one_scale_and_of_none),
        cmocka_unit_test(test_grid_values_are_fp16_of_repeated_products),
        cmocka_unit_test(test_fitted_scales_lie_on_their_grid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
