/* Recipes: what `quern compress` does with a model, as a small YAML file.
 *
 *     name: ternary
 *     calibrate:              # left out: a data-free recipe
 *       tokens: 65536         # of the calibration text
 *       context: 512          # tokens of a sequence
 *       fisher_tokens: 16384  # of them, for the Fisher diagonal
 *     quantize:
 *       fit: descent          # closed-form (data-free), weighted, feedback, descent
 *       group_size: 64        # columns that share one scale; 0: the whole row; left out: the track's own
 *       rule: optimal         # closed-form only: or `published`, the named baseline
 *       lines: columns        # what gets a code of its own in the blocks: rows or columns
 *       planes: 2             # most planes a line may have; 1: one
 *       scales: log6          # or f16
 *       sweeps: 4             # of refit and descent
 *       damping: 0.01         # of the second moments, in mean diagonals
 *       order: activation     # in which inputs are rounded, or `natural`
 *       error_decay: 1        # factor of the error feedback
 *       hadamard: 0           # columns of a rotated block, a power of two; 0: not rotated
 *       inputs: student       # that the second moments are taken from, or `teacher`
 *       target_blend: 0.5     # from the teacher's weights (0) to the teacher's outputs (1)
 *     overrides:              # calibrated recipes: whole matrices whose code is not left to the planner; the first match counts
 *       - match: v_proj       # POSIX extended regular expression, found anywhere in the name of a matrix
 *         code: double        # single, double (two planes), q4; counted like all other bytes and rescued weights
 *     rescue:
 *       max_fraction: 0.10    # of all parameters in 4 bits; 0: none; the track's rule binds as well
 *
 * Each top-level key but `name` is a stage with its settings; what a file leaves out comes from the data-free recipe, or from
 * the track's calibrated one where the file calibrates. Files are checked against the schema: unknown keys, wrong types and values
 * out of range are refused with line and key. */
#ifndef QUERN_RECIPE_RECIPE_H
#define QUERN_RECIPE_RECIPE_H

#include "quern/artifact/profile.h"
#include "quern/base/sha256.h"
#include "quern/codec/codec.h"
#include "quern/fit/closed_form.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_recipe_fit {
    QN_RECIPE_CLOSED_FORM, /* data-free; second moments from a file where the run has one */
    QN_RECIPE_WEIGHTED,    /* the rest calibrates: quern/fit/hessian_fit.h */
    QN_RECIPE_FEEDBACK,
    QN_RECIPE_DESCENT
} qn_recipe_fit;

enum { QN_RECIPE_MAX_OVERRIDES = 16 };

typedef enum qn_override_code { QN_OVERRIDE_SINGLE, QN_OVERRIDE_DOUBLE, QN_OVERRIDE_Q4 } qn_override_code;

typedef struct qn_recipe_override {
    char match[96];
    qn_override_code code;
} qn_recipe_override;

typedef struct qn_recipe {
    char name[64];
    qn_recipe_fit fit;
    int64_t group_size;         /* columns per scale; when automatic, the finest one that is tried */
    bool automatic_groups;      /* closed form: the finest size whose smallest file fits the budget */
    qn_fit_rule rule;           /* closed form */
    double max_rescue_fraction; /* of all parameters */

    /* Calibrated recipes only. */
    int64_t tokens, context, fisher_tokens;
    qn_axis lines;
    int64_t planes, sweeps, hadamard;
    qn_scale_code scales;
    double damping, error_decay, target_blend;
    bool activation_order, student_inputs;
    qn_recipe_override overrides[QN_RECIPE_MAX_OVERRIDES];
    int n_overrides;

    char sha256[QN_SHA256_HEX]; /* of the settings in canonical form: independent of layout and comments */
} qn_recipe;

/* A built-in recipe of the track:
 *   fast              data-free closed forms and rescued rows
 *   binary, ternary   the best measured combination of the track: calibrated descent, columns in one plane, two planes or q4
 *   strict            the same fit under the narrowest reading of the rules: one native plane, fp16 scales, rescued rows
 * NULL: "fast". QN_E_ARGUMENT for any other name, listing the known ones, and for the other track's. */
QN_NODISCARD QN_API qn_status qn_recipe_builtin(const char *name, qn_track track, qn_recipe *out,
                                                qn_error *err);

/* Whether a recipe needs calibration text. */
QN_API bool qn_recipe_calibrates(const qn_recipe *recipe);

/* The next coarser group size to try after GROUP_SIZE, 0 (the whole row) being the last; -1 after that. */
QN_API int64_t qn_recipe_coarser_group(int64_t group_size);

/* Reads a recipe file. */
QN_NODISCARD QN_API qn_status qn_recipe_load(const char *path, qn_track track, qn_recipe *out, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
