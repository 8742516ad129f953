/* The two operations that bring weights in: linear layers and norms. */
#include "model/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* "mlp.down_proj output" for "model.layers.3.mlp.down_proj.weight". */
static void place_of(const qn_layout_entry *entry, char *place, size_t n_bytes) {
    const char *name = entry->name;
    const char *layer = strstr(name, "layers.");
    if (layer && (layer = strchr(layer + strlen("layers."), '.'))) name = layer + 1;
    const char *suffix = strstr(name, ".weight");
    const size_t length = suffix ? (size_t)(suffix - name) : strlen(name);
    snprintf(place, n_bytes, "%.*s output", (int)length, name);
}

qn_status qni_linear(const qni_pass *pass, int64_t index, int64_t bias_index, const float *x,
                     int64_t first_token, int64_t n_tokens, float *y, qn_error *err) {
    const qn_layout_entry *entry = &pass->model->layout->entries[index];
    const qn_walk_observer *observer = pass->observer;
    float *bias = NULL, largest = 0.0f;
    char place[64];
    if (observer && observer->on_linear_input)
        QN_TRY(observer->on_linear_input(observer->user, index, x, first_token, n_tokens, entry->cols, err));
    QN_TRY(qni_load_vector(pass->model, bias_index, &bias, err));
    const qni_linear_args args = {
        .bf16 = pass->bf16, .x = x, .m = n_tokens, .w = &pass->matrices[index], .bias = bias, .y = y};
    const qn_status status = pass->ops->linear(pass->ops, &args, pass->n_threads, &largest, err);
    free(bias);
    if (status != QN_OK) return status;
    place_of(entry, place, sizeof place);
    return qni_note_largest(pass, largest, entry->layer, place, err);
}

qn_status qni_norm(const qni_pass *pass, int64_t index, const float *x, int64_t rows, int64_t n, float *y,
                   qn_error *err) {
    float *w = NULL;
    QN_TRY(qni_load_vector(pass->model, index, &w, err));
    pass->ops->rms_norm(pass->ops, x, w, pass->model->config->rms_norm_eps, rows, n, y, pass->n_threads);
    free(w);
    return QN_OK;
}
