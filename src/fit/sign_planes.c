#include "fit/sign_planes.h"

#include "base/smaller.h"
#include "quern/tensor/dtype.h"
#include "tensor/kernels.h"

#include "base/banned.h"

enum {
    MOST_REST = 4, /* one column in so many may be beside signs: those go slower than in a dense product */
    LEAST_TRIT_SIDE = 1024 /* two layers pay in large matrices alone (BENCHMARKS.md) */
};

static bool is_rest(const qn_banded_band *band) {
    return band->spec.code == QN_CODE_Q4;
}

static int64_t group_columns(const qn_banded_band *band) {
    return band->spec.group_size ? band->spec.group_size : band->cols;
}

static bool band_serves(const qn_banded_band *band, int64_t least_side) {
    if (band->spec.code == QN_CODE_TERNARY && least_side < LEAST_TRIT_SIDE) return false;
    return is_rest(band) || band->spec.group_size % QNI_SIGN_BLOCK == 0;
}

/* Rows in one band are columns in one band. */
static bool is_by_columns(const qn_banded *codes) {
    return codes->axis == QN_AXIS_COLUMNS || (codes->n_bands == 1 && !is_rest(&codes->bands[0]));
}

bool qni_sign_planes_serve(const qn_latents *l) {
    const qni_kernels *kernels;
    int64_t n_rest = 0;
    if (qni_kernels_get(&kernels, NULL) != QN_OK || !kernels->signs) return false;
    if (l->hadamard || l->codes.column_scales || !is_by_columns(&l->codes)) return false;
    for (int b = 0; b < l->codes.n_bands; b++) {
        if (!band_serves(&l->codes.bands[b], qni_min(l->rows, l->cols))) return false;
        if (is_rest(&l->codes.bands[b])) n_rest += l->codes.bands[b].n_lines;
    }
    return n_rest <= l->cols / MOST_REST;
}

/* ---- shape ---- */

static void add_band(const qn_banded_band *band, const int64_t *columns, qni_signs *out) {
    const int64_t step = group_columns(band);
    const int n_layers = band->spec.code == QN_CODE_TERNARY ? 2 : 1;
    if (is_rest(band)) {
        qni_signs_add_rest(out, columns, band->n_lines);
        return;
    }
    for (int64_t c = 0; c < band->cols; c += step)
        qni_signs_add_group(out, columns, c, qni_min(step, band->cols - c), band->spec.n_planes, n_layers);
}

qn_status qni_sign_planes_make(const qn_latents *l, qni_signs *out, qn_error *err) {
    int64_t n_groups = 0, n_places = 0;
    for (int b = 0; b < l->codes.n_bands; b++) {
        const qn_banded_band *band = &l->codes.bands[b];
        if (is_rest(band)) continue;
        n_groups += band->groups;
        n_places += qni_sign_places(band->cols); /* all groups but the last fill words */
    }
    QN_TRY(qni_signs_init(l->rows, l->cols, n_groups, n_places, out, err));
    for (int b = 0; b < l->codes.n_bands; b++) {
        const bool by_rows = l->codes.axis == QN_AXIS_ROWS;
        add_band(&l->codes.bands[b], by_rows ? NULL : l->lines[b], out);
    }
    return qni_signs_make(out, err);
}

/* ---- values ---- */

/* A block of rows of a band, from its group FIRST of the signs on. Trits are half the sum of their layers. */
static void set_rows(const qn_banded_band *band, int64_t row, int64_t first, qni_signs *signs) {
    const int64_t step = group_columns(band), end = qni_min(row + QNI_SIGN_BLOCK, band->rows);
    const float factor = band->spec.code == QN_CODE_TERNARY ? 0.5f : 1.0f;
    for (int64_t g = 0; g < band->groups; g++) {
        const qni_sign_group *group = &signs->groups[first + g];
        const int64_t n = qni_min(step, band->cols - g * step);
        for (int p = 0; p < band->spec.n_planes; p++) {
            const qn_banded_plane *plane = &band->planes[p];
            float *scales = signs->scales + group->planes[p].scales;
            for (int64_t r = row; r < end; r++)
                scales[r] = factor * qn_f16_to_f32(plane->scales[r * band->groups + g]);
            qni_signs_set_codes(signs, group, p, row, plane->q + row * band->cols + g * step, band->cols, n);
        }
    }
}

/* Rows of a transposed band are columns of the matrix; the band's begin at FIRST of the rest. */
static void set_rest(const qn_banded_band *band, int64_t line, int64_t first, qni_signs *signs) {
    const qn_banded_plane *plane = &band->planes[0];
    float *values = signs->transposed + (first + line) * signs->padded_rows;
    for (int64_t r = 0; r < signs->rows; r++) {
        const int64_t group = band->spec.group_size ? r / band->spec.group_size : 0;
        values[r] = qn_f16_to_f32(plane->scales[line * band->groups + group]) *
                    (float)plane->q[line * band->cols + r];
        signs->dense[r * signs->n_rest + first + line] = values[r];
    }
}

void qni_sign_planes_set(const qn_latents *l, const qn_context *ctx, qni_signs *signs) {
    const int n_threads = qn_context_threads(ctx);
    int64_t first_group = 0, first_rest = 0;
    for (int b = 0; b < l->codes.n_bands; b++) {
        const qn_banded_band *band = &l->codes.bands[b];
        const int64_t step = is_rest(band) ? 1 : QNI_SIGN_BLOCK;
#pragma omp parallel for schedule(static) num_threads(n_threads)
        for (int64_t r = 0; r < band->rows; r += step) {
            if (is_rest(band))
                set_rest(band, r, first_rest, signs);
            else
                set_rows(band, r, first_group, signs);
        }
        if (is_rest(band))
            first_rest += band->n_lines;
        else
            first_group += band->groups;
    }
}
