#include "fit/hessian_tile.h"

#include "base/alloc.h"
#include "base/clones.h"
#include "base/smaller.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* Rows of the matrix that are turned into lanes together: their weights, or codes, and the lines of the tile fit the first-level
 * cache, whatever the order of the inputs. */
enum { TURNED_WEIGHTS = 8, TURNED_CODES = 16 };

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
    for (int64_t first = 0; first < tile->n; first += TURNED_WEIGHTS) {
        const float *rows[TURNED_WEIGHTS];
        const int64_t n = qni_min(TURNED_WEIGHTS, tile->n - first);
        for (int64_t t = 0; t < n; t++) rows[t] = qni_problem_row(p, tile->row0 + first + t);
        for (int64_t i = 0; i < p->cols; i++) {
            float *w = tile->w + i * QNI_LANES + first;
            for (int64_t t = 0; t < n; t++) w[t] = rows[t][p->inputs[i].input];
        }
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

/* The codes of an input in a plane of the product: that of the tile's first row, and the way from row to row. */
typedef struct code_line {
    int8_t *first;
    int64_t step;
} code_line;

static code_line line_of(const qni_tile *tile, const qni_input *input, int plane) {
    const qn_banded_band *band = &tile->p->out->bands[input->band];
    int8_t *q = band->planes[plane].q;
    if (qni_is_transposed(tile->p->out, input->band))
        return (code_line){q + input->column * band->cols + tile->row0, 1};
    return (code_line){q + tile->row0 * band->cols + input->column, band->cols};
}

/* Between the product and the tile's codes. */
static void turn_codes(const qni_tile *tile, bool into_product) {
    const qni_problem *p = tile->p;
    for (int64_t first = 0; first < tile->n; first += TURNED_CODES) {
        const int64_t end = qni_min(tile->n, first + TURNED_CODES);
        for (int64_t i = 0; i < p->cols; i++) {
            for (int plane = 0; plane < p->inputs[i].n_planes; plane++) {
                const code_line line = line_of(tile, &p->inputs[i], plane);
                int8_t *q = tile->q[plane] + i * QNI_LANES;
                for (int64_t t = first; t < end; t++) {
                    if (into_product)
                        line.first[t * line.step] = q[t];
                    else
                        q[t] = line.first[t * line.step];
                }
            }
        }
    }
}

QNI_CLONES
static void subtract_codes(const float *scale, const int8_t *q, float *e) {
    for (int t = 0; t < QNI_LANES; t++) e[t] -= scale[t] * (float)q[t];
}

static void load_codes(qni_tile *tile) {
    const qni_problem *p = tile->p;
    for (int plane = 0; plane < QN_MAX_PLANES && tile->n < QNI_LANES; plane++)
        memset(tile->q[plane], 0, (size_t)(p->cols * QNI_LANES));
    turn_codes(tile, false);
    memcpy(tile->e, tile->w, (size_t)(p->cols * QNI_LANES) * sizeof *tile->e);
    for (int64_t i = 0; i < p->cols; i++) {
        const qni_input *input = &p->inputs[i];
        for (int plane = 0; plane < input->n_planes; plane++)
            subtract_codes(tile->scales + (input->slot + plane) * QNI_LANES, tile->q[plane] + i * QNI_LANES,
                           tile->e + i * QNI_LANES);
    }
}

void qni_tile_load(qni_tile *tile, int64_t row0, bool codes) {
    tile->row0 = row0;
    tile->n = qni_min(tile->p->n_rows - row0, QNI_LANES);
    load_weights(tile);
    load_scales(tile);
    if (codes) load_codes(tile);
}

void qni_tile_store(const qni_tile *tile) {
    const qni_problem *p = tile->p;
    turn_codes(tile, true);
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
