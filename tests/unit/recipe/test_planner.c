/* The planner against every plan there is: small random matrices, all counts of lines, bytes summed part by part. */
#include "recipe/planner.h"

#include "expect_error.h"
#include "test_data.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_MATRICES = 3,
    MAX_LINES = 120,
    MAX_PLANS = (MAX_LINES + 1) * (MAX_LINES + 2) / 2 /* in one basis; shorter matrices have two */
};
static const int64_t k_no_limit = INT64_C(1) << 40;
/* Sums of a hundred doubles in another order. */
static const double k_sum_tolerance = 1e-12;

static uint64_t random_state;

static double random_uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static int64_t random_below(int64_t n) {
    return (int64_t)(random_uniform() * (double)n);
}

/* ------------------------------------------------------------------------------------------- problems */

typedef struct problem {
    int64_t n;
    qni_plan_matrix matrices[MAX_MATRICES];
    double sensitivity[MAX_MATRICES][QNI_MAX_BASES][MAX_LINES];
    qni_band_codecs codecs;
} problem;

static void set_codecs(problem *p, qn_code code, int32_t group_size, qn_scale_code scale) {
    const qn_codec codec = {code, group_size, scale};
    p->codecs = (qni_band_codecs){{codec, codec, {QN_CODE_Q4, 128, scale}}};
}

static int64_t lines_of(const qni_plan_matrix *m) {
    return m->axis == QN_AXIS_ROWS ? m->rows : m->cols;
}

/* Sensitivities over three orders of magnitude, as those of a model's columns are, or SPREAD. */
static void add_basis(problem *p, int64_t i, int32_t hadamard, double size, double spread) {
    qni_plan_matrix *m = &p->matrices[i];
    const int b = m->n_bases++;
    const bool is_sign = p->codecs.of[QNI_BAND_SINGLE].code == QN_CODE_SIGN;
    m->bases[b] = (qni_plan_basis){.hadamard = hadamard,
                                   .sensitivity = p->sensitivity[i][b],
                                   .relative_error = {is_sign ? 0.36 : 0.19, is_sign ? 0.12 : 0.028, 0.0115}};
    for (int64_t j = 0; j < lines_of(m); j++)
        p->sensitivity[i][b][j] = size * pow(10.0, spread * (random_uniform() - 0.5));
}

static void add_matrix(problem *p, int64_t rows, int64_t cols, qn_axis axis) {
    const int64_t i = p->n++;
    const double size = pow(10.0, 2.0 * random_uniform() - 4.0);
    p->matrices[i] = (qni_plan_matrix){.rows = rows, .cols = cols, .axis = axis};
    add_basis(p, i, 0, size, 3.0);
}

static void random_problem(problem *p, uint64_t seed, qn_axis axis, int64_t n_lines) {
    *p = (problem){0};
    random_state = seed * 977 + 5;
    set_codecs(p, seed % 2 ? QN_CODE_SIGN : QN_CODE_TERNARY, 16, seed / 2 % 2 ? QN_SCALE_LOG6 : QN_SCALE_F16);
    for (int64_t i = 0, n = n_lines < 20 ? 2 + (int64_t)(seed % 2) : 2; i < n; i++) {
        const int64_t other = 24 + random_below(200);
        if (axis == QN_AXIS_ROWS)
            add_matrix(p, n_lines, other, axis);
        else
            add_matrix(p, other, n_lines, axis);
    }
}

/* ------------------------------------------------------------------------------------------- every plan */

/* One way to cut a matrix; bytes as the format defines them. */
typedef struct cut {
    int basis;
    int64_t n_double, n_q4, n_bytes, q4_weights;
    double loss;
} cut;

static int64_t band_bytes(const problem *p, const qni_plan_matrix *m, int kind, int64_t n_lines, bool alone) {
    const qn_codec codec = p->codecs.of[kind];
    const bool by_rows = m->axis == QN_AXIS_ROWS || alone, transposed = !by_rows && kind == QNI_BAND_Q4;
    const int64_t n = alone ? m->rows : n_lines;
    const int64_t rows = by_rows || transposed ? n : m->rows;
    const int64_t cols = by_rows ? m->cols : transposed ? m->rows : n;
    const int64_t n_scales = rows * qn_codec_groups(codec, cols);
    const int64_t grid = codec.scale == QN_SCALE_LOG6 ? 8 : 0;
    const int64_t scales = codec.scale == QN_SCALE_LOG6 ? (6 * n_scales + 7) / 8 : 2 * n_scales;
    const int64_t planes = kind == QNI_BAND_DOUBLE ? 2 : 1;
    return planes * (grid + scales + rows * qn_codec_code_bytes(codec, cols));
}

