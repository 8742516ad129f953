/* Latents: they begin at the fit they are given, weigh what an artifact of their codes weighs, and their gradients are those of the
 * smooth surrogate and of the straight-through rule. */
#include "hessian_support.h"
#include "quern/fit/latents.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 24, COLS = 160, N = ROWS * COLS };

typedef struct fixture {
    float w[N], target[N];
    qn_banded fit;
} fixture;

static uint8_t k_lines[COLS]; /* bands of columns or rows: 0, 0, 1, 2, ... */

static const struct variant {
    qn_axis axis;
    qn_code code;
    bool log6;
    int32_t hadamard;
} k_variants[] = {{QN_AXIS_COLUMNS, QN_CODE_SIGN, true, 0},
                  {QN_AXIS_COLUMNS, QN_CODE_TERNARY, false, 32},
                  {QN_AXIS_ROWS, QN_CODE_SIGN, false, 0},
                  {QN_AXIS_ROWS, QN_CODE_TERNARY, true, 16}};
enum { N_VARIANTS = sizeof k_variants / sizeof k_variants[0] };

/* A fit of random weights in three bands: one plane, two planes, q4. */
static void make_fit(const struct variant *v, fixture *f) {
    qn_error err = {0};
    float *hessian = calloc(COLS * COLS, sizeof *hessian);
    for (int i = 0; i < COLS; i++) {
        k_lines[i] = (uint8_t)(i % 5 == 3 ? 1 : i % 7 == 6 ? 2 : 0);
        hessian[i * (COLS + 1)] = 1.0f + (float)(i % 11) / 8;
    }
    for (int i = 0; i < N; i++) {
        f->w[i] = 0.05f * sinf((float)i * 1.7f) + 0.02f * cosf((float)(i * i % 977));
        f->target[i] = f->w[i] + 0.02f * sinf((float)i * 0.31f);
    }
    const qn_band_shape shape = three_bands(ROWS, COLS, v->axis, v->code, 32, v->log6, k_lines);
    qn_hessian_fit_options options = qn_hessian_fit_defaults();
    if (qn_hessian_fit(f->w, hessian, &shape, &options, NULL, &f->fit, NULL, &err) != QN_OK)
        fail_msg("%s", err.message);
    free(hessian);
}

static qn_latents start(const struct variant *v, const float *target) {
    static fixture again;
    qn_latents l;
    qn_error err = {0};
    make_fit(v, &again);
    if (qn_latents_init(&again.fit, v->hadamard, target, NULL, &l, &err) != QN_OK)
        fail_msg("%s", err.message);
    return l;
}

/* What an artifact of the latents' codes decodes to. */
static void decode_packed(const qn_latents *l, float *out) {
    qn_encoded e = {0};
    qn_error err = {0};
    if (qn_banded_encode(&l->codes, l->hadamard, "w", &e, &err) != QN_OK) fail_msg("%s", err.message);
    qn_encoded_decode_rows(&e, 0, ROWS, out);
    qn_encoded_release(&e);
}

static void test_begin_at_the_fit(void **state) {
    (void)state;
    static fixture f;
    static float w[N], packed[N];
    for (int k = 0; k < N_VARIANTS; k++) {
        make_fit(&k_variants[k], &f);
        qn_latents l = start(&k_variants[k], f.target);
        assert_true(l.n_values == N && l.unit > 0);
        decode_packed(&l, packed);
        qn_latents_weights(&l, 0, NULL, w);
        assert_memory_equal(w, packed, sizeof w);
        for (int b = 0; b < f.fit.n_bands; b++) {
            const qn_banded_band *band = &f.fit.bands[b];
            for (int p = 0; p < band->spec.n_planes; p++)
                assert_memory_equal(l.codes.bands[b].planes[p].q, band->planes[p].q,
                                    (size_t)(band->rows * band->cols));
        }
        qn_latents_release(&l);
        qn_banded_release(&f.fit);
    }
}

/* A latent whose target rounds to its code stands at the target; no latent is farther from it than its level. */
static void test_latents_lean_towards_their_target(void **state) {
    (void)state;
    static fixture f;
    const struct variant v = {QN_AXIS_ROWS, QN_CODE_TERNARY, false, 0};
    make_fit(&v, &f);
    qn_latents l = start(&v, f.target), levels = start(&v, NULL);
    int64_t at = 0;
    int n_at_target = 0;
    for (int b = 0; b < 3; b++) {
        for (int64_t r = 0; r < ROWS; r++) {
            if (k_lines[r] != b) continue;
            for (int64_t c = 0; c < COLS; c++, at++) {
                const float wanted = f.target[r * COLS + c];
                assert_true(fabsf(l.values[at] - wanted) <= fabsf(levels.values[at] - wanted) + 1e-7f);
                n_at_target += l.values[at] == wanted;
            }
        }
    }
    assert_true(n_at_target > N / 2 && n_at_target < N);
    qn_latents_release(&l);
    qn_latents_release(&levels);
    qn_banded_release(&f.fit);
}

