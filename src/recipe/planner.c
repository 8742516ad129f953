#include "recipe/planner.h"

#include "base/alloc.h"
#include "base/smaller.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

enum {
    MAX_STEPS = 72,          /* counts tried a kind: at most MAX_STEPS^2 / 2 rows a table */
    BYTES_BISECTIONS = 60,   /* of lambda: to the last bit that matters of its exponent's range */
    WEIGHTS_BISECTIONS = 30, /* of mu */
};

/* One row of a matrix's table: small, there are some thousands a matrix. */
typedef struct option {
    int32_t n_double, n_q4; /* lines */
    int64_t n_bytes;
    double loss;
} option;

typedef struct table {
    option *options;      /* owned; basis after basis */
    int64_t n, n_a_basis; /* in all, and of each basis */
    int64_t chosen;
    int64_t line_weights;           /* of a line */
    int64_t *orders[QNI_MAX_BASES]; /* owned [lines]: by falling sensitivity */
} table;

typedef struct planner {
    const qni_plan_matrix *matrices;
    int64_t n;
    const qni_band_codecs *codecs;
    qni_plan_limits limits;
    table *tables; /* owned [n] */
} planner;

typedef struct ranked {
    double sensitivity;
    int64_t line;
} ranked;

static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->sensitivity != y->sensitivity) return x->sensitivity < y->sensitivity ? 1 : -1;
    return (x->line > y->line) - (x->line < y->line);
}

static int64_t lines_of(const qni_plan_matrix *m) {
    return m->axis == QN_AXIS_ROWS ? m->rows : m->cols;
}

/* The shape with these counts; bands without lines are left out, and one band alone lies along the rows. */
static qn_encoded shape_of(const qni_plan_matrix *m, const qni_band_codecs *codecs, int basis,
                           const int64_t n_lines[QNI_BAND_KIND_COUNT]) {
    qn_encoded e = {.rows = m->rows,
                    .cols = m->cols,
                    .axis = m->axis,
                    .hadamard = m->bases[basis].hadamard,
                    .column_scaled = m->column_scaled};
    for (int k = 0; k < QNI_BAND_KIND_COUNT; k++) {
        if (n_lines[k] == 0) continue;
        e.bands[e.n_bands++] = (qn_band){
            .codec = codecs->of[k], .n_planes = k == QNI_BAND_DOUBLE ? 2 : 1, .n_lines = n_lines[k]};
    }
    if (e.n_bands == 1) {
        e.axis = QN_AXIS_ROWS;
        e.bands[0].n_lines = m->rows;
    }
    return e;
}

static int64_t q4_weights_of(const table *t, const option *o) {
    return o->n_q4 * t->line_weights;
}

static void count_lines(const qni_plan_matrix *m, const option *o, int64_t n_lines[QNI_BAND_KIND_COUNT]) {
    n_lines[QNI_BAND_SINGLE] = lines_of(m) - o->n_double - o->n_q4;
    n_lines[QNI_BAND_DOUBLE] = o->n_double;
    n_lines[QNI_BAND_Q4] = o->n_q4;
}

static qn_status rank_lines(const double *sensitivity, int64_t n, int64_t *order, double *sums,
                            qn_error *err) {
    ranked *lines = qni_alloc_array(n, sizeof *lines);
    if (!lines) return qni_fail_nomem(err, "ranked lines");
    for (int64_t j = 0; j < n; j++) lines[j] = (ranked){sensitivity[j], j};
    qsort(lines, (size_t)n, sizeof *lines, compare_ranked);
    sums[0] = 0.0;
    for (int64_t j = 0; j < n; j++) {
        order[j] = lines[j].line;
        sums[j + 1] = sums[j] + lines[j].sensitivity;
    }
    free(lines);
    return QN_OK;
}

/* Sums of the sensitivities of the first lines in one basis. */
typedef struct ranking {
    int basis;
    const double *sums; /* [lines + 1] */
} ranking;

static option make_option(const planner *p, const qni_plan_matrix *m, const ranking *r, int64_t n_double,
                          int64_t n_q4) {
    const int64_t n = lines_of(m), n_fine = n_q4 + n_double;
    const double *sums = r->sums, *error = m->bases[r->basis].relative_error;
    option o = {.n_double = (int32_t)n_double, .n_q4 = (int32_t)n_q4};
    int64_t n_lines[QNI_BAND_KIND_COUNT];
    count_lines(m, &o, n_lines);
    const qn_encoded shape = shape_of(m, p->codecs, r->basis, n_lines);
    o.n_bytes = qn_encoded_bytes(&shape);
    o.loss = 0.5 * (error[QNI_BAND_Q4] * sums[n_q4] + error[QNI_BAND_DOUBLE] * (sums[n_fine] - sums[n_q4]) +
                    error[QNI_BAND_SINGLE] * (sums[n] - sums[n_fine]));
    return o;
}

