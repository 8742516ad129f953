#include "fit/train_run.h"

#include "base/alloc.h"
#include "base/json.h"
#include "quern/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { RNG_PURPOSE = 0x696e6974 }; /* "init" */

static qn_train_role role_of(const qn_layout_entry *entry) {
    if (!entry->is_matrix) return QN_TRAIN_VECTORS;
    const bool is_outer = entry->kind == QN_TENSOR_EMBED || entry->kind == QN_TENSOR_HEAD;
    return is_outer ? QN_TRAIN_EMBEDDING : QN_TRAIN_MATRICES;
}

static void bind_entry(qni_train_weights *w, int64_t i, const qn_layout_entry *entry, int64_t offset,
                       const qn_train_role_options *role) {
    const int64_t n = entry->rows * entry->cols;
    w->weights[i].kind = QN_WEIGHT_DENSE;
    w->weights[i].dense = (qn_view){.data = w->masters + offset, .dtype = QN_DTYPE_F32};
    qn_view *view = &w->weights[i].dense;
    if (entry->is_matrix) view->shape[view->n_dims++] = entry->rows;
    view->shape[view->n_dims++] = entry->cols;
    w->list[i] = &w->weights[i];
    w->groups[i] = (qn_adamw_group){.name = entry->name,
                                    .param = w->masters + offset,
                                    .grad = w->gradients.per_entry[i],
                                    .m = w->first_moments + offset,
                                    .v = w->second_moments + offset,
                                    .n = n,
                                    .lr_scale = role->lr_scale,
                                    .weight_decay = role->weight_decay};
}

qn_status qni_train_weights_alloc(const qn_train_options *options, const qn_layout *layout,
                                  qni_train_weights *out, qn_error *err) {
    qni_train_weights w = {.n = layout->n, .n_floats = layout->n_parameters};
    int64_t offset = 0;
    qn_status status = QNI_ALLOC(w.masters, w.n_floats, "the master weights", err);
    w.first_moments = qni_alloc_array(w.n_floats, sizeof *w.first_moments);
    w.second_moments = qni_alloc_array(w.n_floats, sizeof *w.second_moments);
    w.weights = qni_alloc_array(w.n, sizeof *w.weights);
    w.list = qni_alloc_array(w.n, sizeof *w.list);
    w.groups = qni_alloc_array(w.n, sizeof *w.groups);
    if (!w.first_moments || !w.second_moments || !w.weights || !w.list || !w.groups)
        status = qni_fail_nomem(err, "the moments of AdamW");
    if (status == QN_OK) status = qn_gradients_alloc(layout, &w.gradients, err);
    if (status != QN_OK) {
        qni_train_weights_release(&w);
        return status;
    }
    for (int64_t i = 0; i < w.n; i++) {
        const qn_layout_entry *entry = &layout->entries[i];
        bind_entry(&w, i, entry, offset, &options->roles[role_of(entry)]);
        offset += w.groups[i].n;
    }
    *out = w;
    return QN_OK;
}

void qni_train_weights_release(qni_train_weights *w) {
    free(w->masters);
    free(w->first_moments);
    free(w->second_moments);
    free(w->weights);
    free(w->list);
    free(w->groups);
    qn_gradients_release(&w->gradients);
    *w = (qni_train_weights){0};
}

void qni_train_weights_decode(qni_train_weights *w, const qn_checkpoint *checkpoint, const qn_layout *layout,
                              const qn_context *ctx) {
    for (int64_t i = 0; i < w->n; i++) {
        const qn_weight *source = qn_checkpoint_weight(checkpoint, i);
        const int64_t rows = layout->entries[i].rows, cols = layout->entries[i].cols;
        float *out = w->groups[i].param;
#pragma omp parallel for schedule(static) num_threads(qn_context_threads(ctx))
        for (int64_t row = 0; row < rows; row++) qn_weight_decode_rows(source, row, 1, out + row * cols);
    }
}

/* The standard deviation of fresh matrices, which is no part of qn_config. */
static qn_status initializer_range(const qn_config *config, double *out, qn_error *err) {
    json_t *root = NULL;
    double range = 0.02; /* as transformers */
    QN_TRY(qni_json_parse(config->json, strlen(config->json), "config.json", &root, err));
    qn_status status = qni_json_get_f64(root, "initializer_range", false, "config.json", &range, err);
    json_decref(root);
    if (status == QN_OK && !(range > 0 && range <= 1))
        status =
            qn_fail(err, QN_E_VALUE, "config.json: initializer_range %g: expected above 0, at most 1", range);
    if (status == QN_OK) *out = range;
    return status;
}

static void draw_entry(const qn_layout_entry *entry, double range, uint64_t seed, int64_t index, float *out) {
    const int64_t n = entry->rows * entry->cols;
    qn_rng rng;
    if (entry->is_matrix) {
        qn_rng_seed_stream(&rng, seed, RNG_PURPOSE, (uint32_t)index);
        for (int64_t i = 0; i < n; i++) out[i] = (float)(range * qn_rng_normal(&rng));
        return;
    }
    const bool is_bias = entry->kind == QN_TENSOR_Q_BIAS || entry->kind == QN_TENSOR_K_BIAS ||
                         entry->kind == QN_TENSOR_V_BIAS || entry->kind == QN_TENSOR_O_BIAS;
    for (int64_t i = 0; i < n; i++) out[i] = is_bias ? 0.0f : 1.0f;
}

qn_status qni_train_weights_draw(qni_train_weights *w, const qni_train_inputs *inputs, uint64_t seed,
                                 const qn_context *ctx, qn_error *err) {
    double range = 0;
    QN_TRY(initializer_range(&inputs->config, &range, err));
#pragma omp parallel for schedule(dynamic) num_threads(qn_context_threads(ctx))
    for (int64_t i = 0; i < w->n; i++)
        draw_entry(&inputs->layout.entries[i], range, seed, i, w->groups[i].param);
    return QN_OK;
}
