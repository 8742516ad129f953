/* Tuning the whole student after its blocks are compressed (quern/fit/distill.h): the teacher is walked over the text once into a
 * cache, then latents, scales and norms of all matrices are trained together. The whole student's parameters are in memory. */
#ifndef QUERN_SRC_RECIPE_MODEL_TUNING_H
#define QUERN_SRC_RECIPE_MODEL_TUNING_H

#include "quern/fit/distill.h"
#include "quern/recipe/recipe.h"
#include "recipe/dev_trace.h"
#include "recipe/matrix_store.h"

typedef struct qni_model_tuning {
    qn_tune_options tune; /* steps 0: nothing is tuned */
    qn_trainable_rates rates;
    bool trained_codes; /* else latents stand at their levels and stay there */
    double kl_weight, ce_weight;
    int64_t top_k, samples;
    qn_compute compute; /* of the steps */
} qni_model_tuning;

typedef struct qni_model_job {
    const qni_model_tuning *tuning;
    qn_compute compute; /* of the teacher's cache */
    qn_model *teacher,
        *student; /* two opened models of one checkpoint; the student is lent weights and given them back */
    const qn_sequences *sequences; /* to tune on */
    const qn_encoded *shapes;      /* [layout.n] of matrices */
    const qni_matrix_store *store;
    qni_dev_trace *dev;      /* told how the student does before and after; NULL: nobody asks */
    bool blocks_are_trained; /* the stage before was QNI_STAGE_TRAINED */
} qni_model_job;

/* Trains the set T, lent to job->student; `shapes`, `dev` and `blocks_are_trained` are not read. The state of a stopped run stays in the store. */
QN_NODISCARD qn_status qni_tune_set(const qni_model_job *job, qn_trainable *t, const qn_context *ctx,
                                    qn_tune_report *report, qn_error *err);

/* Removes that state, once what was trained is safe elsewhere. */
void qni_forget_training(const qni_matrix_store *store);

/* How a recipe tunes the whole model. */
qni_model_tuning qni_model_tuning_of(const qn_recipe *recipe, uint64_t seed);

/* Leaves the stage QNI_STAGE_TUNED in the store. A stopped run goes on from its last state; one that was finished
 * before is reported again, but for numbers of sequences. */
QN_NODISCARD qn_status qni_tune_model(const qni_model_job *job, const qn_context *ctx, qn_tune_report *report,
                                      qn_error *err);

#endif