static int compare_falling(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

static cut make_cut(const problem *p, int64_t i, int basis, int64_t n_double, int64_t n_q4) {
    const qni_plan_matrix *m = &p->matrices[i];
    const int64_t n = lines_of(m), n_lines[] = {n - n_double - n_q4, n_double, n_q4};
    const int n_bands = (n_lines[0] > 0) + (n_lines[1] > 0) + (n_lines[2] > 0);
    cut c = {
        .basis = basis, .n_double = n_double, .n_q4 = n_q4, .q4_weights = n_q4 * (m->rows * m->cols / n)};
    if (n_bands > 1) c.n_bytes = (n * (n_bands - 1) + 7) / 8;
    for (int k = 0; k < QNI_BAND_KIND_COUNT; k++)
        if (n_lines[k] > 0) c.n_bytes += band_bytes(p, m, k, n_lines[k], n_bands == 1);
    double sorted[MAX_LINES];
    memcpy(sorted, m->bases[basis].sensitivity, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_falling);
    for (int64_t j = 0; j < n; j++) {
        const int kind = j < n_q4 ? QNI_BAND_Q4 : j < n_q4 + n_double ? QNI_BAND_DOUBLE : QNI_BAND_SINGLE;
        c.loss += 0.5 * m->bases[basis].relative_error[kind] * sorted[j];
    }
    return c;
}

static int64_t cuts_in_basis(const problem *p, int64_t i, int basis, cut *cuts) {
    const int64_t n = lines_of(&p->matrices[i]);
    const int64_t max_q4 = p->codecs.of[QNI_BAND_Q4].code ? n : 0;
    int64_t count = 0;
    for (int64_t n_q4 = 0; n_q4 <= max_q4; n_q4++) {
        const int64_t max_double = p->codecs.of[QNI_BAND_DOUBLE].code ? n - n_q4 : 0;
        for (int64_t n_double = 0; n_double <= max_double; n_double++)
            cuts[count++] = make_cut(p, i, basis, n_double, n_q4);
    }
    return count;
}

static int64_t all_cuts(const problem *p, int64_t i, cut cuts[MAX_PLANS]) {
    int64_t count = 0;
    for (int b = 0; b < p->matrices[i].n_bases; b++) count += cuts_in_basis(p, i, b, cuts + count);
    return count;
}

typedef struct tables {
    cut cuts[MAX_MATRICES][MAX_PLANS];
    int64_t n[MAX_MATRICES];
    /* Those that no other beats in bytes, q4 weights and loss. */
    cut front[MAX_MATRICES][MAX_PLANS];
    int64_t n_front[MAX_MATRICES];
} tables;

static int compare_bytes(const void *a, const void *b) {
    const cut *x = a, *y = b;
    if (x->n_bytes != y->n_bytes) return x->n_bytes < y->n_bytes ? -1 : 1;
    return (x->loss > y->loss) - (x->loss < y->loss);
}

static void find_front(tables *t, int64_t i) {
    cut *sorted = calloc((size_t)t->n[i], sizeof *sorted);
    assert_non_null(sorted);
    memcpy(sorted, t->cuts[i], (size_t)t->n[i] * sizeof *sorted);
    qsort(sorted, (size_t)t->n[i], sizeof *sorted, compare_bytes);
    for (int64_t k = 0; k < t->n[i]; k++) {
        bool beaten = false;
        for (int64_t f = 0; f < t->n_front[i] && !beaten; f++)
            beaten =
                t->front[i][f].q4_weights <= sorted[k].q4_weights && t->front[i][f].loss <= sorted[k].loss;
        if (!beaten) t->front[i][t->n_front[i]++] = sorted[k];
    }
    free(sorted);
}

static tables *make_tables(const problem *p) {
    tables *t = calloc(1, sizeof *t);
    assert_non_null(t);
    for (int64_t i = 0; i < p->n; i++) {
        t->n[i] = all_cuts(p, i, t->cuts[i]);
        find_front(t, i);
    }
    return t;
}

/* Least loss within the limits from matrix I on; INFINITY where nothing fits. */
static double least_loss(const problem *p, const tables *t, int64_t i, qni_plan_limits left) {
    if (i >= p->n || i >= MAX_MATRICES) return 0.0;
    double best = (double)INFINITY;
    for (int64_t k = 0; k < t->n_front[i]; k++) {
        const cut *c = &t->front[i][k];
        if (c->n_bytes > left.max_bytes || c->q4_weights > left.max_q4_weights) continue;
        const qni_plan_limits rest = {left.max_bytes - c->n_bytes, left.max_q4_weights - c->q4_weights};
        best = fmin(best, c->loss + least_loss(p, t, i + 1, rest));
    }
    return best;
}

static int64_t bytes_in_total(const problem *p, const tables *t, bool most) {
    int64_t total = 0;
    for (int64_t i = 0; i < p->n; i++) {
        int64_t best = t->cuts[i][0].n_bytes;
        for (int64_t k = 1; k < t->n[i]; k++) {
            const int64_t bytes = t->cuts[i][k].n_bytes;
            if (most ? bytes > best : bytes < best) best = bytes;
        }
        total += best;
    }
    return total;
}

static int64_t weights_of(const problem *p) {
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++) n += p->matrices[i].rows * p->matrices[i].cols;
    return n;
}

