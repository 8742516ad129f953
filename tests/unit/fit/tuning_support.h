/* A toy of teacher and student for the tests of training compressed models: a small teacher, text, and students that begin at a
 * direct fit of its matrices. */
#ifndef QUERN_TESTS_TUNING_SUPPORT_H
#define QUERN_TESTS_TUNING_SUPPORT_H

#include "expect_error.h"

#include "quern/fit/distill.h"
#include "quern/model/model.h"

typedef struct tuning_toy {
    qn_model *teacher, *student; /* of the same checkpoint */
    const qn_layout *layout;
    const qn_config *config;
    int32_t *ids;             /* owned, as are the starts */
    int64_t *starts;          /* [n + 1] of all sequences */
    qn_sequences text, fresh; /* to train on; never trained on */
    float **metrics; /* [layout.n] each owned: E[x x^T] of linear layers on the text, NULL for others */
} tuning_toy;

/* The checkpoint at PATH and N sequences of LENGTH ids, the last N_FRESH of them held back; IDS [n * length] are copied. */
tuning_toy *tuning_toy_open(const char *path, const int32_t *ids, int64_t n, int64_t n_fresh, int64_t length);

/* A random qwen3 of N_LAYERS layers, 136 random sequences of 16 ids, 8 of them fresh. */
tuning_toy *tuning_toy_random(int64_t n_layers);
void tuning_toy_close(tuning_toy *toy);

/* How the matrices of a student are stored. */
typedef struct toy_code {
    qn_code code;
    bool has_three_bands; /* one plane, two planes and q4; else one plane alone */
    bool log6;
    int32_t hadamard; /* of matrices that blocks of that many columns divide */
    bool at_levels;   /* latents begin at their levels, not at where descent would put them */
} toy_code;

/* All rates 1 but those of thresholds, 0. */
extern const qn_trainable_rates k_toy_rates;

/* The sealed set of layers FIRST .. FIRST + N - 1 (-1: embedding, head, final norm) at their direct fit. */
qn_trainable toy_set(const tuning_toy *toy, const toy_code *code, int64_t first_layer, int64_t n_layers,
                     const qn_trainable_rates *rates);

/* The same set, lent to the student and evaluated. */
qn_trainable toy_student(const tuning_toy *toy, const toy_code *code, int64_t first_layer, int64_t n_layers,
                         const qn_trainable_rates *rates);
void toy_student_release(const tuning_toy *toy, qn_trainable *t);

/* All parameters; owned. */
float *parameters_of(const qn_trainable *t);
bool same_parameters(const qn_trainable *t, const float *values);

/* MODEL's stream [T, h] in front of block DEPTH; owned. */
float *stream_of(qn_model *model, const qn_sequences *sequences, int64_t depth);

/* Mean squared error of the student's blocks FIRST .. FIRST + N - 1 on the teacher's stream. */
double window_error(const tuning_toy *toy, const qn_sequences *sequences, int64_t first_layer,
                    int64_t n_layers);

/* Over all positions, nats: KL(teacher || model) where KL is not NULL, and -log p of the next ids. */
double mean_nll(const tuning_toy *toy, const qn_model *model, const qn_sequences *sequences, double *kl);

/* A run's context that is cancelled when STEP steps are done. */
typedef struct toy_stop {
    uint64_t step, done;
} toy_stop;
qn_context stopping_context(toy_stop *stop, int n_threads);

#endif
