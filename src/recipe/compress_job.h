/* One run of the main job, and the two ways to its matrices. */
#ifndef QUERN_SRC_RECIPE_COMPRESS_JOB_H
#define QUERN_SRC_RECIPE_COMPRESS_JOB_H

#include "quern/artifact/artifact.h"
#include "quern/recipe/compress.h"

typedef struct qni_job qni_job;

/* How a recipe makes its matrices. Each step is called once, in this order. */
typedef struct qni_way {
    /* Sizes the file, before the output is reserved: minimum_bytes, bytes, native and rescued_parameters of the result. */
    qn_status (*plan)(qni_job *job, qn_error *err);
    /* All that is long: shapes and size are fixed in the artifact's plan when it returns. */
    qn_status (*prepare)(qni_job *job, qn_error *err);
    qn_artifact_provider provide; /* user: the job */
    void (*release)(qni_job *job);
} qni_way;

extern const qni_way qni_way_rows;  /* data-free: whole rows in the native code or in q4 (compress_rows.c) */
extern const qni_way qni_way_bands; /* calibrated: bands of lines (compress_bands.c) */

struct qni_job {
    const qn_compress_options *options;
    const qn_context *ctx;
    const qni_way *way;
    void *state; /* of the way; owned */
    qn_model *teacher;
    const qn_checkpoint *source; /* the teacher's */
    const qn_layout *layout;
    qn_artifact_plan *plan;
    int64_t max_rescued_weights; /* by recipe and profile */
    int64_t *stream_bytes; /* owned [layout.n]: of each matrix, or NULL without entropy coding (entropy.c) */
    char *unverified;      /* where the artifact stands until it has passed its gates */
    qn_compress_result result;
};

/* Entropy coding, where the recipe asks for it: measures the stream of every matrix, and fixes the plan anew with them. */
QN_NODISCARD qn_status qni_entropy_fix(qni_job *job, qn_error *err);

/* A qn_artifact_provider, user: the job. The way's matrices with the streams that were measured. */
qn_status qni_entropy_provide(void *user, int64_t entry, qn_encoded *out, qn_error *err);

/* Says the minimum and what sets it (SETTING: "sign codes with one fp16 scale per row"): the one thing a user needs to choose
 * another budget. ADVICE may be empty. */
QN_NODISCARD qn_status qni_fail_budget(const qni_job *job, int64_t floor_bytes, const char *setting,
                                       const char *advice, qn_error *err);

#endif
