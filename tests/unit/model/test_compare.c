/* Two models on the same text: against plain sums in double, a model against itself, any threads and batches. */
#include "naive_forward.h"
#include "quern/model/compare.h"
#include "quern/model/score.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NATS_TOLERANCE 2e-6   /* of f32 logits of a few units; sums in double */
#define SELF_KL        0.0    /* the same logits twice: every term is exactly zero */
#define EXACT          1e-12  /* the same numbers summed in another order */
#define STUDENT_5      2.5706 /* 97.5 % point, 5 degrees of freedom */
#define STUDENT_SLACK  4e-3

enum { VOCAB = 83, N_WINDOWS = 6, N_IDS = 90 };

/* Windows of uneven lengths; two of them overlap. */
static const qn_window k_windows[N_WINDOWS] = {
    {.first = 0, .n_ids = 2, .first_target = 1},    {.first = 2, .n_ids = 20, .first_target = 1},
    {.first = 12, .n_ids = 20, .first_target = 10}, {.first = 32, .n_ids = 7, .first_target = 6},
    {.first = 39, .n_ids = 33, .first_target = 4},  {.first = 72, .n_ids = 18, .first_target = 1}};

typedef struct opened {
    char *folder;
    tiny_model *tiny;
    qn_model *model;
} opened;

static opened open_tiny(tiny_options options) {
    opened o = {.folder = make_temporary_folder()};
    qn_error err = {0};
    if (!options.vocab) options.vocab = VOCAB;
    o.tiny = tiny_model_make(&options);
    tiny_model_write(o.tiny, o.folder, "F32", 1);
    if (qn_model_open(o.folder, &o.model, &err) != QN_OK) fail_msg("%s", err.message);
    return o;
}

static void close_tiny(opened *o) {
    qn_model_close(o->model);
    tiny_model_free(o->tiny);
    remove_tree(o->folder);
    free(o->folder);
}

typedef struct fixture {
    opened base, candidate;
    int32_t ids[N_IDS];
    qn_windows windows;
} fixture;

/* Models of different shapes over one vocabulary. */
static void setup(fixture *f) {
    *f =
        (fixture){.base = open_tiny((tiny_options){.seed = 3}),
                  .candidate = open_tiny((tiny_options){.seed = 4, .hidden = 40, .layers = 1, .tied = true})};
    for (int i = 0; i < N_IDS; i++) f->ids[i] = (i * i * 7 + i * 13) % VOCAB;
    f->windows = (qn_windows){
        .ids = f->ids, .n_ids = N_IDS, .windows = (qn_window *)(uintptr_t)k_windows, .n_windows = N_WINDOWS};
}

static void teardown(fixture *f) {
    close_tiny(&f->base);
    close_tiny(&f->candidate);
}

static qn_comparison compare(const qn_model *base, const qn_model *candidate, const qn_windows *windows,
                             int n_threads, double *differences) {
    const qn_context ctx = {.n_threads = n_threads};
    qn_comparison result = {0};
    qn_error err = {0};
    if (qn_compare(base, candidate, windows, QN_COMPUTE_F32, &ctx, differences, &result, &err) != QN_OK)
        fail_msg("%s", err.message);
    return result;
}

static void expect_near(const char *what, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s: got %.12g, want %.12g", what, got, want);
}

/* ---- the truth, in double ---- */

typedef struct naive {
    double base, difference, kl, agreement;
    double differences[N_WINDOWS], targets[N_WINDOWS];
    double n;
} naive;

static double log_sum(const double *s) {
    double sum = 0.0;
    for (int i = 0; i < VOCAB; i++) sum += exp(s[i]);
    return log(sum);
}

static int top(const double *s) {
    int best = 0;
    for (int i = 1; i < VOCAB; i++)
        if (s[i] > s[best]) best = i;
    return best;
}

static void add_position(naive *sums, int64_t window, const double *b, const double *c, int32_t target) {
    const double log_b = log_sum(b), log_c = log_sum(c),
                 difference = (log_c - c[target]) - (log_b - b[target]);
    sums->base += log_b - b[target];
    sums->difference += difference;
    sums->differences[window] += difference;
    sums->agreement += top(b) == top(c);
    for (int i = 0; i < VOCAB; i++) sums->kl += exp(b[i] - log_b) * ((b[i] - log_b) - (c[i] - log_c));
    sums->targets[window] += 1.0;
    sums->n += 1.0;
}

