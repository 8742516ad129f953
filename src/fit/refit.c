/* The best scales of 64 rows for fixed codes.
 *
 * Row by row the codes of slot k, zero outside its group, are a vector b_k, and q = sum_k s_k b_k + fixed, where `fixed` holds the
 * values of q4 inputs. With A_kl = b_k^T H b_l and g = b^T H (w - q) the change d of the scales solves (A + ridge diag A) d = g.
 *
 * H b_k is one panel product of the group's rows of H; by symmetry it is wanted from the group's first column on only: half of
 * a descent's work. Eight rows are solved side by side, by L D L^T in double, which costs K^3 / 6 for K unknowns: a trifle for
 * groups of 32 and more. Beyond MAX_UNKNOWNS they are taken in runs of that many which overlap by a quarter, each against the
 * residual the runs before it have left (block Gauss-Seidel), so that the cost grows with K only. */
#include "base/alloc.h"
#include "base/clones.h"
#include "base/smaller.h"
#include "fit/hessian_tile.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { SOLVED = 8, MAX_UNKNOWNS = 256, STEP_UNKNOWNS = 192, MAX_ROUNDS = 4 };

/* A scale may shrink and grow by these factors; beyond, its group's codes no longer fit it. */
static const double least_change = 0.2, most_change = 4;

/* A pivot this small beside its diagonal is rounding: that scale stays. */
static const double smallest_pivot = 1e-9;

typedef float vector __attribute__((vector_size(64)));
enum { VECTOR = 16 };

typedef double solved[SOLVED]; /* one number of eight rows */

struct qni_refit {
    int64_t n;             /* slots to solve for: K */
    int64_t native_places; /* places [0, ..) lie in native groups, the rest in q4 */
    int64_t
        *basis_row; /* [K + 1] where the codes of slot k start in `basis`; the last: values of q4 inputs */
    int64_t *slot_of_place; /* [native_places] first slot of the group */
    float *basis;           /* [rows][64] */
    float *pairs;           /* [K (K + 1) / 2][64] A, lower triangle by rows */
    double *target;         /* [K][64] b_k^T H (w - fixed) */
    float *product;         /* [48][64] */
    solved *matrix;         /* lower triangle of one run */
    solved *unknowns;       /* [7][run]: see run_work */
};

static int64_t pair_at(int64_t i, int64_t j) {
    return i * (i + 1) / 2 + j;
}

static qn_status alloc_arrays(qni_refit *r, int64_t basis_rows, qn_error *err) {
    const int64_t run = qni_min(r->n, MAX_UNKNOWNS);
    QN_TRY(QNI_ALLOC(r->basis, basis_rows * QNI_LANES, "a refit of scales", err));
    QN_TRY(QNI_ALLOC(r->pairs, pair_at(r->n, 0) * QNI_LANES, "a refit of scales", err));
    QN_TRY(QNI_ALLOC(r->target, r->n * QNI_LANES, "a refit of scales", err));
    QN_TRY(QNI_ALLOC(r->product, QNI_BLOCK * QNI_LANES, "a refit of scales", err));
    QN_TRY(QNI_ALLOC(r->matrix, pair_at(run, 0), "a refit of scales", err));
    return QNI_ALLOC(r->unknowns, 7 * run, "a refit of scales", err);
}

static qn_status init_layout(qni_refit *r, const qni_problem *p, qn_error *err) {
    int64_t rows = 0;
    r->n = p->n_native;
    r->native_places = p->slots[p->n_native - 1].last;
    QN_TRY(QNI_ALLOC(r->basis_row, r->n + 1, "a refit of scales", err));
    QN_TRY(QNI_ALLOC(r->slot_of_place, r->native_places, "a refit of scales", err));
    for (int64_t s = 0; s < r->n; s++) {
        const qni_slot *slot = &p->slots[s];
        r->basis_row[s] = rows;
        rows += slot->last - slot->first;
        for (int64_t place = slot->first; place < slot->last && slot->plane == 0; place++)
            r->slot_of_place[place] = s;
    }
    r->basis_row[r->n] = rows;
    return alloc_arrays(r, rows + p->cols - r->native_places, err);
}

qn_status qni_refit_new(qni_refit **out, const qni_problem *p, qn_error *err) {
    qni_refit *r = qni_alloc_array(1, sizeof *r);
    if (!r) return qni_fail_nomem(err, "a refit of scales");
    const qn_status status = init_layout(r, p, err);
    if (status != QN_OK) {
        qni_refit_free(r);
        return status;
    }
    *out = r;
    return QN_OK;
}

