/* Training a Qwen model on text: the demo teacher, toys for tests, and the loop that whole-model fine-tuning shares.
 *
 * Weights are f32 masters; each step walks `accumulate` batches of `batch` contexts of `context` ids (quern/text/packing.h)
 * forwards and backwards (quern/model/gradient.h), takes the mean loss over all targets, and moves the masters by AdamW
 * (quern/fit/adamw.h) at the rate of the schedule.
 *
 * The folder OUT, made by the run:
 *   train.json        what decides the result: options, SHA-256 of config, text and start, tokenizer, version
 *   metrics.jsonl     one line a step, only ever appended to: step, loss (nats a token), lr, grad_norm, tokens_per_second,
 *                     seconds, and dev_loss where it was measured; `{"resumed_at": N}` where a run was taken up again
 *   state/step-N/     the last saved state: an F32 checkpoint of the masters and optimizer.safetensors with both moments.
 *                     Made aside and renamed, so a run killed at any time, or a full disk, leaves the one before
 *   config.json, model.safetensors, tokenizer files: the trained model, once the run is finished; state/ is then removed
 *
 * A run that was stopped and is taken up again ends with the same bytes as one that was not: step s draws the contexts
 * s * batch * accumulate and following of the packing's order, so the state is masters, moments and the number of steps.
 * Results do not depend on threads or on memory. Memory: 16 bytes a parameter, the text's ids, and what qn_loss_gradient
 * needs: more where there is more, since that saves computing activations twice. */
#ifndef QUERN_FIT_TRAIN_H
#define QUERN_FIT_TRAIN_H

#include "quern/fit/adamw.h"
#include "quern/fit/schedule.h"
#include "quern/model/walk.h"
#include "quern/tensor/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parameters by role. */
typedef enum qn_train_role {
    QN_TRAIN_MATRICES,
    QN_TRAIN_EMBEDDING, /* and the head */
    QN_TRAIN_VECTORS,   /* norms and biases */
    QN_TRAIN_ROLE_COUNT
} qn_train_role;

typedef struct qn_train_role_options {
    double lr_scale, weight_decay;
} qn_train_role_options;

typedef struct qn_train_options {
    const char *config;     /* a config.json or a folder with one; NULL: that of init_from */
    const char *init_from;  /* checkpoint or artifact the weights start from; NULL: random weights */
    const char *text, *dev; /* documents to train on and to measure (NULL: none) */
    const char *tokenizer;  /* as qn_tokenizer_open; NULL: that beside init_from, else beside the config */
    const char *separator;  /* token between documents; NULL: the config's eos_token_id */
    const char *out;

    int64_t context, batch, accumulate;
    qn_schedule schedule; /* total_steps: the steps of the run */
    qn_adamw_options adamw;
    qn_train_role_options roles[QN_TRAIN_ROLE_COUNT];
    uint64_t seed;
    qn_compute compute;
    qn_dtype dtype; /* of the trained model's files: F32, F16 or BF16 */

    /* Free to differ when a run is taken up again. */
    int64_t save_every, eval_every; /* steps; 0: only at the end */
    /* Activations kept from forward to backward (quern/model/gradient.h). 0: recompute all that can be. -1: a quarter of
     * the memory that is available once weights and moments have theirs. */
    int64_t keep_bytes;
    bool
        resume; /* take OUT up again from its last saved state, or from the beginning where there is none yet */
} qn_train_options;

/* Contexts of 512, 8 a step, 1 000 steps of cosine from 1e-3 to 0.1 of it after 50 of warm-up, decay 0.1 on matrices and
 * embedding, f32, BF16 files, a state each 200 steps, keep_bytes -1. Paths are NULL. */
QN_API qn_train_options qn_train_options_default(void);

typedef struct qn_train_result {
    int64_t n_parameters;
    int64_t steps, first_step; /* of the run; where this call took it up */
    int64_t tokens;            /* drawn by this call */
    double train_loss;         /* nats a token, mean of this call's last 50 steps; 0 when there was none */
    double
        dev_loss; /* nats a token of the files as written, each dev context by itself; 0 without dev text */
    int64_t dev_targets;
    double seconds; /* of this call's steps */
} qn_train_result;

/* Trains. Random weights: matrices and embedding normal with the config's initializer_range (0.02 when absent), norms one,
 * biases zero; each tensor has its own stream of random numbers.
 *
 * Errors, each leaving the last saved state as it was: QN_E_ARGUMENT for options that do not fit together, a config that
 * does not fit init_from, an OUT that holds something else, or a resumed run whose train.json differs (the message names
 * what); QN_E_VALUE for text shorter than a context, ids outside the vocabulary, and a loss or gradient that is not finite
 * (naming step and tensor); QN_E_IO for a full disk. Stopped by ctx->is_cancelled, it saves the state after the last whole step
 * and returns QN_E_CANCELLED with a message that says how to go on. A finished run asked to resume is QN_OK with no step done. */
QN_NODISCARD QN_API qn_status qn_train(const qn_train_options *options, const qn_context *ctx,
                                       qn_train_result *out, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