/* ------------------------------------------------------------------------------------------- what any plan must be */

typedef struct plan {
    qni_plan_choice choices[MAX_MATRICES];
    int64_t n, n_bytes, q4_weights, least_bytes;
    double loss;
} plan;

static void plan_release(plan *p) {
    for (int64_t i = 0; i < p->n; i++) qni_plan_choice_release(&p->choices[i]);
}

static const cut *cut_of(const problem *p, const tables *t, const qni_plan_choice *c, int64_t i) {
    for (int64_t k = 0; k < t->n[i]; k++) {
        const cut *found = &t->cuts[i][k];
        if (found->n_double == c->n_lines[QNI_BAND_DOUBLE] && found->n_q4 == c->n_lines[QNI_BAND_Q4] &&
            p->matrices[i].bases[found->basis].hadamard == c->shape.hadamard)
            return found;
    }
    fail_msg("matrix %d of %d: counts that are no cut", (int)i, (int)p->n);
    return NULL;
}

/* Kinds in stored order; a more sensitive line never lies in a coarser band. */
static void check_lines(const problem *p, const qni_plan_choice *c, int64_t i, int basis) {
    const qni_plan_matrix *m = &p->matrices[i];
    const double *sensitivity = m->bases[basis].sensitivity;
    int kind_of_band[QN_MAX_BANDS], n_bands = 0;
    int64_t counted[QN_MAX_BANDS] = {0};
    double least[QN_MAX_BANDS], most[QN_MAX_BANDS];
    for (int k = 0; k < QNI_BAND_KIND_COUNT; k++)
        if (c->n_lines[k] > 0) kind_of_band[n_bands++] = k;
    assert_int_equal(c->shape.n_bands, n_bands);
    for (int b = 0; b < n_bands; b++) {
        const qn_codec codec = p->codecs.of[kind_of_band[b]];
        assert_memory_equal(&c->shape.bands[b].codec, &codec, sizeof codec);
        assert_int_equal(c->shape.bands[b].n_planes, kind_of_band[b] == QNI_BAND_DOUBLE ? 2 : 1);
        least[b] = (double)INFINITY;
        most[b] = 0.0;
    }
    for (int64_t j = 0; n_bands > 1 && j < lines_of(m); j++) {
        const int b = c->line_band[j];
        assert_in_range(b, 0, n_bands - 1);
        counted[b]++;
        least[b] = fmin(least[b], sensitivity[j]);
        most[b] = fmax(most[b], sensitivity[j]);
    }
    for (int b = 0; n_bands > 1 && b < n_bands; b++) {
        assert_int_equal(counted[b], c->shape.bands[b].n_lines);
        assert_int_equal(counted[b], c->n_lines[kind_of_band[b]]);
        if (b > 0) assert_true(least[b] >= most[b - 1]);
    }
}