/* Lines that fill whole bytes of a native row: only multiples of them come without padding. */
static int64_t unit_of(const qni_plan_matrix *m, qn_code code) {
    if (m->axis == QN_AXIS_ROWS) return 1;
    return code == QN_CODE_SIGN ? 8 : 5;
}

/* All counts on a grid: native bands of whole bytes, and none at all of a kind that may not be used. */
static int64_t fill_options(const planner *p, const qni_plan_matrix *m, const ranking *r, option *out) {
    const int64_t n = lines_of(m), unit = unit_of(m, p->codecs->of[QNI_BAND_SINGLE].code);
    const int64_t step = unit * ((n + unit * MAX_STEPS - 1) / (unit * MAX_STEPS));
    const int64_t max_q4 = p->codecs->of[QNI_BAND_Q4].code != QN_CODE_NONE ? n : 0;
    int64_t count = 0, n_q4 = 0;
    if (m->is_forced) {
        if (out)
            *out =
                make_option(p, m, r, m->forced == QNI_BAND_DOUBLE ? n : 0, m->forced == QNI_BAND_Q4 ? n : 0);
        return 1;
    }
    while (n_q4 <= max_q4) {
        const int64_t native = n - n_q4;
        const int64_t max_double = p->codecs->of[QNI_BAND_DOUBLE].code != QN_CODE_NONE ? native : 0;
        for (int64_t n_double = 0; n_double <= max_double; n_double += step) {
            if (out) out[count] = make_option(p, m, r, n_double, n_q4);
            count++;
        }
        if (max_double % step) { /* all of them */
            if (out) out[count] = make_option(p, m, r, native, n_q4);
            count++;
        }
        if (n_q4 == max_q4) break;
        n_q4 = qni_min(n_q4 == 0 && n % step ? n % step : n_q4 + step, max_q4);
    }
    return count;
}

static qn_status make_table(const planner *p, const qni_plan_matrix *m, table *out, qn_error *err) {
    const int64_t n = lines_of(m);
    double *sums = qni_alloc_array(n + 1, sizeof *sums);
    ranking r = {.sums = sums};
    if (!sums) return qni_fail_nomem(err, "a plan");
    out->line_weights = m->rows * m->cols / n;
    out->n_a_basis = fill_options(p, m, &r, NULL);
    out->options = qni_alloc_array(m->n_bases * out->n_a_basis, sizeof *out->options);
    qn_status status = out->options ? QN_OK : qni_fail_nomem(err, "a plan");
    for (; r.basis < m->n_bases && status == QN_OK; r.basis++) {
        int64_t *order = out->orders[r.basis] = qni_alloc_array(n, sizeof *order);
        status = order ? rank_lines(m->bases[r.basis].sensitivity, n, order, sums, err)
                       : qni_fail_nomem(err, "a plan");
        if (status == QN_OK) out->n += fill_options(p, m, &r, out->options + out->n);
    }
    free(sums);
    return status;
}

typedef struct totals {
    int64_t n_bytes, q4_weights;
} totals;

static totals total_of(const planner *p) {
    totals t = {0, 0};
    for (int64_t i = 0; i < p->n; i++) {
        const option *o = &p->tables[i].options[p->tables[i].chosen];
        t.n_bytes += o->n_bytes;
        t.q4_weights += q4_weights_of(&p->tables[i], o);
    }
    return t;
}

/* The best row of each table at these prices. */
static totals choose(planner *p, double lambda, double mu) {
    for (int64_t i = 0; i < p->n; i++) {
        table *t = &p->tables[i];
        double best = HUGE_VAL;
        for (int64_t k = 0; k < t->n; k++) {
            const option *o = &t->options[k];
            const double cost = o->loss + lambda * (double)o->n_bytes + mu * (double)q4_weights_of(t, o);
            if (cost >= best) continue;
            best = cost;
            t->chosen = k;
        }
    }
    return total_of(p);
}

/* Prices are tried on a logarithmic scale: exp2 of a number in these bounds, nats a byte and nats a weight. The highest price of a
 * weight outbids that of all the bytes it could save. */
static const double k_lowest_price = -100.0, k_highest_price = 60.0, k_highest_weight_price = 80.0;

/* The lowest mu whose choices keep within the q4 limit. */
static totals choose_within_weights(planner *p, double lambda) {
    totals t = choose(p, lambda, 0.0);
    if (t.q4_weights <= p->limits.max_q4_weights) return t;
    double low = k_lowest_price, high = k_highest_weight_price;
    for (int i = 0; i < WEIGHTS_BISECTIONS; i++) {
        const double middle = 0.5 * (low + high);
        t = choose(p, lambda, exp2(middle));
        if (t.q4_weights <= p->limits.max_q4_weights)
            high = middle;
        else
            low = middle;
    }
    return choose(p, lambda, exp2(high));
}

