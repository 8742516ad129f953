#include "quern/fit/hessian_fit.h"

#include "base/alloc.h"
#include "fit/hessian_tile.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "base/banned.h"

qn_hessian_fit_options qn_hessian_fit_defaults(void) {
    return (qn_hessian_fit_options){.method = QN_HESSIAN_DESCENT,
                                    .damping = 0.01,
                                    .activation_order = true,
                                    .error_decay = 1,
                                    .sweeps = 4,
                                    .ridge = 1e-3,
                                    .q4_ratios = 6,
                                    .q4_lowest_ratio = 0.6};
}

static qn_status check_options(const qn_hessian_fit_options *o, qn_error *err) {
    if (o->method < QN_HESSIAN_WEIGHTED || o->method > QN_HESSIAN_DESCENT)
        return qn_fail(err, QN_E_ARGUMENT, "fit method %d does not exist", (int)o->method);
    if (!(o->damping >= 0 && isfinite(o->damping)) || !(o->ridge >= 0 && isfinite(o->ridge)))
        return qn_fail(err, QN_E_ARGUMENT, "damping %g, ridge %g; expected 0 or more", o->damping, o->ridge);
    if (!(o->error_decay >= 0 && o->error_decay <= 1))
        return qn_fail(err, QN_E_ARGUMENT, "error decay %g; expected 0 to 1", o->error_decay);
    if (!(o->rate >= 0 && isfinite(o->rate)))
        return qn_fail(err, QN_E_ARGUMENT, "rate %g; expected 0 or more", o->rate);
    if (o->sweeps < 0) return qn_fail(err, QN_E_ARGUMENT, "%d sweeps; expected 0 or more", o->sweeps);
    if (o->q4_ratios < 1 || !(o->q4_lowest_ratio > 0 && o->q4_lowest_ratio <= 1)) {
        return qn_fail(err, QN_E_ARGUMENT, "%d q4 ratios from %g; expected 1 or more, from above 0 up to 1",
                       o->q4_ratios, o->q4_lowest_ratio);
    }
    return QN_OK;
}

/* What a tile adds to the report, in units of unit * H. */
typedef struct tile_errors {
    double energy, feedback, error;
} tile_errors;

/* One pass over all rows of a problem. */
typedef struct tile_pass {
    qni_problem *p;
    const qni_factor *factor;
    bool last_sweep;     /* the descent with stored scales, after all else */
    tile_errors *errors; /* [tiles] */
} tile_pass;

static bool is_descent(const tile_pass *pass) {
    return pass->p->options->method == QN_HESSIAN_DESCENT;
}

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Refit and descent in turn, up to the refit before the last descent. */
static void sweep_tile(qni_tile *tile, int sweeps) {
    if (tile->refit) qni_tile_multiply(tile);
    for (int sweep = 0; sweep < sweeps; sweep++) {
        if (sweep > 0) qni_tile_descend(tile, NULL);
        if (tile->refit) qni_tile_refit(tile);
    }
}

static void fit_tile(const tile_pass *pass, qni_tile *tile, int64_t row0) {
    const qn_hessian_fit_options *options = pass->p->options;
    tile_errors *errors = &pass->errors[row0 / QNI_LANES];
    qni_tile_load(tile, row0, pass->last_sweep);
    if (pass->last_sweep) {
        qni_tile_descend(tile, &errors->error);
    } else if (pass->factor) {
        errors->feedback = qni_tile_feedback(tile, pass->factor);
    } else {
        qni_tile_round(tile);
    }
    if (is_descent(pass) && !pass->last_sweep) sweep_tile(tile, options->sweeps);
    if (!is_descent(pass)) errors->error = qni_tile_energy(tile, tile->e);
    if (!pass->last_sweep) {
        errors->energy =
            tile->hw ? dot(tile->w, tile->hw, pass->p->cols * QNI_LANES) : qni_tile_energy(tile, tile->w);
    }
    qni_tile_store(tile);
}

/* The first thread is the caller's: it alone asks whether to stop. Returns the first error a thread met. */
static qn_status run_tiles(const tile_pass *pass, const qn_context *ctx, qn_error *err) {
    qn_status status = qn_check_cancelled(ctx, err);
    bool stop = status != QN_OK;
#pragma omp parallel num_threads(qn_context_threads(ctx))
    {
        qni_tile tile = {0};
        qn_error own;
        qn_status own_status = qni_tile_init(&tile, pass->p, &own);
#pragma omp for schedule(dynamic)
        for (int64_t row0 = 0; row0 < pass->p->n_rows; row0 += QNI_LANES) {
            bool stopped;
#pragma omp atomic read
            stopped = stop;
            if (stopped || own_status != QN_OK) continue;
            if (omp_get_thread_num() == 0) own_status = qn_check_cancelled(ctx, &own);
            if (own_status == QN_OK) {
                fit_tile(pass, &tile, row0);
            } else {
#pragma omp atomic write
                stop = true;
            }
        }
        if (own_status != QN_OK) {
#pragma omp critical(qni_hessian_fit)
            {
                status = own_status;
                if (err) *err = own;
            }
        }
        qni_tile_release(&tile);
    }
    return status;
}

