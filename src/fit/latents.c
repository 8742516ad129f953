#include "quern/fit/latents.h"

#include "base/alloc.h"
#include "base/smaller.h"
#include "fit/latent_tile.h"
#include "fit/scale_grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static const float k_first_threshold = 0.5f, k_least_threshold = 0.05f, k_most_threshold = 0.95f;
static const float k_least_f16 = 0x1p-24f, k_most_f16 = 65504.0f;

static bool has_threshold(const qn_banded_band *band) {
    return band->spec.code == QN_CODE_TERNARY && band->spec.n_planes == 1;
}

/* Where the parameters of a band begin. */
typedef struct places {
    int64_t value, scale, threshold;
} places;

static void pass_band(const qn_banded_band *band, places *at) {
    const int64_t n_scales = band->rows * band->groups;
    at->value += band->rows * band->cols;
    at->scale += band->spec.n_planes * n_scales;
    at->threshold += has_threshold(band) ? n_scales : 0;
}

static places places_of(const qn_banded *codes, int band) {
    places at = {0};
    for (int b = 0; b < band; b++) pass_band(&codes->bands[b], &at);
    return at;
}

int64_t qn_latents_plane_scales(const qn_latents *l, int band, int plane, int64_t *first) {
    const qn_banded_band *b = &l->codes.bands[band];
    *first = places_of(&l->codes, band).scale + plane * b->rows * b->groups;
    return plane < b->spec.n_planes ? b->rows * b->groups : 0;
}

/* ---- between the matrix and the order of its codes ---- */

static qn_status list_lines(qn_latents *l, qn_error *err) {
    const qn_banded *codes = &l->codes;
    const int64_t n_lines = codes->axis == QN_AXIS_ROWS ? codes->rows : codes->cols;
    int64_t n[QN_MAX_BANDS] = {0};
    for (int b = 0; b < codes->n_bands; b++)
        QN_TRY(QNI_ALLOC(l->lines[b], codes->bands[b].n_lines, "the lines of a band", err));
    for (int64_t i = 0; i < n_lines; i++) {
        const int b = codes->line_band[i];
        l->lines[b][n[b]++] = i;
    }
    return QN_OK;
}

/* Element c of a stored row is matrix[first + place(c) * step]; places NULL: c itself. */
typedef struct row_map {
    int64_t first, step;
    const int64_t *places;
} row_map;

static row_map map_row(const qn_latents *l, int band, int64_t row) {
    const int64_t *lines = l->lines[band];
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): every band has its arrays */
    if (l->codes.axis == QN_AXIS_ROWS) return (row_map){lines[row] * l->cols, 1, NULL};
    /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): every band has its arrays */
    if (l->codes.bands[band].spec.code == QN_CODE_Q4) return (row_map){lines[row], l->cols, NULL};
    return (row_map){row * l->cols, 1, lines};
}

static int64_t place_of(const row_map *map, int64_t c) {
    return map->first + (map->places ? map->places[c] : c) * map->step;
}

/* ---- tiles ---- */

/* One stored row of a band, with its parameters. */
typedef struct latent_row {
    const qn_banded_band *band;
    int64_t row;
    const float *values;     /* [cols] */
    const float *thresholds; /* [groups] or NULL */
    bool is_frozen;
    row_map map;
} latent_row;

static latent_row row_of(const qn_latents *l, int b, int64_t row) {
    const qn_banded_band *band = &l->codes.bands[b];
    const places at = places_of(&l->codes, b);
    return (latent_row){.band = band,
                        .row = row,
                        .values = l->values + at.value + row * band->cols,
                        .thresholds =
                            has_threshold(band) ? l->thresholds + at.threshold + row * band->groups : NULL,
                        .is_frozen = l->are_frozen,
                        .map = map_row(l, b, row)};
}

static int lanes_from(const qn_banded_band *band, int64_t col0) {
    return (int)(band->cols - col0 < QNI_LANES ? band->cols - col0 : QNI_LANES);
}

static int64_t group_of(const qn_banded_band *band, int64_t col) {
    return band->spec.group_size ? col / band->spec.group_size : 0;
}

/* The lane behind the last one of GROUP, of n in use from column col0 on. */
static int group_end(const qn_banded_band *band, int64_t group, int64_t col0, int n) {
    return band->spec.group_size ? (int)qni_min(n, (group + 1) * band->spec.group_size - col0) : n;
}

/* The scales and threshold of GROUP for lanes [t, end). */
static void load_group(const latent_row *row, int64_t group, int t, int end, qni_latent_tile *tile) {
    const qn_banded_band *band = row->band;
    for (int p = 0; p < band->spec.n_planes; p++) {
        const float scale = qn_f16_to_f32(band->planes[p].scales[row->row * band->groups + group]);
        for (int i = t; i < end; i++) tile->s[p][i] = scale;
    }
    for (int i = t; row->thresholds && i < end; i++) tile->threshold[i] = row->thresholds[group];
}

