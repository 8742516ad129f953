/* Scales before any code is chosen with the full metric. */
#include "base/alloc.h"
#include "base/clones.h"
#include "fit/group_fit.h"
#include "fit/hessian_problem.h"
#include "quern/fit/closed_form.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

/* Two planes: the optimum for a normal distribution in units of its deviation, then this many alternations. */
enum { ALTERNATIONS = 8 };
static const double trit_start[QN_MAX_PLANES] = {1.35, 0.45}, sign_start[QN_MAX_PLANES] = {0.98, 0.53};

/* Adding and subtracting 1.5 * 2^23 rounds a small float to the nearest integer. */
static const float rounder = 12582912.0f;

typedef struct start_work {
    float *w, *h;   /* [max(R, C)] one stored row of a band, and its weights */
    uint16_t *bits; /* [2 max(R, C)] scales of both planes */
    qn_fit_scratch scratch;
} start_work;

static void work_release(start_work *work) {
    free(work->w);
    free(work->h);
    free(work->bits);
    qn_fit_scratch_release(&work->scratch);
}

static bool work_init(start_work *work, int64_t n) {
    *work = (start_work){.w = qni_alloc_array(n, sizeof *work->w),
                         .h = qni_alloc_array(n, sizeof *work->h),
                         .bits = qni_alloc_array(n, QN_MAX_PLANES * sizeof *work->bits)};
    return work->w && work->h && work->bits && qn_fit_scratch_init(&work->scratch, n, NULL) == QN_OK;
}

/* The normal equations of s1, s2 for the levels nearest to w. */
typedef struct plane_sums {
    double a11, a12, a22, b1, b2;
} plane_sums;

static plane_sums sum_planes(qni_choose_level *choose, const float *w, const float *h, int64_t n, float s1,
                             float s2) {
    float scale1[QNI_LANES], scale2[QNI_LANES], v[QNI_LANES] = {0}, value[QNI_LANES];
    int8_t q1[QNI_LANES], q2[QNI_LANES];
    plane_sums sums = {0};
    for (int t = 0; t < QNI_LANES; t++) {
        scale1[t] = s1;
        scale2[t] = s2;
    }
    for (int64_t first = 0; first < n; first += QNI_LANES) {
        const int64_t some = n - first < QNI_LANES ? n - first : QNI_LANES;
        for (int64_t t = 0; t < some; t++) v[t] = w[first + t];
        choose(v, scale1, scale2, value, q1, q2);
        for (int64_t t = 0; t < some; t++) {
            const double weight = h ? (double)h[first + t] : 1, x = (double)v[t];
            sums.a11 += weight * (q1[t] * q1[t]);
            sums.a12 += weight * (q1[t] * q2[t]);
            sums.a22 += weight * (q2[t] * q2[t]);
            sums.b1 += weight * q1[t] * x;
            sums.b2 += weight * q2[t] * x;
        }
    }
    return sums;
}

static void fit_two_planes(const qn_band_spec *spec, const float *w, const float *h, int64_t n,
                           uint16_t bits[2]) {
    const double *start = spec->code == QN_CODE_TERNARY ? trit_start : sign_start;
    qni_choose_level *choose = qni_level_chooser(spec);
    double energy = 0, weight = 0;
    for (int64_t i = 0; i < n; i++) {
        weight += h ? (double)h[i] : 1;
        energy += (h ? (double)h[i] : 1) * (double)w[i] * (double)w[i];
    }
    if (h && !(energy > 0)) { /* the weights say nothing */
        fit_two_planes(spec, w, NULL, n, bits);
        return;
    }
    const double sigma = sqrt(energy / weight);
    double s1 = start[0] * sigma, s2 = start[1] * sigma;
    for (int i = 0; i < ALTERNATIONS && sigma > 0; i++) {
        const plane_sums a = sum_planes(choose, w, h, n, (float)s1, (float)s2);
        const double determinant = a.a11 * a.a22 - a.a12 * a.a12;
        if (!(determinant > 1e-9 * a.a11 * a.a22)) break; /* the planes say the same */
        const double next1 = (a.a22 * a.b1 - a.a12 * a.b2) / determinant;
        const double next2 = (a.a11 * a.b2 - a.a12 * a.b1) / determinant;
        if (!(next1 > 0) || !(next2 > 0)) break;
        s1 = next1;
        s2 = next2;
    }
    bits[0] = qni_scale_bits(s1);
    bits[1] = qni_scale_bits(s2);
}

QNI_CLONES
static double q4_ratio_error(const float *w, const float *h, int64_t n, float scale) {
    const float inverse = 1 / scale;
    double error = 0;
    for (int64_t i = 0; i < n; i++) {
        float x = w[i] * inverse;
        x = x > 7 ? 7 : x < -7 ? -7 : x;
        const float left = w[i] - scale * ((x + rounder) - rounder);
        error += (h ? (double)h[i] : 1) * ((double)left * (double)left);
    }
    return error;
}

