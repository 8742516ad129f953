/* Evaluated latents as signs: products with them are those with the dense matrix, whatever the bands. */
#include "hessian_support.h"

#include "fit/sign_planes.h"
#include "quern/base/rng.h"
#include "tensor/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Two sums of f32 in different orders, of the sum of magnitudes: twice what one may be off (test_signs.c). */
#define SUM_TOLERANCE 2e-6

enum { ROWS = 150, COLS = 420, TOKENS = 40 };

static const struct variant {
    qn_axis axis;
    qn_code code;
    int n_bands;
    int32_t group_size;
} k_variants[] = {{QN_AXIS_COLUMNS, QN_CODE_SIGN, 3, 64},
                  {QN_AXIS_COLUMNS, QN_CODE_TERNARY, 3, 128},
                  {QN_AXIS_ROWS, QN_CODE_SIGN, 1, 128},
                  {QN_AXIS_ROWS, QN_CODE_TERNARY, 1, 0}};
enum { N_VARIANTS = sizeof k_variants / sizeof k_variants[0] };

static const qni_kernels *selected;

/* Before anything multiplies, so that QN_ISA is heard. */
static int select_kernels(void **state) {
    (void)state;
    return qni_kernels_get(&selected, NULL) == QN_OK ? 0 : -1;
}

/* Random codes and scales in bands of columns, or in one band. */
static qn_latents make_latents(const struct variant *v) {
    static uint8_t line_band[COLS];
    qn_banded codes = {0};
    qn_latents out;
    qn_rng rng;
    qn_rng_seed(&rng, 11);
    for (int i = 0; i < COLS; i++) line_band[i] = (uint8_t)(i % 5 == 3 ? 1 : i % 13 == 6 ? 2 : 0);
    qn_band_shape shape = three_bands(ROWS, COLS, v->axis, v->code, v->group_size, false, line_band);
    shape.n_bands = v->n_bands;
    if (v->n_bands == 1) shape.line_band = NULL;
    assert_int_equal(qn_banded_alloc(&shape, &codes, NULL), QN_OK);
    for (int b = 0; b < codes.n_bands; b++) {
        const qn_banded_band *band = &codes.bands[b];
        for (int p = 0; p < band->spec.n_planes; p++) {
            for (int64_t i = 0; i < band->rows * band->cols; i++) {
                const double u = qn_rng_uniform(&rng);
                band->planes[p].q[i] = band->spec.code == QN_CODE_SIGN      ? (u < 0.5 ? -1 : 1)
                                       : band->spec.code == QN_CODE_TERNARY ? (int8_t)((int)(3 * u) - 1)
                                                                            : (int8_t)((int)(15 * u) - 7);
            }
            for (int64_t i = 0; i < band->rows * band->groups; i++)
                band->planes[p].scales[i] = qn_f32_to_f16((float)(0.1 + qn_rng_uniform(&rng)));
        }
    }
    assert_int_equal(qn_latents_init(&codes, 0, NULL, NULL, &out, NULL), QN_OK);
    return out;
}

/* Both are sum_i a[i] b[i * b_step]. */
static void expect_same_sum(float got, float want, const float *a, const float *b, int64_t b_step, int n) {
    double magnitude = 0.0;
    for (int i = 0; i < n; i++) magnitude += fabs((double)a[i] * (double)b[i * b_step]);
    assert_true(fabs((double)got - (double)want) <= SUM_TOLERANCE * magnitude);
}

