/* Statistics of a model on text, as `quern calibrate` writes them and the fits read them.
 *
 * The file is a safetensors file of F32 tensors, each named after a matrix of the checkpoint, NAME being its full name (for
 * example `model.layers.3.mlp.up_proj.weight`); every one is optional:
 *
 *   NAME.input_second_moment  [C]     E[x_c^2] of the matrix's input
 *   NAME.input_hessian        [C, C]  H = E[x x^T], once for matrices that share their input: under q_proj for k_proj and
 *                                     v_proj too, under gate_proj for up_proj
 *   NAME.output_fisher        [R]     F of the matrix's output (fisher.h)
 *   NAME.token_frequency      [V]     embedding: how often each token occurs, as a share of all
 *   NAME.lookup_gradient      [h]     embedding: E[g_c^2] of the vectors it looks up
 *
 * Input and output of a tied embedding are those of the head. Metadata: `format` = "quern-statistics", `version` = "1",
 * `model_sha256` (qn_checkpoint_sha256), `text_sha256` (of the documents), `n_tokens`, `n_fisher_tokens`, `context`, `seed`;
 * where files of different texts, contexts or seeds are merged, their values are joined by "+". A file without metadata is read
 * as one of an unknown model.
 *
 * A file is mapped: vectors are copied when it is opened, a Hessian when it is asked for. */
#ifndef QUERN_FIT_STATISTICS_H
#define QUERN_FIT_STATISTICS_H

#include "quern/base/context.h"
#include "quern/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_statistic {
    QN_STATISTIC_SECOND_MOMENT,
    QN_STATISTIC_HESSIAN,
    QN_STATISTIC_OUTPUT_FISHER,
    QN_STATISTIC_TOKEN_FREQUENCY,
    QN_STATISTIC_LOOKUP_GRADIENT,
    QN_STATISTIC_COUNT
} qn_statistic;

/* "input_second_moment" and so on. */
QN_API const char *qn_statistic_name(qn_statistic statistic);

/* What the metadata say: NULL and 0 where they are silent. Strings borrowed from the statistics. */
typedef struct qn_statistics_info {
    const char *model_sha256, *text_sha256, *context, *seed;
    int64_t n_tokens, n_fisher_tokens;
} qn_statistics_info;

typedef struct qn_statistics qn_statistics;

/* Opens the file at PATH for a model of LAYOUT, which must outlive *out. With LAYOUT NULL the file is only listed
 * (qn_statistics_count, qn_statistics_item). Refused: a tensor that names no matrix or statistic (QN_E_FORMAT), another dtype
 * or shape (QN_E_SHAPE), a negative or non-finite value in a vector (QN_E_VALUE), another version (QN_E_UNSUPPORTED). */
QN_NODISCARD QN_API qn_status qn_statistics_open(const char *path, const qn_layout *layout,
                                                 qn_statistics **out, qn_error *err);
QN_API void qn_statistics_close(qn_statistics *statistics);

QN_API qn_statistics_info qn_statistics_info_of(const qn_statistics *statistics);

/* QN_E_ARGUMENT when they were measured on another model. Cost: one pass over the checkpoint's bytes; none when the file
 * does not name its model. */
QN_NODISCARD QN_API qn_status qn_statistics_check_model(const qn_statistics *statistics,
                                                        const qn_checkpoint *checkpoint,
                                                        const qn_context *ctx, qn_error *err);

/* The vector of layout entry ENTRY, borrowed; NULL when there is none. Not for Hessians. */
QN_API const float *qn_statistics_vector(const qn_statistics *statistics, qn_statistic statistic,
                                         int64_t entry);

/* Whether there is a Hessian for the input of layout entry ENTRY, its own or a shared one. */
QN_API bool qn_statistics_has_hessian(const qn_statistics *statistics, int64_t entry);

/* out [C, C] = that Hessian. QN_E_ARGUMENT when there is none; QN_E_VALUE when it holds NaN, infinity or a negative diagonal. */
QN_NODISCARD QN_API qn_status qn_statistics_hessian(const qn_statistics *statistics, int64_t entry,
                                                    float *out, qn_error *err);

/* The layout entry whose input a matrix shares: q_proj for k_proj and v_proj, gate_proj for up_proj, else itself. */
QN_API int64_t qn_statistics_shared_input(const qn_layout *layout, int64_t entry);

/* One tensor of the file, in the file's order; the values of a Hessian are those of its diagonal. */
typedef struct qn_statistics_item {
    const char *name; /* borrowed; of the matrix and the statistic */
    qn_statistic statistic;
    int64_t n_values;     /* of the vector or the diagonal */
    int64_t n_zero;       /* of them: for inputs, the dead ones */
    double mean, largest; /* of them */
} qn_statistics_item;

QN_API int64_t qn_statistics_count(const qn_statistics *statistics);
QN_NODISCARD QN_API qn_status qn_statistics_item_at(const qn_statistics *statistics, int64_t index,
                                                    qn_statistics_item *out, qn_error *err);

/* Writes the statistics of all texts together: means weighted by the files' tokens, added up in double, in the order
 * given. All must be of one model and hold the same tensors (QN_E_ARGUMENT). Memory: the largest tensor, three times.
 * The file at OUT appears when it is whole. */
QN_NODISCARD QN_API qn_status qn_statistics_merge(const char *const *paths, int64_t n, const char *out,
                                                  const qn_context *ctx, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