static void check_choice(const problem *p, const tables *t, const qni_plan_choice *c, int64_t i) {
    const qni_plan_matrix *m = &p->matrices[i];
    const cut *expected = cut_of(p, t, c, i);
    assert_ok(qn_encoded_check_shape(&c->shape, "planned", err));
    assert_int_equal(c->shape.rows, m->rows);
    assert_int_equal(c->shape.cols, m->cols);
    assert_int_equal(c->shape.axis, c->shape.n_bands == 1 ? QN_AXIS_ROWS : m->axis);
    assert_int_equal(c->n_bytes, expected->n_bytes);
    assert_int_equal(c->n_bytes, qn_encoded_bytes(&c->shape));
    assert_true(fabs(c->loss - expected->loss) <= k_sum_tolerance * expected->loss);
    int64_t n = 0;
    for (int k = 0; k < QNI_BAND_KIND_COUNT; k++) n += c->n_lines[k];
    assert_int_equal(n, lines_of(m));
    if (c->shape.n_bands == 1) { /* a caller may read a band for each line of either axis */
        assert_int_equal(c->shape.bands[0].n_lines, m->rows);
        for (int64_t j = 0; j < m->rows || j < m->cols; j++) assert_int_equal(c->line_band[j], 0);
    }
    check_lines(p, c, i, expected->basis);
}

/* Plans, and checks all that holds for every plan. */
static plan planned(const problem *p, const tables *t, qni_plan_limits limits) {
    plan result = {.n = p->n};
    assert_ok(qni_plan(p->matrices, p->n, &p->codecs, &limits, result.choices, &result.least_bytes, err));
    for (int64_t i = 0; i < p->n; i++) {
        check_choice(p, t, &result.choices[i], i);
        result.n_bytes += result.choices[i].n_bytes;
        result.q4_weights += cut_of(p, t, &result.choices[i], i)->q4_weights;
        result.loss += result.choices[i].loss;
    }
    assert_true(result.n_bytes <= limits.max_bytes);
    assert_true(result.q4_weights <= limits.max_q4_weights);
    return result;
}

/* No other cut of a single matrix would lower the loss and still fit. */
static void expect_spent(const problem *p, const tables *t, const plan *made, qni_plan_limits limits) {
    for (int64_t i = 0; i < p->n; i++) {
        const cut *now = cut_of(p, t, &made->choices[i], i);
        for (int64_t k = 0; k < t->n[i]; k++) {
            const cut *c = &t->cuts[i][k];
            const bool fits = made->n_bytes - now->n_bytes + c->n_bytes <= limits.max_bytes &&
                              made->q4_weights - now->q4_weights + c->q4_weights <= limits.max_q4_weights;
            if (fits && c->loss < now->loss * (1.0 - k_sum_tolerance))
                fail_msg("matrix %d: %d and %d lines would still fit", (int)i, (int)c->n_double,
                         (int)c->n_q4);
        }
    }
}

/* ------------------------------------------------------------------------------------------- against all plans */

/* The largest fall of the loss between neighbours of a matrix's lower convex hull of (bytes, loss). */
static double largest_hull_step(const problem *p, const tables *t) {
    double largest = 0.0;
    for (int64_t i = 0; i < p->n; i++) {
        const cut *at = &t->cuts[i][0];
        for (int64_t k = 1; k < t->n[i]; k++) {
            const cut *c = &t->cuts[i][k];
            if (c->n_bytes < at->n_bytes || (c->n_bytes == at->n_bytes && c->loss < at->loss)) at = c;
        }
        for (;;) {
            const cut *next = NULL;
            double steepest = 0.0;
            for (int64_t k = 0; k < t->n[i]; k++) {
                const cut *c = &t->cuts[i][k];
                if (c->n_bytes <= at->n_bytes) continue;
                const double slope = (at->loss - c->loss) / (double)(c->n_bytes - at->n_bytes);
                if (slope <= steepest) continue;
                steepest = slope;
                next = c;
            }
            if (!next) break;
            largest = fmax(largest, at->loss - next->loss);
            at = next;
        }
    }
    return largest;
}

typedef struct gaps {
    double sum, worst; /* relative to the best plan */
    int n;
} gaps;

/* Without a limit on q4 the prices alone lose at most one step of one matrix (at the last price all matrices but one stand on
 * the same side of it), and spending the rest only gains. */
