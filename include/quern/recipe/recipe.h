/* Recipes: what `quern compress` does with a model, as a small YAML file.
 *
 *     name: ternary
 *     calibrate:              # left out: a data-free recipe
 *       tokens: 131072        # of the calibration text
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
 *       shrinkage: 1          # of second moments towards their diagonal, in inputs a token (quern/fit/moments.h)
 *       order: activation     # in which inputs are rounded, or `natural`
 *       error_decay: 1        # factor of the error feedback
 *       hadamard: 0           # columns of a rotated block, a power of two; 0: not rotated
 *       rotate: all           # matrices that blocks of that many columns divide, or `measured`: those that lose less by it
 *       inputs: student       # that the second moments are taken from, or `teacher`
 *       target_blend: 0.5     # from the teacher's weights (0) to the teacher's outputs (1)
 *       column_scales: false  # or true: a factor for each column beside the scales of groups; not with training
 *       entropy: none         # or zlib: matrices as zlib streams where these are smaller; the plan is then the most it takes
 *       rate: 0               # price of a trit that is not 0 in the descent (quern/fit/hessian_fit.h)
 *     plan:
 *       errors: measured      # what codes lose of a matrix: a fit of a sample of its rows (binary), or `normal`, that of normal
 *                             # weights (ternary)
 *       sensitivity: fisher   # of the matrices, or `measured`: corrected by what a change of each does to the head
 *       probe_tokens: 2048    # of the calibration text, for that
 *       overbook: 0           # with entropy: zlib, the share by which the plan may exceed the budget, against what streams save
 *     distill:                # each block towards the teacher's, after its matrices are fitted (quern/fit/distill.h)
 *       steps: 168            # of each block; 0: none
 *       batch: 6              # sequences a step
 *       lr: 0.003             # of latents, in mean scales of their matrix; binary: 0.02
 *       scale_rate: 0.5       # of scales, thresholds and norms, in rates of latents (quern/fit/trainable.h)
 *       threshold_rate: 0
 *       vector_rate: 0.25
 *       loss: squared         # of a block's output; `huber`; `fisher`: squared, channels weighed by the teacher's Fisher diagonal
 *       window: 1             # blocks through which the error is followed
 *       temperature: 0        # of the smooth start, in mean scales; 0: codes are rounded throughout
 *       inputs: student       # in front of the block, or `teacher`
 *       patience: 4           # of the 8 looks at held-back text; so many without a better state end a block's training; 0: none do
 *       compute: f32          # of the steps' products, or `bf16`: faster where the processor has a matrix unit (AMX). Streams, probes and
 *                             # fits are in f32 either way
 *     finetune:               # then the whole model
 *       tokens: 1048576       # of the calibration text
 *       steps: 270            # 0: none
 *       batch: 6
 *       lr: 0.006             # binary: 0.008
 *       scale_rate: 0.5
 *       vector_rate: 0.15
 *       codes: trained        # or `frozen`: scales and norms only
 *       kl_weight: 0.8        # of the divergence from the teacher
 *       ce_weight: 0.2        # of the cross entropy with the text
 *       top_k: 0              # probabilities of the teacher that are kept at each position; 0: 64 to 128, by the vocabulary
 *       samples: 32           # of the other ids, drawn at each position to stand for them; 0: they are one outcome
 *       compute: f32          # as above; the teacher's cache is made in f32
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
#include "quern/model/walk.h"

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

typedef enum qn_recipe_loss {
    QN_RECIPE_LOSS_SQUARED,
    QN_RECIPE_LOSS_HUBER,
    QN_RECIPE_LOSS_FISHER
} qn_recipe_loss;

typedef struct qn_recipe_distill {
    int64_t steps, batch, window, patience;
    double lr, scale_rate, threshold_rate, vector_rate, temperature;
    qn_recipe_loss loss;
    bool student_inputs;
    qn_compute compute;
} qn_recipe_distill;

typedef struct qn_recipe_finetune {
    int64_t tokens, steps, batch, top_k, samples;
    double lr, scale_rate, vector_rate, kl_weight, ce_weight;
    /* Of built-in recipes with QN_EFFORT_MAX: instead of ce_weight, kl_weight being the rest. 0: both stay. */
    double long_ce_weight;
    bool trained_codes;
    qn_compute compute;
} qn_recipe_finetune;

/* How long a calibrated recipe trains. */
typedef enum qn_effort {
    QN_EFFORT_FAST,    /* not at all: the fits alone */
    QN_EFFORT_DEFAULT, /* as the recipe says */
    QN_EFFORT_MAX      /* four times the steps of the whole model, twice those of blocks */
} qn_effort;

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
    double damping, shrinkage, error_decay, target_blend, rate, overbook;
    bool activation_order, student_inputs, entropy_coding, column_scales;
    bool measured_rotation; /* chosen for each matrix; implies measured errors */
    bool measured_errors;
    bool measured_sensitivity;
    int64_t probe_tokens;
    qn_recipe_distill distill;
    qn_recipe_finetune finetune;
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

/* "fast", "default" or "max". */
QN_API const char *qn_effort_name(qn_effort effort);

/* Turns the dial, once: changes the steps of both training stages, of a built-in recipe the weights of its last loss too, and the recipe's
 * sha256 with them. Data-free recipes stay as they are. */
QN_NODISCARD QN_API qn_status qn_recipe_set_effort(qn_recipe *recipe, qn_effort effort, qn_error *err);

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
