/* One pass over the rows of a matrix, in parallel, a tile of rows per thread in memory. */
#ifndef QUERN_SRC_FIT_EACH_ROW_H
#define QUERN_SRC_FIT_EACH_ROW_H

#include "quern/base/context.h"
#include "quern/fit/closed_form.h"

/* What a visit may use beside its row; private to the thread. */
typedef struct qni_row_tools {
    qn_fit_scratch scratch; /* for rows of this matrix */
    int8_t *q;              /* [cols] */
    uint16_t *scales;       /* [cols]: as many as groups can be */
} qni_row_tools;

/* Visits one finite row; must write only what belongs to ROW, so that neither order nor thread matters. */
typedef void qni_visit_row(void *user, int64_t row, const float *w, qni_row_tools *tools);

/* Visits every row of WEIGHT. A NaN or infinity is QN_E_VALUE naming NAME, row and column, whichever thread
 * met it the first in row order; then some rows were not visited. */
QN_NODISCARD qn_status qni_each_row(const qn_weight *weight, const char *name, const qn_context *ctx,
                                    qni_visit_row *visit, void *user, qn_error *err);

#endif
