/* The loss against a teacher's largest probabilities, and samples of the others: values and gradients against double, equality
 * with the whole teacher, masses at the edge, the same bytes for any number of threads. */
#include "expect_error.h"
#include "quern/base/rng.h"
#include "tensor/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the largest value: f32 exponentials to about 1 ulp, a few roundings each. The difference quotient, in double with step
 * 1e-5, is good to 1e-9. */
#define GRADIENT_TOLERANCE 1e-6
#define STEP               1e-5
#define LOSS_TOLERANCE     1e-6 /* nats a row, plus as much of the value */

enum { M = 5 };

static qn_ops *g_ops;

static int open_ops(void **state) {
    (void)state;
    return qni_ops_open(&g_ops, NULL) == QN_OK ? 0 : -1;
}

static int close_ops(void **state) {
    (void)state;
    qni_ops_close(g_ops);
    return 0;
}

/* M rows of logits of student and teacher, and the teacher's k largest of each row. */
typedef struct fixture {
    int64_t n, k;
    float *student, *teacher; /* [M, n] */
    int32_t *ids;             /* [M, k] */
    float *log_probs;         /* [M, k] */
    float tail[M];
    int64_t n_samples;
    int32_t *samples; /* [M, n_samples], every third as the one before */
    float sample_log_prob[M];
    int32_t targets[M];
    double ce_factor, kl_factor, ce[M], kl[M];
} fixture;

static double log_sum(const float *s, int64_t n) {
    double sum = 0.0, shift = (double)s[0];
    for (int64_t i = 1; i < n; i++) shift = fmax(shift, (double)s[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)s[i] - shift);
    return shift + log(sum);
}

/* The k largest of row T in id order, by a threshold; random logits have no two equal. */
static void pick_top(fixture *f, int64_t row) {
    const float *t = f->teacher + row * f->n;
    const double total = log_sum(t, f->n);
    double rest = 0.0;
    int64_t at = row * f->k;
    for (int64_t i = 0; i < f->n; i++) {
        int64_t larger = 0;
        for (int64_t j = 0; j < f->n; j++) larger += t[j] > t[i] || (t[j] == t[i] && j < i);
        if (larger >= f->k) {
            rest += exp((double)t[i] - total);
            continue;
        }
        f->ids[at] = (int32_t)i;
        f->log_probs[at++] = (float)((double)t[i] - total);
    }
    f->tail[row] = (float)log(rest);
}

/* Ids outside the top, wherever they fall: the loss does not ask how they were drawn. */
static void pick_samples(fixture *f, int64_t row) {
    const float *t = f->teacher + row * f->n;
    const double total = log_sum(t, f->n);
    int32_t *samples = f->samples + row * f->n_samples, id = 0;
    double sum = 0.0;
    for (int64_t i = 0; i < f->n_samples; i++) {
        bool is_top = i % 3 != 2; /* or the one before again */
        while (is_top) {
            id = (int32_t)((id + 7) % f->n);
            is_top = false;
            for (int64_t j = 0; j < f->k; j++) is_top |= f->ids[row * f->k + j] == id;
        }
        samples[i] = id;
        sum += (double)t[id] - total;
    }
    if (f->n_samples > 0) f->sample_log_prob[row] = (float)(sum / (double)f->n_samples);
}

static fixture make_fixture(int64_t n, int64_t k, int64_t n_samples) {
    fixture f = {.n = n,
                 .k = k,
                 .student = malloc(sizeof(float) * (size_t)(M * n)),
                 .teacher = malloc(sizeof(float) * (size_t)(M * n)),
                 .ids = malloc(sizeof(int32_t) * (size_t)(M * k)),
                 .log_probs = malloc(sizeof(float) * (size_t)(M * k)),
                 .n_samples = n_samples,
                 .samples = malloc(sizeof(int32_t) * (size_t)(M * n_samples)),
                 .ce_factor = 0.7,
                 .kl_factor = 0.3};
    qn_rng rng;
    qn_rng_seed(&rng, (uint64_t)(n * 1000 + k));
    for (int64_t i = 0; i < M * n; i++) f.student[i] = (float)qn_rng_normal(&rng);
    for (int64_t i = 0; i < M * n; i++) f.teacher[i] = 2.0f * (float)qn_rng_normal(&rng);
    for (int64_t r = 0; r < M; r++) f.targets[r] = (int32_t)(r * 31 % n);
    for (int64_t r = 0; r < M; r++) pick_top(&f, r);
    for (int64_t r = 0; r < M; r++) pick_samples(&f, r);
    return f;
}

static void release(fixture *f) {
    free(f->student);
    free(f->teacher);
    free(f->ids);
    free(f->log_probs);
    free(f->samples);
}

