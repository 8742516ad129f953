/* How long a calibrated run will take: multiply-adds of its stages at the rate that measuring the teacher has just shown. An estimate for
 * people; nothing that is written depends on it. */
#ifndef QUERN_SRC_RECIPE_ESTIMATE_H
#define QUERN_SRC_RECIPE_ESTIMATE_H

#include "quern/checkpoint/config.h"
#include "quern/checkpoint/layout.h"
#include "quern/recipe/recipe.h"

typedef struct qni_run_cost {
    double measure, fit, distill, finetune; /* multiply-adds */
} qni_run_cost;

/* CALIBRATION_TOKENS, FISHER_TOKENS, TUNING_TOKENS (of the whole-model stage): those that the texts really have. Attention and norms are left out. */
qni_run_cost qni_count_cost(const qn_config *config, const qn_layout *layout, const qn_recipe *recipe,
                            int64_t calibration_tokens, int64_t fisher_tokens, int64_t tuning_tokens);

#endif