/* The best of some shares of max|w|/7; q4 needs a positive scale even where every weight is zero. */
static uint16_t fit_q4(const qn_hessian_fit_options *options, const float *w, const float *h, int64_t n) {
    double best = (double)INFINITY, full = 0;
    uint16_t best_bits = qni_scale_bits(DBL_MIN);
    for (int64_t i = 0; i < n; i++) full = fmax(full, fabs((double)w[i]) / 7);
    for (int k = 0; k < options->q4_ratios && full > 0; k++) {
        const double lowest = options->q4_lowest_ratio,
                     steps = options->q4_ratios > 1 ? options->q4_ratios - 1 : 1;
        const uint16_t bits = qni_scale_bits((1 - (1 - lowest) * k / steps) * full);
        const double error = q4_ratio_error(w, h, n, qn_f16_to_f32(bits));
        if (error < best || k == 0) {
            best = error;
            best_bits = bits;
        }
    }
    return best_bits;
}

/* Groups of one stored row of a q4 band. */
static void fit_q4_row(const qni_problem *p, qn_banded_band *band, int64_t stored_row, const float *w,
                       const float *h) {
    const int64_t size = band->spec.group_size ? band->spec.group_size : band->cols;
    for (int64_t g = 0; g < band->groups; g++) {
        const int64_t first = g * size, n = band->cols - first < size ? band->cols - first : size;
        band->planes[0].scales[stored_row * band->groups + g] =
            fit_q4(p->options, w + first, h ? h + first : NULL, n);
    }
}

/* The slots of one native band, from its part of a row. */
static void fit_native_band(qni_problem *p, int64_t row, int64_t s, int64_t end, start_work *work) {
    const qn_banded_band *band = &p->out->bands[p->slots[s].band];
    const int64_t first = p->slots[s].first, n = p->slots[end - 1].last - first;
    if (band->spec.n_planes == 1) {
        const qn_codec codec = {.code = band->spec.code, .group_size = band->spec.group_size};
        qn_fit_row(codec, QN_FIT_OPTIMAL, work->w + first, work->h + first, n, &work->scratch, NULL,
                   work->bits);
    } else {
        for (int64_t k = s; k < end; k += 2) {
            const qni_slot *slot = &p->slots[k];
            fit_two_planes(&band->spec, work->w + slot->first, work->h + slot->first,
                           slot->last - slot->first, work->bits + (k - s));
        }
    }
    for (int64_t k = s; k < end; k++) p->scales[k * p->padded_rows + row] = qn_f16_to_f32(work->bits[k - s]);
}

/* True when the row is finite. */
static bool fit_row(qni_problem *p, int64_t row, start_work *work) {
    const float *w = qni_problem_row(p, row);
    for (int64_t i = 0; i < p->cols; i++) {
        if (!isfinite(w[i])) return false;
        work->w[i] = w[p->place_input[i]];
        work->h[i] = p->metric->unit * p->metric->h[p->place_input[i] * (p->cols + 1)];
    }
    for (int64_t s = 0, end; s < p->n_native; s = end) {
        for (end = s; end < p->n_native && p->slots[end].band == p->slots[s].band;) end++;
        fit_native_band(p, row, s, end, work);
    }
    if (p->n_slots > p->n_native && p->out->axis == QN_BAND_ROWS)
        fit_q4_row(p, &p->out->bands[p->slots[p->n_native].band], row, work->w, work->h);
    return true;
}

static void fit_q4_column(qni_problem *p, const qni_slot *slot, start_work *work) {
    const int64_t input = p->place_input[slot->first];
    for (int64_t r = 0; r < p->n_rows; r++) work->w[r] = p->w[r * p->cols + input];
    fit_q4_row(p, &p->out->bands[slot->band], slot->group, work->w, NULL);
}

/* The first row that is not finite, or INT64_MAX. */
static int64_t fit_all(qni_problem *p, int n_threads, bool *out_of_memory) {
    const int64_t longest = p->cols > p->n_rows ? p->cols : p->n_rows;
    int64_t first_bad = INT64_MAX;
    bool no_memory = false;
#pragma omp parallel num_threads(n_threads) reduction(min : first_bad) reduction(|| : no_memory)
    {
        start_work work;
        const bool ready = work_init(&work, longest);
        no_memory = !ready;
#pragma omp for schedule(dynamic, 16)
        for (int64_t r = 0; r < p->n_rows; r++) {
            if (ready && !fit_row(p, r, &work) && r < first_bad) first_bad = r;
        }
#pragma omp for schedule(dynamic, 16)
        for (int64_t s = p->n_native; s < p->n_slots; s++) {
            if (ready && p->out->axis == QN_BAND_COLUMNS) fit_q4_column(p, &p->slots[s], &work);
        }
        work_release(&work);
    }
    *out_of_memory = no_memory;
    return first_bad;
}

static qn_status fail_nonfinite(const qni_problem *p, int64_t row, qn_error *err) {
    const float *w = qni_problem_row(p, row);
    int64_t col = 0;
    while (isfinite(w[col])) col++;
    return qn_fail(err, QN_E_VALUE, "weight [%lld, %lld] is %g; expected finite weights",
                   (long long)(p->rows ? p->rows[row] : row), (long long)col, (double)w[col]);
}

qn_status qni_start_scales(qni_problem *p, const qn_context *ctx, qn_error *err) {
    bool out_of_memory;
    const int64_t first_bad = fit_all(p, qn_context_threads(ctx), &out_of_memory);
    if (out_of_memory) return qni_fail_nomem(err, "the rows of a fit");
    return first_bad == INT64_MAX ? QN_OK : fail_nonfinite(p, first_bad, err);
}