void qni_refit_free(qni_refit *refit) {
    if (!refit) return;
    free(refit->basis_row);
    free(refit->slot_of_place);
    free(refit->basis);
    free(refit->pairs);
    free(refit->target);
    free(refit->product);
    free(refit->matrix);
    free(refit->unknowns);
    free(refit);
}

static float *basis_of(const qni_refit *r, int64_t slot) {
    return r->basis + r->basis_row[slot] * QNI_LANES;
}

QNI_CLONES
static void widen_codes(const int8_t *q, float *out) {
    for (int t = 0; t < QNI_LANES; t++) out[t] = (float)q[t];
}

QNI_CLONES
static void take_lane_values(const float *w, const float *e, float *out) {
    for (int t = 0; t < QNI_LANES; t++) out[t] = w[t] - e[t];
}

/* Codes of native slots and values of q4 inputs, by place. */
static void gather_basis(const qni_tile *tile) {
    const qni_problem *p = tile->p;
    const qni_refit *r = tile->refit;
    for (int64_t s = 0; s < r->n; s++) {
        const qni_slot *slot = &p->slots[s];
        for (int64_t place = slot->first; place < slot->last; place++) {
            widen_codes(tile->q[slot->plane] + p->place_position[place] * QNI_LANES,
                        basis_of(r, s) + (place - slot->first) * QNI_LANES);
        }
    }
    for (int64_t place = r->native_places; place < p->cols; place++) {
        const int64_t at = p->place_position[place] * QNI_LANES;
        take_lane_values(tile->w + at, tile->e + at,
                         basis_of(r, r->n) + (place - r->native_places) * QNI_LANES);
    }
}

/* sum[t] += sum over rows of a[row][t] * b[row][t]. */
QNI_CLONES
static void add_lane_products(const float *a, const float *b, int64_t rows, float *sum) {
    vector s[QNI_LANES / VECTOR];
    memcpy(s, sum, sizeof s);
    for (int64_t i = 0; i < rows; i++) {
        for (int v = 0; v < QNI_LANES / VECTOR; v++) {
            vector x, y;
            memcpy(&x, a + i * QNI_LANES + v * VECTOR, sizeof x);
            memcpy(&y, b + i * QNI_LANES + v * VECTOR, sizeof y);
            s[v] += x * y;
        }
    }
    memcpy(sum, s, sizeof s);
}

static void add_to_target(const float *sum, double sign, double *target) {
    for (int t = 0; t < QNI_LANES; t++) target[t] += sign * (double)sum[t];
}

/* Columns [place, end) of H b_k, which stand in PRODUCT, all of one group or all of q4. */
static void fold(const qni_tile *tile, int64_t k, int64_t place, int64_t end, const float *product) {
    const qni_refit *r = tile->refit;
    if (place >= r->native_places) {
        float sum[QNI_LANES] = {0};
        add_lane_products(product, basis_of(r, r->n) + (place - r->native_places) * QNI_LANES, end - place,
                          sum);
        add_to_target(sum, -1, r->target + k * QNI_LANES);
        return;
    }
    const int64_t first_slot = r->slot_of_place[place];
    const qni_slot *slot = &tile->p->slots[first_slot];
    const int n_planes = tile->p->out->bands[slot->band].spec.n_planes;
    for (int64_t l = first_slot; l < first_slot + n_planes; l++) {
        if (l < k) continue;
        add_lane_products(product, basis_of(r, l) + (place - slot->first) * QNI_LANES, end - place,
                          r->pairs + pair_at(l, k) * QNI_LANES);
    }
}

/* The end of the run of places from PLACE on that belong together, at most LIMIT. */
static int64_t end_of_group(const qni_tile *tile, int64_t place, int64_t limit) {
    const qni_refit *r = tile->refit;
    if (place >= r->native_places) return limit;
    return qni_min(limit, tile->p->slots[r->slot_of_place[place]].last);
}

/* A_kl for l >= k, and what the q4 inputs take from the target. */
static void multiply_slot(const qni_tile *tile, int64_t k) {
    const qni_problem *p = tile->p;
    const qni_refit *r = tile->refit;
    const qni_slot *slot = &p->slots[k];
    const qni_strips *h = &p->by_place;
    for (int64_t s = slot->first / QNI_STRIP; s < h->n_strips; s += QNI_BLOCK_STRIPS) {
        const int64_t left = h->n_strips - s, n = qni_min(left, QNI_BLOCK_STRIPS), origin = s * QNI_STRIP;
        const int64_t last = qni_min(p->cols, origin + n * QNI_STRIP);
        memset(r->product, 0, QNI_BLOCK * QNI_LANES * sizeof *r->product);
        qni_panel_add(h, s, n, slot->first, slot->last, basis_of(r, k), r->product);
        for (int64_t place = origin > slot->first ? origin : slot->first, end; place < last; place = end) {
            end = end_of_group(tile, place, last);
            fold(tile, k, place, end, r->product + (place - origin) * QNI_LANES);
        }
    }
}

