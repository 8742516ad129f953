/* Scales of columns: what they find, that folding them changes no error, and what they are worth to a fit. */
#include "quern/fit/column_scales.h"

#include "hessian_support.h"

#include "expect_error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { R = 96, C = 160 };

/* The magnitudes r_i c_j with random signs: the factors come back, but for fp16 and the common factor. */
static void test_finds_an_exact_product(void **state) {
    (void)state;
    static const double rounding = 0x1p-10; /* of fp16, twice */
    float w[R * C], weights[C];
    double c[C], mean = 0;
    uint16_t scales[C];
    seed_random(81);
    for (int j = 0; j < C; j++) {
        c[j] = exp(random_normal());
        weights[j] = j % 10 ? (float)random_uniform() : 0; /* dead inputs have weights, too */
        mean += log(c[j]) / C;
    }
    for (int i = 0; i < R; i++) {
        const double r = exp(random_normal());
        for (int j = 0; j < C; j++) w[i * C + j] = (float)((random_uniform() < 0.5 ? -r : r) * c[j]);
    }
    assert_ok(qn_column_scales(w, weights, R, C, scales, err));
    for (int j = 0; j < C; j++)
        assert_true(fabs((double)qn_f16_to_f32(scales[j]) / (c[j] / exp(mean)) - 1) < rounding);
}

static void test_columns_without_weights(void **state) {
    (void)state;
    float w[4 * 3] = {0, 1, 1e30f, 0, -1, 1e30f, 0, 1, 1e30f, 0, 1, 1e30f}, weights[3] = {1, 1, 1};
    uint16_t scales[3];
    assert_ok(qn_column_scales(w, weights, 4, 3, scales, err));
    for (int j = 0; j < 3; j++) {
        const float c = qn_f16_to_f32(scales[j]);
        assert_true(c >= 1.0f / 1024 && c <= 1024);
    }
    memset(w, 0, sizeof w);
    assert_ok(qn_column_scales(w, weights, 4, 3, scales, err));
    for (int j = 0; j < 3; j++) assert_true(qn_f16_to_f32(scales[j]) > 0);
}

/* Powers of two fold exactly: (W - Q) H (W - Q)^T is what it was. */
static void test_folding_keeps_the_error(void **state) {
    (void)state;
    uint16_t scales[C];
    seed_random(82);
    float *w = random_weights(R, C), *h = random_metric(C);
    const double before = metric_error(w, NULL, h, R, C);
    for (int j = 0; j < C; j++) scales[j] = qn_f32_to_f16(ldexpf(1, j % 7 - 3));
    qn_column_scales_fold(scales, R, C, w, h);
    assert_true(fabs(metric_error(w, NULL, h, R, C) / before - 1) < 1e-12);
    free(w);
    free(h);
}

/* One scale a row and columns of very different size: the factors take a fifth of the error away and more, and what is packed decodes to
 * what was fitted. */
static void test_worth_to_a_fit(void **state) {
    (void)state;
    static const double most_left = 0.8;
    uint16_t scales[C];
    float diagonal[C];
    seed_random(83);
    float *w = random_weights(R, C), *h = random_metric(C), *plain, *folded_w = malloc(R * C * sizeof *w);
    float *folded_h = malloc(C * C * sizeof *h), *decoded = malloc(R * C * sizeof *w);
    assert_true(folded_w && folded_h && decoded);
    for (int i = 0; i < R * C; i++) w[i] *= expf(0.8f * sinf((float)(i % C)));
    memcpy(folded_w, w, R * C * sizeof *w);
    memcpy(folded_h, h, C * C * sizeof *h);
    const qn_band_shape shape = one_band(R, C, QN_AXIS_ROWS, (qn_band_spec){QN_CODE_SIGN, 1, 0, false});
    const qn_hessian_fit_options options = qn_hessian_fit_defaults();
    qn_banded banded = fit_or_fail(w, h, &shape, &options, 1, NULL, &plain);
    qn_banded_release(&banded);

    for (int j = 0; j < C; j++) diagonal[j] = h[j * C + j];
    assert_ok(qn_column_scales(w, diagonal, R, C, scales, err));
    qn_column_scales_fold(scales, R, C, folded_w, folded_h);
    assert_ok(qn_hessian_fit(folded_w, folded_h, &shape, &options, NULL, &banded, NULL, err));
    banded.column_scales = malloc(sizeof scales);
    assert_non_null(banded.column_scales);
    memcpy(banded.column_scales, scales, sizeof scales);
    qn_banded_decode(&banded, decoded);
    assert_true(metric_error(w, decoded, h, R, C) < most_left * metric_error(w, plain, h, R, C));

    qn_encoded encoded = {0};
    qn_banded again = {0};
    assert_ok(qn_banded_encode(&banded, 0, "w", &encoded, err));
    assert_true(encoded.column_scaled);
    qn_encoded_decode_rows(&encoded, 0, R, folded_w);
    assert_memory_equal(folded_w, decoded, R * C * sizeof *w);
    assert_ok(qn_banded_unpack(&encoded, &again, err));
    assert_memory_equal(again.column_scales, scales, sizeof scales);
    qn_banded_release(&again);
    qn_banded_release(&banded);
    qn_encoded_release(&encoded);
    free(plain);
    free(decoded);
    free(folded_h);
    free(folded_w);
    free(w);
    free(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_an_exact_product),
        cmocka_unit_test(test_columns_without_weights),
        cmocka_unit_test(test_folding_keeps_the_error),
        cmocka_unit_test(test_worth_to_a_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