/* Logits turned into gradients; owned by the caller. */
static float *run(fixture *f, bool with_top, int n_threads) {
    const qni_loss_top top = {.ids = f->ids,
                              .log_probs = f->log_probs,
                              .tail_log_prob = f->tail,
                              .k = f->k,
                              .n_samples = f->n_samples,
                              .sample_ids = f->samples,
                              .sample_log_prob = f->sample_log_prob};
    float *logits = malloc(sizeof *logits * (size_t)(M * f->n));
    memcpy(logits, f->student, sizeof *logits * (size_t)(M * f->n));
    const qni_loss_args args = {.logits = logits,
                                .teacher = with_top ? NULL : f->teacher,
                                .top = with_top ? &top : NULL,
                                .m = M,
                                .n = f->n,
                                .targets = f->targets,
                                .ce_factor = f->ce_factor,
                                .kl_factor = f->kl_factor,
                                .ce = f->ce,
                                .kl = f->kl};
    g_ops->loss(g_ops, &args, n_threads);
    return logits;
}

/* What the others add to the divergence in double, of logits S [n] less TOTAL the logarithm of the student's probabilities. */
static double naive_rest(const fixture *f, int64_t row, const double *s, double total) {
    const int32_t *ids = f->ids + row * f->k;
    const double log_q = (double)f->tail[row];
    double rest = 0.0, rest_shift = -HUGE_VAL, kl = 0.0;
    if (f->k == f->n || !(exp(log_q) > 0.0)) return 0.0;
    for (int64_t i = 0; i < f->n_samples; i++)
        kl += (double)f->sample_log_prob[row] - (s[f->samples[row * f->n_samples + i]] - total);
    if (f->n_samples > 0) return exp(log_q) * kl / (double)f->n_samples;
    for (int pass = 0; pass < 2; pass++) {
        int64_t at = 0;
        for (int64_t i = 0; i < f->n; i++) {
            if (at < f->k && ids[at] == i)
                at++;
            else if (pass == 0)
                rest_shift = fmax(rest_shift, s[i]);
            else
                rest += exp(s[i] - rest_shift);
        }
    }
    return exp(log_q) * (log_q - (log(rest) + rest_shift - total));
}

/* Losses of one row in double, logits S [n] in double too. */
static double naive(const fixture *f, int64_t row, const double *s, double *ce, double *kl) {
    double shift = s[0], sum = 0.0;
    for (int64_t i = 1; i < f->n; i++) shift = fmax(shift, s[i]);
    for (int64_t i = 0; i < f->n; i++) sum += exp(s[i] - shift);
    const double total = shift + log(sum);
    *ce = total - s[f->targets[row]];
    *kl = 0.0;
    for (int64_t i = row * f->k; i < (row + 1) * f->k; i++) {
        const double log_q = (double)f->log_probs[i];
        *kl += exp(log_q) * (log_q - (s[f->ids[i]] - total));
    }
    *kl += naive_rest(f, row, s, total);
    return f->ce_factor * *ce + f->kl_factor * *kl;
}

static double slope(const fixture *f, int64_t row, double *s, int64_t i) {
    const double kept = s[i];
    double ce, kl;
    s[i] = kept + STEP;
    const double above = naive(f, row, s, &ce, &kl);
    s[i] = kept - STEP;
    const double below = naive(f, row, s, &ce, &kl);
    s[i] = kept;
    return (above - below) / (2.0 * STEP);
}

static void check_row(const fixture *f, int64_t row, const float *got) {
    double *s = malloc(sizeof *s * (size_t)f->n), ce, kl, largest = 0.0;
    for (int64_t i = 0; i < f->n; i++) s[i] = (double)f->student[row * f->n + i];
    (void)naive(f, row, s, &ce, &kl);
    if (!(fabs(f->ce[row] - ce) <= LOSS_TOLERANCE * (1.0 + ce)) ||
        !(fabs(f->kl[row] - kl) <= LOSS_TOLERANCE * (1.0 + kl)))
        fail_msg("n %lld k %lld row %lld: got %.12g and %.12g, want %.12g and %.12g", (long long)f->n,
                 (long long)f->k, (long long)row, f->ce[row], f->kl[row], ce, kl);
    for (int64_t i = 0; i < f->n; i++) largest = fmax(largest, fabs((double)got[i]));
    assert_true(largest > 0.0);
    for (int64_t i = 0; i < f->n; i++) {
        const double want = slope(f, row, s, i);
        if (!(fabs((double)got[i] - want) <= GRADIENT_TOLERANCE * fmax(largest, 0.1)))
            fail_msg("n %lld k %lld row %lld [%lld]: got %.9g, want %.9g", (long long)f->n, (long long)f->k,
                     (long long)row, (long long)i, (double)got[i], want);
    }
    free(s);
}

static void check(fixture *f) {
    float *got = run(f, true, 2);
    for (int64_t r = 0; r < M; r++) check_row(f, r, got + r * f->n);
    free(got);
}

