/* The walk backwards: loss and exact gradients of all parameters.
 *
 * Forward keeps the input of each block only ([T, h] per layer); backward recomputes a block's inside, a group of whole
 * sequences at a time. Memory: (L + 2)*T*h*4 bytes (3*T*h*4 with spill), one block's activations, and the gradients. With keep_bytes the
 * insides of the last blocks are kept instead, as many as fit, which saves up to a quarter of the time and changes no
 * number. The head's loss and its gradient are computed for a fixed number of tokens at a time, so T x V logits never
 * exist at once. Work space belongs to the gradients and is kept for the next call.
 *
 *   loss = ce_weight * sum_t -log p(target_t)  +  kl_weight * sum_t KL(teacher_t || student_t)       in nats, summed in double
 *   gradients += scale * d loss / d parameter
 *
 * Formulas: the backward of each operation stands beside its forward (src/tensor, src/model). With bf16 compute the
 * operands of all three products of a linear layer are rounded to bf16 and the sums are f32, with AMX those of attention too; all
 * else is f32. A tied embedding has one gradient, the sum of both uses. Deterministic: the same bytes for any number of threads,
 * given one ISA. */
#ifndef QUERN_MODEL_GRADIENT_H
#define QUERN_MODEL_GRADIENT_H

#include "quern/model/walk.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One f32 array per layout entry, of the entry's shape; NULL where the gradient is not wanted, which saves its time. */
typedef struct qn_gradients {
    float **per_entry; /* [n] owned */
    bool *is_renewed;  /* [n] owned: numbers that the next walk sets, undefined until then */
    int64_t n;
    struct qn_gradient_memory *memory; /* owned; work space that qn_loss_gradient keeps from call to call */
} qn_gradients;

/* A guest of the walk backwards. Called on the calling thread; a status other than QN_OK stops the walk and is returned. */
typedef struct qn_gradient_observer {
    /* scale * d loss / d y at the output y of a linear layer of a block (after its bias): layout entry INDEX, rows
     * first_token .. first_token + n_tokens of dy [n_tokens, rows]. For the embedding's entry, y is what it looked up:
     * dy [n_tokens, h]. All tokens are covered once, in several calls, the last block first. Valid during the call only. */
    qn_status (*on_linear_output_gradient)(void *user, int64_t index, const float *dy, int64_t first_token,
                                           int64_t n_tokens, int64_t rows, qn_error *err);
    void *user;
} qn_gradient_observer;

/* Zeroed gradients. */
QN_NODISCARD QN_API qn_status qn_gradients_alloc(const qn_layout *layout, qn_gradients *out, qn_error *err);
/* Those of the entries for which WANTED [n] says so; NULL: of all. */
QN_NODISCARD QN_API qn_status qn_gradients_alloc_some(const qn_layout *layout, const bool *wanted,
                                                      qn_gradients *out, qn_error *err);
QN_API void qn_gradients_clear(qn_gradients *gradients, const qn_layout *layout);
/* The next call that finds gradients sets them instead of adding to them: what qn_gradients_clear is for, without its pass over all of
 * them. Until then they are undefined. */
QN_API void qn_gradients_renew(qn_gradients *gradients);
QN_API void qn_gradients_release(qn_gradients *gradients);

/* A teacher as its k largest log-probabilities at each position, the mass of all other ids, and perhaps samples of them
 * (quern/fit/teacher_cache.h). Let p be the teacher, q the student, tail the sum over the others.
 *
 * Without samples the others count as one more outcome,
 *
 *   KL = sum_top p_i log(p_i / q_i) + p_tail log(p_tail / q_tail)       d KL / d z_j = q_j - p_j              on the top
 *                                                                                      q_j (1 - p_tail / q_tail) elsewhere
 *
 * which is at most the full KL, and equal to it at k = V; it never shapes the tail. With m samples, ids s of the tail drawn in
 * proportion to p, each stands for an equal share of the tail's mass:
 *
 *   KL = sum_top p_i log(p_i / q_i) + p_tail mean_s log(p_s / q_s)      d KL / d z_j = q_j sum t - t_j
 *
 * t_j being p_j on the top and p_tail / m for each time j was drawn. Over the draws, its mean and that of its gradient are
 * the full KL and its gradient; it is zero where q = p on the top and the samples. Of the p_s it needs their mean logarithm
 * alone. (Anshumann et al., "Sparse Logit Sampling", 2025, sample without a top.)
 *
 * Positions without a target are not read. All arrays borrowed. */
typedef struct qn_teacher_top {
    const int32_t *ids;         /* [T, k] ascending at each position */
    const float *log_probs;     /* [T, k] nats, finite; at each position the mass of all is 1 to 1e-3 */
    const float *tail_log_prob; /* [T]; -INFINITY: none. Not read where k = V */
    int64_t k;                  /* 1 .. V */
    int64_t n_samples;          /* 0: none. With samples, k < V */
    const int32_t *sample_ids;  /* [T, n_samples] ascending at each position, repeats allowed */
    const float
        *sample_log_prob; /* [T] mean of log p_s, finite. Neither is read where the tail has no mass */
} qn_teacher_top;

/* Room for N positions of such a teacher. Zeroed is empty. */
typedef struct qn_teacher_rows {
    int64_t n, k, n_samples;
    int32_t *ids, *sample_ids;                          /* owned [n, k], [n, n_samples] */
    float *log_probs, *tail_log_prob, *sample_log_prob; /* owned [n, k], [n], [n] */
} qn_teacher_rows;

QN_NODISCARD QN_API qn_status qn_teacher_rows_alloc(int64_t n, int64_t k, int64_t n_samples,
                                                    qn_teacher_rows *out, qn_error *err);
QN_API void qn_teacher_rows_release(qn_teacher_rows *rows);

/* The positions from FIRST on, borrowed. */
QN_API qn_teacher_top qn_teacher_rows_top(const qn_teacher_rows *rows, int64_t first);

typedef struct qn_loss_options {
    qn_compute compute;
    double ce_weight;        /* 1 for plain training */
    double kl_weight;        /* 0: no teacher. Else either a model with its hidden states, or teacher_top */
    const qn_model *teacher; /* borrowed; same vocabulary */
    const float *teacher_hidden;       /* [T, h of the teacher] after the teacher's final norm; borrowed */
    const qn_teacher_top *teacher_top; /* borrowed; NULL with a teacher */
    double scale;       /* multiplies the gradients, for example 1 / number of targets of the step */
    int64_t keep_bytes; /* activations kept from forward to backward; 0: recompute all that can be */
    bool spill;         /* the inputs of blocks wait in a file in $TMPDIR: memory is then independent of L */
    const qn_gradient_observer *observer; /* borrowed, or NULL */
} qn_loss_options;

typedef struct qn_loss {
    double ce_nats, kl_nats; /* sums over the targets, unweighted */
    int64_t n_targets;
} qn_loss;

/* targets [T]: the id to be predicted at each position, or -1 where nothing is. gradients may be NULL: nothing is added up,
 * and without an observer the loss alone is computed. A matrix that is not dense F32 is decoded each time the walk
 * backwards meets it; its gradient is that of the decoded values. A non-finite loss is QN_E_VALUE. On failure the
 * gradients hold part of a sum: clear them. */
QN_NODISCARD QN_API qn_status qn_loss_gradient(const qn_model *model, const qn_sequences *sequences,
                                               const int32_t *targets, const qn_loss_options *options,
                                               const qn_context *ctx, qn_gradients *gradients, qn_loss *out,
                                               qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
