#include "fit/hessian_problem.h"

#include "base/alloc.h"

#include <stdlib.h>

#include "base/banned.h"

static int64_t group_size(const qn_banded_band *band) {
    return band->spec.group_size ? band->spec.group_size : band->cols;
}

/* Inputs band by band, native codes first; on the row axis the problem's only band takes them all. */
static void take_places(qni_problem *p, int only_band, int64_t first_place[QN_MAX_BANDS]) {
    int64_t place = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int b = 0; b < p->out->n_bands; b++) {
            if ((p->out->bands[b].spec.code == QN_CODE_Q4) != (pass == 1)) continue;
            first_place[b] = place;
            for (int64_t c = 0; c < p->cols; c++) {
                if (only_band >= 0 ? only_band == b : p->out->line_band[c] == b) p->place_input[place++] = c;
            }
        }
    }
}

static void add_slots(qni_problem *p, int b, int64_t first, int64_t last) {
    const qn_banded_band *band = &p->out->bands[b];
    const int64_t size = qni_is_transposed(p->out, b) ? 1 : group_size(band);
    for (int64_t place = first, group = 0; place < last; place += size, group++) {
        for (int plane = 0; plane < band->spec.n_planes; plane++) {
            const int64_t end = last - place < size ? last : place + size;
            p->slots[p->n_slots++] = (qni_slot){b, plane, group, place, end};
        }
    }
}

static void take_slots(qni_problem *p, int only_band, const int64_t first_place[QN_MAX_BANDS]) {
    for (int pass = 0; pass < 2; pass++) {
        for (int b = 0; b < p->out->n_bands; b++) {
            const qn_banded_band *band = &p->out->bands[b];
            if ((only_band >= 0 && only_band != b) || (band->spec.code == QN_CODE_Q4) != (pass == 1))
                continue;
            add_slots(p, b, first_place[b], first_place[b] + (only_band >= 0 ? p->cols : band->n_lines));
        }
        if (pass == 0) p->n_native = p->n_slots;
    }
}

static qn_status take_inputs(qni_problem *p, const int64_t first_place[QN_MAX_BANDS], qn_error *err) {
    int64_t *position_of = NULL;
    QN_TRY(QNI_ALLOC(position_of, p->cols, "the order of a fit", err));
    for (int64_t i = 0; i < p->cols; i++) position_of[p->metric->order[i]] = i;
    for (int64_t i = 0; i < p->cols; i++) p->place_position[i] = position_of[p->place_input[i]];
    free(position_of);
    for (int64_t s = p->n_slots - 1; s >= 0; s--) { /* the first plane of a group writes last */
        const qni_slot *slot = &p->slots[s];
        const qn_banded_band *band = &p->out->bands[slot->band];
        for (int64_t place = slot->first; place < slot->last; place++) {
            p->inputs[p->place_position[place]] =
                (qni_input){.input = p->place_input[place],
                            .place = place,
                            .slot = s,
                            .choose = qni_level_chooser(&band->spec),
                            .choose_priced = p->price > 0 ? qni_priced_chooser(&band->spec) : NULL,
                            .n_planes = band->spec.n_planes,
                            .band = slot->band,
                            .column = place - first_place[slot->band]};
        }
    }
    return QN_OK;
}

static qn_status take_rows(qni_problem *p, int band, qn_error *err) {
    p->n_rows = band < 0 ? p->out->rows : p->out->bands[band].n_lines;
    p->padded_rows = (p->n_rows + QNI_LANES - 1) / QNI_LANES * QNI_LANES;
    if (band < 0) return QN_OK;
    QN_TRY(QNI_ALLOC(p->rows, p->n_rows, "the rows of a band", err));
    for (int64_t r = 0, n = 0; r < p->out->rows; r++) {
        if (p->out->line_band[r] == band) p->rows[n++] = r;
    }
    return QN_OK;
}