/* W x and dy W by both. */
static void expect_same_products(qn_ops *ops, const float *w, const qni_signs *signs) {
    static float x[TOKENS * COLS], dy[TOKENS * ROWS], y[2][TOKENS * ROWS], dx[2][TOKENS * COLS];
    qn_rng rng;
    qn_rng_seed(&rng, 12);
    for (int i = 0; i < TOKENS * COLS; i++) x[i] = (float)qn_rng_normal(&rng);
    for (int i = 0; i < TOKENS * ROWS; i++) dy[i] = (float)qn_rng_normal(&rng);
    for (int i = 0; i < 2; i++) {
        float largest;
        const qni_matrix matrix = {.rows = ROWS, .cols = COLS, .f32 = w, .signs = i ? signs : NULL};
        const qni_linear_args forward = {.x = x, .m = TOKENS, .w = &matrix, .y = y[i]};
        const qni_linear_backward_args backward = {
            .m = TOKENS, .n = ROWS, .k = COLS, .dy = dy, .w = w, .signs = matrix.signs, .dx = dx[i]};
        assert_int_equal(ops->linear(ops, &forward, 1, &largest, NULL), QN_OK);
        assert_int_equal(ops->linear_backward(ops, &backward, 1, NULL), QN_OK);
    }
    for (int i = 0; i < TOKENS * ROWS; i++)
        expect_same_sum(y[1][i], y[0][i], x + i / ROWS * COLS, w + i % ROWS * COLS, 1, COLS);
    for (int i = 0; i < TOKENS * COLS; i++)
        expect_same_sum(dx[1][i], dx[0][i], dy + i / COLS * ROWS, w + i % COLS, COLS, ROWS);
    assert_true(memcmp(y[0], y[1], sizeof y[0]) != 0); /* the signs were used */
}

static const qni_kernels *kernels_with_signs(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &qni_kernels_avx2;
    return NULL;
#elif defined(__aarch64__)
    return &qni_kernels_neon;
#else
    return NULL;
#endif
}

static void test_products_are_those_of_the_weights(void **state) {
    (void)state;
    static float w[ROWS * COLS];
    const qni_kernels *kernels = kernels_with_signs();
    qn_ops *ops = NULL;
    if (!kernels) skip();
    assert_int_equal(qni_ops_open_cpu(kernels, &ops, NULL), QN_OK);
    for (int k = 0; k < N_VARIANTS; k++) {
        qn_latents l = make_latents(&k_variants[k]);
        qni_signs signs = {0};
        assert_int_equal(qni_sign_planes_make(&l, &signs, NULL), QN_OK);
        for (int again = 0; again < 2; again++) { /* set anew after a step */
            const qn_context ctx = {.n_threads = 1 + 2 * again};
            qn_latents_weights(&l, 0.0, &ctx, w);
            qni_sign_planes_set(&l, &ctx, &signs);
            expect_same_products(ops, w, &signs);
            for (int64_t i = 0; i < l.n_values; i += 3) l.values[i] = -l.values[i];
            for (int64_t i = 0; i < l.n_scales; i++) l.scales[i] *= 1.5f;
        }
        qni_signs_release(&signs);
        qn_latents_release(&l);
    }
    qni_ops_close(ops);
}

static void test_where_they_serve(void **state) {
    (void)state;
    for (int k = 0; k < N_VARIANTS; k++) {
        qn_latents l = make_latents(&k_variants[k]);
        const bool wanted = selected->signs && k_variants[k].code == QN_CODE_SIGN; /* too small for trits */
        assert_true(qni_sign_planes_serve(&l) == wanted);
        l.hadamard = 4;
        assert_false(qni_sign_planes_serve(&l));
        qn_latents_release(&l);
    }
    const struct variant narrow = {QN_AXIS_COLUMNS, QN_CODE_SIGN, 3, 32},
                         rows = {QN_AXIS_ROWS, QN_CODE_SIGN, 3, 64};
    const struct variant *others[] = {&narrow, &rows};
    for (int k = 0; k < 2; k++) {
        qn_latents l = make_latents(others[k]);
        assert_false(qni_sign_planes_serve(&l));
        qn_latents_release(&l);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products_are_those_of_the_weights),
        cmocka_unit_test(test_where_they_serve),
    };
    return cmocka_run_group_tests(tests, select_kernels, NULL);
}
