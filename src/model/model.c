#include "quern/model/model.h"

#include "base/alloc.h"
#include "model/binding.h"
#include "model/block.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static void bind_layer(const qn_model *model, int64_t index, qni_layer *layer) {
    const qn_config *config = model->config;
    layer->index = index;
    layer->mixer = &qni_mixer_attention;
    layer->window = config->sliding_window && config->layer_slides[index] ? config->sliding_window : 0;
    for (int kind = 0; kind < QN_TENSOR_KIND_COUNT; kind++)
        layer->tensor[kind] = qn_layout_find(model->layout, (qn_tensor_kind)kind, index);
}

static qn_status bind(qn_model *model, qn_error *err) {
    const qn_layout *layout = model->layout = qn_checkpoint_layout(model->checkpoint);
    const qn_config *config = model->config = qn_checkpoint_config(model->checkpoint);
    model->weights = qni_alloc_array(layout->n, sizeof *model->weights);
    model->layers = qni_alloc_array(config->n_layers, sizeof *model->layers);
    model->inv_freq = qni_alloc_array(config->head_dim / 2, sizeof *model->inv_freq);
    if (!model->weights || !model->layers || !model->inv_freq) return qni_fail_nomem(err, "model");
    for (int64_t i = 0; i < layout->n; i++) model->weights[i] = qn_checkpoint_weight(model->checkpoint, i);
    for (int64_t i = 0; i < config->n_layers; i++) bind_layer(model, i, &model->layers[i]);
    model->embed = qn_layout_find(layout, QN_TENSOR_EMBED, -1);
    model->head = config->tied ? model->embed : qn_layout_find(layout, QN_TENSOR_HEAD, -1);
    model->final_norm = qn_layout_find(layout, QN_TENSOR_FINAL_NORM, -1);
    qni_rope_frequencies(config, model->inv_freq);
    return QN_OK;
}

qn_status qn_model_open(const char *path, qn_model **out, qn_error *err) {
    qn_model *model = qni_alloc_array(1, sizeof *model);
    qn_status status =
        model ? qn_checkpoint_open(path, &model->checkpoint, err) : qni_fail_nomem(err, "model");
    if (status == QN_OK) status = bind(model, err);
    if (status != QN_OK) {
        qn_model_close(model);
        return status;
    }
    *out = model;
    return QN_OK;
}

void qn_model_close(qn_model *model) {
    if (!model) return;
    qn_checkpoint_close(model->checkpoint);
    free(model->weights);
    free(model->layers);
    free(model->inv_freq);
    free(model);
}

const qn_checkpoint *qn_model_checkpoint(const qn_model *model) {
    return model->checkpoint;
}

const qn_config *qn_model_config(const qn_model *model) {
    return model->config;
}

qn_status qn_model_set_weight(qn_model *model, int64_t index, const qn_weight *weight, qn_error *err) {
    const qn_layout *layout = model->layout;
    if (index < 0 || index >= layout->n) {
        return qn_fail(err, QN_E_ARGUMENT, "no weight %lld: the model has %lld", (long long)index,
                       (long long)layout->n);
    }
    const qn_layout_entry *entry = &layout->entries[index];
    if (weight && (qn_weight_rows(weight) != entry->rows || qn_weight_cols(weight) != entry->cols)) {
        return qn_fail(err, QN_E_SHAPE, "%s: expected [%lld, %lld], got [%lld, %lld]", entry->name,
                       (long long)entry->rows, (long long)entry->cols, (long long)qn_weight_rows(weight),
                       (long long)qn_weight_cols(weight));
    }
    model->weights[index] = weight ? weight : qn_checkpoint_weight(model->checkpoint, index);
    return QN_OK;
}

const qn_weight *qn_model_weight(const qn_model *model, int64_t index) {
    return index >= 0 && index < model->layout->n ? model->weights[index] : NULL;
}

static void decode_rows(const void *source, int64_t row0, int64_t n_rows, float *out) {
    qn_weight_decode_rows(source, row0, n_rows, out);
}

qni_matrix qni_matrix_of(const qn_model *model, int64_t index) {
    const qn_weight *weight = model->weights[index];
    const void *data = weight->kind == QN_WEIGHT_DENSE ? weight->dense.data : NULL;
    qni_matrix matrix = {.rows = qn_weight_rows(weight), .cols = qn_weight_cols(weight)};
    if (data && weight->dense.dtype == QN_DTYPE_F32 && (uintptr_t)data % sizeof(float) == 0) {
        matrix.f32 = data;
        matrix.signs = weight->signs;
    } else if (data && weight->dense.dtype == QN_DTYPE_BF16 && (uintptr_t)data % sizeof(uint16_t) == 0) {
        matrix.bf16 = data;
    } else {
        matrix.decode = decode_rows;
        matrix.source = weight;
    }
    return matrix;
}

qn_status qni_load_vector(const qn_model *model, int64_t index, float **out, qn_error *err) {
    *out = NULL;
    if (index < 0) return QN_OK;
    const qn_weight *weight = model->weights[index];
    QN_TRY(QNI_ALLOC(*out, qn_weight_cols(weight), model->layout->entries[index].name, err));
    qn_weight_decode_rows(weight, 0, 1, *out);
    return QN_OK;
}
