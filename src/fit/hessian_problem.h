/* One set of rows of W that are fitted alike, as the phases of qn_hessian_fit see it.
 *
 * Three orders of inputs: their own; *positions*, the order they are processed in; and *places*, band by band, in which groups
 * are contiguous. A slot is one scale of a row: native groups and planes first, in the order of their columns, then the q4 scales,
 * which no refit changes. */
#ifndef QUERN_SRC_FIT_HESSIAN_PROBLEM_H
#define QUERN_SRC_FIT_HESSIAN_PROBLEM_H

#include "fit/levels.h"
#include "fit/metric.h"
#include "quern/fit/hessian_fit.h"

typedef struct qni_slot {
    int band, plane;
    int64_t group;       /* in the band's stored rows; of a transposed q4 band the stored row */
    int64_t first, last; /* places it scales */
} qni_slot;

/* How the input at one position is coded. */
typedef struct qni_input {
    int64_t input, place;
    int64_t slot; /* of its first plane; the second plane's is the next */
    qni_choose_level *choose;
    qni_choose_priced *choose_priced; /* NULL: no level is dearer than another, or prices are 0 */
    int n_planes, band;
    int64_t column; /* in the band's stored rows; of a transposed q4 band the stored row */
} qni_input;

typedef struct qni_problem {
    const qn_hessian_fit_options *options;
    const qni_metric *metric;
    const float *w; /* [R, C] */
    qn_banded *out;
    int64_t cols;                          /* C */
    int64_t n_rows;                        /* rows of this problem */
    int64_t *rows;                         /* [n_rows] owned; NULL: all rows of W in order */
    qni_input *inputs;                     /* [C] by position */
    int64_t *place_input, *place_position; /* [C] by place */
    qni_slot *slots;
    int64_t n_slots, n_native; /* native ones come first */
    float price;               /* of a trit that is not 0, in units of unit * H */
    float *scales;             /* [n_native][padded rows] what descents and refits work with */
    int64_t padded_rows;       /* whole tiles */

    const qni_strips *upper; /* U, by position; NULL for WEIGHTED */
    qni_strips by_position;  /* unit * H */
    qni_strips by_place;     /* unit * H; column j as deep as its group; of DESCENT with native groups only */
} qni_problem;

/* Rows of one band (row axis), or all of them (BAND < 0). *problem refers to its arguments. */
QN_NODISCARD qn_status qni_problem_init(qni_problem *problem, const float *w, const qni_metric *metric,
                                        const qni_strips *upper, const qn_hessian_fit_options *options,
                                        int band, qn_banded *out, int n_threads, qn_error *err);
void qni_problem_release(qni_problem *problem);

static inline const float *qni_problem_row(const qni_problem *p, int64_t row) {
    return p->w + (p->rows ? p->rows[row] : row) * p->cols;
}

/* Whether a band holds one stored row for each of its columns. */
static inline bool qni_is_transposed(const qn_banded *banded, int band) {
    return banded->axis == QN_AXIS_COLUMNS && banded->bands[band].spec.code == QN_CODE_Q4;
}

/* Starting scales of every row, rounded to fp16 in p->scales; those of q4 bands are stored in the product. QN_E_VALUE for weights
 * that are not finite. */
QN_NODISCARD qn_status qni_start_scales(qni_problem *p, const qn_context *ctx, qn_error *err);

/* The scales of native slots as they will be stored: fp16, or numbers of a grid chosen here for each plane; p->scales become these.
 * Those of q4 bands are stored from the start and only take their grid. */
QN_NODISCARD qn_status qni_store_native_scales(qni_problem *p, qn_error *err);
QN_NODISCARD qn_status qni_store_q4_scales(qni_problem *p, qn_error *err);

#endif