/* Lanes behind the row's end hold zeros. Returns the lanes in use. */
static int load_tile(const latent_row *row, int64_t col0, qni_latent_tile *tile) {
    const qn_banded_band *band = row->band;
    const int n = lanes_from(band, col0);
    memset(tile, 0, sizeof *tile);
    memcpy(tile->v, row->values + col0, (size_t)n * sizeof *tile->v);
    for (int t = 0, end; t < n; t = end) {
        const int64_t group = group_of(band, col0 + t);
        end = group_end(band, group, col0, n);
        load_group(row, group, t, end, tile);
    }
    return n;
}

/* q and w: of the latents, or of the codes there are. */
static void find_codes(const latent_row *row, int64_t col0, int n, qni_latent_tile *tile) {
    const qn_banded_band *band = row->band;
    if (!row->is_frozen) {
        qni_latent_tile_round(&band->spec, tile);
        return;
    }
    for (int p = 0; p < band->spec.n_planes; p++) {
        memcpy(tile->q[p], band->planes[p].q + row->row * band->cols + col0, (size_t)n);
        for (int t = 0; t < n; t++) tile->w[t] += tile->s[p][t] * (float)tile->q[p][t];
    }
}

static bool is_smoothed(const latent_row *row, double width) {
    return width > 0 && !row->is_frozen && qni_latent_is_smoothed(&row->band->spec);
}

static void keep_codes(const latent_row *row, int64_t col0, int n, const qni_latent_tile *tile) {
    for (int p = 0; p < row->band->spec.n_planes; p++)
        memcpy(row->band->planes[p].q + row->row * row->band->cols + col0, tile->q[p], (size_t)n);
}

/* ---- making and releasing ---- */

static double mean_first_scale(const qn_banded *codes) {
    double sum = 0.0;
    int64_t n = 0;
    for (int b = 0; b < codes->n_bands; b++) {
        const qn_banded_band *band = &codes->bands[b];
        if (band->spec.code == QN_CODE_Q4 && codes->n_bands > 1) continue;
        for (int64_t i = 0; i < band->rows * band->groups; i++)
            sum += (double)qn_f16_to_f32(band->planes[0].scales[i]);
        n += band->rows * band->groups;
    }
    return n > 0 && sum > 0.0 ? sum / (double)n : 1.0;
}

static qn_status allocate(qn_latents *l, qn_error *err) {
    const places end = places_of(&l->codes, l->codes.n_bands);
    l->n_values = end.value;
    l->n_scales = end.scale;
    l->n_thresholds = end.threshold;
    QN_TRY(QNI_ALLOC(l->values, l->n_values, "latents", err));
    QN_TRY(QNI_ALLOC(l->scales, l->n_scales, "scales of latents", err));
    return QNI_ALLOC(l->thresholds, l->n_thresholds, "thresholds of latents", err);
}

static void take_scales(qn_latents *l) {
    for (int b = 0; b < l->codes.n_bands; b++) {
        for (int p = 0; p < l->codes.bands[b].spec.n_planes; p++) {
            int64_t first;
            const int64_t n = qn_latents_plane_scales(l, b, p, &first);
            for (int64_t i = 0; i < n; i++)
                /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): every band has its arrays */
                l->scales[first + i] = qn_f16_to_f32(l->codes.bands[b].planes[p].scales[i]);
        }
    }
    for (int64_t i = 0; i < l->n_thresholds; i++) l->thresholds[i] = k_first_threshold;
}

enum { HALVINGS = 16 }; /* of the way from a level to a target in another cell */

static bool same_codes(const qni_latent_tile *a, const qni_latent_tile *b, int t) {
    return a->q[0][t] == b->q[0][t] && a->q[1][t] == b->q[1][t];
}

/* Latents as near to the target as their codes allow: `want` holds the codes and their levels. */
static void pull_towards(const qn_band_spec *spec, const qni_latent_tile *want, const float *target,
                         qni_latent_tile *tile) {
    float inside[QNI_LANES], outside[QNI_LANES];
    memcpy(tile->v, target, sizeof tile->v);
    qni_latent_tile_round(spec, tile);
    for (int t = 0; t < QNI_LANES; t++) {
        inside[t] = same_codes(tile, want, t) ? target[t] : want->w[t];
        outside[t] = target[t];
    }
    for (int k = 0; k < HALVINGS; k++) {
        for (int t = 0; t < QNI_LANES; t++) tile->v[t] = inside[t] + (outside[t] - inside[t]) / 2;
        qni_latent_tile_round(spec, tile);
        for (int t = 0; t < QNI_LANES; t++) {
            if (same_codes(tile, want, t))
                inside[t] = tile->v[t];
            else
                outside[t] = tile->v[t];
        }
    }
    memcpy(tile->v, inside, sizeof tile->v);
}

