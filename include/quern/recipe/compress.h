/* The main job: a teacher in, a verified artifact out.
 *
 * Plan the exact size, measure every row, choose the rescued rows within the budget, encode and write, verify
 * the finished file, and score teacher and artifact on the same documents. The artifact appears at its path
 * only after it has passed every gate. Same input, recipe, seed and ISA: the same bytes, for any number of
 * threads. */
#ifndef QUERN_RECIPE_COMPRESS_H
#define QUERN_RECIPE_COMPRESS_H

#include "quern/artifact/verify.h"
#include "quern/fit/second_moments.h"
#include "quern/recipe/recipe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_compress_options {
    const char *model; /* path of the teacher */
    const char *
        start; /* an artifact of the teacher that training goes on from, in its own codes, instead of new fits; NULL: none */
    const char *output;        /* path of the artifact; `.zip` at its end makes an archive, else a folder */
    const qn_profile *profile; /* gates and budget per parameter */
    const qn_recipe *recipe;
    int64_t reference_parameters; /* 0: the teacher's own count */
    int64_t budget_bytes;         /* 0: the profile's budget for reference_parameters */
    bool without_tokenizer;
    bool
        dry_run; /* stop after the plan: a data-free recipe has read no weight by then, a calibrated one has measured the teacher;
                     nothing is written */
    const char *second_moments; /* file for the weighted fits, or NULL */
    const char *text;           /* calibration text, for recipes that calibrate */
    const char *
        statistics; /* file of `quern calibrate` for the plan, instead of a walk; a calibrated dry run needs no text then */
    bool allow_leak;       /* calibrate on text that holds the documents too; else refused */
    const char *documents; /* scored before and after, or NULL */
    int64_t dev_every;     /* blocks after which a calibrated run reports its perplexity on them; 0: never */
    const char *tokenizer; /* overrides the model's own, or NULL */
    const char *work;      /* folder that keeps the measured rows for --resume, or NULL */
    bool resume;           /* take what `work` holds; refused when it belongs to another model or recipe */
    uint64_t seed;         /* recorded; the fast recipe draws nothing */
} qn_compress_options;

/* One matrix of a calibrated plan. */
typedef struct qn_plan_row {
    char *name,
        *spec;       /* owned; the spec as docs/format.md has it: "768x256 columns 200 ternary/64/log6 ..." */
    int64_t n_bytes; /* of the packed matrix */
    double
        relative_error; /* that the fit left, in the metric of the inputs; 0 in a dry run, -1 when it came from the work folder */
    double predicted_loss; /* nats a token, second-order estimate (docs/quantisers.md) */
} qn_plan_row;

/* What training made of a block, or of the whole model. */
typedef struct qn_tuning_row {
    int64_t steps, best_step; /* of whatever run trained it in the work folder; 0 steps: no such stage */
    double first_loss,
        best_loss; /* on held-back text: of a block the mean error of its output, of the model nats */
    double first_kl, best_kl; /* of a block: divergence at the head on held-back text, nats a token */
    bool was_trap;            /* the error fell while the divergence rose: the block went back to its fit */
    bool diverged;
} qn_tuning_row;

/* Tokens of the dev documents on which a run is watched: their first whole windows of no more than that, one window at least. */
#define QN_DEV_TOKENS 8192

/* Perplexity on these tokens as the run went on; 0 where it was not measured. Behind a block that is done stand the teacher's blocks,
 * final norm and head. */
typedef struct qn_dev_report {
    int64_t n_tokens, n_targets; /* the latter are scored; 0: nothing was measured */
    double teacher;
    double *blocks; /* [n_blocks] owned */
    int64_t n_blocks;
    double compressed, tuned; /* the whole student, head and all, before and after it is tuned */
} qn_dev_report;

typedef struct qn_compress_result {
    int64_t bytes;         /* of the file (dry run: that it would have) */
    int64_t minimum_bytes; /* without any rescued row */
    int64_t budget_bytes;
    int64_t parameters;
    double
        estimated_seconds; /* of all that follows the plan, at the rate at which the teacher was measured; 0: unknown */
    qn_codec native;                   /* code and columns per scale of the native rows */
    int64_t rescued_parameters;        /* dry run: the most that may be rescued */
    int64_t role_bytes[QN_ROLE_COUNT]; /* zero in a dry run */
    qn_plan_row *plan;                 /* [n_plan] owned, in layout order; empty for a data-free recipe */
    int64_t n_plan;
    qn_tuning_row *blocks; /* [n_blocks] owned; empty where blocks are not trained */
    int64_t n_blocks;
    qn_tuning_row tuning;       /* of the whole model */
    qn_dev_report dev;          /* empty unless dev_every is positive and the recipe calibrates */
    char sha256[QN_SHA256_HEX]; /* empty in a dry run */
    bool scored;
    qn_score_result teacher, student; /* when scored */
    qn_verify_report verified;        /* empty in a dry run */
} qn_compress_result;

/* Errors: QN_E_BUDGET when the budget is below the minimum (the message says it and what sets it),
 * QN_E_REJECTED when the finished artifact fails a gate (it is removed), those of reading and writing.
 * Release *out in the success case. */
QN_NODISCARD QN_API qn_status qn_compress(const qn_compress_options *options, const qn_context *ctx,
                                          qn_compress_result *out, qn_error *err);
QN_API void qn_compress_result_release(qn_compress_result *result);

#ifdef __cplusplus
}
#endif
#endif
