/* What the stages of a run have made, a file a tensor: what a killed run is taken up from, and what the artifact is written from.
 *
 * A file `matrix-NNNNN.safetensors` (N: layout entry), or `trained-KEY-NNNNN.safetensors`, `tuned-KEY-...` of later stages, holds, under the tensor's name, a matrix's block of bytes as U8, or a vector as
 * F32; the metadata `quern.run`, the key of the stage, and of a matrix `spec` (qn_packed_spec_format) and, of a fit, `relative_error`.
 * A matrix may bring a second tensor, `target`: where training is to begin (quern/fit/latents.h). Each appears when it is whole. */
#ifndef QUERN_SRC_RECIPE_MATRIX_STORE_H
#define QUERN_SRC_RECIPE_MATRIX_STORE_H

#include "quern/base/sha256.h"
#include "quern/checkpoint/layout.h"
#include "quern/codec/codec.h"

enum {
    QNI_KEY_DIGITS = 12
}; /* of a key in a file's name: enough to tell runs apart, and the file says it whole */

typedef enum qni_run_stage {
    QNI_STAGE_FITTED,  /* "matrix": as the fit left it */
    QNI_STAGE_TRAINED, /* "trained": after its block was trained */
    QNI_STAGE_TUNED,   /* "tuned": after the whole model was */
    QNI_STAGE_COUNT
} qni_run_stage;

/* A stage's key stands for all that decides what it makes, and for nothing that comes after it: another setting of a later stage leaves
 * the work of the earlier ones good. */
typedef struct qni_matrix_store {
    const char *folder; /* borrowed; exists */
    char keys[QNI_STAGE_COUNT][QN_SHA256_HEX];
} qni_matrix_store;

/* Whether the folder holds a matrix of a model of LAYOUT, of whatever run. */
bool qni_matrix_store_is_used(const qni_matrix_store *store, const qn_layout *layout);

/* QN_E_ARGUMENT when the first matrix that the folder holds is of another run. */
QN_NODISCARD qn_status qni_matrix_store_check(const qni_matrix_store *store, const qn_layout *layout,
                                              qn_error *err);

/* Whether the file of a matrix or vector is there, of whatever run. */
bool qni_matrix_store_has(const qni_matrix_store *store, qni_run_stage stage, int64_t entry);

/* TARGET [R, C] may be NULL. RELATIVE_ERROR: what a fit left of its metric; -1: nobody knows. */
QN_NODISCARD qn_status qni_matrix_store_save(const qni_matrix_store *store, qni_run_stage stage,
                                             int64_t entry, const char *name, const qn_encoded *encoded,
                                             const float *target, double relative_error, qn_error *err);

/* The error that was saved with a matrix; -1 without one. */
QN_NODISCARD qn_status qni_matrix_store_error(const qni_matrix_store *store, qni_run_stage stage,
                                              int64_t entry, double *relative_error, qn_error *err);

/* *found false: there is no such file. Else *out is owned and bound, and *target, unless TARGET is NULL, owned or NULL where the file has
 * none. QN_E_ARGUMENT when the file is of another run, QN_E_FORMAT when it is damaged or holds another SHAPE. */
QN_NODISCARD qn_status qni_matrix_store_load(const qni_matrix_store *store, qni_run_stage stage,
                                             int64_t entry, const char *name, const qn_encoded *shape,
                                             bool *found, qn_encoded *out, float **target, qn_error *err);

/* The same for a vector of N values. */
QN_NODISCARD qn_status qni_vector_store_save(const qni_matrix_store *store, qni_run_stage stage,
                                             int64_t entry, const char *name, const float *values, int64_t n,
                                             qn_error *err);
QN_NODISCARD qn_status qni_vector_store_load(const qni_matrix_store *store, qni_run_stage stage,
                                             int64_t entry, const char *name, int64_t n, bool *found,
                                             float *out, qn_error *err);

/* The path of file WHAT number NUMBER of a stage: owned by the caller. The names of later stages hold a part of their key, so that runs
 * that share a folder and their fits do not meet. */
QN_NODISCARD qn_status qni_stage_path(const qni_matrix_store *store, qni_run_stage stage, const char *what,
                                      int64_t number, char **path, qn_error *err);

/* Whether that file is there. */
bool qni_stage_has(const qni_matrix_store *store, qni_run_stage stage, const char *what, int64_t number);

/* The path of another file of the run: owned by the caller. */
QN_NODISCARD qn_status qni_store_path(const qni_matrix_store *store, const char *name, char **path,
                                      qn_error *err);

#endif
