#include "recipe/estimate.h"

#include <stddef.h>

#include "base/banned.h"

/* Sums over the matrices of the blocks. */
typedef struct sums {
    double weights;      /* R C */
    double squared_cols; /* C^2 of each distinct input */
    double fit_products; /* R C^2 */
    double head;         /* V h */
} sums;

static sums add_up(const qn_config *config, const qn_layout *layout) {
    sums s = {.head = (double)config->vocab_size * (double)config->hidden_size};
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *e = &layout->entries[i];
        if (!e->is_matrix || e->layer < 0) continue;
        const double cols = (double)e->cols, rows = (double)e->rows;
        const bool shares = e->kind == QN_TENSOR_K || e->kind == QN_TENSOR_V || e->kind == QN_TENSOR_UP;
        s.weights += rows * cols;
        s.squared_cols += shares ? 0.0 : cols * cols;
        s.fit_products += rows * cols * cols;
    }
    return s;
}

qni_run_cost qni_count_cost(const qn_config *config, const qn_layout *layout, const qn_recipe *recipe,
                            int64_t calibration_tokens, int64_t fisher_tokens, int64_t tuning_tokens) {
    const sums s = add_up(config, layout);
    const double tokens = (double)calibration_tokens, fisher = (double)fisher_tokens;
    const qn_recipe_distill *d = &recipe->distill;
    const qn_recipe_finetune *f = &recipe->finetune;
    const double drawn = (double)(d->steps * d->batch * recipe->context),
                 tuned = (double)(f->steps * f->batch * recipe->context);
    /* A way there and back costs three forward passes. Inputs are computed anew for each of four groups of matrices, 2.2 passes a
     * block in all, of teacher and student; a window of n blocks goes through n of them. */
    return (qni_run_cost){
        .measure = tokens * (s.weights + s.squared_cols) + 3 * fisher * (s.weights + s.head),
        .fit = 2 * 2.2 * tokens * s.weights + 2 * tokens * s.squared_cols +
               (2 + 1.5 * (double)recipe->sweeps) * s.fit_products,
        .distill = drawn * s.weights * (1 + 2 * (double)d->window),
        .finetune = 3 * tuned * (s.weights + s.head) + (double)tuning_tokens * (s.weights + s.head)};
}
