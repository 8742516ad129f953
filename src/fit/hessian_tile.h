/* 64 rows of a problem at work: every array is [something][64], so that what is sequential over inputs is parallel over rows. */
#ifndef QUERN_SRC_FIT_HESSIAN_TILE_H
#define QUERN_SRC_FIT_HESSIAN_TILE_H

#include "fit/hessian_problem.h"

typedef struct qni_refit qni_refit;

typedef struct qni_tile {
    const qni_problem *p;
    int64_t row0, n;          /* rows [row0, row0 + n) of the problem; the rest of the 64 are zero */
    float *w;                 /* [C][64] by position: what is fitted */
    float *e;                 /* [C][64] w minus the decoded codes */
    float *hw;                /* [C][64] unit * H w; of DESCENT */
    int8_t *q[QN_MAX_PLANES]; /* [C][64] */
    float *scales;            /* [n_slots + 1][64] */
    float *block, *saved;     /* [48][64] */
    qni_refit *refit;         /* of DESCENT with native bands */
} qni_tile;

QN_NODISCARD qn_status qni_tile_init(qni_tile *tile, const qni_problem *p, qn_error *err);
void qni_tile_release(qni_tile *tile);

/* Takes the weights and scales of the rows from ROW0 on, and with CODES also the codes of the product. */
void qni_tile_load(qni_tile *tile, int64_t row0, bool codes);
/* Writes the codes to the product and the scales of native slots to the problem. */
void qni_tile_store(const qni_tile *tile);

/* Codes: the nearest levels. */
void qni_tile_round(qni_tile *tile);

/* Codes with feedback; returns the error in units of unit * H, without the damping. */
double qni_tile_feedback(qni_tile *tile, const qni_factor *factor);

/* One pass over all codes. ERROR, unless NULL, receives the sum over rows of e H e^T after it, in units of unit * H. */
void qni_tile_descend(qni_tile *tile, double *error);

/* hw = unit * H w. */
void qni_tile_multiply(qni_tile *tile);

/* The best scales for the present codes; hw must be there. */
QN_NODISCARD qn_status qni_refit_new(qni_refit **out, const qni_problem *p, qn_error *err);
void qni_refit_free(qni_refit *refit);
void qni_tile_refit(qni_tile *tile);

/* sum over rows of x H x^T in units of unit * H; x [C][64]. */
double qni_tile_energy(qni_tile *tile, const float *x);

#endif