static qn_status run_passes(tile_pass *pass, const qn_context *ctx, qn_error *err) {
    QN_TRY(qni_start_scales(pass->p, ctx, err));
    QN_TRY(qni_store_q4_scales(pass->p, err));
    if (!is_descent(pass)) QN_TRY(qni_store_native_scales(pass->p, err));
    QN_TRY(run_tiles(pass, ctx, err));
    if (!is_descent(pass)) return QN_OK;
    QN_TRY(qni_store_native_scales(pass->p, err));
    pass->last_sweep = true;
    return run_tiles(pass, ctx, err);
}

static void add_errors(const tile_pass *pass, qn_hessian_fit_report *report) {
    const double unit = (double)pass->p->metric->unit;
    for (int64_t i = 0; i < pass->p->padded_rows / QNI_LANES; i++) {
        report->energy += pass->errors[i].energy / unit;
        report->feedback_error += pass->errors[i].feedback / unit;
        report->error += pass->errors[i].error / unit;
    }
}

/* What all problems of a fit share. */
typedef struct fit {
    const float *w;
    qn_hessian_fit_options options;
    qni_metric metric;
    qni_factor factor; /* its pivots, once UPPER is made */
    qni_strips upper;
    qn_banded out;
    qn_hessian_fit_report report;
} fit;

static qn_status fit_problem(fit *f, int band, const qn_context *ctx, qn_error *err) {
    qni_problem problem = {0};
    tile_pass pass = {.p = &problem, .factor = f->factor.pivot ? &f->factor : NULL};
    qn_status status = qni_problem_init(&problem, f->w, &f->metric, &f->upper, &f->options, band, &f->out,
                                        qn_context_threads(ctx), err);
    if (status == QN_OK &&
        !(pass.errors = qni_alloc_array(problem.padded_rows / QNI_LANES, sizeof *pass.errors)))
        status = qni_fail_nomem(err, "the errors of a fit");
    if (status == QN_OK) status = run_passes(&pass, ctx, err);
    if (status == QN_OK) add_errors(&pass, &f->report);
    free(pass.errors);
    qni_problem_release(&problem);
    return status;
}

static qn_status take_factor(fit *f, const qn_context *ctx, qn_error *err) {
    QN_TRY(qni_factor_init(&f->factor, &f->metric, f->options.damping, ctx, err));
    f->report.damping = f->factor.damping;
    QN_TRY(qni_factor_upper_strips(&f->factor, qn_context_threads(ctx), &f->upper, err));
    qni_factor_keep_pivots(&f->factor);
    return QN_OK;
}

static qn_status fit_bands(fit *f, const qn_context *ctx, qn_error *err) {
    if (f->options.method != QN_HESSIAN_WEIGHTED) QN_TRY(take_factor(f, ctx, err));
    if (f->out.axis == QN_AXIS_COLUMNS) return fit_problem(f, -1, ctx, err);
    for (int b = 0; b < f->out.n_bands; b++) {
        if (f->out.bands[b].n_lines > 0) QN_TRY(fit_problem(f, b, ctx, err));
    }
    return QN_OK;
}

static qn_status finish_report(fit *f, qn_error *err) {
    qn_hessian_fit_report *r = &f->report;
    if (!isfinite(r->energy) || !isfinite(r->error)) {
        return qn_fail(err, QN_E_VALUE,
                       "the error of the fit is %g of %g: the weights are too large to be fitted in f32",
                       r->error, r->energy);
    }
    r->n_dead = f->metric.n_dead;
    r->relative_error = r->energy > 0 ? r->error / r->energy : 0;
    return QN_OK;
}

static void fit_release(fit *f) {
    qni_metric_release(&f->metric);
    qni_factor_release(&f->factor);
    qni_strips_release(&f->upper);
    qn_banded_release(&f->out);
}

qn_status qn_hessian_fit(const float *w, const float *hessian, const qn_band_shape *shape,
                         const qn_hessian_fit_options *options, const qn_context *ctx, qn_banded *out,
                         qn_hessian_fit_report *report, qn_error *err) {
    fit f = {.w = w, .options = *options};
    QN_TRY(check_options(options, err));
    if (options->method == QN_HESSIAN_DESCENT && options->sweeps == 0) f.options.method = QN_HESSIAN_FEEDBACK;
    qn_status status = qn_banded_alloc(shape, &f.out, err);
    if (status == QN_OK) {
        status = qni_metric_init(&f.metric, hessian, shape->cols, options->activation_order,
                                 qn_context_threads(ctx), err);
    }
    if (status == QN_OK) status = fit_bands(&f, ctx, err);
    if (status == QN_OK) status = finish_report(&f, err);
    if (status == QN_OK) {
        *out = f.out;
        f.out = (qn_banded){0};
        if (report) *report = f.report;
    }
    fit_release(&f);
    return status;
}

qn_status qn_feedback_diagonal(const float *hessian, int64_t cols, double damping, bool activation_order,
                               const qn_context *ctx, double *d, qn_error *err) {
    qni_metric metric = {0};
    qni_factor factor = {0};
    if (!(damping >= 0 && isfinite(damping))) return qn_fail(err, QN_E_ARGUMENT, "damping %g", damping);
    qn_status status =
        qni_metric_init(&metric, hessian, cols, activation_order, qn_context_threads(ctx), err);
    if (status == QN_OK) status = qni_factor_init(&factor, &metric, damping, ctx, err);
    for (int64_t i = 0; i < cols && status == QN_OK; i++)
        d[metric.order[i]] = factor.pivot[i] / (double)metric.unit;
    qni_factor_release(&factor);
    qni_metric_release(&metric);
    return status;
}
