/* Fits with a full second-moment matrix: codes and scales that change a layer's outputs least.
 *
 *   minimised   sum_i (W_i - Q_i) H (W_i - Q_i)^T,   H = E[x x^T] of the layer's input
 *
 * Rows of W are independent. Letters: W [R, C], H [C, C], Q the decoded codes.
 *
 *   feedback   H + damping = L D L^T, L unit upper triangular in processing order; input j is rounded to the level nearest to
 *              w_j + sum_{k<j} (w_k - q_k) L_kj. The damped error is then sum_j D_j eta_j^2, eta the rounding errors. Frantar
 *              et al., GPTQ, 2022, in the form LDLQ of Chee et al., QuIP, 2023 (the same codes)
 *   refit      for fixed codes Q_i = sum_k s_k b_k, the scales solve (A + ridge diag A)(s - s_old) = b^T H (w - Q_i) with A_kl =
 *              b_k^T H b_l, k over groups and planes of the native bands; q4 scales stay. A scale outside 0.2 .. 4 times its old
 *              value is refused and keeps the old one, and a row whose error would rise keeps all of them
 *   descent    input by input, in processing order, v_j = q_j + ((W - Q) H)_j / H_jj rounded to the nearest level: the best code
 *              given all others. Refit and descent alternate; before the last descent the scales are rounded as stored
 *
 * Scales of native groups start from the exact weighted closed forms (closed_form.h) with h = diag H; those of two planes from
 * 1.35 and 0.45 weighted standard deviations (binary 0.98, 0.53) and eight alternating least-squares steps; q4 takes the best of
 * some ratios of max|w|/7. Inputs with H_jj = 0 are dead: they get the level nearest to the weight. */
#ifndef QUERN_FIT_HESSIAN_FIT_H
#define QUERN_FIT_HESSIAN_FIT_H

#include "quern/base/context.h"
#include "quern/fit/bands.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_hessian_method {
    QN_HESSIAN_WEIGHTED, /* nearest levels, scales for the diagonal of H only */
    QN_HESSIAN_FEEDBACK, /* feedback with those scales */
    QN_HESSIAN_DESCENT   /* feedback, then sweeps of refit and descent */
} qn_hessian_method;

typedef struct qn_hessian_fit_options {
    qn_hessian_method method;
    double damping;        /* added to the diagonal, in mean diagonals; raised where H needs it */
    bool activation_order; /* process inputs by decreasing H_jj */
    double error_decay;    /* factor of the feedback; 1: full */
    int sweeps;            /* of refit and descent */
    double
        rate; /* price of a trit that is not 0 in the descent, in mean weighted squares of a weight; 0: free */
    double ridge;  /* of the refit, towards the old scales, relative to diag A */
    int q4_ratios; /* candidates for a q4 scale: evenly spaced from q4_lowest_ratio to 1 */
    double q4_lowest_ratio;
} qn_hessian_fit_options;

/* Descent, damping 0.01, activation order, full feedback, 4 sweeps, ridge 1e-3, 6 ratios from 0.6. */
QN_API qn_hessian_fit_options qn_hessian_fit_defaults(void);

typedef struct qn_hessian_fit_report {
    double energy;         /* sum_i W_i H W_i^T, the error of all-zero codes */
    double feedback_error; /* after the feedback; 0 without one */
    double error;          /* of the product as stored */
    double relative_error; /* error / energy; 0 where the energy is 0 */
    double damping;        /* what was added to the diagonal of H; 0 without feedback */
    int64_t n_dead;        /* inputs with H_jj = 0 */
} qn_hessian_fit_report;

/* Fits W [R, C] (finite) in the metric HESSIAN [C, C] (symmetric, finite, positive semi-definite up to rounding) into the bands of
 * SHAPE. On the row axis each band is a set of rows of its own. The caller owns *out; REPORT may be NULL.
 *
 * Errors: QN_E_VALUE for a NaN or infinity (naming its place), a negative or asymmetric H; QN_E_ARGUMENT for options or a shape
 * that make no sense. On failure *out and *report are unchanged. Codes are computed in f32 with a fixed order of sums, scales and
 * the factor in double; the same bytes for any number of threads. Cost with n sweeps about (2 + 1.5 n) R C^2 + C^3 / 3
 * multiply-adds. Memory beside the arguments: about 8 C^2 bytes, and 1.5 KiB * C + 128 K^2 bytes a thread for K scales a row. */
QN_NODISCARD QN_API qn_status qn_hessian_fit(const float *w, const float *hessian, const qn_band_shape *shape,
                                             const qn_hessian_fit_options *options, const qn_context *ctx,
                                             qn_banded *out, qn_hessian_fit_report *report, qn_error *err);

/* d[j] = D_j of H + damping = L D L^T for each input j (in the order of inputs): what an error of input j costs after feedback.
 * DAMPING and ACTIVATION_ORDER as in the options. Errors as above. Cost C^3 / 3. */
QN_NODISCARD QN_API qn_status qn_feedback_diagonal(const float *hessian, int64_t cols, double damping,
                                                   bool activation_order, const qn_context *ctx, double *d,
                                                   qn_error *err);

/* out = Q + ((W - Q) H) / diag H, an input at a time: where coordinate descent would put each weight before it rounds it, all others
 * being what Q [R, C] holds. The best start for latents that go on from a fit (latents.h). Inputs with H_jj = 0 get W's value.
 * OUT may be W. Cost R C^2 multiply-adds in f32. */
QN_NODISCARD QN_API qn_status qn_descent_values(const float *w, const float *q, const float *hessian,
                                                int64_t rows, int64_t cols, const qn_context *ctx, float *out,
                                                qn_error *err);

/* The target for a layer whose inputs have changed: out = W + blend W (C - H)(H + r I)^-1, with CROSS C = E[x_teacher x_student^T],
 * HESSIAN H = E[x_student x_student^T] and r = ridge * mean diagonal of H (raised where H needs it). blend 1, ridge 0 gives the
 * weights whose outputs are nearest to the teacher's; 0.5 and 0.03 go half the way. ROWS, COLS: the shape of W and out, which may be
 * the same array. Source: Li et al., GPTAQ, 2025, for a blend of 1. Cost 2 R C^2 + C^3 / 3 multiply-adds,
 * memory about 10 C^2 bytes. */
QN_NODISCARD QN_API qn_status qn_asymmetric_target(const float *w, const float *hessian, const float *cross,
                                                   int64_t rows, int64_t cols, double blend, double ridge,
                                                   const qn_context *ctx, float *out, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
