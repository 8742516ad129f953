/* Training a compressed model towards its teacher: block by block, then as a whole.
 *
 * Both stages move the parameters of a trainable set (trainable.h) by AdamW on batches of whole sequences, drawn without replacement in a
 * seeded order, along a cosine of learning rates. Some sequences, spread over the text, are held back: the loss on them is measured before
 * the first step and then a number of times, always with the weights rounded as they are stored; the best state met is the
 * result. When no state is better than the first one, or the loss stops being finite, that is where the set returns to, and the report says so.
 *
 *   window    loss of window_gradient.h between the output of blocks l .. l+n-1 of the student, on the student's own stream in front of
 *             them, and the teacher's stream behind them. The blocks after l are the teacher's: they are there to weigh the errors of
 *             block l by what becomes of them
 *   model     kl_weight * KL(teacher || student) + ce_weight * cross entropy with the next token, nats a target; the teacher is a
 *             cache of its largest probabilities (teacher_cache.h)
 *
 * Sources: Li et al., BRECQ, 2021 (blocks); Chen et al., EfficientQAT, 2024 (blocks, then end to end); Hinton et al., 2015 (KL).
 *
 * A run that was stopped and is taken up again gives the same bytes: step s draws what its number says, and the state file holds parameters,
 * moments and snapshot. Results do not depend on the number of threads. */
#ifndef QUERN_FIT_DISTILL_H
#define QUERN_FIT_DISTILL_H

#include "quern/fit/trainable.h"
#include "quern/model/window_gradient.h"

#ifdef __cplusplus
extern "C" {
#endif

struct qn_teacher_cache; /* teacher_cache.h */

typedef struct qn_tune_options {
    int64_t steps;       /* 0: nothing is done */
    int64_t batch;       /* sequences a step */
    double lr;           /* of latents, in mean scales of their matrix */
    double min_lr_ratio; /* of the last step */
    int64_t warmup_steps;
    double temperature; /* of the first step (latents.h), falling linearly to 0; 0: rounded throughout */
    double soft_part;   /* share of the steps until it has fallen */
    double
        validation_part; /* share of the sequences held back, at least one; 0: none, and the last state is the result */
    int64_t validations; /* during the run, at even distances, the last after the last step */
    int64_t patience;    /* stop after so many validations without a better one; 0: never */
    uint64_t seed;
    /* Where a stopped run goes on. */
    const char *state_path; /* NULL: none is kept */
    const char *key;        /* of the run: a state of another one is refused */
    int64_t save_every;     /* steps; 0: never */
    const char *label;      /* of progress reports, borrowed */
} qn_tune_options;

typedef struct qn_tune_report {
    double first_loss,
        best_loss; /* on the held-back sequences: a window's is the mean over tokens and channels, a model's over targets */
    int64_t steps, best_step;      /* done in all; best_step 0: none was better than the start */
    int64_t n_train, n_validation; /* sequences */
    bool diverged;                 /* stopped by a loss or gradient that was not finite */
} qn_tune_report;

typedef struct qn_distill_window {
    qn_compute compute;
    int64_t first_layer, n_layers;
    const float *stream, *target; /* [T, h] in front of the first and behind the last block */
    const float *channel_weights; /* [h] or NULL */
    double huber;                 /* threshold in root mean squares of the first error; 0: squared error */
} qn_distill_window;

/* Trains the parts of T, which belong to blocks of the window, lent to MODEL by the caller. Errors besides those of the walk: QN_E_ARGUMENT
 * for options that make no sense, QN_E_VALUE for fewer sequences than one batch and the held-back ones need (saying how many tokens
 * that is). */
QN_NODISCARD QN_API qn_status qn_distill(qn_trainable *t, const qn_model *model,
                                         const qn_sequences *sequences, const qn_distill_window *window,
                                         const qn_tune_options *options, const qn_context *ctx,
                                         qn_tune_report *out, qn_error *err);

typedef struct qn_finetune_loss {
    qn_compute compute;
    double kl_weight, ce_weight;
    struct qn_teacher_cache *cache; /* of the same sequences; NULL with kl_weight 0 */
} qn_finetune_loss;

/* Trains all parts of T on the model's own loss; targets are the next tokens within each sequence. */
QN_NODISCARD QN_API qn_status qn_finetune(qn_trainable *t, const qn_model *model,
                                          const qn_sequences *sequences, const qn_finetune_loss *loss,
                                          const qn_tune_options *options, const qn_context *ctx,
                                          qn_tune_report *out, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
