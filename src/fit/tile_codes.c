/* Choosing codes: nearest, with feedback, by descent. Feedback and descent have one form: a block of 48 inputs receives what the
 * inputs outside it say as one product, then its inputs are decided one after the other, each telling those behind it in the
 * block. */
#include "base/clones.h"
#include "fit/hessian_tile.h"

#include <string.h>

#include "base/banned.h"

typedef float lanes[QNI_LANES];

/* Rounds V for the input at position I, where a trit that is not 0 costs PRICE; e becomes what is left of w. */
static void choose(qni_tile *tile, int64_t i, const float *v, float price) {
    const qni_input *input = &tile->p->inputs[i];
    const float *scale = tile->scales + input->slot * QNI_LANES, *w = tile->w + i * QNI_LANES;
    float *e = tile->e + i * QNI_LANES;
    lanes value;
    int8_t *q1 = tile->q[0] + i * QNI_LANES, *q2 = tile->q[1] + i * QNI_LANES;
    if (price > 0 && input->choose_priced)
        input->choose_priced(v, scale, scale + QNI_LANES, price, value, q1, q2);
    else
        input->choose(v, scale, scale + QNI_LANES, value, q1, q2);
    for (int t = 0; t < QNI_LANES; t++) e[t] = w[t] - value[t];
}

void qni_tile_round(qni_tile *tile) {
    for (int64_t i = 0; i < tile->p->cols; i++) choose(tile, i, tile->w + i * QNI_LANES, 0);
}

/* One block: positions [first, first + n) of a matrix in strips. */
typedef struct block {
    const qni_strips *matrix;
    int64_t first, n, strip, n_strips;
} block;

static block block_at(const qni_strips *matrix, int64_t first) {
    const int64_t strip = first / QNI_STRIP, strips_left = matrix->n_strips - strip;
    const int64_t left = matrix->cols - first;
    return (block){matrix, first, left < QNI_BLOCK ? left : QNI_BLOCK, strip,
                   strips_left < QNI_BLOCK_STRIPS ? strips_left : QNI_BLOCK_STRIPS};
}

/* Row j of the block's own part of the matrix, from its diagonal on. */
static void take_row(const block *b, int64_t j, float *row) {
    for (int64_t s = j / QNI_STRIP; s < b->n_strips; s++) {
        memcpy(row + s * QNI_STRIP, b->matrix->strip[b->strip + s] + (b->first + j) * QNI_STRIP,
               QNI_STRIP * sizeof *row);
    }
}

/* block[k] += row[k] * change for the columns k in (j, n). */
QNI_CLONES
static void tell_later_inputs(const float *row, int64_t j, int64_t n, const float *change, float *sums) {
    for (int64_t k = j + 1; k < n; k++) {
        const float factor = row[k];
        float *sum = sums + k * QNI_LANES;
        for (int t = 0; t < QNI_LANES; t++) sum[t] += factor * change[t];
    }
}

/* v = w + decay * sum. */
QNI_CLONES
static void add_feedback(const float *w, const float *sum, float decay, float *v) {
    for (int t = 0; t < QNI_LANES; t++) v[t] = w[t] + decay * sum[t];
}

/* sum of pivot * (e + sum)^2 - damping * e^2: what this input adds to the undamped error. */
static double feedback_loss(const float *e, const float *sum, double pivot, double damping) {
    double loss = 0;
    for (int t = 0; t < QNI_LANES; t++) {
        const double eta = (double)e[t] + (double)sum[t];
        loss += pivot * (eta * eta) - damping * ((double)e[t] * (double)e[t]);
    }
    return loss;
}

