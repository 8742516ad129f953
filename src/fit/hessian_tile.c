#include "fit/hessian_tile.h"

#include "base/alloc.h"
#include "base/clones.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

qn_status qni_tile_init(qni_tile *tile, const qni_problem *p, qn_error *err) {
    const int64_t n = p->cols * QNI_LANES;
    const bool descent = p->options->method == QN_HESSIAN_DESCENT && p->n_native > 0;
    qni_tile t = {.p = p};
    qn_status status = QNI_ALLOC(t.w, n, "a tile of a fit", err);
    if (status == QN_OK) status = QNI_ALLOC(t.e, n, "a tile of a fit", err);
    if (status == QN_OK && descent) status = QNI_ALLOC(t.hw, n, "a tile of a fit", err);
    for (int i = 0; i < QN_MAX_PLANES && status == QN_OK; i++)
        status = QNI_ALLOC(t.q[i], n, "a tile of a fit", err);
    if (status == QN_OK) status = QNI_ALLOC(t.scales, (p->n_slots + 1) * QNI_LANES, "a tile of a fit", err);
    if (status == QN_OK) status = QNI_ALLOC(t.block, QNI_BLOCK * QNI_LANES, "a tile of a fit", err);
    if (status == QN_OK) status = QNI_ALLOC(t.saved, QNI_BLOCK * QNI_LANES, "a tile of a fit", err);
    if (status == QN_OK && descent) status = qni_refit_new(&t.refit, p, err);
    if (status != QN_OK) {
        qni_tile_release(&t);
        return status;
    }
    *tile = t;
    return QN_OK;
}

void qni_tile_release(qni_tile *tile) {
    free(tile->w);
    free(tile->e);
    free(tile->hw);
    for (int i = 0; i < QN_MAX_PLANES; i++) free(tile->q[i]);
    free(tile->scales);
    free(tile->block);
    free(tile->saved);
    qni_refit_free(tile->refit);
    *tile = (qni_tile){0};
}

static void load_weights(qni_tile *tile) {
    const qni_problem *p = tile->p;
    memset(tile->w, 0, (size_t)(p->cols * QNI_LANES) * sizeof *tile->w);
    for (int64_t t = 0; t < tile->n; t++) {
        const float *row = qni_problem_row(p, tile->row0 + t);
        for (int64_t i = 0; i < p->cols; i++) tile->w[i * QNI_LANES + t] = row[p->inputs[i].input];
    }
}

static void load_q4_scales(qni_tile *tile, const qni_slot *slot, float *out) {
    const qn_banded_band *band = &tile->p->out->bands[slot->band];
    const bool transposed = qni_is_transposed(tile->p->out, slot->band);
    const int64_t size = band->spec.group_size ? band->spec.group_size : band->cols;
    for (int64_t t = 0; t < tile->n; t++) {
        const int64_t row = tile->row0 + t;
        const int64_t at =
            transposed ? slot->group * band->groups + row / size : row * band->groups + slot->group;
        out[t] = qn_f16_to_f32(band->planes[0].scales[at]);
    }
}

static void load_scales(qni_tile *tile) {
    const qni_problem *p = tile->p;
    memset(tile->scales, 0, (size_t)((p->n_slots + 1) * QNI_LANES) * sizeof *tile->scales);
    for (int64_t s = 0; s < p->n_slots; s++) {
        float *out = tile->scales + s * QNI_LANES;
        if (s >= p->n_native) {
            load_q4_scales(tile, &p->slots[s], out);
        } else {
            memcpy(out, p->scales + s * p->padded_rows + tile->row0, (size_t)tile->n * sizeof *out);
        }
    }
}

/* Where the code of a row and an input stands in a plane of the product. */
static int64_t code_at(const qni_problem *p, const qni_input *input, int64_t row) {
    const qn_banded_band *band = &p->out->bands[input->band];
    return qni_is_transposed(p->out, input->band) ? input->column * band->cols + row
                                                  : row * band->cols + input->column;
}

