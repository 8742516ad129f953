/* A second-order model of the loss: what an error in each line of each matrix costs.
 *
 *   d loss = 1/2 sum_i F_i D_i H D_i^T   nats a token, for a change D of a matrix with inputs x, outputs y
 *   H = E[x x^T], F_i = E[g_i^2] of its outputs (quern/fit/fisher.h)
 *
 * After error feedback only the diagonal D_j of H = L D L^T is left to pay (quern/fit/hessian_fit.h), so that a line's sensitivity,
 * the cost of losing it whole, times two, is
 *
 *   column j             D_j sum_i F_i w_ij^2
 *   row i                F_i sum_j D_j w_ij^2
 *   row v of embedding   f_v sum_j G_j w_vj^2       f_v frequency of the token, G_j = E[g_j^2] of the vectors looked up
 *   tied embedding       the sum of both rows: it is embedding and head
 *
 * With a rotation, columns, D and w are those of W S (rotation.h).
 *
 * Measured in one walk and one walk backwards of the teacher, or read from a file of statistics. Memory: the walks', and one
 * block's second moments. */
#ifndef QUERN_SRC_RECIPE_LOSS_MODEL_H
#define QUERN_SRC_RECIPE_LOSS_MODEL_H

#include "quern/fit/fisher.h"
#include "quern/fit/hessian_fit.h"
#include "quern/fit/statistics.h"
#include "recipe/planner.h"

/* The lines of a matrix in one basis. */
typedef struct qni_line_losses {
    int32_t hadamard;       /* columns of a rotated block; 0: the matrix as it is */
    double *columns, *rows; /* owned [cols], [rows]: sensitivities */
    double relative_error[QNI_BAND_KIND_COUNT];
} qni_line_losses;

typedef struct qni_matrix_losses {
    int n_bases; /* 0: no matrix */
    qni_line_losses bases[QNI_MAX_BASES];
} qni_matrix_losses;

typedef struct qni_loss_model {
    const qn_layout *layout; /* borrowed from the model */
    qn_fisher fisher;
    qni_matrix_losses *matrices; /* owned [layout.n] */
    float *head_hessian;         /* owned [h, h]: of the head's input */
    float *token_frequency;      /* owned [V] */
} qni_loss_model;

typedef struct qni_loss_model_options {
    qn_compute compute;
    qn_axis axis; /* of the lines of the layers' matrices */
    qni_band_codecs codecs;
    qn_hessian_fit_options fit; /* damping and order; all of it where errors are measured */
    double shrinkage;           /* of second moments (quern/fit/moments.h) */
    int64_t hadamard;      /* blocks of columns in which the matrices of the layers are rotated; 0: none */
    bool rotation_is_open; /* both bases, for the plan to choose from */
    bool measures_errors;  /* of the codes, in each matrix; else those of normal weights */
    qn_model *
        probed; /* a second model of the checkpoint, lent changed matrices to correct the sensitivities by what they do to
                         the head (measured_sensitivity.h); NULL: they are taken as they are */
    const qn_sequences *probe_sequences;
    uint64_t seed;
} qni_loss_model_options;

/* SEQUENCES give second moments and token frequencies, FISHER_SEQUENCES the Fisher diagonal. */
QN_NODISCARD qn_status qni_loss_model_measure(const qn_model *model, const qn_sequences *sequences,
                                              const qn_sequences *fisher_sequences,
                                              const qni_loss_model_options *options, const qn_context *ctx,
                                              qni_loss_model *out, qn_error *err);

/* The same from a file of statistics, at PATH for messages; QN_E_ARGUMENT where it lacks one. The same bytes where the file was
 * measured on the same text with the same seed. */
QN_NODISCARD qn_status qni_loss_model_read(const qn_model *model, const qn_statistics *statistics,
                                           const char *path, const qni_loss_model_options *options,
                                           const qn_context *ctx, qni_loss_model *out, qn_error *err);
void qni_loss_model_release(qni_loss_model *loss);

/* out [h, h]: the metric in which the rows of a tied embedding are fitted: the head's H, and the mean frequency of a token over the
 * mean F of a logit times diag G. Of an untied one: diag G alone. */
void qni_loss_model_embedding_metric(const qni_loss_model *loss, bool is_tied, float *out);

#endif