static void multiply_all(const qni_tile *tile) {
    const qni_refit *r = tile->refit;
    memset(r->pairs, 0, (size_t)(pair_at(r->n, 0) * QNI_LANES) * sizeof *r->pairs);
    memset(r->target, 0, (size_t)(r->n * QNI_LANES) * sizeof *r->target);
    for (int64_t k = 0; k < r->n; k++) {
        const qni_slot *slot = &tile->p->slots[k];
        for (int64_t place = slot->first; place < slot->last; place++) {
            float sum[QNI_LANES] = {0};
            add_lane_products(tile->hw + tile->p->place_position[place] * QNI_LANES,
                              basis_of(r, k) + (place - slot->first) * QNI_LANES, 1, sum);
            add_to_target(sum, 1, r->target + k * QNI_LANES);
        }
        multiply_slot(tile, k);
    }
}

/* Slots [first, first + n) of rows [lane, lane + 8) of the tile. */
typedef struct run_work {
    const qni_refit *r;
    int64_t first, n, lane;
    double ridge;
    solved *matrix;                                 /* lower triangle */
    solved *old, *gradient, *diagonal, *may_change; /* [n]; may_change: 1 or 0 */
    solved *right, *inverse, *change;               /* [n] */
} run_work;

static const float *pair_row(const run_work *run, int64_t i, int64_t j) {
    return run->r->pairs + (i >= j ? pair_at(i, j) : pair_at(j, i)) * QNI_LANES + run->lane;
}

/* gradient = target - A s over all slots. */
QNI_CLONES
static void take_run_gradient(const run_work *run, const float *scales) {
    for (int64_t k = 0; k < run->n; k++) {
        solved sum;
        const int64_t i = run->first + k;
        for (int t = 0; t < SOLVED; t++) sum[t] = run->r->target[i * QNI_LANES + run->lane + t];
        for (int64_t l = 0; l < run->r->n; l++) {
            const float *a = pair_row(run, i, l), *s = scales + l * QNI_LANES + run->lane;
            for (int t = 0; t < SOLVED; t++) sum[t] -= (double)a[t] * (double)s[t];
        }
        const float *a = pair_row(run, i, i), *s = scales + i * QNI_LANES + run->lane;
        for (int t = 0; t < SOLVED; t++) {
            run->gradient[k][t] = sum[t];
            run->diagonal[k][t] = (double)a[t];
            run->old[k][t] = (double)s[t];
            run->may_change[k][t] = a[t] > 0 && s[t] > 0 ? 1 : 0;
        }
    }
}

/* The system of those that may change; the others stand alone with a right-hand side of 0. */
QNI_CLONES
static void take_run_matrix(const run_work *run) {
    for (int64_t i = 0; i < run->n; i++) {
        for (int64_t j = 0; j < i; j++) {
            const float *a = pair_row(run, run->first + i, run->first + j);
            for (int t = 0; t < SOLVED; t++) {
                run->matrix[pair_at(i, j)][t] = (double)a[t] * run->may_change[i][t] * run->may_change[j][t];
            }
        }
        for (int t = 0; t < SOLVED; t++) {
            run->matrix[pair_at(i, i)][t] = run->diagonal[i][t] * (1 + run->ridge);
            run->right[i][t] = run->gradient[i][t] * run->may_change[i][t];
        }
    }
}

/* matrix becomes L D below the diagonal. */
QNI_CLONES
static void factor_run(const run_work *run) {
    for (int64_t k = 0; k < run->n; k++) {
        const double *pivot = run->matrix[pair_at(k, k)];
        for (int t = 0; t < SOLVED; t++) {
            const bool sound = pivot[t] > smallest_pivot * run->diagonal[k][t];
            run->inverse[k][t] = sound ? 1 / (sound ? pivot[t] : 1) : 0;
        }
        for (int64_t i = k + 1; i < run->n; i++) {
            solved factor;
            for (int t = 0; t < SOLVED; t++) factor[t] = run->matrix[pair_at(i, k)][t] * run->inverse[k][t];
            for (int64_t j = k + 1; j <= i; j++) {
                for (int t = 0; t < SOLVED; t++)
                    run->matrix[pair_at(i, j)][t] -= factor[t] * run->matrix[pair_at(j, k)][t];
            }
        }
    }
}