static int64_t depth_whole(const void *user, int64_t col) {
    (void)col;
    return ((const qni_problem *)user)->cols;
}

/* Products with a group are wanted for the columns from its first on: column COL needs the rows up to its group's last. */
static int64_t depth_of_group(const void *user, int64_t col) {
    const qni_problem *p = user;
    const qni_input *input = &p->inputs[p->place_position[col]];
    const int64_t end = p->slots[input->slot].last;
    return input->slot < p->n_native || p->n_native == 0 ? end : p->slots[p->n_native - 1].last;
}

static qn_status take_metric(qni_problem *p, int n_threads, qn_error *err) {
    const qni_metric *m = p->metric;
    QN_TRY(qni_strips_alloc(&p->by_position, p->cols, depth_whole, p, err));
    qni_strips_fill(&p->by_position, m->h, NULL, m->order, m->unit, n_threads);
    if (p->options->method != QN_HESSIAN_DESCENT || p->n_native == 0) return QN_OK;
    QN_TRY(qni_strips_alloc(&p->by_place, p->cols, depth_of_group, p, err));
    qni_strips_fill(&p->by_place, m->h, NULL, p->place_input, m->unit, n_threads);
    return QN_OK;
}

/* The rate times the mean of H_jj w_ij^2 over the whole matrix: the same price for all its rows. */
static float price_of(const qni_problem *p) {
    double sum = 0;
    if (p->options->rate <= 0) return 0;
    for (int64_t i = 0; i < p->out->rows; i++) {
        const float *w = p->w + i * p->cols;
        for (int64_t j = 0; j < p->cols; j++)
            sum += (double)p->metric->h[j * p->cols + j] * ((double)w[j] * (double)w[j]);
    }
    const double mean = sum / ((double)p->out->rows * (double)p->cols);
    return (float)(p->options->rate * mean * (double)p->metric->unit);
}

static qn_status init_arrays(qni_problem *p, int band, int n_threads, qn_error *err) {
    int64_t first_place[QN_MAX_BANDS] = {0}, n_scales;
    QN_TRY(take_rows(p, band, err));
    QN_TRY(QNI_ALLOC(p->place_input, p->cols, "the order of a fit", err));
    QN_TRY(QNI_ALLOC(p->place_position, p->cols, "the order of a fit", err));
    QN_TRY(QNI_ALLOC(p->inputs, p->cols, "the inputs of a fit", err));
    QN_TRY(QNI_ALLOC(p->slots, QN_MAX_PLANES * p->cols, "the scales of a fit", err));
    take_places(p, band, first_place);
    take_slots(p, band, first_place);
    QN_TRY(take_inputs(p, first_place, err));
    if (!qni_multiply_i64(p->n_native, p->padded_rows, &n_scales))
        return qni_fail_nomem(err, "the scales of a fit");
    p->scales = qni_alloc_array(n_scales, sizeof *p->scales);
    if (!p->scales) return qni_fail_nomem(err, "the scales of a fit");
    return take_metric(p, n_threads, err);
}

qn_status qni_problem_init(qni_problem *problem, const float *w, const qni_metric *metric,
                           const qni_strips *upper, const qn_hessian_fit_options *options, int band,
                           qn_banded *out, int n_threads, qn_error *err) {
    qni_problem p = {
        .options = options, .metric = metric, .w = w, .out = out, .cols = metric->n, .upper = upper};
    p.price = price_of(&p);
    qn_status status = init_arrays(&p, band, n_threads, err);
    if (status != QN_OK) {
        qni_problem_release(&p);
        return status;
    }
    *problem = p;
    return QN_OK;
}

void qni_problem_release(qni_problem *problem) {
    free(problem->rows);
    free(problem->inputs);
    free(problem->place_input);
    free(problem->place_position);
    free(problem->slots);
    free(problem->scales);
    qni_strips_release(&problem->by_position);
    qni_strips_release(&problem->by_place);
    *problem = (qni_problem){0};
}
