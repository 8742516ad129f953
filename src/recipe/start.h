/* Training that goes on from an artifact: its codes stand for the fits, and keep their shapes and places. */
#ifndef QUERN_SRC_RECIPE_START_H
#define QUERN_SRC_RECIPE_START_H

#include "quern/model/model.h"
#include "recipe/matrix_store.h"

/* *shapes [layout.n], owned by the caller: those of the matrices of START, without data. Errors: QN_E_SHAPE for a student that is not of the
 * teacher's shape, naming the tensor; QN_E_ARGUMENT for a matrix that is in no code. */
QN_NODISCARD qn_status qni_start_shapes(const qn_checkpoint *start, const qn_layout *teacher,
                                        qn_encoded **shapes, qn_error *err);

/* Puts matrices and vectors of START into the store as fitted; latents are to begin as near to the TEACHER's weights as the codes allow.
 * Matrices that are there already stay. */
QN_NODISCARD qn_status qni_start_fill(const qn_checkpoint *start, const qn_model *teacher,
                                      const qni_matrix_store *store, const qn_context *ctx, qn_error *err);

#endif
