/* The backward kernels of every instruction set this machine has, against the plain reference, at awkward
 * lengths. */
#include "quern/base/rng.h"
#include "test_data.h"
#include "usable_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX = 1000, GUARD = 32, ARRAYS = 4 };
static const int64_t k_lengths[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 127, 129, 500, MAX};
enum { N_LENGTHS = sizeof k_lengths / sizeof *k_lengths };

/* f32 chains of a dozen roundings, and sums of up to MAX terms in 8 or 16 lanes, against double: of the
 * array's largest value. */
#define TOLERANCE 3e-6
#define TINY      1e-30 /* where exp was held within the normal numbers */

static const qni_kernels *usable[MOST_USABLE];
static int n_usable;

static int find_usable(void **state) {
    (void)state;
    n_usable = find_usable_kernels(usable);
    return 0;
}

/* Two copies of the same random arrays, between guards that no kernel may touch. */
typedef struct arrays {
    float block[2][ARRAYS][MAX + 2 * GUARD];
} arrays;

static const float k_mark = 12345.0f;

static void fill(arrays *a, int64_t n, double scale) {
    qn_rng rng;
    qn_rng_seed(&rng, (uint64_t)n);
    for (int i = 0; i < ARRAYS; i++) {
        for (int j = 0; j < MAX + 2 * GUARD; j++) a->block[0][i][j] = k_mark;
        for (int64_t j = 0; j < n; j++) a->block[0][i][GUARD + j] = (float)(scale * qn_rng_normal(&rng));
    }
    memcpy(a->block[1], a->block[0], sizeof a->block[0]);
}

static float *array(arrays *a, int copy, int i) {
    return a->block[copy][i] + GUARD;
}

static void compare(const char *what, const qni_kernels *kernels, const arrays *a, int64_t n) {
    for (int i = 0; i < ARRAYS; i++) {
        const float *got = a->block[0][i], *want = a->block[1][i];
        double largest = 0.0;
        for (int64_t j = 0; j < n; j++) largest = fmax(largest, fabs((double)want[GUARD + j]));
        for (int64_t j = 0; j < MAX + 2 * GUARD; j++) {
            const bool is_guard = j < GUARD || j >= GUARD + n;
            const double error = fabs((double)got[j] - (double)want[j]);
            if (is_guard ? got[j] == k_mark : error <= TOLERANCE * largest + TINY) continue;
            fail_msg("%s %s n=%lld, array %d[%lld]: got %.9g, want %.9g", qn_isa_name(kernels->isa), what,
                     (long long)n, i, (long long)(j - GUARD), (double)got[j], (double)want[j]);
        }
    }
}

static void test_rms_norm_backward(void **state) {
    static arrays a;
    (void)state;
    for (int u = 0; u < n_usable * N_LENGTHS; u++) {
        const qni_kernels *k = usable[u / N_LENGTHS];
        const int64_t n = k_lengths[u % N_LENGTHS];
        fill(&a, n, 2.0);
        for (int copy = 0; copy < 2; copy++)
            (copy ? &qni_kernels_ref : k)
                ->rms_norm_backward(array(&a, copy, 0), array(&a, copy, 1), 1e-6, n, array(&a, copy, 2),
                                    false, array(&a, copy, 2), array(&a, copy, 3));
        if (n > 1)
            compare("rms_norm_backward in place", k, &a, n); /* of one value dx is 0, got by cancelling */
    }
}

static void test_rms_norm_backward_adds(void **state) {
    static arrays a;
    static float dw[2][MAX];
    (void)state;
    for (int u = 0; u < n_usable * N_LENGTHS; u++) {
        const qni_kernels *k = usable[u / N_LENGTHS];
        const int64_t n = k_lengths[u % N_LENGTHS];
        fill(&a, n, 2.0);
        for (int copy = 0; copy < 2; copy++) {
            memset(dw[copy], 0, sizeof dw[copy]);
            (copy ? &qni_kernels_ref : k)
                ->rms_norm_backward(array(&a, copy, 0), array(&a, copy, 1), 1e-6, n, array(&a, copy, 2), true,
                                    array(&a, copy, 3), dw[copy]);
        }
        compare("rms_norm_backward added", k, &a, n);
        for (int64_t i = 0; i < n; i++)
            assert_true(fabsf(dw[0][i] - dw[1][i]) <= 1e-5f * (1.0f + fabsf(dw[1][i])));
    }
}