QNI_CLONES
static void substitute_run(const run_work *run) {
    for (int64_t k = 0; k < run->n; k++) {
        for (int64_t i = k + 1; i < run->n; i++) {
            for (int t = 0; t < SOLVED; t++)
                run->right[i][t] -= run->matrix[pair_at(i, k)][t] * (run->right[k][t] * run->inverse[k][t]);
        }
    }
    for (int64_t k = run->n - 1; k >= 0; k--) {
        solved sum;
        for (int t = 0; t < SOLVED; t++) sum[t] = run->right[k][t];
        for (int64_t i = k + 1; i < run->n; i++) {
            for (int t = 0; t < SOLVED; t++) sum[t] -= run->matrix[pair_at(i, k)][t] * run->change[i][t];
        }
        for (int t = 0; t < SOLVED; t++) run->change[k][t] = sum[t] * run->inverse[k][t];
    }
}

/* Forbids changes beyond the limits; true when there were none. */
static bool check_changes(const run_work *run) {
    bool fine = true;
    for (int64_t k = 0; k < run->n; k++) {
        for (int t = 0; t < SOLVED; t++) {
            const double old = run->old[k][t], now = old + run->change[k][t];
            if (now >= least_change * old && now <= most_change * old) continue;
            run->may_change[k][t] = run->change[k][t] = 0;
            fine = false;
        }
    }
    return fine;
}

/* What the changes take from the error of each row: d (2 g - A d). */
static void find_gain(const run_work *run, solved gain) {
    for (int t = 0; t < SOLVED; t++) gain[t] = 0;
    for (int64_t i = 0; i < run->n; i++) {
        solved sum;
        for (int t = 0; t < SOLVED; t++) sum[t] = 2 * run->gradient[i][t];
        for (int64_t j = 0; j < run->n; j++) {
            const float *a = pair_row(run, run->first + i, run->first + j);
            for (int t = 0; t < SOLVED; t++) sum[t] -= (double)a[t] * run->change[j][t];
        }
        for (int t = 0; t < SOLVED; t++) gain[t] += run->change[i][t] * sum[t];
    }
}

static void solve_run(const run_work *run, float *scales) {
    solved gain;
    take_run_gradient(run, scales);
    for (int round = 0; round < MAX_ROUNDS; round++) {
        take_run_matrix(run);
        factor_run(run);
        substitute_run(run);
        if (check_changes(run)) break;
    }
    find_gain(run, gain);
    for (int64_t k = 0; k < run->n; k++) {
        float *scale = scales + (run->first + k) * QNI_LANES + run->lane;
        for (int t = 0; t < SOLVED; t++) {
            if (gain[t] > 0) scale[t] = (float)(run->old[k][t] + run->change[k][t]);
        }
    }
}

static run_work make_run(const qni_refit *r, double ridge) {
    const int64_t most = qni_min(r->n, MAX_UNKNOWNS);
    solved *u = r->unknowns;
    return (run_work){.r = r,
                      .ridge = ridge,
                      .matrix = r->matrix,
                      .old = u,
                      .gradient = u + most,
                      .diagonal = u + 2 * most,
                      .may_change = u + 3 * most,
                      .right = u + 4 * most,
                      .inverse = u + 5 * most,
                      .change = u + 6 * most};
}

static void solve_all(const qni_refit *r, double ridge, float *scales) {
    run_work run = make_run(r, ridge);
    for (run.lane = 0; run.lane < QNI_LANES; run.lane += SOLVED) {
        for (run.first = 0; run.first < r->n; run.first += STEP_UNKNOWNS) {
            run.n = qni_min(MAX_UNKNOWNS, r->n - run.first);
            solve_run(&run, scales);
            if (run.first + run.n == r->n) break;
        }
    }
}

/* e = w - (s1 q1 + s2 q2), as the levels are computed. */
QNI_CLONES
static void decode_lanes(const float *w, const float *s, const int8_t *q1, const int8_t *q2, float *e) {
    for (int t = 0; t < QNI_LANES; t++) {
        float value = s[t] * (float)q1[t];
        if (q2) value += s[QNI_LANES + t] * (float)q2[t];
        e[t] = w[t] - value;
    }
}

void qni_tile_refit(qni_tile *tile) {
    const qni_problem *p = tile->p;
    gather_basis(tile);
    multiply_all(tile);
    solve_all(tile->refit, p->options->ridge, tile->scales);
    for (int64_t place = 0; place < tile->refit->native_places; place++) {
        const int64_t at = p->place_position[place] * QNI_LANES;
        const qni_input *input = &p->inputs[p->place_position[place]];
        decode_lanes(tile->w + at, tile->scales + input->slot * QNI_LANES, tile->q[0] + at,
                     input->n_planes == 2 ? tile->q[1] + at : NULL, tile->e + at);
    }
}