static void load_codes(qni_tile *tile) {
    const qni_problem *p = tile->p;
    for (int64_t i = 0; i < p->cols; i++) {
        const qni_input *input = &p->inputs[i];
        float *e = tile->e + i * QNI_LANES;
        memcpy(e, tile->w + i * QNI_LANES, QNI_LANES * sizeof *e);
        for (int plane = 0; plane < input->n_planes; plane++) {
            const float *scale = tile->scales + (input->slot + plane) * QNI_LANES;
            const int8_t *stored = p->out->bands[input->band].planes[plane].q;
            int8_t *q = tile->q[plane] + i * QNI_LANES;
            memset(q, 0, QNI_LANES);
            for (int64_t t = 0; t < tile->n; t++) {
                q[t] = stored[code_at(p, input, tile->row0 + t)];
                e[t] -= scale[t] * (float)q[t];
            }
        }
    }
}

void qni_tile_load(qni_tile *tile, int64_t row0, bool codes) {
    const int64_t left = tile->p->n_rows - row0;
    tile->row0 = row0;
    tile->n = left < QNI_LANES ? left : QNI_LANES;
    load_weights(tile);
    load_scales(tile);
    if (codes) load_codes(tile);
}

void qni_tile_store(const qni_tile *tile) {
    const qni_problem *p = tile->p;
    for (int64_t i = 0; i < p->cols; i++) {
        const qni_input *input = &p->inputs[i];
        for (int plane = 0; plane < input->n_planes; plane++) {
            int8_t *stored = p->out->bands[input->band].planes[plane].q;
            const int8_t *q = tile->q[plane] + i * QNI_LANES;
            for (int64_t t = 0; t < tile->n; t++) stored[code_at(p, input, tile->row0 + t)] = q[t];
        }
    }
    for (int64_t s = 0; s < p->n_native; s++) {
        memcpy(p->scales + s * p->padded_rows + tile->row0, tile->scales + s * QNI_LANES,
               (size_t)tile->n * sizeof *tile->scales);
    }
}

void qni_tile_multiply(qni_tile *tile) {
    const qni_strips *h = &tile->p->by_position;
    for (int64_t s = 0; s < h->n_strips; s += QNI_BLOCK_STRIPS) {
        const int64_t n = h->n_strips - s < QNI_BLOCK_STRIPS ? h->n_strips - s : QNI_BLOCK_STRIPS;
        const int64_t first = s * QNI_STRIP, some = h->cols - first < QNI_BLOCK ? h->cols - first : QNI_BLOCK;
        memset(tile->block, 0, QNI_BLOCK * QNI_LANES * sizeof *tile->block);
        qni_panel_add(h, s, n, 0, h->cols, tile->w, tile->block);
        memcpy(tile->hw + first * QNI_LANES, tile->block, (size_t)(some * QNI_LANES) * sizeof *tile->hw);
    }
}

/* By symmetry 2 x_b (H x)_{before b} + x_b H_bb x_b, block after block. */
double qni_tile_energy(qni_tile *tile, const float *x) {
    const qni_strips *h = &tile->p->by_position;
    double energy = 0;
    for (int64_t first = 0; first < h->cols; first += QNI_BLOCK) {
        const int64_t s = first / QNI_STRIP, left = h->n_strips - s;
        const int64_t n = left < QNI_BLOCK_STRIPS ? left : QNI_BLOCK_STRIPS;
        const int64_t last = h->cols - first < QNI_BLOCK ? h->cols : first + QNI_BLOCK;
        memset(tile->block, 0, QNI_BLOCK * QNI_LANES * sizeof *tile->block);
        qni_panel_add(h, s, n, 0, first, x, tile->block);
        for (int i = 0; i < QNI_BLOCK * QNI_LANES; i++) tile->block[i] *= 2;
        qni_panel_add(h, s, n, first, last, x + first * QNI_LANES, tile->block);
        for (int64_t i = 0; i < (last - first) * QNI_LANES; i++)
            energy += (double)tile->block[i] * (double)x[first * QNI_LANES + i];
    }
    return energy;
}
