#include "quern/fit/adamw.h"

#include "base/alloc.h"
#include "base/clones.h"
#include "fit/lanes.h"
#include "quern/tensor/dtype.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

/* 64 KiB an array: four of them stay in the second-level cache, and there is work enough for a thread. */
enum { TILE = 16384 };

typedef struct tile {
    int64_t group, first, n;
} tile;

typedef struct tiles {
    tile *items;  /* [n] owned */
    double *sums; /* [n] owned; of squares */
    int64_t n;
} tiles;

/* What one group's kernel needs, rounded to f32 once. */
typedef struct rates {
    float clip, keep;            /* factors of the gradient and, for the decay, of the weight */
    float first, second, forget; /* 1 - beta1, 1 - beta2, beta2 */
    float root_scale;            /* sqrt(1 - beta2^t) */
    float eps;
    float step; /* minus lr over 1 - beta1^t */
} rates;

qn_adamw_options qn_adamw_options_default(void) {
    return (qn_adamw_options){.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1.0};
}

qn_status qn_adamw_check(const qn_adamw_options *o, qn_error *err) {
    if (!(o->beta1 >= 0 && o->beta1 < 1) || !(o->beta2 >= 0 && o->beta2 < 1))
        return qn_fail(err, QN_E_ARGUMENT, "AdamW betas %g and %g: expected 0 <= beta < 1", o->beta1,
                       o->beta2);
    if (!(o->eps >= 0) || !isfinite(o->eps))
        return qn_fail(err, QN_E_ARGUMENT, "AdamW eps %g: expected a small number >= 0", o->eps);
    if (!(o->clip >= 0))
        return qn_fail(err, QN_E_ARGUMENT, "gradient clip %g: expected a norm, or 0 for none", o->clip);
    return QN_OK;
}

static void tiles_release(tiles *t) {
    free(t->items);
    free(t->sums);
}

static qn_status tiles_make(const qn_adamw_group *groups, int64_t n_groups, tiles *out, qn_error *err) {
    int64_t n = 0;
    for (int64_t g = 0; g < n_groups; g++) n += (groups[g].n + TILE - 1) / TILE;
    out->items = qni_alloc_array(n, sizeof *out->items);
    out->sums = qni_alloc_array(n, sizeof *out->sums);
    if (!out->items || !out->sums) return qni_fail_nomem(err, "the tiles of an optimiser step");
    for (int64_t g = 0; g < n_groups; g++) {
        for (int64_t first = 0; first < groups[g].n; first += TILE) {
            const int64_t left = groups[g].n - first;
            out->items[out->n++] = (tile){g, first, left < TILE ? left : TILE};
        }
    }
    return QN_OK;
}

QNI_CLONES static double sum_squares(const float *x, int64_t n) {
    qni_d8 sum = {0};
    for (int64_t i = 0; i < n; i += QNI_LANES8) {
        qni_f8 narrow;
        qni_d8 wide;
        qni_load_f8(&narrow, x, i, n);
        qni_widen(&wide, &narrow);
        sum += wide * wide;
    }
    return qni_sum_d8(&sum);
}

QNI_CLONES static void update(float *restrict w, const float *restrict g, float *restrict m,
                              float *restrict v, int64_t n, const rates *rate) {
    const rates r = *rate;
    for (int64_t i = 0; i < n; i++) {
        const float gradient = g[i] * r.clip;
        const float first = m[i] + r.first * (gradient - m[i]);
        const float second = v[i] * r.forget + (r.second * gradient) * gradient;
        const float root = sqrtf(second) / r.root_scale + r.eps;
        w[i] = w[i] * r.keep + (r.step * first) / root;
        m[i] = first;
        v[i] = second;
    }
}

static qn_status fail_nonfinite(const qn_adamw_group *groups, int64_t n_groups, qn_error *err) {
    for (int64_t g = 0; g < n_groups; g++) {
        const qn_view view = {groups[g].grad, QN_DTYPE_F32, 1, {groups[g].n}};
        const int64_t bad = qn_view_find_nonfinite(&view, 0, groups[g].n);
        if (bad < 0) continue;
        return qn_fail(err, QN_E_VALUE, "the gradient of '%s' is %s at element %lld", groups[g].name,
                       isnan(groups[g].grad[bad]) ? "NaN" : "infinite", (long long)bad);
    }
    return qn_fail(err, QN_E_INTERNAL, "the norm of finite gradients is not finite");
}

static rates rates_of(const qn_adamw_options *o, const qn_adamw_group *group, double lr, int64_t step,
                      double clip) {
    const double rate = lr * group->lr_scale;
    return (rates){.clip = (float)clip,
                   .keep = (float)(1.0 - rate * group->weight_decay),
                   .first = (float)(1.0 - o->beta1),
                   .second = (float)(1.0 - o->beta2),
                   .forget = (float)o->beta2,
                   .root_scale = (float)sqrt(1.0 - pow(o->beta2, (double)step)),
                   .eps = (float)o->eps,
                   .step = (float)(-rate / (1.0 - pow(o->beta1, (double)step)))};
}

static double clip_factor(const qn_adamw_options *o, double norm) {
    const double factor = o->clip > 0 ? o->clip / (norm + 1e-6) : 1.0;
    return factor < 1.0 ? factor : 1.0;
}

static void update_all(const qn_adamw_group *groups, const tiles *t, const qn_adamw_options *options,
                       double lr, int64_t step, double clip, int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < t->n; i++) {
        const tile *item = &t->items[i];
        const qn_adamw_group *g = &groups[item->group];
        const rates rate = rates_of(options, g, lr, step, clip);
        update(g->param + item->first, g->grad + item->first, g->m + item->first, g->v + item->first, item->n,
               &rate);
    }
}

static double global_norm(const qn_adamw_group *groups, const tiles *t, int n_threads) {
    double total = 0;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < t->n; i++)
        t->sums[i] = sum_squares(groups[t->items[i].group].grad + t->items[i].first, t->items[i].n);
    for (int64_t i = 0; i < t->n; i++) total += t->sums[i];
    return sqrt(total);
}

qn_status qn_adamw_step(const qn_adamw_group *groups, int64_t n_groups, const qn_adamw_options *options,
                        double lr, int64_t step, const qn_context *ctx, double *norm, qn_error *err) {
    const int n_threads = qn_context_threads(ctx);
    tiles t = {0};
    QN_TRY(qn_adamw_check(options, err));
    if (step < 1) return qn_fail(err, QN_E_ARGUMENT, "AdamW step %lld: steps count from 1", (long long)step);
    qn_status status = tiles_make(groups, n_groups, &t, err);
    if (status == QN_OK) {
        const double length = global_norm(groups, &t, n_threads);
        if (isfinite(length)) {
            update_all(groups, &t, options, lr, step, clip_factor(options, length), n_threads);
            if (norm) *norm = length;
        } else {
            status = fail_nonfinite(groups, n_groups, err);
        }
    }
    tiles_release(&t);
    return status;
}