static void compare(const problem *p, const tables *t, qni_plan_limits limits, gaps *g) {
    plan made = planned(p, t, limits);
    const double best = least_loss(p, t, 0, limits), gap = made.loss - best;
    assert_true(gap >= -k_sum_tolerance * best);
    if (limits.max_q4_weights == k_no_limit && gap > largest_hull_step(p, t) + k_sum_tolerance)
        fail_msg("loss %g, the best plan %g, a step %g", made.loss, best, largest_hull_step(p, t));
    g->sum += gap / best;
    g->worst = fmax(g->worst, gap / best);
    g->n++;
    if (p->matrices[0].axis == QN_AXIS_ROWS) expect_spent(p, t, &made, limits);
    plan_release(&made);
}

static void sweep(qn_axis axis, int64_t n_lines, int n_seeds, double q4_share, gaps *g) {
    for (int seed = 0; seed < n_seeds; seed++) {
        problem p; /* matrices point into it */
        random_problem(&p, (uint64_t)seed, axis, n_lines);
        tables *t = make_tables(&p);
        const int64_t least = bytes_in_total(&p, t, false), most = bytes_in_total(&p, t, true);
        const int64_t max_q4 = q4_share > 0.0 ? (int64_t)(q4_share * (double)weights_of(&p)) : k_no_limit;
        for (int step = 1; step <= 6; step++) {
            const int64_t above = (most - least) * step / 8 + random_below(7);
            compare(&p, t, (qni_plan_limits){least + above, max_q4}, g);
        }
        free(t);
    }
}

/* What is allowed is about twice what was measured. */
static void expect_gaps(const gaps *g, const char *what, double mean, double worst) {
    print_message("%s: %d plans, mean gap %.4f, worst %.4f\n", what, g->n, g->sum / g->n, g->worst);
    if (g->sum / g->n > mean || g->worst > worst) fail_msg("%s: allowed %g and %g", what, mean, worst);
}

static void test_rows_against_every_plan(void **state) {
    (void)state;
    gaps g = {0};
    sweep(QN_AXIS_ROWS, 8, 24, 0.0, &g);
    expect_gaps(&g, "rows", 0.01, 0.20);
}

static void test_columns_against_every_plan(void **state) {
    (void)state;
    gaps g = {0};
    sweep(QN_AXIS_COLUMNS, 120, 12, 0.0, &g);
    expect_gaps(&g, "columns", 0.04, 0.35); /* most of it for the whole bytes that bands are cut at */
}

static void test_few_q4_weights_against_every_plan(void **state) {
    (void)state;
    gaps g = {0};
    sweep(QN_AXIS_ROWS, 8, 24, 0.25, &g);
    expect_gaps(&g, "rows, a quarter in q4", 0.015, 0.20);
}

/* Matrices of 16 columns as they are, with sensitivities over three orders of magnitude, and rotated, over one: which of them
 * costs less depends on what the budget leaves for outliers. */
static void test_bases_against_every_plan(void **state) {
    (void)state;
    gaps g = {0};
    int n_rotated = 0, n_plain = 0;
    for (int seed = 0; seed < 24; seed++) {
        problem p;
        random_problem(&p, (uint64_t)seed, QN_AXIS_ROWS, 8);
        for (int64_t i = 0; i < p.n; i++) {
            const double size = p.sensitivity[i][0][0];
            p.matrices[i].cols = 16 + 16 * random_below(8);
            add_basis(&p, i, 16, size, 1.0);
        }
        tables *t = make_tables(&p);
        const int64_t least = bytes_in_total(&p, t, false), most = bytes_in_total(&p, t, true);
        for (int step = 1; step <= 6; step++) {
            const qni_plan_limits limits = {least + (most - least) * step / 8 + random_below(7), k_no_limit};
            plan made = planned(&p, t, limits);
            for (int64_t i = 0; i < p.n; i++) {
                n_rotated += made.choices[i].shape.hadamard == 16;
                n_plain += made.choices[i].shape.hadamard == 0;
            }
            plan_release(&made);
            compare(&p, t, limits, &g);
        }
        free(t);
    }
    print_message("%d rotated, %d not\n", n_rotated, n_plain);
    assert_true(n_rotated > 20 && n_plain > 20);
    expect_gaps(&g, "two bases", 0.01, 0.20);
}

