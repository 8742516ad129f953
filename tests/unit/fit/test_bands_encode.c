/* Packing fitted bands: every code, plane, axis and kind of scale comes back exactly. */
#include "hessian_support.h"

#include "expect_error.h"

#include <stdlib.h>
#include <string.h>

static int8_t random_code(qn_code code) {
    const int most = qn_code_max(code);
    if (code == QN_CODE_SIGN) return random_uniform() < 0.5 ? -1 : 1;
    return (int8_t)((int)(random_uniform() * (2 * most + 1)) - most);
}

/* Scales over four octaves; in native codes some groups are all zero. */
static void fill_scales(const qn_banded_band *band, qn_banded_plane *plane) {
    float table[QN_LOG6_VALUES];
    plane->grid_base = band->spec.log6_scales ? (float)(0.001 + 0.01 * random_uniform()) : 0;
    plane->grid_ratio = band->spec.log6_scales ? (float)(1.0 + 0.08 * random_uniform()) : 0;
    if (band->spec.log6_scales) assert_true(qn_log6_table(plane->grid_base, plane->grid_ratio, table));
    for (int64_t i = 0; i < band->rows * band->groups; i++) {
        if (band->spec.log6_scales) {
            plane->scale_codes[i] = (uint8_t)(random_uniform() * QN_LOG6_VALUES);
            plane->scales[i] = qn_f32_to_f16(table[plane->scale_codes[i]]);
        } else if (band->spec.code == QN_CODE_Q4 || i % 7) {
            plane->scales[i] = qn_f32_to_f16((float)(0.002 + 0.03 * random_uniform()));
        }
    }
}

static qn_banded random_banded(const qn_band_shape *shape) {
    qn_banded out = {0};
    assert_ok(qn_banded_alloc(shape, &out, err));
    for (int b = 0; b < out.n_bands; b++) {
        const qn_banded_band *band = &out.bands[b];
        for (int p = 0; p < band->spec.n_planes; p++) {
            qn_banded_plane *plane = &out.bands[b].planes[p];
            for (int64_t i = 0; i < band->rows * band->cols; i++) plane->q[i] = random_code(band->spec.code);
            fill_scales(band, plane);
        }
    }
    return out;
}

/* A few ranges of rows, and all of them. The same numbers to the last bit; zeros may differ in their sign, which depends on
 * whether a second plane was added. */
static void expect_decoded(const qn_encoded *e, const float *want) {
    const int64_t ranges[][2] = {{0, e->rows}, {e->rows / 2, 1}, {e->rows / 3, e->rows - e->rows / 3}};
    float *got = malloc((size_t)(e->rows * e->cols) * sizeof *got);
    assert_non_null(got);
    for (int i = 0; i < 3; i++) {
        qn_encoded_decode_rows(e, ranges[i][0], ranges[i][1], got);
        for (int64_t k = 0; k < ranges[i][1] * e->cols; k++)
            assert_true(got[k] == want[ranges[i][0] * e->cols + k]);
    }
    free(got);
}

static void check_shape(const qn_band_shape *shape, int32_t hadamard) {
    qn_banded banded = random_banded(shape);
    qn_encoded encoded = {0};
    assert_ok(qn_banded_encode(&banded, hadamard, "w", &encoded, err));
    assert_ok(qn_encoded_check_shape(&encoded, "w", err));
    assert_int_equal(encoded.hadamard, hadamard);
    float *want = malloc((size_t)(shape->rows * shape->cols) * sizeof *want);
    assert_non_null(want);
    qn_banded_decode(&banded, want);
    if (hadamard) qn_hadamard_rows(want, shape->rows, shape->cols, hadamard, true);
    expect_decoded(&encoded, want);

    const qn_band_shape again = qn_band_shape_of(&encoded, shape->line_band);
    assert_int_equal(again.rows, shape->rows);
    assert_int_equal(again.cols, shape->cols);
    assert_int_equal(again.axis, shape->axis);
    assert_int_equal(again.n_bands, shape->n_bands);
    for (int b = 0; b < shape->n_bands; b++) {
        assert_int_equal(again.bands[b].code, shape->bands[b].code);
        assert_int_equal(again.bands[b].n_planes, shape->bands[b].n_planes);
        assert_int_equal(again.bands[b].group_size, shape->bands[b].group_size);
        assert_int_equal(again.bands[b].log6_scales, shape->bands[b].log6_scales);
    }
    free(want);
    qn_encoded_release(&encoded);
    qn_banded_release(&banded);
}

/* Widths that leave bytes and groups incomplete, and some that do not. */
static const int64_t k_sizes[][2] = {{3, 7}, {16, 40}, {33, 65}, {130, 24}};
static const int32_t k_groups[] = {0, 1, 6, 16, 128};

static void test_one_band(void **state) {
    (void)state;
    static const qn_band_spec specs[] = {{QN_CODE_SIGN, 1, 0, false},
                                         {QN_CODE_SIGN, 2, 0, false},
                                         {QN_CODE_TERNARY, 1, 0, false},
                                         {QN_CODE_TERNARY, 2, 0, false},
                                         {QN_CODE_Q4, 1, 0, false}};
    seed_random(71);
    for (int s = 0; s < 4; s++)
        for (int g = 0; g < 5; g++)
            for (int i = 0; i < 10; i++) {
                qn_band_spec spec = specs[i % 5];
                spec.group_size = k_groups[g];
                spec.log6_scales = i >= 5;
                const qn_band_shape shape = one_band(k_sizes[s][0], k_sizes[s][1], QN_AXIS_ROWS, spec);
                check_shape(&shape, 0);
            }
}

