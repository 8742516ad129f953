/* The lines of a loss model from the statistics of a teacher, one input after another. */
#ifndef QUERN_SRC_RECIPE_LOSS_LINES_H
#define QUERN_SRC_RECIPE_LOSS_LINES_H

#include "recipe/loss_model.h"

typedef struct qni_loss_lines {
    const qn_model *model;
    const qni_loss_model_options *options;
    const qn_context *ctx;
    qni_loss_model *loss; /* its fisher is there already */
} qni_loss_lines;

/* All matrices of a block that share the input of layout entry ENTRY. HESSIAN [cols, cols] is
 * used up. */
QN_NODISCARD qn_status qni_loss_lines_add_input(const qni_loss_lines *lines, int64_t entry, float *hessian,
                                                qn_error *err);

/* Head and embedding, from loss->head_hessian and loss->token_frequency. */
QN_NODISCARD qn_status qni_loss_lines_add_tables(const qni_loss_lines *lines, qn_error *err);

#endif
