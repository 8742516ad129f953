/* AdamW against numbers of torch 2.15, its clip, its independence of threads, and its refusals. */
#include "quern/fit/adamw.h"

#include "expect_error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N_FIRST = 6, N_SECOND = 3, N_STEPS = 10 };

/* Single roundings of f32 over ten steps: torch and we differ by an ulp here and there. */
static const double TOLERANCE = 2e-7;

typedef struct arrays {
    float w[N_FIRST + N_SECOND], g[N_FIRST + N_SECOND], m[N_FIRST + N_SECOND], v[N_FIRST + N_SECOND];
} arrays;

/* The gradient of step T, exact in binary; the script that made the numbers below has the same formula. */
static void set_gradients(arrays *a, int t) {
    for (int i = 0; i < N_FIRST + N_SECOND; i++) a->g[i] = (float)((i * 7 + t * 5) % 11 - 5) / 8.0f;
}

static void make_groups(arrays *a, qn_adamw_group groups[2]) {
    memset(a, 0, sizeof *a);
    for (int i = 0; i < N_FIRST + N_SECOND; i++) a->w[i] = (float)((i * 3) % 7 - 3) / 4.0f;
    groups[0] = (qn_adamw_group){"first", a->w, a->g, a->m, a->v, N_FIRST, 1.0, 0.1};
    groups[1] = (qn_adamw_group){
        "second", a->w + N_FIRST, a->g + N_FIRST, a->m + N_FIRST, a->v + N_FIRST, N_SECOND, 0.5, 0.0};
}

static void check_ten_steps(double clip, const double *expected, const double *norms) {
    arrays a;
    qn_adamw_group groups[2];
    qn_adamw_options options = qn_adamw_options_default();
    options.clip = clip;
    make_groups(&a, groups);
    for (int t = 0; t < N_STEPS; t++) {
        double norm = -1;
        set_gradients(&a, t);
        assert_ok(qn_adamw_step(groups, 2, &options, 0.01, t + 1, NULL, &norm, err));
        if (norms) assert_true(fabs(norm - norms[t]) < 1e-6);
    }
    for (int i = 0; i < N_FIRST + N_SECOND; i++) {
        if (fabs((double)a.w[i] - expected[i]) > TOLERANCE)
            fail_msg("element %d: %.9g, torch has %.9g", i, (double)a.w[i], expected[i]);
    }
}

static void test_ten_steps_are_torchs(void **state) {
    const double expected[] = {-0.7338761687278748, 0.00048127176705747843, 0.7666365504264832,
                               -0.2831936478614807, 0.4848692715167999,     -0.4631674289703369,
                               0.24235031008720398, -0.7663596272468567,    0.013465754687786102};
    (void)state;
    check_ten_steps(0.0, expected, NULL);
}

static void test_ten_clipped_steps_are_torchs(void **state) {
    const double expected[] = {-0.7327842116355896, 0.0015115519054234028, 0.7635889053344727,
                               -0.2807454466819763, 0.48469313979148865,   -0.4652526378631592,
                               0.24398130178451538, -0.767087996006012,    0.013207538984715939};
    const double norms[] = {
        1.25,  1.1524430513381958, 1.2624380588531494, 1.1524430513381958, 1.25,
        1.125, 1.2119200229644775, 1.145643949508667,  1.145643949508667,  1.2119200229644775};
    (void)state;
    check_ten_steps(1.0, expected, norms);
}

/* Three groups, one of them longer than several tiles and of no round length. */
typedef struct wide {
    float *block;
    qn_adamw_group groups[3];
} wide;

static const int64_t WIDE_N[] = {100003, 5, 16384};

