/* The planner: which lines of which matrix get how many bits, for the least predicted loss within a byte budget.
 *
 * A line j of sensitivity s_j predicts a loss of rho * s_j / 2 nats a token in a code of relative error rho. All codes order lines
 * alike, so for given counts the n_q4 most sensitive lines of a matrix go to q4, the next n_double into two planes, the others
 * into one. Every matrix has a table of such counts with exact bytes, for each basis it may be stored in; the planner takes from
 * each table the row with the least
 *
 *     loss + lambda * bytes + mu * q4 weights
 *
 * and finds lambda and mu by bisection: bytes within the budget, q4 weights within their limit. What the discrete choices leave over is
 * then spent row by row where it buys most. Source: Everett, "Generalized Lagrange multiplier method", 1963.
 *
 * Deterministic. Cost: some hundred passes over tables of at most a few thousand rows a matrix. */
#ifndef QUERN_SRC_RECIPE_PLANNER_H
#define QUERN_SRC_RECIPE_PLANNER_H

#include "quern/codec/codec.h"

/* Bands in the order in which they are stored. */
typedef enum qni_band_kind {
    QNI_BAND_SINGLE,
    QNI_BAND_DOUBLE,
    QNI_BAND_Q4,
    QNI_BAND_KIND_COUNT
} qni_band_kind;

/* What bands of each kind are made of; QN_CODE_NONE: the plan may not use this kind. */
typedef struct qni_band_codecs {
    qn_codec of[QNI_BAND_KIND_COUNT];
} qni_band_codecs;

enum { QNI_MAX_BASES = 2 };

/* A basis that a matrix may be stored in. */
typedef struct qni_plan_basis {
    int32_t hadamard;          /* columns of a rotated block; 0: the matrix as it is */
    const double *sensitivity; /* [lines] >= 0, borrowed: nats a token for a relative error of 2 */
    double relative_error[QNI_BAND_KIND_COUNT]; /* rho of each kind */
} qni_plan_basis;

typedef struct qni_plan_matrix {
    int64_t rows, cols;
    qn_axis axis;
    bool column_scaled;
    bool is_forced; /* all lines are of the kind `forced` */
    qni_band_kind forced;
    int n_bases;
    qni_plan_basis bases[QNI_MAX_BASES];
} qni_plan_matrix;

typedef struct qni_plan_limits {
    int64_t max_bytes;      /* of all matrices together */
    int64_t max_q4_weights; /* of all matrices together */
} qni_plan_limits;

/* The choice for one matrix. */
typedef struct qni_plan_choice {
    int64_t n_lines[QNI_BAND_KIND_COUNT];
    int64_t n_bytes; /* qn_encoded_bytes of the shape */
    double loss;     /* predicted, nats a token */
    qn_encoded shape;
    uint8_t *line_band; /* [lines] owned: index into shape.bands */
} qni_plan_choice;

/* choices[n] is filled for matrices[n]; release each. QN_E_BUDGET when the cheapest choice of all matrices is larger than
 * max_bytes (*least_bytes says how large), QN_E_ARGUMENT when more weights are forced into q4 than may be there. */
QN_NODISCARD qn_status qni_plan(const qni_plan_matrix *matrices, int64_t n, const qni_band_codecs *codecs,
                                const qni_plan_limits *limits, qni_plan_choice *choices, int64_t *least_bytes,
                                qn_error *err);
void qni_plan_choice_release(qni_plan_choice *choice);

#endif