static void start_tile(const latent_row *row, int64_t col0, const float *target, float *values) {
    const qn_banded_band *band = row->band;
    qni_latent_tile tile, want;
    float wanted[QNI_LANES] = {0};
    const int n = load_tile(row, col0, &tile);
    want = tile;
    for (int t = 0; t < n; t++) {
        want.w[t] = 0;
        for (int p = 0; p < band->spec.n_planes; p++) {
            want.q[p][t] = band->planes[p].q[row->row * band->cols + col0 + t];
            want.w[t] += want.s[p][t] * (float)want.q[p][t];
        }
        wanted[t] = target ? target[place_of(&row->map, col0 + t)] : want.w[t];
    }
    pull_towards(&band->spec, &want, wanted, &tile);
    memcpy(values + col0, tile.v, (size_t)n * sizeof *values);
}

static void start_values(qn_latents *l, const float *target, const qn_context *ctx) {
    for (int b = 0; b < l->codes.n_bands; b++) {
        const qn_banded_band *band = &l->codes.bands[b];
        float *values = l->values + places_of(&l->codes, b).value;
#pragma omp parallel for schedule(static) num_threads(qn_context_threads(ctx))
        for (int64_t r = 0; r < band->rows; r++) {
            const latent_row row = row_of(l, b, r);
            for (int64_t c = 0; c < band->cols; c += QNI_LANES)
                start_tile(&row, c, target, values + r * band->cols);
        }
    }
}

qn_status qn_latents_init(qn_banded *start, int32_t hadamard, const float *target, const qn_context *ctx,
                          qn_latents *out, qn_error *err) {
    qn_latents l = {.rows = start->rows, .cols = start->cols, .hadamard = hadamard, .codes = *start};
    *start = (qn_banded){0};
    l.unit = mean_first_scale(&l.codes);
    qn_status status = list_lines(&l, err);
    if (status == QN_OK) status = allocate(&l, err);
    if (status != QN_OK) {
        qn_latents_release(&l);
        return status;
    }
    take_scales(&l);
    start_values(&l, target, ctx);
    *out = l;
    return QN_OK;
}

void qn_latents_release(qn_latents *l) {
    qn_banded_release(&l->codes);
    free(l->values);
    free(l->scales);
    free(l->thresholds);
    for (int b = 0; b < QN_MAX_BANDS; b++) free(l->lines[b]);
    *l = (qn_latents){0};
}

/* ---- from parameters to weights ---- */

static void store_plane(qn_banded_plane *plane, const float *masters, int64_t n) {
    if (!plane->scale_codes) {
        for (int64_t i = 0; i < n; i++) plane->scales[i] = qn_f32_to_f16(masters[i]);
        return;
    }
    qni_scale_grid grid;
    qni_scale_grid_init(&grid, plane->grid_base, plane->grid_ratio);
    for (int64_t i = 0; i < n; i++) {
        const int k = qni_scale_grid_nearest(&grid, masters[i]);
        plane->scale_codes[i] = (uint8_t)k;
        plane->scales[i] = grid.bits[k];
    }
}

static void store_scales(qn_latents *l) {
    for (int b = 0; b < l->codes.n_bands; b++) {
        for (int p = 0; p < l->codes.bands[b].spec.n_planes; p++) {
            int64_t first;
            const int64_t n = qn_latents_plane_scales(l, b, p, &first);
            store_plane(&l->codes.bands[b].planes[p], l->scales + first, n);
        }
    }
}

static void row_weights(const latent_row *row, double width, float *w) {
    const qn_banded_band *band = row->band;
    for (int64_t c = 0; c < band->cols; c += QNI_LANES) {
        qni_latent_tile tile;
        const int n = load_tile(row, c, &tile);
        find_codes(row, c, n, &tile);
        keep_codes(row, c, n, &tile);
        if (is_smoothed(row, width)) qni_latent_tile_smooth(&band->spec, (float)width, &tile);
        for (int t = 0; t < n; t++) w[place_of(&row->map, c + t)] = tile.w[t];
    }
}

void qn_latents_weights(qn_latents *l, double temperature, const qn_context *ctx, float *w) {
    const int n_threads = qn_context_threads(ctx);
    store_scales(l);
    for (int b = 0; b < l->codes.n_bands; b++) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
        for (int64_t r = 0; r < l->codes.bands[b].rows; r++) {
            const latent_row row = row_of(l, b, r);
            row_weights(&row, temperature * l->unit, w);
        }
    }
    if (!l->hadamard) return;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t r = 0; r < l->rows; r++) qn_hadamard_rows(w + r * l->cols, 1, l->cols, l->hadamard, true);
}

