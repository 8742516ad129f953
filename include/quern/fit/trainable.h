/* The parameters of a low-bit model, or of some of its blocks, while they are trained: latents of matrices (latents.h), norms and
 * biases, with their gradients and the state of AdamW.
 *
 * The model is lent dense weights that are evaluated anew before each step: matrices as their latents say, vectors rounded to fp16, as they
 * are stored. So what is trained is what is packed. Rates are relative: a step of Adam at rate lr moves a latent by lr * latent_rate mean scales of
 * its matrix, a scale by lr * scale_rate means of its plane, a threshold by lr * threshold_rate of a scale, a vector by lr * vector_rate of its
 * root mean square. One setting fits all layers and both tracks.
 *
 * Memory: 24 bytes a parameter, with a snapshot 28; up to half a byte more where codes are lent as
 * signs too. Deterministic, whatever the number of threads. */
#ifndef QUERN_FIT_TRAINABLE_H
#define QUERN_FIT_TRAINABLE_H

#include "quern/fit/adamw.h"
#include "quern/fit/latents.h"
#include "quern/model/gradient.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In units of the step's rate; 0: such parameters stay as they are. With neither latents nor thresholds moving, codes stay too. */
typedef struct qn_trainable_rates {
    double latent_rate, scale_rate, threshold_rate, vector_rate;
} qn_trainable_rates;

/* One weight of the model: a matrix with latents, a vector, or a matrix in no code. */
typedef struct qn_trainable_part {
    int64_t entry; /* of the layout */
    bool has_latents;
    qn_latents latents;
    float *masters;          /* [C] or [R, C] owned: of what has no latents */
    float *dense;            /* [R, C] or [C] owned: what the model is lent */
    struct qni_signs *signs; /* owned, or NULL: of latents, the same once more for products */
    qn_weight weight;
} qn_trainable_part;

typedef struct qn_trainable {
    const qn_layout *layout;  /* borrowed */
    qn_trainable_part *parts; /* [n_parts] owned, in layout order */
    int64_t n_parts;
    qn_adamw_group *groups; /* [n_groups] owned; their arrays lie in the parts and in `state` */
    int64_t n_groups, n_floats;
    float *state;           /* [3, n_floats] owned: gradients, first and second moments */
    float *snapshot;        /* [n_floats] owned, or NULL */
    qn_gradients gradients; /* owned: of the dense weights of the parts alone */
} qn_trainable;

/* Parts are added one by one, in layout order; then the set is sealed. On failure the set is to be released. */
QN_NODISCARD QN_API qn_status qn_trainable_init(const qn_layout *layout, qn_trainable *out, qn_error *err);
/* Takes LATENTS over, which become empty. */
QN_NODISCARD QN_API qn_status qn_trainable_add_matrix(qn_trainable *t, int64_t entry, qn_latents *latents,
                                                      qn_error *err);
/* Masters from WEIGHT, a dense vector. */
QN_NODISCARD QN_API qn_status qn_trainable_add_vector(qn_trainable *t, int64_t entry, const qn_weight *weight,
                                                      qn_error *err);
/* A matrix in no code, of any kind of WEIGHT: what the unquantised model is tuned as. Its rate is a latent's, in mean magnitudes. */
QN_NODISCARD QN_API qn_status qn_trainable_add_dense(qn_trainable *t, int64_t entry, const qn_weight *weight,
                                                     qn_error *err);
/* Adds all parts of FROM, whose latents are taken over; FROM is good for nothing but release afterwards. */
QN_NODISCARD QN_API qn_status qn_trainable_take(qn_trainable *t, qn_trainable *from, qn_error *err);
QN_NODISCARD QN_API qn_status qn_trainable_seal(qn_trainable *t, const qn_trainable_rates *rates,
                                                qn_error *err);
QN_API void qn_trainable_release(qn_trainable *t);

/* The model computes with the parts' dense weights until it is given its own back. */
QN_NODISCARD QN_API qn_status qn_trainable_lend(qn_trainable *t, qn_model *model, qn_error *err);
QN_API void qn_trainable_give_back(const qn_trainable *t, qn_model *model);

/* Evaluates the dense weights; TEMPERATURE as in latents.h. */
QN_API void qn_trainable_evaluate(qn_trainable *t, double temperature, const qn_context *ctx);

/* From the dense gradients in t->gradients (which are used up) to those of the parameters, and one step of AdamW at rate LR; STEP from 1. */
QN_NODISCARD QN_API qn_status qn_trainable_step(qn_trainable *t, double temperature,
                                                const qn_adamw_options *adamw, double lr, int64_t step,
                                                const qn_context *ctx, qn_error *err);

/* All parameters to and from an array [n_floats]. */
QN_API void qn_trainable_copy(const qn_trainable *t, float *out);
QN_API void qn_trainable_set(qn_trainable *t, const float *values);

/* Keeps such a copy in the set, and goes back to it. */
QN_NODISCARD QN_API qn_status qn_trainable_keep(qn_trainable *t, qn_error *err);
QN_API void qn_trainable_restore(qn_trainable *t);

/* What a file of a set says of its run. */
typedef struct qn_trainable_mark {
    const char *key;   /* of the run: a file of another one is refused */
    int64_t step;      /* steps done */
    double best_loss;  /* of the snapshot */
    double first_loss; /* before any step */
    int64_t best_step;
    double first_kl, best_kl; /* at the head, of a block that was judged by it; else 0 */
    bool was_trap, diverged;
} qn_trainable_mark;

/* Saves parameters, and with WITH_STATE moments and snapshot too, as safetensors at PATH, durably. */
QN_NODISCARD QN_API qn_status qn_trainable_save(const qn_trainable *t, const char *path,
                                                const qn_trainable_mark *mark, bool with_state,
                                                qn_error *err);
/* *found false: there is no such file. QN_E_ARGUMENT for a file of another run, QN_E_FORMAT for a damaged one; on failure the parameters are
 * unspecified. mark->key is read, the rest is filled. */
QN_NODISCARD QN_API qn_status qn_trainable_load(qn_trainable *t, const char *path, qn_trainable_mark *mark,
                                                bool with_state, bool *found, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