/* ------------------------------------------------------------------------------------------- the ends */

static void forbid(problem *p, qni_band_kind kind) {
    p->codecs.of[kind] = (qn_codec){0};
}

/* Nothing but one plane, one plane and two, one plane and q4: within every limit, and never the kind that is not there. */
static void test_kinds_that_may_not_be_used(void **state) {
    (void)state;
    for (int seed = 0; seed < 12; seed++) {
        problem p;
        random_problem(&p, (uint64_t)seed, seed / 4 % 2 ? QN_AXIS_COLUMNS : QN_AXIS_ROWS, 15);
        const bool no_double = seed % 3 != 1, no_q4 = seed % 3 != 2;
        if (no_double) forbid(&p, QNI_BAND_DOUBLE);
        if (no_q4) forbid(&p, QNI_BAND_Q4);
        tables *t = make_tables(&p);
        const int64_t most = bytes_in_total(&p, t, true), least = bytes_in_total(&p, t, false);
        for (int step = 2; step <= 8; step++) {
            const qni_plan_limits limits = {least + (most - least) * step / 8, k_no_limit};
            plan made = planned(&p, t, limits);
            for (int64_t i = 0; i < p.n; i++) {
                if (no_double) assert_int_equal(made.choices[i].n_lines[QNI_BAND_DOUBLE], 0);
                if (no_q4) assert_int_equal(made.choices[i].n_lines[QNI_BAND_Q4], 0);
            }
            if (p.matrices[0].axis == QN_AXIS_ROWS) expect_spent(&p, t, &made, limits);
            plan_release(&made);
        }
        free(t);
    }
}

/* With all bytes in the world every matrix is one band of the finest kind, which lies along the rows. */
static void test_single_bands(void **state) {
    (void)state;
    for (int i = 0; i < 8; i++) {
        problem p;
        random_problem(&p, (uint64_t)i, i / 4 ? QN_AXIS_COLUMNS : QN_AXIS_ROWS, 16);
        const bool in_q4 = i % 2 == 0;
        const qni_band_kind finest = in_q4 ? QNI_BAND_Q4 : QNI_BAND_DOUBLE;
        p.matrices[0].bases[0].hadamard = p.matrices[0].cols % 8 == 0 ? 8 : 0;
        tables *t = make_tables(&p);
        plan made = planned(&p, t, (qni_plan_limits){k_no_limit, in_q4 ? k_no_limit : 0});
        for (int64_t k = 0; k < p.n; k++) {
            const qn_encoded *shape = &made.choices[k].shape;
            assert_int_equal(shape->n_bands, 1);
            assert_int_equal(shape->axis, QN_AXIS_ROWS);
            assert_int_equal(shape->bands[0].n_planes, in_q4 ? 1 : 2);
            assert_int_equal(made.choices[k].n_lines[finest], 16);
        }
        plan_release(&made);
        free(t);
    }
}

/* The least bytes of native bands in whole bytes, all other lines in q4. */
static int64_t least_whole_bytes(const problem *p, const tables *t) {
    const int64_t unit = p->codecs.of[QNI_BAND_SINGLE].code == QN_CODE_SIGN ? 8 : 5;
    int64_t total = 0;
    for (int64_t i = 0; i < p->n; i++) {
        int64_t best = t->cuts[i][0].n_bytes;
        for (int64_t k = 1; k < t->n[i]; k++) {
            const cut *c = &t->cuts[i][k];
            const bool whole = (lines_of(&p->matrices[i]) - c->n_q4) % unit == 0 && c->n_double % unit == 0;
            if (whole && c->n_bytes < best) best = c->n_bytes;
        }
        total += best;
    }
    return total;
}

/* A budget below the least is refused and says it; the least itself is enough. The widths leave a byte or a
 * group that holds one column: putting that column into q4 saves bytes. */
