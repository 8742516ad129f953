/* One block: x += mixer(norm(x)); x += mlp(norm(x)). What mixes tokens is a table, so that another kind of
 * layer is another table. */
#ifndef QUERN_SRC_MODEL_BLOCK_H
#define QUERN_SRC_MODEL_BLOCK_H

#include "model/pass.h"

/* What a layer remembers of one sequence between calls: keys after norm and rotation, and values. */
typedef struct qni_cache {
    float *k, *v;   /* owned [capacity, n_kv_heads * D] */
    int64_t n_past; /* tokens held */
} qni_cache;

/* Tokens that pass through a block together: whole sequences, or the next tokens of one cached sequence. */
typedef struct qni_chunk {
    int64_t first_token; /* in the walk */
    int64_t n_tokens;
    const qni_span
        *spans; /* queries count from the chunk's first token; keys from it too, or from the cache's */
    int64_t n_spans;
    const int64_t *positions; /* [n_tokens] */
} qni_chunk;

/* Work space for chunks of up to a number of tokens; one owned block. */
typedef struct qni_workspace {
    float *normed, *branch; /* [n, h] */
    float *mixer;           /* what the mixers asked for */
    float *gate, *up;       /* [MLP chunk, I] */
} qni_workspace;

struct qni_backward; /* backward.h */

typedef struct qni_mixer {
    /* Floats of work space for n tokens. */
    int64_t (*work_floats)(const qn_model *model, int64_t n_tokens);
    /* y [n, h] = mix(u [n, h]); u is the normed stream. cache may be NULL. */
    qn_status (*forward)(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk, const float *u,
                         qni_cache *cache, float *work, float *y, qn_error *err);

    /* Floats that hold what backward reads of the mixer's inside, and floats of its own gradients; n tokens. */
    int64_t (*inside_floats)(const qn_model *model, int64_t n_tokens);
    int64_t (*backward_floats)(const qn_model *model, int64_t n_tokens);
    /* As forward, over whole sequences, keeping its inside. */
    qn_status (*forward_inside)(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                                const float *u, float *inside, float *y, qn_error *err);
    /* du [n, h] = gradient with respect to u, from dy [n, h], unless NULL; adds those of the layer's weights. */
    qn_status (*backward)(const struct qni_backward *backward, const qni_layer *layer, const qni_chunk *chunk,
                          const float *u, float *inside, const float *dy, float *work, float *du,
                          qn_error *err);
} qni_mixer;

extern const qni_mixer qni_mixer_attention;

QN_NODISCARD qn_status qni_workspace_make(const qn_model *model, int64_t max_tokens, qni_workspace *out,
                                          qn_error *err);
void qni_workspace_release(qni_workspace *work);

/* x [n, h] in place. */
QN_NODISCARD qn_status qni_block_forward(const qni_pass *pass, const qni_layer *layer, const qni_chunk *chunk,
                                         qni_cache *cache, const qni_workspace *work, float *x,
                                         qn_error *err);

#endif