static void test_losses_and_slopes(void **state) {
    static const int64_t sizes[][3] = {{2, 1, 0},     {37, 1, 0},   {37, 5, 0},    {64, 63, 0},
                                       {300, 257, 0}, {700, 64, 0}, {37, 37, 0},   {2, 1, 1},
                                       {37, 1, 5},    {64, 63, 3},  {300, 257, 9}, {700, 64, 32}};
    static const double factors[][2] = {{0.7, 0.3}, {0.0, 1.0}, {1.0, 0.0}};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fixture f = make_fixture(sizes[i][0], sizes[i][1], sizes[i][2]);
        for (int j = 0; j < 3; j++) {
            f.ce_factor = factors[j][0];
            f.kl_factor = factors[j][1];
            check(&f);
        }
        release(&f);
    }
}

static void test_all_ids_are_the_whole_teacher(void **state) {
    static const int64_t sizes[] = {2, 37, 600};
    (void)state;
    for (int i = 0; i < 3; i++) {
        fixture f = make_fixture(sizes[i], sizes[i], 0);
        for (int64_t r = 0; r < M; r++) f.tail[r] = NAN; /* not read */
        double kl[M];
        float *want = run(&f, false, 1);
        memcpy(kl, f.kl, sizeof kl);
        float *got = run(&f, true, 1);
        for (int64_t r = 0; r < M; r++) assert_true(fabs(f.kl[r] - kl[r]) <= LOSS_TOLERANCE * (1.0 + kl[r]));
        for (int64_t j = 0; j < M * f.n; j++) assert_true(fabsf(got[j] - want[j]) <= 1e-6f);
        free(got);
        free(want);
        release(&f);
    }
}

/* The top holds all of the teacher's mass: the student's rest is only pushed down. */
static void check_no_mass(int64_t n_samples) {
    fixture f = make_fixture(50, 4, n_samples);
    for (int64_t r = 0; r < M; r++) {
        double mass = 0.0;
        for (int64_t i = 0; i < f.k; i++) mass += exp((double)f.log_probs[r * f.k + i]);
        for (int64_t i = 0; i < f.k; i++) f.log_probs[r * f.k + i] -= (float)log(mass);
        f.tail[r] = f.sample_log_prob[r] = -INFINITY;
    }
    check(&f);
    release(&f);
}

static void test_no_mass_outside_the_top(void **state) {
    (void)state;
    check_no_mass(0);
    check_no_mass(4);
}

/* A student that leaves less than f32 can hold to the ids outside the top, where the teacher has a tenth: 1 - sum of the top
 * is 0 there, and the quotient of the two masses overflows. */
static void check_a_student_without_mass(int64_t n_samples) {
    fixture f = make_fixture(40, 3, n_samples);
    for (int64_t r = 0; r < M; r++) {
        float *s = f.student + r * f.n;
        for (int64_t i = 0; i < f.n; i++) s[i] -= 150.0f;
        for (int64_t i = 0; i < f.k; i++) s[f.ids[r * f.k + i]] += 150.0f;
    }
    check(&f);
    for (int64_t r = 0; r < M; r++) assert_true(f.kl[r] > 10.0);
    release(&f);
}

static void test_a_student_without_mass_outside_the_top(void **state) {
    (void)state;
    check_a_student_without_mass(0);
    check_a_student_without_mass(6);
}

/* The student is the teacher: no divergence whatever was drawn, and a gradient of the draw's noise alone. */
static void test_a_student_that_is_the_teacher(void **state) {
    fixture f = make_fixture(300, 20, 9);
    (void)state;
    memcpy(f.student, f.teacher, sizeof *f.student * (size_t)(M * f.n));
    free(run(&f, true, 1));
    for (int64_t r = 0; r < M; r++) assert_true(fabs(f.kl[r]) <= LOSS_TOLERANCE);
    release(&f);
}

static void check_threads(int64_t n_samples) {
    fixture f = make_fixture(700, 64, n_samples);
    float *first = run(&f, true, 1);
    for (int threads = 2; threads <= 5; threads++) {
        float *other = run(&f, true, threads);
        assert_memory_equal(first, other, sizeof *first * (size_t)(M * f.n));
        free(other);
    }
    free(first);
    release(&f);
}

static void test_threads_change_no_byte(void **state) {
    (void)state;
    check_threads(0);
    check_threads(32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses_and_slopes),
        cmocka_unit_test(test_all_ids_are_the_whole_teacher),
        cmocka_unit_test(test_no_mass_outside_the_top),
        cmocka_unit_test(test_a_student_without_mass_outside_the_top),
        cmocka_unit_test(test_a_student_that_is_the_teacher),
        cmocka_unit_test(test_threads_change_no_byte),
    };
    return cmocka_run_group_tests(tests, open_ops, close_ops);
}