static void test_least_bytes(void **state) {
    (void)state;
    static const int64_t widths[] = {16, 40, 17, 41, 26, 80, 33};
    for (int i = 0; i < 28; i++) {
        problem p = {0};
        random_state = (uint64_t)i;
        set_codecs(&p, i % 2 ? QN_CODE_SIGN : QN_CODE_TERNARY, 16, i / 2 % 2 ? QN_SCALE_LOG6 : QN_SCALE_F16);
        for (int64_t k = 0; k < 2; k++) add_matrix(&p, 100, widths[(i / 4 + k) % 7], QN_AXIS_COLUMNS);
        tables *t = make_tables(&p);
        const int64_t least = least_whole_bytes(&p, t);
        plan made = planned(&p, t, (qni_plan_limits){least, k_no_limit});
        assert_int_equal(made.least_bytes, least);
        assert_int_equal(made.n_bytes, least);
        plan_release(&made);

        const qni_plan_limits below = {least - 1, k_no_limit};
        qni_plan_choice choices[2] = {{.n_bytes = 77}, {.n_bytes = 78}};
        int64_t said = 0;
        char words[64];
        snprintf(words, sizeof words, "need %lld bytes|there are %lld", (long long)least,
                 (long long)(least - 1));
        assert_error(qni_plan(p.matrices, 2, &p.codecs, &below, choices, &said, err), QN_E_BUDGET, words);
        assert_int_equal(said, least);
        assert_int_equal(choices[0].n_bytes, 77);
        assert_int_equal(choices[1].n_bytes, 78);
        free(t);
    }
}

/* Where q4 would save bytes but none is left, the plan does without. */
static void test_no_q4_left(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        problem p = {0};
        random_state = (uint64_t)i;
        set_codecs(&p, i % 2 ? QN_CODE_SIGN : QN_CODE_TERNARY, 16, QN_SCALE_F16);
        add_matrix(&p, 100, i / 2 % 2 ? 17 : 81, QN_AXIS_COLUMNS);
        tables *t = make_tables(&p);
        const int64_t single = t->cuts[0][0].n_bytes;
        const int64_t max_q4 = i / 4 * 40; /* less than one column, in all three cases */
        plan made = planned(&p, t, (qni_plan_limits){single + (i % 3) * 40, max_q4});
        assert_int_equal(made.least_bytes, single);
        plan_release(&made);
        const qni_plan_limits below = {single - 1, max_q4};
        qni_plan_choice choice = {0};
        int64_t said = 0;
        assert_error(qni_plan(p.matrices, 1, &p.codecs, &below, &choice, &said, err), QN_E_BUDGET, "need");
        assert_int_equal(said, single);
        free(t);
    }
}

/* Equal lines go to the finer bands from the first on; the same plan every time. */
static void test_ties(void **state) {
    (void)state;
    for (int axis = 0; axis < 2; axis++) {
        problem p;
        random_problem(&p, 3, (qn_axis)axis, 32);
        for (int64_t i = 0; i < p.n; i++)
            for (int64_t j = 0; j < 32; j++) p.sensitivity[i][0][j] = 0.001;
        tables *t = make_tables(&p);
        const int64_t least = bytes_in_total(&p, t, false), most = bytes_in_total(&p, t, true);
        for (int step = 1; step < 8; step++) {
            const qni_plan_limits limits = {least + (most - least) * step / 8, weights_of(&p) / 8};
            plan a = planned(&p, t, limits), b = planned(&p, t, limits);
            for (int64_t i = 0; i < p.n; i++) {
                assert_memory_equal(a.choices[i].n_lines, b.choices[i].n_lines, sizeof a.choices[i].n_lines);
                for (int64_t j = 0; j < 32; j++) {
                    assert_int_equal(a.choices[i].line_band[j], b.choices[i].line_band[j]);
                    if (j > 0) assert_true(a.choices[i].line_band[j] <= a.choices[i].line_band[j - 1]);
                }
            }
            plan_release(&a);
            plan_release(&b);
        }
        free(t);
    }
}

