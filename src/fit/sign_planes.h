/* Evaluated latents as sums of signs, for the products of training (tensor/signs.h). */
#ifndef QUERN_SRC_FIT_SIGN_PLANES_H
#define QUERN_SRC_FIT_SIGN_PLANES_H

#include "quern/fit/latents.h"
#include "tensor/signs.h"

/* True: the matrix can stand as signs, and there are kernels that make use of it. Not where it is rotated, nor where rows are
 * in bands of their own, nor with groups that do not fill words. */
bool qni_sign_planes_serve(const qn_latents *latents);

/* The shape of it; codes and scales are those of qni_sign_planes_set. The caller owns *out, on failure too. */
QN_NODISCARD qn_status qni_sign_planes_make(const qn_latents *latents, qni_signs *out, qn_error *err);

/* The weights of the last qn_latents_weights call, of temperature 0. */
void qni_sign_planes_set(const qn_latents *latents, const qn_context *ctx, qni_signs *signs);

#endif
