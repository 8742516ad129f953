/* From the scales that a fit works with to those that are stored. */
#include "fit/group_fit.h"
#include "fit/hessian_problem.h"
#include "fit/scale_grid.h"

#include "base/banned.h"

/* Where the scales of a slot stand in its plane. */
typedef struct slot_scales {
    int64_t first, step, n;
} slot_scales;

static slot_scales find_scales(const qni_problem *p, const qni_slot *slot) {
    const int64_t groups = p->out->bands[slot->band].groups;
    if (qni_is_transposed(p->out, slot->band)) return (slot_scales){slot->group * groups, 1, groups};
    return (slot_scales){slot->group, groups, p->n_rows};
}

static double slot_energy(const qni_problem *p, const qni_slot *slot) {
    double energy = 0;
    for (int64_t place = slot->first; place < slot->last; place++)
        energy += (double)p->metric->unit * (double)p->metric->h[p->place_input[place] * (p->cols + 1)];
    return energy;
}

static bool is_plane(const qni_slot *slot, int band, int plane) {
    return slot->band == band && slot->plane == plane;
}

/* A scale weighs as much as its part of the loss: its square times the energy of its inputs. */
static void count_scales(const qni_problem *p, const qni_slot *slot, qni_scale_census *census) {
    const uint16_t *scales = p->out->bands[slot->band].planes[slot->plane].scales;
    const slot_scales at = find_scales(p, slot);
    const double energy = slot_energy(p, slot);
    for (int64_t i = 0; i < at.n; i++) {
        const float scale = qn_f16_to_f32(scales[at.first + i * at.step]);
        qni_scale_census_add(census, scale, (double)scale * (double)scale * energy);
    }
}

static void round_to_grid(qn_banded_band *band, qn_banded_plane *plane, const qni_scale_grid *grid) {
    plane->grid_base = grid->base;
    plane->grid_ratio = grid->ratio;
    for (int64_t i = 0; i < band->rows * band->groups; i++) {
        const int k = qni_scale_grid_nearest(grid, qn_f16_to_f32(plane->scales[i]));
        plane->scale_codes[i] = (uint8_t)k;
        plane->scales[i] = grid->bits[k];
    }
}

static qn_status grid_plane(qni_problem *p, int band, int plane, qn_error *err) {
    qni_scale_census *census;
    qni_scale_grid grid;
    QN_TRY(qni_scale_census_new(&census, err));
    for (int64_t s = 0; s < p->n_slots; s++) {
        if (is_plane(&p->slots[s], band, plane)) count_scales(p, &p->slots[s], census);
    }
    qni_scale_grid_choose(census, &grid);
    qni_scale_census_free(census);
    round_to_grid(&p->out->bands[band], &p->out->bands[band].planes[plane], &grid);
    return QN_OK;
}

static void round_to_fp16(qni_problem *p, int64_t s) {
    const slot_scales at = find_scales(p, &p->slots[s]);
    uint16_t *scales = p->out->bands[p->slots[s].band].planes[p->slots[s].plane].scales;
    for (int64_t i = 0; i < at.n; i++)
        scales[at.first + i * at.step] = qni_scale_bits((double)p->scales[s * p->padded_rows + i]);
}

static void take_stored(qni_problem *p, int64_t s) {
    const slot_scales at = find_scales(p, &p->slots[s]);
    const uint16_t *scales = p->out->bands[p->slots[s].band].planes[p->slots[s].plane].scales;
    for (int64_t i = 0; i < at.n; i++)
        p->scales[s * p->padded_rows + i] = qn_f16_to_f32(scales[at.first + i * at.step]);
}

static qn_status grid_planes(qni_problem *p, int64_t first, int64_t last, qn_error *err) {
    for (int64_t s = first; s < last; s++) {
        const qni_slot *slot = &p->slots[s];
        if (slot->group == 0 && p->out->bands[slot->band].spec.log6_scales)
            QN_TRY(grid_plane(p, slot->band, slot->plane, err));
    }
    return QN_OK;
}

qn_status qni_store_q4_scales(qni_problem *p, qn_error *err) {
    return grid_planes(p, p->n_native, p->n_slots, err);
}

qn_status qni_store_native_scales(qni_problem *p, qn_error *err) {
    for (int64_t s = 0; s < p->n_native; s++) round_to_fp16(p, s);
    QN_TRY(grid_planes(p, 0, p->n_native, err));
    for (int64_t s = 0; s < p->n_native; s++) take_stored(p, s);
    return QN_OK;
}