static void choose_within_bytes(planner *p) {
    double low = k_lowest_price, high = k_highest_price;
    for (int i = 0; i < BYTES_BISECTIONS; i++) {
        const double middle = 0.5 * (low + high);
        if (choose_within_weights(p, exp2(middle)).n_bytes <= p->limits.max_bytes)
            high = middle;
        else
            low = middle;
    }
    choose_within_weights(p, exp2(high));
}

/* Spends what is left: again and again the one change of one matrix that buys most for its bytes. */
static void spend_rest(planner *p) {
    for (;;) {
        const totals now = total_of(p);
        double best_rate = 0.0;
        int64_t best_matrix = -1, best_option = 0;
        for (int64_t i = 0; i < p->n; i++) {
            const table *t = &p->tables[i];
            const option *from = &t->options[t->chosen];
            for (int64_t k = 0; k < t->n; k++) {
                const option *to = &t->options[k];
                const int64_t price = to->n_bytes - from->n_bytes;
                if (to->loss >= from->loss || price > p->limits.max_bytes - now.n_bytes ||
                    q4_weights_of(t, to) - q4_weights_of(t, from) > p->limits.max_q4_weights - now.q4_weights)
                    continue;
                const double rate = (from->loss - to->loss) / (double)(price > 0 ? price : 1);
                if (rate <= best_rate) continue;
                best_rate = rate;
                best_matrix = i;
                best_option = k;
            }
        }
        if (best_matrix < 0) return;
        p->tables[best_matrix].chosen = best_option;
    }
}

static qn_status take_choice(const planner *p, int64_t index, qni_plan_choice *out, qn_error *err) {
    const qni_plan_matrix *m = &p->matrices[index];
    const table *t = &p->tables[index];
    const option *o = &t->options[t->chosen];
    const int basis = (int)(t->chosen / t->n_a_basis);
    qni_plan_choice choice = {.n_bytes = o->n_bytes, .loss = o->loss};
    uint8_t band_of_kind[QNI_BAND_KIND_COUNT] = {0}, n_bands = 0;
    count_lines(m, o, choice.n_lines);
    choice.shape = shape_of(m, p->codecs, basis, choice.n_lines);
    for (int k = 0; k < QNI_BAND_KIND_COUNT; k++)
        if (choice.n_lines[k] > 0) band_of_kind[k] = n_bands++;
    /* A single band lies along the rows, whatever the axis was. */
    choice.line_band = qni_alloc_array(m->rows > m->cols ? m->rows : m->cols, 1);
    if (!choice.line_band) return qni_fail_nomem(err, "a plan");
    for (int64_t j = 0; n_bands > 1 && j < lines_of(m); j++) {
        const qni_band_kind kind = j < o->n_q4                 ? QNI_BAND_Q4
                                   : j < o->n_q4 + o->n_double ? QNI_BAND_DOUBLE
                                                               : QNI_BAND_SINGLE;
        choice.line_band[t->orders[basis][j]] = band_of_kind[kind];
    }
    *out = choice;
    return QN_OK;
}

static qn_status run(planner *p, qni_plan_choice *choices, int64_t *least_bytes, qn_error *err) {
    p->tables = qni_alloc_array(p->n, sizeof *p->tables);
    if (!p->tables) return qni_fail_nomem(err, "a plan");
    for (int64_t i = 0; i < p->n; i++) QN_TRY(make_table(p, &p->matrices[i], &p->tables[i], err));
    const totals least = choose_within_weights(p, exp2(k_highest_price));
    *least_bytes = least.n_bytes;
    if (least.q4_weights > p->limits.max_q4_weights)
        return qn_fail(err, QN_E_ARGUMENT, "%lld weights are forced into q4, %lld are allowed there",
                       (long long)least.q4_weights, (long long)p->limits.max_q4_weights);
    if (*least_bytes > p->limits.max_bytes)
        return qn_fail(err, QN_E_BUDGET, "the matrices need %lld bytes, there are %lld",
                       (long long)*least_bytes, (long long)p->limits.max_bytes);
    choose_within_bytes(p);
    spend_rest(p);
    for (int64_t i = 0; i < p->n; i++) QN_TRY(take_choice(p, i, &choices[i], err));
    return QN_OK;
}

qn_status qni_plan(const qni_plan_matrix *matrices, int64_t n, const qni_band_codecs *codecs,
                   const qni_plan_limits *limits, qni_plan_choice *choices, int64_t *least_bytes,
                   qn_error *err) {
    planner p = {.matrices = matrices, .n = n, .codecs = codecs, .limits = *limits};
    const qn_status status = run(&p, choices, least_bytes, err);
    for (int64_t i = 0; p.tables && i < n; i++) {
        free(p.tables[i].options);
        for (int b = 0; b < QNI_MAX_BASES; b++) free(p.tables[i].orders[b]);
    }
    free(p.tables);
    return status;
}

void qni_plan_choice_release(qni_plan_choice *choice) {
    free(choice->line_band);
    *choice = (qni_plan_choice){0};
}
