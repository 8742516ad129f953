/* The compressed matrices of a run, a file each: what a killed run is taken up from, and what the artifact is written from.
 *
 * A file `matrix-NNNNN.safetensors` (N: layout entry) holds one U8 tensor, the matrix's block of bytes under its name, and the
 * metadata `spec` (qn_packed_spec_format) and `quern.run`, the key of the run. It appears when it is whole. */
#ifndef QUERN_SRC_RECIPE_MATRIX_STORE_H
#define QUERN_SRC_RECIPE_MATRIX_STORE_H

#include "quern/base/sha256.h"
#include "quern/checkpoint/layout.h"
#include "quern/codec/codec.h"

typedef struct qni_matrix_store {
    const char *folder; /* borrowed; exists */
    char key[QN_SHA256_HEX];
} qni_matrix_store;

/* Whether the folder holds a matrix of a model of LAYOUT, of whatever run. */
bool qni_matrix_store_is_used(const qni_matrix_store *store, const qn_layout *layout);

QN_NODISCARD qn_status qni_matrix_store_save(const qni_matrix_store *store, int64_t entry, const char *name,
                                             const qn_encoded *encoded, qn_error *err);

/* *found false: there is no such file. Else *out is owned and bound. QN_E_ARGUMENT when the file is of another run,
 * QN_E_FORMAT when it is damaged or holds another SHAPE. */
QN_NODISCARD qn_status qni_matrix_store_load(const qni_matrix_store *store, int64_t entry, const char *name,
                                             const qn_encoded *shape, bool *found, qn_encoded *out,
                                             qn_error *err);

#endif