/* A forced matrix is of its kind whatever it costs, the others share what is left; more forced q4 than is allowed is refused. */
static void test_forced_kinds(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        problem p;
        random_problem(&p, (uint64_t)i, i / 6 ? QN_AXIS_COLUMNS : QN_AXIS_ROWS, 16);
        const qni_band_kind kind = (qni_band_kind)(i % 3);
        p.matrices[1].is_forced = true;
        p.matrices[1].forced = kind;
        tables *t = make_tables(&p);
        const int64_t forced_weights = kind == QNI_BAND_Q4 ? p.matrices[1].rows * p.matrices[1].cols : 0;
        const int64_t most = bytes_in_total(&p, t, true);
        plan made = planned(&p, t, (qni_plan_limits){most, forced_weights});
        assert_int_equal(made.choices[1].n_lines[kind], 16);
        plan_release(&made);
        if (kind == QNI_BAND_Q4) {
            const qni_plan_limits limits = {k_no_limit, forced_weights - 1};
            qni_plan_choice choices[MAX_MATRICES] = {{.n_bytes = 0}};
            int64_t said = 0;
            char words[64];
            snprintf(words, sizeof words, "%lld weights|%lld are allowed", (long long)forced_weights,
                     (long long)(forced_weights - 1));
            assert_error(qni_plan(p.matrices, p.n, &p.codecs, &limits, choices, &said, err), QN_E_ARGUMENT,
                         words);
        }
        free(t);
    }
}

/* Lines that cost nothing get nothing; one line is a matrix too. */
static void test_degenerate(void **state) {
    (void)state;
    problem p = {0};
    random_state = 1;
    set_codecs(&p, QN_CODE_TERNARY, 0, QN_SCALE_F16);
    add_matrix(&p, 30, 20, QN_AXIS_COLUMNS);
    add_matrix(&p, 1, 20, QN_AXIS_ROWS);
    add_matrix(&p, 1, 1, QN_AXIS_COLUMNS);
    memset(p.sensitivity[0], 0, sizeof p.sensitivity[0]);
    tables *t = make_tables(&p);
    plan made = planned(&p, t, (qni_plan_limits){k_no_limit, k_no_limit});
    assert_int_equal(made.choices[0].n_lines[QNI_BAND_SINGLE], 20);
    assert_true(made.choices[0].loss == 0.0);
    assert_int_equal(made.choices[1].n_lines[QNI_BAND_Q4], 1);
    plan_release(&made);
    free(t);
    qni_plan_choice none = {0};
    qni_plan_choice_release(&none);
}

/* More lines than a table has rows: within the budget, and no more than a step of it is left. */
static void test_many_lines(void **state) {
    (void)state;
    enum { LINES = 5003, COLS = 64 };
    double *sensitivity = malloc(LINES * sizeof *sensitivity);
    assert_non_null(sensitivity);
    random_state = 12;
    for (int j = 0; j < LINES; j++) sensitivity[j] = pow(10.0, -3.0 * random_uniform());
    const qni_plan_matrix m = {
        .rows = LINES,
        .cols = COLS,
        .n_bases = 1,
        .bases = {{.sensitivity = sensitivity, .relative_error = {0.36, 0.12, 0.0115}}}};
    problem p = {0};
    set_codecs(&p, QN_CODE_SIGN, 32, QN_SCALE_F16);
    const int64_t single = 12, q4 = 34; /* bytes of a line */
    const int64_t step = (q4 - single) * (LINES / 72 + 2);
    for (int k = 1; k < 20; k++) {
        const bool limited = k % 2;
        const qni_plan_limits limits = {single * LINES + 5000 * k, limited ? (int64_t)k * 4000 : k_no_limit};
        qni_plan_choice choice = {0};
        int64_t least = 0;
        assert_ok(qni_plan(&m, 1, &p.codecs, &limits, &choice, &least, err));
        assert_int_equal(least, single * LINES);
        assert_true(choice.n_bytes <= limits.max_bytes);
        if (!limited) assert_true(choice.n_bytes > limits.max_bytes - step);
        assert_true(choice.n_lines[QNI_BAND_Q4] * COLS <= limits.max_q4_weights);
        assert_int_equal(choice.n_bytes, qn_encoded_bytes(&choice.shape));
        qni_plan_choice_release(&choice);
    }
    free(sensitivity);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_against_every_plan),
        cmocka_unit_test(test_columns_against_every_plan),
        cmocka_unit_test(test_few_q4_weights_against_every_plan),
        cmocka_unit_test(test_bases_against_every_plan),
        cmocka_unit_test(test_kinds_that_may_not_be_used),
        cmocka_unit_test(test_single_bands),
        cmocka_unit_test(test_least_bytes),
        cmocka_unit_test(test_no_q4_left),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_forced_kinds),
        cmocka_unit_test(test_degenerate),
        cmocka_unit_test(test_many_lines),
    };
    return cmocka_run_group_tests_name("recipe planner", tests, NULL, NULL);
}