/* ---- and back ---- */

/* Where a row's gradients go; thresholds NULL without any. */
typedef struct row_gradient {
    float *values, *scales[QN_MAX_PLANES], *thresholds;
} row_gradient;

static void tile_gradient(const latent_row *row, double unit, double temperature, qni_latent_tile *tile) {
    const qn_band_spec *spec = &row->band->spec;
    if (is_smoothed(row, temperature))
        qni_latent_tile_smooth_gradient(spec, (float)(temperature * unit), tile);
    else
        qni_latent_tile_round_gradient(spec, (float)(QN_LATENT_SURROGATE_WIDTH * unit), tile);
}

/* Adds up by group, in double within a tile. */
static void add_by_group(const latent_row *row, int64_t col0, int n, const float *lanes, float *out) {
    for (int t = 0, end; t < n; t = end) {
        const int64_t group = group_of(row->band, col0 + t);
        double sum = 0.0;
        end = group_end(row->band, group, col0, n);
        for (int i = t; i < end; i++) sum += (double)lanes[i];
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): every band has its arrays */
        out[group] += (float)sum;
    }
}

static void find_row_gradient(const latent_row *row, double unit, double temperature, const float *dw,
                              const row_gradient *out) {
    const qn_banded_band *band = row->band;
    const size_t bytes = (size_t)band->groups * sizeof(float);
    /* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): every band has its arrays */
    for (int p = 0; p < band->spec.n_planes; p++) memset(out->scales[p], 0, bytes);
    if (out->thresholds) memset(out->thresholds, 0, bytes);
    for (int64_t c = 0; c < band->cols; c += QNI_LANES) {
        qni_latent_tile tile;
        const int n = load_tile(row, c, &tile);
        for (int t = 0; t < n; t++) tile.dw[t] = dw[place_of(&row->map, c + t)];
        find_codes(row, c, n, &tile);
        tile_gradient(row, unit, temperature, &tile);
        memcpy(out->values + c, tile.dv, (size_t)n * sizeof *out->values);
        for (int p = 0; p < band->spec.n_planes; p++) add_by_group(row, c, n, tile.ds[p], out->scales[p]);
        if (out->thresholds) add_by_group(row, c, n, tile.dthreshold, out->thresholds);
    }
}

void qn_latents_gradient(const qn_latents *l, double temperature, const qn_context *ctx, float *dw,
                         float *d_values, float *d_scales, float *d_thresholds) {
    const int n_threads = qn_context_threads(ctx);
    if (l->hadamard) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
        for (int64_t r = 0; r < l->rows; r++)
            qn_hadamard_rows(dw + r * l->cols, 1, l->cols, l->hadamard, false);
    }
    for (int b = 0; b < l->codes.n_bands; b++) {
        const qn_banded_band *band = &l->codes.bands[b];
        const places at = places_of(&l->codes, b);
#pragma omp parallel for schedule(static) num_threads(n_threads)
        for (int64_t r = 0; r < band->rows; r++) {
            const latent_row row = row_of(l, b, r);
            const int64_t group0 = r * band->groups;
            float *scales = d_scales + at.scale + group0;
            const row_gradient out = {.values = d_values + at.value + r * band->cols,
                                      .scales = {scales, scales + band->rows * band->groups},
                                      .thresholds =
                                          row.thresholds ? d_thresholds + at.threshold + group0 : NULL};
            find_row_gradient(&row, l->unit, temperature, dw, &out);
        }
    }
}

/* ---- after a step ---- */

static float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

static void project_plane(const qn_banded_plane *plane, float *masters, int64_t n) {
    float low = k_least_f16, high = k_most_f16;
    if (plane->scale_codes) {
        qni_scale_grid grid;
        qni_scale_grid_init(&grid, plane->grid_base, plane->grid_ratio);
        low = grid.level[0];
        high = grid.level[QNI_GRID_LEVELS - 1];
    }
    for (int64_t i = 0; i < n; i++) masters[i] = clamp(masters[i], low, high);
}

void qn_latents_project(qn_latents *l) {
    for (int b = 0; b < l->codes.n_bands; b++) {
        for (int p = 0; p < l->codes.bands[b].spec.n_planes; p++) {
            int64_t first;
            const int64_t n = qn_latents_plane_scales(l, b, p, &first);
            project_plane(&l->codes.bands[b].planes[p], l->scales + first, n);
        }
    }
    for (int64_t i = 0; i < l->n_thresholds; i++)
        l->thresholds[i] = clamp(l->thresholds[i], k_least_threshold, k_most_threshold);
}
