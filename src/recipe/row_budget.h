/* What the data-free recipe's file holds: its size before any weight is read, and later the rows that fit into it. */
#ifndef QUERN_SRC_RECIPE_ROW_BUDGET_H
#define QUERN_SRC_RECIPE_ROW_BUDGET_H

#include "quern/artifact/artifact.h"
#include "quern/fit/rowmix.h"

/* The recipe on one model; all borrowed. */
typedef struct qni_row_budget {
    const qn_artifact_plan *plan;
    const qn_layout *layout;
    const qn_rowmix_options *rowmix;
    qn_encoded *shapes;  /* [layout.n] scratch: those of the last question */
    int64_t max_weights; /* that may be rescued; set to 0 by qni_row_budget_size where there is no room */
    int64_t file_bytes;  /* qni_row_budget_size */
} qni_row_budget;

/* Bytes of the smallest file with n_rescued_rows [layout.n] rows in q4; NULL: none. */
QN_NODISCARD qn_status qni_row_budget_need(const qni_row_budget *budget, const int64_t *n_rescued_rows,
                                           int64_t *n_bytes, qn_error *err);

/* Sets file_bytes: what BUDGET_BYTES allows, and no more than max_weights rescued weights can take. QN_E_ARGUMENT where a
 * rescued row is smaller than a native one. */
QN_NODISCARD qn_status qni_row_budget_size(qni_row_budget *budget, int64_t budget_bytes, qn_error *err);

/* The best rows that fit into file_bytes; `shapes` are those of the choice, which the caller releases. */
QN_NODISCARD qn_status qni_row_budget_choose(const qni_row_budget *budget, const qn_sensitivity *sensitivity,
                                             qn_rescue_choice *out, qn_error *err);

#endif
