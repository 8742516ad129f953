/* Second moments, streamed: E[x x^T], its diagonal, or E[a b^T] over tokens that arrive in pieces.
 *
 * Products of up to QN_MOMENT_CHUNK tokens are summed in f32 and those sums added up in double, so the error of an entry is
 * that of a sum of 1024 terms, however many tokens follow. Of the symmetric kind only the blocks on and above the
 * diagonal are computed and kept.
 *
 * Memory: diagonal 8 C bytes; symmetric 4 C (C + 256); cross 8 C^2; while adding, 1 KiB * C more. Time: n C^2 multiply-adds of
 * the f32 matrix product (half for the symmetric kind), spread over the context's threads.
 * Deterministic: the same bytes for any number of threads, given one ISA; and however the tokens are cut into calls, as
 * long as every call but the last brings a multiple of QN_MOMENT_CHUNK of them. */
#ifndef QUERN_FIT_MOMENTS_H
#define QUERN_FIT_MOMENTS_H

#include "quern/base/context.h"

#ifdef __cplusplus
extern "C" {
#endif

#define QN_MOMENT_CHUNK 1024

typedef enum qn_moment_kind {
    QN_MOMENT_SYMMETRIC, /* E[x x^T] */
    QN_MOMENT_DIAGONAL,  /* E[x_c^2] */
    QN_MOMENT_CROSS      /* E[a b^T] */
} qn_moment_kind;

/* Zeroed: empty, to be released or initialised. */
typedef struct qn_moment {
    qn_moment_kind kind;
    int64_t cols;
    int64_t n_tokens;
    double *sums; /* owned; laid out as moments.c says */
    int64_t n_sums;
} qn_moment;

/* A moment of vectors of COLS values, empty. */
QN_NODISCARD QN_API qn_status qn_moment_init(qn_moment *out, qn_moment_kind kind, int64_t cols,
                                             qn_error *err);
QN_API void qn_moment_release(qn_moment *moment);

/* Adds n tokens: rows of a [n, C] and, for a cross moment, of b [n, C]; the other kinds take b == a (QN_E_ARGUMENT else).
 * Values are taken as they are: NaN and infinity reach the mean. After a failure the moment holds part of the tokens. */
QN_NODISCARD QN_API qn_status qn_moment_add(qn_moment *moment, const float *a, const float *b, int64_t n,
                                            const qn_context *ctx, qn_error *err);

/* Adds what FROM has gathered; kinds and widths must agree (QN_E_ARGUMENT). */
QN_NODISCARD QN_API qn_status qn_moment_merge(qn_moment *moment, const qn_moment *from, qn_error *err);

/* The mean over the tokens, zeros when there are none: out [C] for the diagonal kind, else [C, C] with out[i][j] the mean of
 * a_i b_j. */
QN_API void qn_moment_mean(const qn_moment *moment, float *out);

/* Shrinks sampled second moments towards their diagonal:
 *
 *   HESSIAN += w diag H,   CROSS += w diag H,   w = shrinkage * COLS / N_TOKENS        both [C, C]; CROSS may be NULL
 *
 * which is, but for a common factor, what shrinkage * COLS more tokens of the same energy would make of them, whose inputs have
 * nothing to do with each other and are the teacher's and the student's alike. The errors of sampled correlations go with C / T: of
 * fewer tokens than inputs H would be singular, and codes would be chosen by chance. Source: Schaefer and Strimmer, "A shrinkage
 * approach to large-scale covariance matrix estimation", 2005, for the target; the weight was measured (docs/quality.md). Nothing
 * happens without tokens. */
QN_API void qn_moments_shrink(float *hessian, float *cross, int64_t cols, int64_t n_tokens, double shrinkage);

#ifdef __cplusplus
}
#endif
#endif
