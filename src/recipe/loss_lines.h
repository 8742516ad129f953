/* The lines of a loss model from the statistics of a teacher, one input after another. */
#ifndef QUERN_SRC_RECIPE_LOSS_LINES_H
#define QUERN_SRC_RECIPE_LOSS_LINES_H

#include "recipe/loss_model.h"
#include "recipe/probe.h"

typedef struct qni_loss_lines {
    const qn_model *model;
    const qni_loss_model_options *options;
    const qn_context *ctx;
    int64_t n_tokens;     /* that the second moments are means of */
    qni_loss_model *loss; /* its fisher is there already */
    qni_probe probe;      /* in front of block `block`; with options->probed only */
    int64_t block;
} qni_loss_lines;

/* Takes up the probe, where the options have one. */
QN_NODISCARD qn_status qni_loss_lines_open(qni_loss_lines *lines, qn_error *err);
void qni_loss_lines_close(qni_loss_lines *lines);

/* All matrices of a block that share the input of layout entry ENTRY. Inputs come in the order of the blocks. HESSIAN [cols, cols] is
 * used up. */
QN_NODISCARD qn_status qni_loss_lines_add_input(qni_loss_lines *lines, int64_t entry, float *hessian,
                                                qn_error *err);

/* Head and embedding, from loss->head_hessian, which is shrunk, and loss->token_frequency. */
QN_NODISCARD qn_status qni_loss_lines_add_tables(qni_loss_lines *lines, qn_error *err);

#endif
