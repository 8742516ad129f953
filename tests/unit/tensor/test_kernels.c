/* Every kernel of every instruction set this machine has, against the plain reference, at awkward lengths. */
#include "quern/base/rng.h"
#include "quern/tensor/dtype.h"
#include "test_data.h"
#include "usable_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX = 1000, GUARD = 32 };
static const int64_t k_lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 500, MAX};

/* f32 sums of n products against double ones: the rounding of n/16 additions a lane stays far below n *
 * 2^-24. */
#define SUM_TOLERANCE 2e-6 /* of the sum of magnitudes */
#define EXP_TOLERANCE                                                                                        \
    4e-7 /* relative: about 2 units in the last place of exp, and the rounding of its argument */

static const qni_kernels *usable[MOST_USABLE];
static int n_usable;

static int find_usable(void **state) {
    (void)state;
    n_usable = find_usable_kernels(usable);
    for (int i = 0; i < n_usable; i++)
        printf("instruction set under test: %s\n", qn_isa_name(usable[i]->isa));
    return 0;
}

static float guarded[3][MAX + 2 * GUARD];

/* Array WHICH of n values behind a guard; the guards hold a mark that no kernel may touch. */
static float *array(int which, int64_t n, qn_rng *rng, double scale) {
    for (int i = 0; i < MAX + 2 * GUARD; i++) guarded[which][i] = 12345.0f;
    for (int64_t i = 0; i < n; i++) guarded[which][GUARD + i] = (float)(scale * qn_rng_normal(rng));
    return guarded[which] + GUARD;
}

static void check_guards(int64_t n) {
    for (int which = 0; which < 3; which++) {
        for (int i = 0; i < GUARD; i++) assert_true(guarded[which][i] == 12345.0f);
        for (int64_t i = GUARD + n; i < MAX + 2 * GUARD; i++) assert_true(guarded[which][i] == 12345.0f);
    }
}

static void check_close(const char *what, const qni_kernels *kernels, int64_t n, double got, double want,
                        double tolerance) {
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s %s n=%lld: got %.9g, want %.9g", qn_isa_name(kernels->isa), what, (long long)n, got,
                 want);
}

static void test_dot_products(void **state) {
    (void)state;
    for (int u = 0; u < n_usable; u++) {
        for (size_t l = 0; l < sizeof k_lengths / sizeof *k_lengths; l++) {
            const int64_t n = k_lengths[l];
            qn_rng rng;
            qn_rng_seed(&rng, 1);
            float *x = array(0, n, &rng, 1.0), *w = array(1, n, &rng, 1.0);
            uint16_t narrow[MAX];
            double magnitude = 0.0;
            array(2, n, &rng, 1.0);
            for (int64_t i = 0; i < n; i++) magnitude += fabs((double)x[i] * (double)w[i]);
            check_close("dot_f32", usable[u], n, (double)usable[u]->dot_f32(x, w, n),
                        (double)qni_kernels_ref.dot_f32(x, w, n), SUM_TOLERANCE * magnitude);
            qni_kernels_ref.narrow_bf16(w, n, narrow);
            check_close("dot_bf16", usable[u], n, (double)usable[u]->dot_bf16(x, narrow, n),
                        (double)qni_kernels_ref.dot_bf16(x, narrow, n), SUM_TOLERANCE * magnitude);
        }
    }
}

static void compare_arrays(const char *what, const qni_kernels *kernels, const float *got, const float *want,
                           int64_t n, double relative) {
    for (int64_t i = 0; i < n; i++)
        check_close(what, kernels, n, (double)got[i], (double)want[i],
                    relative * fabs((double)want[i]) + 1e-37);
    check_guards(n);
}

static void test_row_kernels(void **state) {
    (void)state;
    for (int u = 0; u < n_usable; u++) {
        for (size_t l = 0; l < sizeof k_lengths / sizeof *k_lengths; l++) {
            const int64_t n = k_lengths[l];
            qn_rng rng;
            qn_rng_seed(&rng, 2);
            float *x = array(0, n, &rng, 3.0), *w = array(1, n, &rng, 1.0), *y = array(2, n, &rng, 1.0);
            float want[MAX];
            qni_kernels_ref.rms_norm(x, w, 1e-6, n, want);
            usable[u]->rms_norm(x, w, 1e-6, n, y);
            compare_arrays("rms_norm", usable[u], y, want, n, 1e-6);
            memcpy(want, x, sizeof want);
            assert_true(isfinite(qni_kernels_ref.softmax(want, n, 0.3f)));
            memcpy(y, x, (size_t)n * sizeof *y);
            const float sum = usable[u]->softmax(y, n, 0.3f);
            compare_arrays("softmax", usable[u], y, want, n, 1e-6);
            memcpy(want, x, (size_t)n * sizeof *want);
            check_close("softmax sum", usable[u], n, (double)sum,
                        (double)qni_kernels_ref.softmax(want, n, 0.3f), 1e-6 * (double)sum);
            assert_true(usable[u]->max(x, n) == qni_kernels_ref.max(x, n));
            assert_true(usable[u]->absmax(x, n) == qni_kernels_ref.absmax(x, n));
            const double exps = qni_kernels_ref.exp_sum(x, n, 2.0f);
            check_close("exp_sum", usable[u], n, usable[u]->exp_sum(x, n, 2.0f), exps, 2e-6 * exps);
            memcpy(want, x, (size_t)n * sizeof *want);
            memcpy(y, x, (size_t)n * sizeof *y);
            assert_true(usable[u]->add(y, w, n) == qni_kernels_ref.add(want, w, n));
            assert_memory_equal(y, want, (size_t)n * sizeof *y);
            memcpy(want, x, (size_t)n * sizeof *want);
            memcpy(y, x, (size_t)n * sizeof *y);
            qni_kernels_ref.swiglu(want, w, n);
            const uint32_t most = usable[u]->swiglu(y, w, n);
            assert_int_equal(most, usable[u]->absmax(y, n));
            compare_arrays("swiglu", usable[u], y, want, n, 1e-6);
            usable[u]->scale(x, 0.25f, n, y);
            for (int64_t i = 0; i < n; i++) assert_true(y[i] == 0.25f * x[i]);
            check_guards(n);
        }
    }
}

