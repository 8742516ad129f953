#include "model/pass.h"

#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

qn_status qni_pass_open(qni_pass *out, const qn_model *model, qn_compute compute, const qn_context *ctx,
                        qn_error *err) {
    qni_pass pass = {
        .model = model, .ctx = ctx, .n_threads = qn_context_threads(ctx), .bf16 = compute == QN_COMPUTE_BF16};
    QN_TRY(qni_ops_open(&pass.ops, err));
    pass.matrices = qni_alloc_array(model->layout->n, sizeof *pass.matrices);
    if (!pass.matrices) {
        qni_pass_release(&pass);
        return qni_fail_nomem(err, "weight table");
    }
    for (int64_t i = 0; i < model->layout->n; i++)
        if (model->layout->entries[i].is_matrix) pass.matrices[i] = qni_matrix_of(model, i);
    *out = pass;
    return QN_OK;
}

void qni_pass_release(qni_pass *pass) {
    qni_ops_close(pass->ops);
    free(pass->matrices);
    qni_rope_table_release(&pass->rope);
    *pass = (qni_pass){0};
}

qn_status qni_pass_cover(qni_pass *pass, int64_t n_positions, qn_error *err) {
    qni_rope_table table;
    if (n_positions <= pass->rope.n_positions) return QN_OK;
    const qn_config *config = pass->model->config;
    QN_TRY(qni_rope_table_make(pass->model->inv_freq, config->head_dim / 2, config->rope.attention_factor,
                               n_positions, pass->n_threads, &table, err));
    qni_rope_table_release(&pass->rope);
    pass->rope = table;
    return QN_OK;
}

qn_status qni_embed(const qni_pass *pass, const int32_t *ids, int64_t n, float *x, qn_error *err) {
    const qn_model *model = pass->model;
    const int64_t vocab = model->config->vocab_size, h = model->config->hidden_size;
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab) {
            return qn_fail(err, QN_E_VALUE,
                           "token id %d at position %lld is outside the vocabulary of %lld; is the tokenizer "
                           "the model's?",
                           ids[i], (long long)i, (long long)vocab);
        }
    }
#pragma omp parallel for schedule(static) num_threads(pass->n_threads)
    for (int64_t i = 0; i < n; i++) qn_weight_decode_rows(model->weights[model->embed], ids[i], 1, x + i * h);
    return QN_OK;
}

qn_status qni_note_largest(const qni_pass *pass, float largest, int64_t layer, const char *place,
                           qn_error *err) {
    qn_walk_stats *stats = pass->stats;
    char where[sizeof stats->largest_where];
    if (isfinite(largest) && !(stats && (double)largest > stats->largest_activation)) return QN_OK;
    if (layer >= 0) {
        snprintf(where, sizeof where, "layer %lld %s", (long long)layer, place);
    } else {
        snprintf(where, sizeof where, "%s", place);
    }
    if (!isfinite(largest)) {
        return qn_fail(err, QN_E_VALUE,
                       "%s: %s holds NaN or infinity; look for non-finite or absurdly large weights",
                       qn_store_path(qn_checkpoint_store(pass->model->checkpoint)), where);
    }
    stats->largest_activation = (double)largest;
    snprintf(stats->largest_where, sizeof stats->largest_where, "%s", where);
    return QN_OK;
}