static wide wide_make(void) {
    wide w = {.block = malloc(4 * 116392 * sizeof *w.block)};
    float *at = w.block;
    uint32_t state = 1;
    assert_non_null(w.block);
    for (int g = 0; g < 3; g++) {
        const int64_t n = WIDE_N[g];
        w.groups[g] = (qn_adamw_group){"wide", at, at + n, at + 2 * n, at + 3 * n, n, 1.0, 0.1};
        for (int64_t i = 0; i < 4 * n; i++) {
            state = state * 1664525u + 1013904223u;
            at[i] = i < 2 * n ? (float)(state >> 8) / 8388608.0f - 1.0f : 0.0f;
        }
        at += 4 * n;
    }
    return w;
}

static void test_bytes_do_not_depend_on_threads(void **state) {
    wide one = wide_make(), three = wide_make();
    const qn_context ctx_one = {.n_threads = 1}, ctx_three = {.n_threads = 3};
    const qn_adamw_options options = qn_adamw_options_default();
    double norm_one = 0, norm_three = 1;
    (void)state;
    for (int64_t step = 1; step <= 3; step++) {
        assert_ok(qn_adamw_step(one.groups, 3, &options, 0.01, step, &ctx_one, &norm_one, err));
        assert_ok(qn_adamw_step(three.groups, 3, &options, 0.01, step, &ctx_three, &norm_three, err));
        assert_true(norm_one == norm_three);
    }
    assert_memory_equal(one.block, three.block, 4 * 116392 * sizeof *one.block);
    free(one.block);
    free(three.block);
}

static void test_norm_is_that_of_all_groups(void **state) {
    wide w = wide_make();
    const qn_adamw_options options = qn_adamw_options_default();
    double expected = 0, norm = 0;
    (void)state;
    for (int g = 0; g < 3; g++) {
        for (int64_t i = 0; i < w.groups[g].n; i++)
            expected += (double)w.groups[g].grad[i] * (double)w.groups[g].grad[i];
    }
    assert_ok(qn_adamw_step(w.groups, 3, &options, 0.01, 1, NULL, &norm, err));
    assert_true(fabs(norm - sqrt(expected)) < 1e-11 * norm); /* the order of a sum in double */
    free(w.block);
}

static void test_bad_gradients_change_nothing(void **state) {
    arrays a, before;
    qn_adamw_group groups[2];
    const qn_adamw_options options = qn_adamw_options_default();
    (void)state;
    make_groups(&a, groups);
    a.g[N_FIRST + 1] = (float)NAN;
    before = a;
    assert_error(qn_adamw_step(groups, 2, &options, 0.01, 1, NULL, NULL, err), QN_E_VALUE,
                 "'second'|NaN|element 1");
    a.g[2] = before.g[2] = -INFINITY;
    assert_error(qn_adamw_step(groups, 2, &options, 0.01, 1, NULL, NULL, err), QN_E_VALUE,
                 "'first'|infinite|element 2");
    assert_memory_equal(&a, &before, sizeof a);
}

static void test_wrong_options_are_refused(void **state) {
    arrays a;
    qn_adamw_group groups[2];
    (void)state;
    make_groups(&a, groups);
    qn_adamw_options o = qn_adamw_options_default();
    assert_error(qn_adamw_step(groups, 2, &o, 0.01, 0, NULL, NULL, err), QN_E_ARGUMENT, "step 0");
    o.beta2 = 1.0;
    assert_error(qn_adamw_check(&o, err), QN_E_ARGUMENT, "beta");
    o = qn_adamw_options_default();
    o.eps = -1;
    assert_error(qn_adamw_check(&o, err), QN_E_ARGUMENT, "eps");
    o = qn_adamw_options_default();
    o.clip = (double)NAN;
    assert_error(qn_adamw_check(&o, err), QN_E_ARGUMENT, "clip");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ten_steps_are_torchs),
        cmocka_unit_test(test_ten_clipped_steps_are_torchs),
        cmocka_unit_test(test_bytes_do_not_depend_on_threads),
        cmocka_unit_test(test_norm_is_that_of_all_groups),
        cmocka_unit_test(test_bad_gradients_change_nothing),
        cmocka_unit_test(test_wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
