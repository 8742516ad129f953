/* Second moments of the inputs of the linear layers: h[c] = E[x_c^2] over calibration tokens, the diagonal weight of the
 * fits (closed_form.h).
 *
 * The file is a safetensors file with one F32 tensor [cols] named `<weight name>.input_second_moment` for each matrix
 * that has one, for example `model.layers.3.mlp.up_proj.weight.input_second_moment`; every one is optional, and a matrix
 * without one is fitted plainly. Of a tied model the embedding's moments are those of the head's input. Metadata key
 * `model_sha256`, when present, says which checkpoint they were measured on (qn_checkpoint_sha256). */
#ifndef QUERN_FIT_SECOND_MOMENTS_H
#define QUERN_FIT_SECOND_MOMENTS_H

#include "quern/base/context.h"
#include "quern/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

#define QN_SECOND_MOMENT_SUFFIX ".input_second_moment"

/* Zeroed: no moments at all. */
typedef struct qn_second_moments {
    float **per_entry; /* [n] owned; entry i of the layout: owned [cols], or NULL */
    int64_t n;         /* layout entries */
} qn_second_moments;

/* Reads the moments in the file at PATH for CHECKPOINT. Refused, with *out unchanged: a tensor that names no matrix of the
 * checkpoint (QN_E_FORMAT), another dtype or length (QN_E_SHAPE), a negative or non-finite value (QN_E_VALUE), moments
 * of another model (QN_E_ARGUMENT). Cost: one pass over the file, and one over the checkpoint where `model_sha256` is
 * to be compared. */
QN_NODISCARD QN_API qn_status qn_second_moments_load(const char *path, const qn_checkpoint *checkpoint,
                                                     const qn_context *ctx, qn_second_moments *out,
                                                     qn_error *err);

/* Idempotent; a zeroed struct is fine. */
QN_API void qn_second_moments_release(qn_second_moments *moments);

/* The moments [cols] of layout entry ENTRY; NULL where there are none or MOMENTS is NULL. Borrowed. */
QN_API const float *qn_second_moments_of(const qn_second_moments *moments, int64_t entry);

#ifdef __cplusplus
}
#endif
#endif
