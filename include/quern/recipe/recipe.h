/* Recipes: what `quern compress` does with a model, as a small YAML file.
 *
 *     name: fast
 *     quantize:
 *       group_size: 64      # columns that share one fp16 scale; 0: the whole row; left out: the finest that fits
 *       rule: optimal       # or `published`, the named baseline
 *     rescue:
 *       max_fraction: 0.10  # of all parameters in 4 bits; 0: none; the track's rule binds as well
 *
 * Each top-level key but `name` is a stage with its settings; later stages are further keys. Files are
 * checked against the schema: unknown keys, wrong types and values out of range are refused with line and
 * key. */
#ifndef QUERN_RECIPE_RECIPE_H
#define QUERN_RECIPE_RECIPE_H

#include "quern/artifact/profile.h"
#include "quern/base/sha256.h"
#include "quern/fit/closed_form.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_recipe {
    char name[64];
    int32_t group_size;    /* columns per scale; when automatic, the finest one that is tried */
    bool automatic_groups; /* the finest size whose smallest file fits the budget */
    qn_fit_rule rule;
    double max_rescue_fraction; /* of all parameters */
    char sha256[QN_SHA256_HEX]; /* of the settings in canonical form: independent of layout and comments */
} qn_recipe;

/* A built-in recipe of the track. "fast": data-free closed forms and rescue; NULL is the best one for the
 * track, today "fast". QN_E_ARGUMENT for any other name, listing the known ones. */
QN_NODISCARD QN_API qn_status qn_recipe_builtin(const char *name, qn_track track, qn_recipe *out,
                                                qn_error *err);

/* The next coarser group size to try after GROUP_SIZE, 0 (the whole row) being the last; -1 after that. */
QN_API int32_t qn_recipe_coarser_group(int32_t group_size);

/* Reads a recipe file; what it leaves out comes from the track's "fast". */
QN_NODISCARD QN_API qn_status qn_recipe_load(const char *path, qn_track track, qn_recipe *out, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
