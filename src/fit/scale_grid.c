#include "fit/scale_grid.h"

#include "base/alloc.h"
#include "fit/group_fit.h"
#include "quern/tensor/dtype.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

/* fp16 reaches from 2^-24 to below 2^16. */
enum { BINS_PER_OCTAVE = 64, LOWEST_OCTAVE = -24, OCTAVES = 40, N_BINS = OCTAVES * BINS_PER_OCTAVE };

/* Ends are tried at steps of 1/32 of the range, then around the best at steps a quarter as long, and so on. */
enum { RANGE_STEPS = 32, ROUNDS = 3, AROUND = 4 };

/* Closer together fp16 would give the same value twice. */
static const double smallest_ratio = 1 + 0x1p-10;

struct qni_scale_census {
    double weight[N_BINS];
    float smallest, largest;
};

qn_status qni_scale_census_new(qni_scale_census **out, qn_error *err) {
    *out = qni_alloc_array(1, sizeof **out);
    return *out ? QN_OK : qni_fail_nomem(err, "a census of scales");
}

void qni_scale_census_free(qni_scale_census *census) {
    free(census);
}

static int bin_of(float scale) {
    const int bin = (int)floor((log2((double)scale) - LOWEST_OCTAVE) * BINS_PER_OCTAVE);
    return bin < 0 ? 0 : bin < N_BINS ? bin : N_BINS - 1;
}

void qni_scale_census_add(qni_scale_census *census, float scale, double weight) {
    if (!(scale > 0)) return;
    scale = qn_f16_to_f32(qni_scale_bits((double)scale));
    census->weight[bin_of(scale)] += weight;
    if (!(census->smallest > 0) || scale < census->smallest) census->smallest = scale;
    if (scale > census->largest) census->largest = scale;
}

void qni_scale_grid_init(qni_scale_grid *grid, float base, float ratio) {
    double value = (double)base;
    *grid = (qni_scale_grid){.base = base, .ratio = ratio};
    for (int k = 0; k < QNI_GRID_LEVELS; k++) {
        grid->bits[k] = qn_f32_to_f16((float)value);
        grid->level[k] = qn_f16_to_f32(grid->bits[k]);
        value *= (double)ratio;
    }
}

int qni_scale_grid_nearest(const qni_scale_grid *grid, float scale) {
    int low = 0, high = QNI_GRID_LEVELS - 1;
    while (low < high) { /* the first level that is not below the scale */
        const int middle = (low + high) / 2;
        if (grid->level[middle] < scale) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 && scale - grid->level[low - 1] <= fabsf(grid->level[low] - scale) ? low - 1 : low;
}

/* Between the ends the rounding error is uniform within a step, beyond them it is the distance to the end. LOW and HIGH are
 * octaves. */
static double grid_cost(const qni_scale_census *census, int first_bin, int last_bin, double low,
                        double high) {
    const double step = (exp2((high - low) / (QNI_GRID_LEVELS - 1)) - 1), inside = step * step / 12;
    double cost = 0;
    for (int b = first_bin; b <= last_bin; b++) {
        if (!(census->weight[b] > 0)) continue;
        const double x = LOWEST_OCTAVE + (b + 0.5) / BINS_PER_OCTAVE;
        const double beyond = exp2(fmin(fmax(x, low), high) - x) - 1;
        cost += census->weight[b] * (inside + beyond * beyond);
    }
    return cost;
}

/* The best ends so far, in octaves. */
typedef struct grid_search {
    const qni_scale_census *census;
    int first_bin, last_bin;
    double bottom, top; /* of the scales */
    double low, high, cost;
} grid_search;

/* Tries the ends low0 + i * step and high0 + j * step, i and j within [from, to]. */
static void try_ends(grid_search *search, double low0, double high0, double step, int from, int to) {
    for (int i = from; i <= to; i++) {
        for (int j = from; j <= to; j++) {
            const double low = low0 + i * step, high = high0 - j * step;
            if (low > high || low < search->bottom || high > search->top) continue;
            const double cost = grid_cost(search->census, search->first_bin, search->last_bin, low, high);
            if (cost >= search->cost) continue;
            search->low = low;
            search->high = high;
            search->cost = cost;
        }
    }
}

void qni_scale_grid_choose(const qni_scale_census *census, qni_scale_grid *out) {
    if (!(census->largest > 0)) { /* all-zero weights: any value serves */
        qni_scale_grid_init(out, 0x1p-24f, (float)smallest_ratio);
        return;
    }
    grid_search search = {.census = census,
                          .first_bin = bin_of(census->smallest),
                          .last_bin = bin_of(census->largest),
                          .bottom = log2((double)census->smallest),
                          .top = log2((double)census->largest),
                          .cost = (double)INFINITY};
    search.low = search.bottom;
    search.high = search.top;
    double step = (search.top - search.bottom) / RANGE_STEPS;
    try_ends(&search, search.bottom, search.top, step, 0, RANGE_STEPS);
    for (int round = 0; round < ROUNDS; round++) {
        step /= AROUND;
        try_ends(&search, search.low, search.high, step, 1 - AROUND, AROUND - 1);
    }
    const double ratio = fmax(exp2((search.high - search.low) / (QNI_GRID_LEVELS - 1)), smallest_ratio);
    const double low = fmax(search.high - log2(ratio) * (QNI_GRID_LEVELS - 1), LOWEST_OCTAVE);
    qni_scale_grid_init(out, (float)exp2(low), (float)ratio);
}