static double feedback_block(qni_tile *tile, const block *b, const qni_factor *factor) {
    const float decay = (float)tile->p->options->error_decay;
    const double damping = factor->damping * (double)tile->p->metric->unit;
    float row[QNI_BLOCK];
    double loss = 0;
    for (int64_t j = 0; j < b->n; j++) {
        const int64_t i = b->first + j;
        const float *sum = tile->block + j * QNI_LANES, *e = tile->e + i * QNI_LANES;
        lanes v;
        add_feedback(tile->w + i * QNI_LANES, sum, decay, v);
        choose(tile, i, v, 0);
        loss += feedback_loss(e, sum, factor->pivot[i], damping);
        if (j + 1 == b->n) break;
        take_row(b, j, row);
        tell_later_inputs(row, j, b->n, e, tile->block);
    }
    return loss;
}

double qni_tile_feedback(qni_tile *tile, const qni_factor *factor) {
    double loss = 0;
    for (int64_t first = 0; first < tile->p->cols; first += QNI_BLOCK) {
        const block b = block_at(tile->p->upper, first);
        memset(tile->block, 0, QNI_BLOCK * QNI_LANES * sizeof *tile->block);
        qni_panel_add(b.matrix, b.strip, b.n_strips, 0, first, tile->e, tile->block);
        loss += feedback_block(tile, &b, factor);
    }
    return loss;
}

/* v = w - e + sum / H_jj, and before = e. */
QNI_CLONES
static void add_gradient(const float *w, const float *e, const float *sum, float inverse, float *v,
                         float *before) {
    for (int t = 0; t < QNI_LANES; t++) {
        before[t] = e[t];
        v[t] = (w[t] - e[t]) + sum[t] * inverse;
    }
}

QNI_CLONES
static void subtract_lanes(const float *a, const float *b, float *out) {
    for (int t = 0; t < QNI_LANES; t++) out[t] = a[t] - b[t];
}

static void descend_block(qni_tile *tile, const block *b) {
    float row[QNI_BLOCK] = {0};
    for (int64_t j = 0; j < b->n; j++) {
        const int64_t i = b->first + j;
        const float *w = tile->w + i * QNI_LANES, *e = tile->e + i * QNI_LANES;
        lanes v, before, change;
        take_row(b, j, row);
        if (!(row[j] > 0)) { /* a dead input */
            choose(tile, i, w, 0);
            continue;
        }
        add_gradient(w, e, tile->block + j * QNI_LANES, 1 / row[j], v, before);
        choose(tile, i, v, tile->p->inputs[i].choose_priced ? tile->p->price / row[j] : 0);
        subtract_lanes(e, before, change);
        tell_later_inputs(row, j, b->n, change, tile->block);
    }
}

/* What a finished block adds to the error: by symmetry 2 e_b (H e)_{before b} + e_b H_bb e_b; SAVED holds (H e)_{before b}. */
static double block_error(qni_tile *tile, const block *b) {
    const float *e = tile->e + b->first * QNI_LANES;
    double error = 0;
    for (int64_t i = 0; i < b->n * QNI_LANES; i++) tile->saved[i] *= 2;
    qni_panel_add(b->matrix, b->strip, b->n_strips, b->first, b->first + b->n, e, tile->saved);
    for (int64_t i = 0; i < b->n * QNI_LANES; i++) error += (double)e[i] * (double)tile->saved[i];
    return error;
}

void qni_tile_descend(qni_tile *tile, double *error) {
    const size_t block_bytes = QNI_BLOCK * QNI_LANES * sizeof *tile->block;
    double sum = 0;
    for (int64_t first = 0; first < tile->p->cols; first += QNI_BLOCK) {
        const block b = block_at(&tile->p->by_position, first);
        memset(tile->block, 0, block_bytes);
        qni_panel_add(b.matrix, b.strip, b.n_strips, 0, first, tile->e, tile->block);
        if (error) memcpy(tile->saved, tile->block, block_bytes);
        qni_panel_add(b.matrix, b.strip, b.n_strips, first, tile->p->cols, tile->e + first * QNI_LANES,
                      tile->block);
        descend_block(tile, &b);
        if (error) sum += block_error(tile, &b);
    }
    if (error) *error = sum;
}