/* Lines dealt at random, but each band has some. */
static uint8_t *dealt(int64_t n_lines, int n_bands) {
    uint8_t *lines = malloc((size_t)n_lines);
    assert_non_null(lines);
    for (int64_t j = 0; j < n_lines; j++)
        lines[j] = (uint8_t)(j < n_bands ? j : (int64_t)(random_uniform() * n_bands));
    return lines;
}

/* All ordered choices of two or three kinds of band, on both axes, scales mixed between the bands. */
static void test_several_bands(void **state) {
    (void)state;
    seed_random(72);
    for (int s = 0; s < 4; s++) {
        for (int axis = 0; axis < 2; axis++) {
            for (int i = 0; i < 40; i++) {
                const int64_t rows = k_sizes[s][0], cols = k_sizes[s][1];
                uint8_t *lines = dealt(axis == QN_AXIS_ROWS ? rows : cols, i % 2 ? 2 : 3);
                qn_band_shape shape =
                    three_bands(rows, cols, (qn_axis)axis, i / 2 % 2 ? QN_CODE_SIGN : QN_CODE_TERNARY,
                                k_groups[i / 4 % 5], i / 20, lines);
                shape.n_bands = i % 2 ? 2 : 3;
                shape.bands[2].log6_scales = i / 4 % 2;
                if (i % 8 == 7) shape.bands[1] = shape.bands[2]; /* single and q4 */
                check_shape(&shape, 0);
                free(lines);
            }
        }
    }
}

static void test_rotated(void **state) {
    (void)state;
    seed_random(73);
    for (int axis = 0; axis < 2; axis++) {
        uint8_t *lines = dealt(48, 3);
        const qn_band_shape shape = three_bands(48, 48, (qn_axis)axis, QN_CODE_TERNARY, 16, axis == 0, lines);
        check_shape(&shape, 16);
        check_shape(&shape, 2);
        free(lines);
    }
}

/* What the fits leave is what is packed. */
static void test_a_fit(void **state) {
    (void)state;
    seed_random(74);
    float *w = random_weights(24, 50), *h = random_metric(50), *decoded;
    const qn_hessian_fit_options options = qn_hessian_fit_defaults();
    for (int i = 0; i < 4; i++) {
        uint8_t *lines = dealt(i % 2 ? 24 : 50, 3);
        const qn_band_shape shape = three_bands(24, 50, i % 2 ? QN_AXIS_ROWS : QN_AXIS_COLUMNS,
                                                i / 2 ? QN_CODE_SIGN : QN_CODE_TERNARY, 16, true, lines);
        qn_banded banded = fit_or_fail(w, h, &shape, &options, 1, NULL, &decoded);
        qn_encoded encoded = {0};
        assert_ok(qn_banded_encode(&banded, 0, "w", &encoded, err));
        expect_decoded(&encoded, decoded);
        qn_encoded_release(&encoded);
        qn_banded_release(&banded);
        free(decoded);
        free(lines);
    }
    free(w);
    free(h);
}

static void test_refused(void **state) {
    (void)state;
    seed_random(75);
    uint8_t lines[12] = {0, 2, 0, 2, 2, 0, 0, 0, 0, 0, 0, 2};
    qn_encoded encoded = {.rows = 99};
    const qn_band_shape empty = three_bands(5, 12, QN_AXIS_COLUMNS, QN_CODE_SIGN, 4, false, lines);
    qn_banded banded = random_banded(&empty);
    assert_error(qn_banded_encode(&banded, 0, "layer.w", &encoded, err), QN_E_ARGUMENT,
                 "layer.w|band 1|no lines");
    qn_banded_release(&banded);
    const qn_band_shape shape = one_band(5, 12, QN_AXIS_ROWS, (qn_band_spec){QN_CODE_SIGN, 1, 4, false});
    banded = random_banded(&shape);
    for (int i = 0; i < 3; i++) {
        static const int32_t rotations[] = {3, 8, -4}; /* 12 columns */
        assert_error(qn_banded_encode(&banded, rotations[i], "layer.w", &encoded, err), QN_E_FORMAT,
                     "layer.w");
    }
    const qn_band_shape alone = one_band(5, 12, QN_AXIS_COLUMNS, (qn_band_spec){QN_CODE_SIGN, 1, 4, false});
    qn_banded along = random_banded(&alone);
    assert_int_not_equal(qn_banded_encode(&along, 0, "layer.w", &encoded, NULL), QN_OK);
    qn_banded_release(&along);
    banded.bands[0].planes[0].scales[3] = 0x7c00; /* infinity */
    assert_error(qn_banded_encode(&banded, 0, "layer.w", &encoded, err), QN_E_VALUE, "layer.w");
    assert_int_equal(encoded.rows, 99); /* untouched by all of them */
    qn_banded_release(&banded);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_band), cmocka_unit_test(test_several_bands), cmocka_unit_test(test_rotated),
        cmocka_unit_test(test_a_fit),    cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("fit bands_encode", tests, NULL, NULL);
}
