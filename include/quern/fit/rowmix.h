/* Rowmix: which rows to rescue in 4 bits, over all matrices at once.
 *
 * For each row: e_low = error in the native code, e_q4 = error in q4; its sensitivity is the gain e_low - e_q4, and its
 * price the extra bytes q4 costs. Rows are ranked by gain per extra byte over all matrices, embedding and head
 * included (their rows last, unless second moments say otherwise: qn_row_token_share), and taken until the rescued fraction or the byte budget binds, whichever comes first. Source: the public
 * "rowmix + q4 rescue" recipe, with prices. */
#ifndef QUERN_FIT_ROWMIX_H
#define QUERN_FIT_ROWMIX_H

#include "quern/base/context.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/fit/closed_form.h"
#include "quern/fit/second_moments.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Errors of the stored row, sum (w - s q)^2, held at FLT_MAX. The weighted ones are sum h (w - s q)^2 of the row that
 * was fitted with the weights h; equal to the plain ones where there are none. */
typedef struct qn_row_errors {
    float native, rescue;
    float native_weighted, rescue_weighted;
} qn_row_errors;

typedef struct qn_sensitivity_tensor {
    int64_t entry; /* layout index of the matrix */
    qn_codec native;
    int64_t rows, cols;
    int64_t extra_bytes;   /* price of rescuing one row: bytes of a rescue row less those of a native row */
    double token_share;    /* of all tokens that one row works for (qn_row_token_share); 0 counts as 1 */
    double energy;         /* sum w^2 of the tensor */
    qn_row_errors *errors; /* [rows] owned */
} qn_sensitivity_tensor;

typedef struct qn_sensitivity {
    qn_sensitivity_tensor *tensors; /* owned, in layout order */
    int64_t n;
    bool weighted; /* second moments were given: rank by the weighted errors */
} qn_sensitivity;

typedef struct qn_rowmix_options {
    qn_codec native; /* fp16 scales, as in the other */
    qn_codec rescue; /* q4/128 */
    qn_fit_rule rule;
    const qn_second_moments *moments; /* or NULL: plain; borrowed */
} qn_rowmix_options;

/* Measures every row of every matrix. NaN or infinity in a weight is QN_E_VALUE naming tensor, row and column.
 * Parallel over rows, a few rows in memory per thread; the result does not depend on threads. Cost: one pass over the
 * weights. */
QN_NODISCARD QN_API qn_status qn_sensitivity_measure(const qn_checkpoint *checkpoint,
                                                     const qn_rowmix_options *options, const qn_context *ctx,
                                                     qn_sensitivity *out, qn_error *err);
QN_API void qn_sensitivity_release(qn_sensitivity *sensitivity);

/* 1 for a row of a block's matrix, which works for every token; 1 / vocab_size for a row of embedding or head, which works
 * for one. Rescued without data, such rows also stand out among their shrunken neighbours and bend the softmax. */
QN_API double qn_row_token_share(const qn_layout_entry *entry);

/* The gain of rescuing a row, in the errors the table is ranked by. */
QN_API double qn_sensitivity_gain(const qn_sensitivity *sensitivity, int64_t tensor, int64_t row);

typedef struct qn_rescue_limits {
    int64_t max_weights;     /* rescued weights, all matrices together */
    int64_t max_extra_bytes; /* sum of extra_bytes */
} qn_rescue_limits;

/* The choice: rescued[t][row] for tensor t of the table. */
typedef struct qn_rescue_choice {
    uint8_t **rescued;       /* [n][rows] 0 or 1; owned */
    int64_t *n_rescued_rows; /* [n] owned */
    int64_t n, n_weights, extra_bytes;
} qn_rescue_choice;

/* Greedy by gain per byte; without second moments a gain counts relative to its tensor's energy per weight and times the
 * row's token_share. Rows that cost nothing come first; ties: earlier tensor, then earlier row; a row that no longer
 * fits is passed over and smaller ones may still be taken. Rows without gain are never taken. Deterministic. */
QN_NODISCARD QN_API qn_status qn_rescue_choose(const qn_sensitivity *sensitivity,
                                               const qn_rescue_limits *limits, qn_rescue_choice *out,
                                               qn_error *err);
QN_API void qn_rescue_choice_release(qn_rescue_choice *choice);

/* The shape of a matrix with that many rescued rows: bands of rows, native first; a band without rows is left out. */
QN_API qn_encoded qn_rowmix_shape(const qn_rowmix_options *options, int64_t rows, int64_t cols,
                                  int64_t n_rescued_rows);

/* Encodes one matrix: native rows by the closed form, rescued rows in q4. rescued [rows] may be NULL. h [cols] or NULL
 * (options->moments is not read). *out is owned and bound. Parallel; the bytes do not depend on threads. */
QN_NODISCARD QN_API qn_status qn_rowmix_encode(const qn_weight *weight, const char *name,
                                               const qn_rowmix_options *options, const float *h,
                                               const uint8_t *rescued, const qn_context *ctx, qn_encoded *out,
                                               qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