static naive compare_naively(const fixture *f) {
    naive sums = {0};
    for (int64_t w = 0; w < N_WINDOWS; w++) {
        const qn_window *window = &k_windows[w];
        const int32_t *ids = f->ids + window->first;
        double *b = naive_logits(f->base.tiny, ids, window->n_ids);
        double *c = naive_logits(f->candidate.tiny, ids, window->n_ids);
        for (int64_t t = window->first_target; t < window->n_ids; t++)
            add_position(&sums, w, b + (t - 1) * VOCAB, c + (t - 1) * VOCAB, ids[t]);
        free(b);
        free(c);
    }
    return sums;
}

static void test_against_plain_sums(void **state) {
    (void)state;
    fixture f;
    double differences[N_WINDOWS], spread = 0.0;
    setup(&f);
    const naive want = compare_naively(&f);
    const qn_comparison got = compare(f.base.model, f.candidate.model, &f.windows, 0, differences);
    assert_true(got.n_targets == (int64_t)want.n && got.n_windows == N_WINDOWS);
    expect_near("base", got.base_nats, want.base / want.n, NATS_TOLERANCE);
    expect_near("difference", got.difference, want.difference / want.n, NATS_TOLERANCE);
    expect_near("candidate", got.candidate_nats, (want.base + want.difference) / want.n, NATS_TOLERANCE);
    expect_near("divergence", got.kl_nats, want.kl / want.n, NATS_TOLERANCE);
    expect_near("agreement", got.agreement, want.agreement / want.n, EXACT);
    for (int w = 0; w < N_WINDOWS; w++) {
        const double rest = want.differences[w] - want.targets[w] * want.difference / want.n;
        expect_near("window", differences[w], want.differences[w], NATS_TOLERANCE * want.targets[w]);
        spread += rest * rest;
    }
    const double error = sqrt(spread * N_WINDOWS / (N_WINDOWS - 1)) / want.n;
    assert_true(error > 0.001);
    expect_near("standard error", got.std_error, error, NATS_TOLERANCE);
    expect_near("reach", (got.high - got.low) / 2.0, STUDENT_5 * error, STUDENT_SLACK * STUDENT_5 * error);
    expect_near("middle", (got.high + got.low) / 2.0, got.difference, EXACT);
    teardown(&f);
}

/* The same text by the scorer, which never holds a whole row of logits. */
static void test_agrees_with_score(void **state) {
    (void)state;
    fixture f;
    qn_score_result base, candidate;
    setup(&f);
    f.windows.target_bytes = 1;
    const qn_comparison got = compare(f.base.model, f.candidate.model, &f.windows, 0, NULL);
    assert_int_equal(qn_score(f.base.model, &f.windows, QN_COMPUTE_F32, NULL, NULL, &base, NULL), QN_OK);
    assert_int_equal(qn_score(f.candidate.model, &f.windows, QN_COMPUTE_F32, NULL, NULL, &candidate, NULL),
                     QN_OK);
    expect_near("base", got.base_nats, base.nats, NATS_TOLERANCE);
    expect_near("candidate", got.candidate_nats, candidate.nats, NATS_TOLERANCE);
    teardown(&f);
}

static void test_model_against_itself(void **state) {
    (void)state;
    fixture f;
    setup(&f);
    const qn_comparison same = compare(f.base.model, f.base.model, &f.windows, 0, NULL);
    assert_true(same.difference == 0.0 && same.std_error == 0.0 && same.low == 0.0 && same.high == 0.0);
    assert_true(same.kl_nats == SELF_KL && same.agreement == 1.0 && same.base_nats == same.candidate_nats);
    /* Turned round, the difference changes its sign and nothing else. */
    const qn_comparison there = compare(f.base.model, f.candidate.model, &f.windows, 0, NULL);
    const qn_comparison back = compare(f.candidate.model, f.base.model, &f.windows, 0, NULL);
    assert_true(there.difference == -back.difference && there.agreement == back.agreement);
    expect_near("standard error", back.std_error, there.std_error, EXACT);
    assert_true(there.kl_nats > 0.0 && back.kl_nats > 0.0 && there.kl_nats != back.kl_nats);
    teardown(&f);
}

static void test_threads_do_not_matter(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 5};
    fixture f;
    qn_comparison first = {0};
    setup(&f);
    for (int t = 0; t < 3; t++) {
        const qn_comparison got = compare(f.base.model, f.candidate.model, &f.windows, threads[t], NULL);
        if (t == 0) first = got;
        assert_memory_equal(&got, &first, sizeof got);
    }
    teardown(&f);
}