static void test_rope(void **state) {
    (void)state;
    static const int64_t halves[] = {1, 4, 8, 13, 16, 32, 64, 100};
    for (int u = 0; u < n_usable; u++) {
        for (size_t l = 0; l < sizeof halves / sizeof *halves; l++) {
            const int64_t half = halves[l], n = 2 * half;
            qn_rng rng;
            qn_rng_seed(&rng, 3);
            float *x = array(0, n, &rng, 1.0), *c = array(1, half, &rng, 1.0), want[MAX];
            float s[MAX];
            for (int64_t i = 0; i < half; i++) {
                const double angle = qn_rng_uniform(&rng) * 100.0;
                c[i] = (float)cos(angle);
                s[i] = (float)sin(angle);
            }
            memcpy(want, x, (size_t)n * sizeof *want);
            qni_kernels_ref.rope(want, c, s, half);
            usable[u]->rope(x, c, s, half);
            for (int64_t i = 0; i < n; i++) /* fused multiply-add against two roundings */
                check_close("rope", usable[u], half, (double)x[i], (double)want[i], 1e-6);
        }
    }
}

static void test_exp_over_its_range(void **state) {
    (void)state;
    for (int u = 0; u < n_usable; u++) {
        for (double x = -87.0; x <= 0.0; x += 0.01) {
            const float s[1] = {(float)x};
            const double want = exp((double)s[0]);
            check_close("exp", usable[u], 1, usable[u]->exp_sum(s, 1, 0.0f), want, EXP_TOLERANCE * want);
        }
        const float far[2] = {-1e30f, -INFINITY};
        check_close("exp", usable[u], 2, usable[u]->exp_sum(far, 2, 0.0f), 0.0, 1e-37);
    }
}

static void test_silu_at_its_ends(void **state) {
    (void)state;
    for (int u = 0; u < n_usable; u++) {
        float gate[4] = {-200.0f, 200.0f, -80.0f, 0.0f};
        const float up[4] = {1.0f, 1.0f, 1.0f, 1.0f};
        usable[u]->swiglu(gate, up, 4);
        check_close("silu(-200)", usable[u], 4, (double)gate[0], 0.0, 1e-35);
        check_close("silu(200)", usable[u], 4, (double)gate[1], 200.0, 0.0);
        check_close("silu(-80)", usable[u], 4, (double)gate[2], -80.0 * exp(-80.0), 1e-33);
        check_close("silu(0)", usable[u], 4, (double)gate[3], 0.0, 0.0);
    }
}

static void test_nan_and_infinity_are_seen(void **state) {
    (void)state;
    static const float bad[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (int u = -1; u < n_usable; u++) {
        const qni_kernels *kernels = u < 0 ? &qni_kernels_ref : usable[u];
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
            for (int64_t at = 0; at < 40; at++) {
                float x[40] = {0}, zero[40] = {0};
                x[at] = bad[b];
                assert_true(kernels->absmax(x, 40) >= QNI_NONFINITE_BITS);
                assert_true(kernels->add(x, zero, 40) >= QNI_NONFINITE_BITS);
                for (int i = 0; i < 40; i++) zero[i] = 1.0f;
                assert_true(kernels->swiglu(zero, x, 40) >= QNI_NONFINITE_BITS);
            }
        }
    }
}

static void test_bf16_conversions_are_exact(void **state) {
    (void)state;
    static const uint32_t special[] = {0,          0x80000000, 0x3f800000, 0x3f808000, 0x3f818000, 0x3f807fff,
                                       0x7f7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffffffff,
                                       0x00000001, 0x00008000, 0x00018000, 0x7f7f8000};
    for (int u = 0; u < n_usable; u++) {
        qn_rng rng;
        qn_rng_seed(&rng, 4);
        for (int round = 0; round < 100; round++) {
            float x[67], wide[67], rounded[67];
            uint16_t got[67], want[67];
            for (int i = 0; i < 67; i++) {
                const uint32_t bits = i < 16 && round == 0 ? special[i] : qn_rng_next_u32(&rng);
                memcpy(&x[i], &bits, sizeof bits);
            }
            usable[u]->narrow_bf16(x, 67, got);
            usable[u]->round_bf16(x, 67, rounded);
            for (int i = 0; i < 67; i++) want[i] = qn_f32_to_bf16(x[i]);
            usable[u]->widen_bf16(got, 67, wide);
            for (int i = 0; i < 67; i++) {
                if (isnan(x[i])) {
                    assert_true(isnan(wide[i]) && isnan(rounded[i]));
                    continue;
                }
                assert_int_equal(got[i], want[i]);
                assert_true(wide[i] == qn_bf16_to_f32(got[i]) && rounded[i] == wide[i]);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dot_products),
        cmocka_unit_test(test_row_kernels),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_exp_over_its_range),
        cmocka_unit_test(test_silu_at_its_ends),
        cmocka_unit_test(test_nan_and_infinity_are_seen),
        cmocka_unit_test(test_bf16_conversions_are_exact),
    };
    return cmocka_run_group_tests(tests, find_usable, NULL);
}