/* sum g w: what dw = g is the gradient of. */
static double inner(qn_latents *l, double temperature, const float *g) {
    static float w[N];
    double sum = 0.0;
    qn_latents_weights(l, temperature, NULL, w);
    for (int i = 0; i < N; i++) sum += (double)g[i] * (double)w[i];
    return sum;
}

static double numeric(qn_latents *l, double temperature, const float *g, float *parameter, float step) {
    const float at = *parameter;
    *parameter = at + step;
    const double up = inner(l, temperature, g);
    *parameter = at - step;
    const double down = inner(l, temperature, g);
    *parameter = at;
    return (up - down) / (2 * (double)step);
}

static void make_direction(float *g) {
    for (int i = 0; i < N; i++) g[i] = sinf((float)i * 2.3f) + 0.3f * cosf((float)i * 0.07f);
}

/* Differences of f32 sums over a C1 function with steps of a hundredth of its width: a few parts in a thousand of the largest. */
#define DIFFERENCE_TOLERANCE 5e-3

static void check_against(const float *got, int64_t n, int64_t stride, qn_latents *l, double temperature,
                          const float *g, float *parameters, float step) {
    double largest = 0.0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)got[i]));
    for (int64_t i = 0; i < n; i += stride) {
        const double want = numeric(l, temperature, g, &parameters[i], step);
        if (fabs((double)got[i] - want) > DIFFERENCE_TOLERANCE * largest)
            fail_msg("parameter %lld of %lld: %g, by differences %g", (long long)i, (long long)n,
                     (double)got[i], want);
    }
}

/* Stored scales are fp16: they are first brought to 11 bits and then moved by 16 of their last places, both exact. */
static void test_smooth_gradient(void **state) {
    (void)state;
    static fixture f;
    static float g[N], dw[N], dv[N];
    const double temperature = 0.5;
    for (int code = QN_CODE_SIGN; code <= QN_CODE_TERNARY; code++) {
        const struct variant v = {QN_AXIS_COLUMNS, (qn_code)code, false, 32};
        make_fit(&v, &f);
        qn_latents l = start(&v, f.target);
        float *ds = calloc((size_t)l.n_scales, sizeof *ds),
              *dt = calloc((size_t)l.n_thresholds + 1, sizeof *dt);
        make_direction(g);
        memcpy(dw, g, sizeof dw);
        qn_latents_weights(&l, temperature, NULL, (float[N]){0});
        qn_latents_gradient(&l, temperature, NULL, dw, dv, ds, dt);
        const int64_t one_plane = l.codes.bands[0].rows * l.codes.bands[0].cols;
        check_against(dv, one_plane, 41, &l, temperature, g, l.values, (float)(l.unit * temperature / 100));
        const int64_t n_scales = l.codes.bands[0].rows * l.codes.bands[0].groups;
        for (int64_t i = 0; i < n_scales; i++) {
            int exponent;
            (void)frexpf(l.scales[i], &exponent);
            l.scales[i] = ldexpf(roundf(ldexpf(l.scales[i], 11 - exponent)), exponent - 11);
        }
        qn_latents_weights(&l, temperature, NULL, (float[N]){0});
        memcpy(dw, g, sizeof dw);
        qn_latents_gradient(&l, temperature, NULL, dw, dv, ds, dt);
        for (int64_t i = 0; i < n_scales; i += 7) {
            int exponent;
            (void)frexpf(l.scales[i], &exponent);
            check_against(ds + i, 1, 1, &l, temperature, g, &l.scales[i], ldexpf(16, exponent - 11));
        }
        check_against(dt, l.n_thresholds, 5, &l, temperature, g, l.thresholds, 0.005f);
        free(ds);
        free(dt);
        qn_latents_release(&l);
        qn_banded_release(&f.fit);
    }
}

/* Hard: dv = dw in the basis of the codes, ds = sum dw q, found here from one coordinate at a time. */
static void test_straight_through(void **state) {
    (void)state;
    static fixture f;
    static float g[N], dw[N], dv[N];
    const struct variant v = {QN_AXIS_ROWS, QN_CODE_TERNARY, false, 0};
    make_fit(&v, &f);
    qn_latents l = start(&v, f.target);
    float *ds = calloc((size_t)l.n_scales, sizeof *ds), *dt = calloc((size_t)l.n_thresholds, sizeof *dt);
    make_direction(g);
    memcpy(dw, g, sizeof dw);
    qn_latents_gradient(&l, 0, NULL, dw, dv, ds, dt);
    int64_t value = 0, scale = 0;
    for (int b = 0; b < 3; b++) {
        const qn_banded_band *band = &l.codes.bands[b];
        int64_t row = 0;
        for (int64_t r = 0; r < ROWS; r++) {
            if (k_lines[r] != b) continue;
            for (int64_t c = 0; c < COLS; c++) assert_true(dv[value + row * COLS + c] == g[r * COLS + c]);
            for (int p = 0; p < band->spec.n_planes; p++) {
                double sum = 0.0;
                const int64_t group_size = band->spec.group_size;
                for (int64_t c = 0; c < group_size; c++)
                    sum += (double)g[r * COLS + c] * band->planes[p].q[row * COLS + c];
                assert_true(
                    fabs(sum - (double)ds[scale + p * band->rows * band->groups + row * band->groups]) <
                    1e-4);
            }
            row++;
        }
        value += band->rows * band->cols;
        scale += band->spec.n_planes * band->rows * band->groups;
    }
    free(ds);
    free(dt);
    qn_latents_release(&l);
    qn_banded_release(&f.fit);
}