/* More targets than one chunk of logits has, and more tokens than one batch. */
static void test_chunks_and_batches_do_not_matter(void **state) {
    (void)state;
    enum { MANY = 150, LENGTH = 500, SHIFT = 2 };
    fixture f;
    static int32_t ids[MANY * SHIFT + LENGTH];
    static qn_window list[MANY];
    double all[MANY], alone;
    setup(&f);
    const int64_t n_ids = MANY * SHIFT + LENGTH;
    for (int64_t i = 0; i < n_ids; i++) ids[i] = (int32_t)((i * 29 + i * i) % VOCAB);
    for (int64_t i = 0; i < MANY; i++)
        list[i] = (qn_window){.first = i * SHIFT, .n_ids = LENGTH, .first_target = 1 + i};
    const qn_windows many = {.ids = ids, .n_ids = n_ids, .windows = list, .n_windows = MANY};
    compare(f.base.model, f.candidate.model, &many, 0, all);
    for (int64_t i = 0; i < MANY; i += 29) {
        const qn_windows one = {.ids = ids, .n_ids = n_ids, .windows = list + i, .n_windows = 1};
        const qn_comparison got = compare(f.base.model, f.candidate.model, &one, 0, &alone);
        expect_near("window alone", alone, all[i], NATS_TOLERANCE * (double)(LENGTH - 1 - i));
        assert_true(isinf(got.std_error) && isinf(got.low) && got.low < 0.0 && isinf(got.high) &&
                    got.high > 0.0);
    }
    teardown(&f);
}

static void test_band(void **state) {
    (void)state;
    static const struct {
        double low, difference, high;
        qn_verdict verdict;
        bool certain;
    } cases[] = {
        {-0.05, -0.03, -0.021, QN_VERDICT_BETTER, true},    {-0.05, -0.03, -0.01, QN_VERDICT_BETTER, false},
        {-0.02, 0.0, 0.02, QN_VERDICT_WITHIN, true},        {-0.021, 0.0, 0.01, QN_VERDICT_WITHIN, false},
        {0.0, 0.02, 0.04, QN_VERDICT_WITHIN, false},        {0.021, 0.03, 0.039, QN_VERDICT_WORSE, true},
        {-HUGE_VAL, 1.0, HUGE_VAL, QN_VERDICT_WORSE, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const qn_comparison c = {
            .low = cases[i].low, .difference = cases[i].difference, .high = cases[i].high};
        bool certain = !cases[i].certain;
        assert_int_equal(qn_comparison_verdict(&c, &certain), cases[i].verdict);
        assert_int_equal(certain, cases[i].certain);
        assert_int_equal(qn_comparison_verdict(&c, NULL), cases[i].verdict);
    }
    assert_string_equal(qn_verdict_name(QN_VERDICT_BETTER), "better");
    assert_string_equal(qn_verdict_name(QN_VERDICT_WITHIN), "within");
    assert_string_equal(qn_verdict_name(QN_VERDICT_WORSE), "worse");
}

static bool stop(void *user) {
    (void)user;
    return true;
}

static void expect_refused(const fixture *f, const qn_model *candidate, const qn_windows *windows,
                           const qn_context *ctx, qn_status status, const char *words) {
    qn_comparison result, before;
    qn_error err = {0};
    memset(&result, 0x5a, sizeof result);
    before = result;
    assert_int_equal(qn_compare(f->base.model, candidate, windows, QN_COMPUTE_F32, ctx, NULL, &result, &err),
                     status);
    if (!strstr(err.message, words)) fail_msg("'%s' does not say '%s'", err.message, words);
    assert_memory_equal(&result, &before, sizeof result);
}

static void test_refusals(void **state) {
    (void)state;
    fixture f;
    setup(&f);
    opened other = open_tiny((tiny_options){.vocab = VOCAB + 1});
    qn_windows none = f.windows, loose = f.windows;
    const qn_window outside = {.first = N_IDS - 1, .n_ids = 2, .first_target = 1};
    none.n_windows = 0;
    loose.windows = (qn_window *)(uintptr_t)&outside;
    loose.n_windows = 1;
    expect_refused(&f, other.model, &f.windows, NULL, QN_E_SHAPE, "vocabulary of 84 is not the base's of 83");
    expect_refused(&f, f.candidate.model, &none, NULL, QN_E_ARGUMENT, "no window");
    expect_refused(&f, f.candidate.model, &loose, NULL, QN_E_ARGUMENT, "window 0");
    expect_refused(&f, f.candidate.model, &f.windows, &(qn_context){.is_cancelled = stop}, QN_E_CANCELLED,
                   "");
    f.ids[40] = VOCAB;
    expect_refused(&f, f.candidate.model, &f.windows, NULL, QN_E_VALUE, "83");
    close_tiny(&other);
    teardown(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_plain_sums),
        cmocka_unit_test(test_agrees_with_score),
        cmocka_unit_test(test_model_against_itself),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_chunks_and_batches_do_not_matter),
        cmocka_unit_test(test_band),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
