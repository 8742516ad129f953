/* The settings of a recipe as a table: what a file may say, where it is kept, and how it is told in canonical form. */
#ifndef QUERN_SRC_RECIPE_RECIPE_SETTINGS_H
#define QUERN_SRC_RECIPE_RECIPE_SETTINGS_H

#include "quern/recipe/recipe.h"

#include <stddef.h>

typedef enum qni_setting_kind { QNI_SETTING_INTEGER, QNI_SETTING_REAL, QNI_SETTING_CHOICE } qni_setting_kind;

/* A choice is an enum or a bool; its words stand at the values 0, 1, ... */
typedef struct qni_setting {
    const char *stage, *key;
    qni_setting_kind kind;
    size_t offset;              /* in qn_recipe */
    size_t n_bytes;             /* of a choice's field */
    double smallest, largest;   /* numbers */
    const char *const words[5]; /* of a choice; NULL behind the last */
    bool calibrated;            /* means nothing to a data-free recipe */
} qni_setting;

enum { QNI_SETTING_COUNT = 50 };
extern const qni_setting qni_settings[QNI_SETTING_COUNT];

extern const char *const qni_override_words[]; /* of qn_override_code; NULL behind the last */

/* Computes recipe->sha256. */
QN_NODISCARD qn_status qni_recipe_seal(qn_recipe *recipe, qn_error *err);

/* The recipe a file of that track starts from. */
qn_recipe qni_recipe_base(qn_track track, bool calibrated);

#endif