/* The gradient of a threshold has the sign that widening the dead zone needs. */
static void test_threshold_moves_codes(void **state) {
    (void)state;
    static fixture f;
    static float w[N];
    const struct variant v = {QN_AXIS_ROWS, QN_CODE_TERNARY, false, 0};
    make_fit(&v, &f);
    qn_latents l = start(&v, f.target);
    int64_t zeros[2] = {0, 0};
    for (int k = 0; k < 2; k++) {
        qn_latents_weights(&l, 0, NULL, w);
        const qn_banded_band *band = &l.codes.bands[0];
        for (int64_t i = 0; i < band->rows * band->cols; i++) zeros[k] += band->planes[0].q[i] == 0;
        for (int64_t i = 0; i < l.n_thresholds; i++) l.thresholds[i] = 0.8f;
    }
    assert_true(zeros[1] > zeros[0] * 5 / 4);
    qn_latents_release(&l);
    qn_banded_release(&f.fit);
}

static void test_projection(void **state) {
    (void)state;
    static fixture f;
    static float w[N], packed[N];
    for (int k = 0; k < N_VARIANTS; k++) {
        make_fit(&k_variants[k], &f);
        qn_latents l = start(&k_variants[k], NULL);
        for (int64_t i = 0; i < l.n_scales; i++) l.scales[i] = i % 2 ? -1.0f : 1e9f;
        for (int64_t i = 0; i < l.n_thresholds; i++) l.thresholds[i] = -3.0f;
        qn_latents_project(&l);
        for (int64_t i = 0; i < l.n_scales; i++) assert_true(l.scales[i] > 0 && l.scales[i] <= 65504);
        for (int64_t i = 0; i < l.n_thresholds; i++) assert_true(l.thresholds[i] > 0);
        qn_latents_weights(&l, 0, NULL, w); /* still what can be packed */
        decode_packed(&l, packed);
        assert_memory_equal(w, packed, sizeof w);
        qn_latents_release(&l);
        qn_banded_release(&f.fit);
    }
}

static void test_any_number_of_threads(void **state) {
    (void)state;
    static fixture f;
    static float w[2][N], dw[N], dv[2][N];
    const struct variant *v = &k_variants[1];
    make_fit(v, &f);
    for (int k = 0; k < 2; k++) {
        const qn_context ctx = {.n_threads = k ? 3 : 1};
        qn_latents l = start(v, f.target);
        float *ds = calloc((size_t)(l.n_scales + l.n_thresholds), sizeof *ds);
        qn_latents_weights(&l, 0.3, &ctx, w[k]);
        make_direction(dw);
        qn_latents_gradient(&l, 0.3, &ctx, dw, dv[k], ds, ds + l.n_scales);
        free(ds);
        qn_latents_release(&l);
    }
    assert_memory_equal(w[0], w[1], sizeof w[0]);
    assert_memory_equal(dv[0], dv[1], sizeof dv[0]);
    qn_banded_release(&f.fit);
}

/* v_j minimises the error of row i over input j alone: by hand for two inputs. */
static void test_descent_values(void **state) {
    (void)state;
    const float w[] = {1.0f, 2.0f}, q[] = {0.5f, 1.0f}, hessian[] = {2.0f, 0.5f, 0.5f, 1.0f};
    float out[2];
    assert_int_equal(qn_descent_values(w, q, hessian, 1, 2, NULL, out, NULL), QN_OK);
    assert_float_equal(out[0], 0.5f + (0.5f * 2.0f + 1.0f * 0.5f) / 2.0f, 1e-6f);
    assert_float_equal(out[1], 1.0f + (0.5f * 0.5f + 1.0f * 1.0f) / 1.0f, 1e-6f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_begin_at_the_fit),
        cmocka_unit_test(test_latents_lean_towards_their_target),
        cmocka_unit_test(test_smooth_gradient),
        cmocka_unit_test(test_straight_through),
        cmocka_unit_test(test_threshold_moves_codes),
        cmocka_unit_test(test_projection),
        cmocka_unit_test(test_any_number_of_threads),
        cmocka_unit_test(test_descent_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