static void test_swiglu_backward(void **state) {
    static arrays a;
    (void)state;
    for (int u = 0; u < n_usable * N_LENGTHS; u++) {
        const qni_kernels *k = usable[u / N_LENGTHS];
        const int64_t n = k_lengths[u % N_LENGTHS];
        fill(&a, n, 4.0);
        array(&a, 0, 0)[0] = array(&a, 1, 0)[0] = -200.0f; /* where exp overflows */
        for (int copy = 0; copy < 2; copy++)
            (copy ? &qni_kernels_ref : k)
                ->swiglu_backward(array(&a, copy, 0), array(&a, copy, 1), array(&a, copy, 2), n);
        compare("swiglu_backward", k, &a, n);
    }
}

static void test_softmax_backward(void **state) {
    static arrays a;
    (void)state;
    for (int u = 0; u < n_usable * N_LENGTHS; u++) {
        const qni_kernels *k = usable[u / N_LENGTHS];
        const int64_t n = k_lengths[u % N_LENGTHS];
        fill(&a, n, 1.0);
        const float sum = qni_kernels_ref.softmax(array(&a, 0, 0), n, 1.0f);
        memcpy(array(&a, 1, 0), array(&a, 0, 0), (size_t)n * sizeof(float));
        for (int copy = 0; copy < 2; copy++)
            (copy ? &qni_kernels_ref : k)
                ->softmax_backward(array(&a, copy, 0), array(&a, copy, 1), n, 1.0f / sum, 0.3f);
        if (n > 1) compare("softmax_backward", k, &a, n); /* of one value it is 0, got by cancelling */
    }
}

static void test_divergence(void **state) {
    static arrays a;
    (void)state;
    for (int u = 0; u < n_usable * N_LENGTHS; u++) {
        const qni_kernels *k = usable[u / N_LENGTHS];
        const int64_t n = k_lengths[u % N_LENGTHS];
        double sum[2], log_sum[2];
        fill(&a, n, 3.0);
        for (int i = 0; i < 2; i++) {
            const float shift = qni_kernels_ref.max(array(&a, 0, i), n);
            log_sum[i] = (double)shift + log(qni_kernels_ref.exp_sum(array(&a, 0, i), n, shift));
        }
        for (int copy = 0; copy < 2; copy++)
            sum[copy] = (copy ? &qni_kernels_ref : k)
                            ->divergence(array(&a, copy, 0), array(&a, copy, 1), n, log_sum[0], log_sum[1],
                                         1.5f, 0.5f);
        compare("divergence", k, &a, n);
        if (!(fabs(sum[0] - sum[1]) <= TOLERANCE * (1.0 + sum[1])))
            fail_msg("%s divergence n=%lld: got %.9g, want %.9g", qn_isa_name(k->isa), (long long)n, sum[0],
                     sum[1]);
    }
}

static void test_exp_in_place(void **state) {
    static arrays a;
    (void)state;
    for (int u = 0; u < n_usable * N_LENGTHS; u++) {
        const qni_kernels *k = usable[u / N_LENGTHS];
        const int64_t n = k_lengths[u % N_LENGTHS];
        double sum[2];
        fill(&a, n, 3.0);
        const double same = k->exp_sum(array(&a, 0, 0), n, 2.0f);
        for (int copy = 0; copy < 2; copy++)
            sum[copy] = (copy ? &qni_kernels_ref : k)->exp_in_place(array(&a, copy, 0), n, 2.0f);
        compare("exp_in_place", k, &a, n);
        assert_true(sum[0] == same && fabs(sum[0] - sum[1]) <= TOLERANCE * sum[1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rms_norm_backward), cmocka_unit_test(test_rms_norm_backward_adds),
        cmocka_unit_test(test_swiglu_backward),   cmocka_unit_test(test_softmax_backward),
        cmocka_unit_test(test_divergence),        cmocka_unit_test(test_exp_in_place),
    };
    return cmocka_run_group_tests(tests, find_usable, NULL);
}
