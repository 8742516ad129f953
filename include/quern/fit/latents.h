/* Trainable low-bit weights: latents that are rounded to codes on every use, and the scales the codes are multiplied with.
 *
 * A matrix W [R, C] in bands (bands.h) is stood for by one latent v a weight, one master a stored scale, and one threshold a
 * group of one-plane trits. Evaluated, the weight is always what the artifact would hold:
 *
 *   s    = stored(scale master)                fp16, or the nearest of the plane's 64 values
 *   sign            w = s q                    q = -1 where v < 0, else +1
 *   ternary         w = s q                    q = [v > t] - [v < -t],  t = threshold * s
 *   two planes, q4  w = the level of s1 q1 + s2 q2 nearest to v: both planes belong to one latent
 *
 * and gradients pass the rounding as if it were not there (the straight-through estimator: Bengio et al., 2013):
 *
 *   dv = dw,   ds_p = sum over the group of dw q_p
 *   dthreshold: that of the smooth surrogate below at its width
 *
 * With a TEMPERATURE T > 0 (in units of the matrix's mean scale u) bands of one native plane are not rounded but pass through the
 * surrogate, whose gradients are exact; with T -> 0 it becomes the rounding:
 *
 *   S(x) = 0 below -1, 1 above 1, between them 1/2 + 3/4 x - 1/4 x^3
 *   sign            w = s (2 S(v / T u) - 1)
 *   ternary         w = s (S((v - t) / T u) + S((v + t) / T u) - 1)
 *
 * With a rotation, latents and codes are those of W S (quern/codec/codec.h).
 *
 * Letters: R rows, C columns. Latents stand in the order of the stored codes: band after band, [stored rows][stored cols]; masters
 * band after band, plane after plane, [stored rows][groups]; thresholds band after band. Deterministic: the same bytes for any
 * number of threads and any instruction set. Cost: one pass over the weights each way. */
#ifndef QUERN_FIT_LATENTS_H
#define QUERN_FIT_LATENTS_H

#include "quern/base/context.h"
#include "quern/fit/bands.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Width of the surrogate through which thresholds see the hard rounding, in units of the mean scale. */
#define QN_LATENT_SURROGATE_WIDTH 0.25

typedef struct qn_latents {
    int64_t rows, cols;
    int32_t hadamard;
    qn_banded codes; /* owned: what the latents were last rounded to, and the grids of the scales */
    float *values;   /* [R * C] owned, as are the others */
    float *scales, *thresholds;
    int64_t n_values, n_scales, n_thresholds;
    double unit;                  /* u: mean of the first planes' scales */
    bool are_frozen;              /* codes stay what they are, wherever their scales go; set by the owner */
    int64_t *lines[QN_MAX_BANDS]; /* owned: the lines of each band, in order */
} qn_latents;

/* Latents at the codes and scales of START, which is taken over (it is released on failure too). With TARGET [R, C], in the basis of the
 * codes, each latent is the target's value, or the value nearest to it that still rounds to START's code: training begins at START
 * exactly and knows where each weight would rather be. NULL: latents at the levels themselves. */
QN_NODISCARD QN_API qn_status qn_latents_init(qn_banded *start, int32_t hadamard, const float *target,
                                              const qn_context *ctx, qn_latents *out, qn_error *err);
QN_API void qn_latents_release(qn_latents *latents);

/* w [R, C], the rotation undone; `codes` are rounded anew. TEMPERATURE 0: bit for bit what an artifact of these codes decodes to. */
QN_API void qn_latents_weights(qn_latents *latents, double temperature, const qn_context *ctx, float *w);

/* Gradients of all three kinds of parameters, overwritten. DW [R, C] belongs to the weights of the last qn_latents_weights call,
 * which had the same temperature; it is rotated in place. */
QN_API void qn_latents_gradient(const qn_latents *latents, double temperature, const qn_context *ctx,
                                float *dw, float *d_values, float *d_scales, float *d_thresholds);

/* Brings masters and thresholds back into what can be stored, after a step of an optimiser. */
QN_API void qn_latents_project(qn_latents *latents);

/* Number of masters of a plane, and the first of them. */
QN_API int64_t qn_latents_plane_scales(const qn_latents *latents, int band, int plane, int64_t *first);

#ifdef __cplusplus
}
#endif
#endif
