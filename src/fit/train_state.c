#include "fit/train_run.h"

#include "base/alloc.h"
#include "checkpoint/dense_write.h"
#include "quern/base/writer.h"
#include "quern/checkpoint/safetensors.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define MOMENTS_FILE "optimizer.safetensors"

static qn_status join_path(const char *folder, const char *name, char **out, qn_error *err) {
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0) return qni_fail_nomem(err, name);
    *out = path;
    return QN_OK;
}

qn_status qni_train_state_path(const char *folder, int64_t step, char **path, qn_error *err) {
    char name[40];
    (void)snprintf(name, sizeof name, "step-%08lld", (long long)step);
    return join_path(folder, name, path, err);
}

/* The step a folder's name stands for, or -1 for any other name. */
static int64_t step_of(const char *name) {
    char canonical[40];
    if (strncmp(name, "step-", 5) != 0) return -1;
    const long long step = strtoll(name + 5, NULL, 10); /* what it skips or leaves makes another name */
    if (step < 0) return -1;
    (void)snprintf(canonical, sizeof canonical, "step-%08lld", step);
    return strcmp(name, canonical) == 0 ? (int64_t)step : -1;
}

void qni_train_state_remove(const char *folder) {
    char *away = NULL;
    if (asprintf(&away, "%s.removed", folder) < 0) return;
    (void)rename(folder, away);
    qn_folder_abandon(away); /* also what a kill left under that name */
    free(away);
}

/* Removes everything in FOLDER but the state of KEEP; leftovers that cannot be removed do no harm. */
static void remove_others(const char *folder, int64_t keep) {
    DIR *entries = opendir(folder);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        char *path = NULL;
        const int64_t step = step_of(entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (step >= 0 && step == keep))
            continue;
        if (asprintf(&path, "%s/%s", folder, entry->d_name) < 0) continue;
        if (step >= 0)
            qni_train_state_remove(path);
        else
            qn_folder_abandon(path);
        free(path);
    }
    (void)closedir(entries);
}

static qn_status save_moments(const char *folder, int64_t step, const qni_train_weights *w, qn_error *err) {
    char text[24], *path = NULL;
    const qn_view view = {.dtype = QN_DTYPE_F32, .n_dims = 1, .shape = {w->n_floats}};
    qn_safetensors_item items[] = {{"exp_avg", view}, {"exp_avg_sq", view}};
    const qn_safetensors_meta meta = {"step", text};
    items[0].view.data = w->first_moments;
    items[1].view.data = w->second_moments;
    (void)snprintf(text, sizeof text, "%lld", (long long)step);
    QN_TRY(join_path(folder, MOMENTS_FILE, &path, err));
    const qn_status status = qn_safetensors_save(path, items, 2, &meta, 1, NULL, err);
    free(path);
    return status;
}

static qn_status fill_state(const char *folder, int64_t step, const qni_train_inputs *inputs,
                            const qni_train_weights *w, const qn_context *ctx, qn_error *err) {
    const qn_context quiet = {.n_threads =
                                  qn_context_threads(ctx)}; /* a state is saved when cancelled, too */
    const qni_dense dense = {
        .config = &inputs->config, .layout = &inputs->layout, .weights = w->list, .dtype = QN_DTYPE_F32};
    QN_TRY(qni_dense_write(&dense, folder, &quiet, err));
    return save_moments(folder, step, w, err);
}

qn_status qni_train_state_save(const char *folder, int64_t step, const qni_train_inputs *inputs,
                               const qni_train_weights *weights, const qn_context *ctx, qn_error *err) {
    char *path = NULL, *temporary = NULL;
    QN_TRY(qni_train_state_path(folder, step, &path, err));
    qn_status status = qn_folder_begin(path, &temporary, err);
    if (status == QN_OK) status = fill_state(temporary, step, inputs, weights, ctx, err);
    if (status == QN_OK) status = qn_folder_commit(temporary, path, err);
    if (status == QN_OK)
        remove_others(folder, step);
    else
        qn_folder_abandon(temporary);
    free(temporary);
    free(path);
    return status;
}

qn_status qni_train_state_find(const char *folder, int64_t *step, qn_error *err) {
    int64_t last = -1;
    DIR *entries = opendir(folder);
    if (!entries) return qn_fail_errno(err, "%s: cannot be read", folder);
    for (struct dirent *entry; (entry = readdir(entries));) {
        const int64_t found = step_of(entry->d_name);
        if (found > last) last = found;
    }
    (void)closedir(entries);
    remove_others(folder, last);
    *step = last;
    return QN_OK;
}

static qn_status copy_moments(const qn_safetensors *file, const char *name, const char *path, float *out,
                              int64_t n, qn_error *err) {
    size_t index = 0;
    if (!qn_safetensors_find(file, name, &index))
        return qn_fail(err, QN_E_FORMAT, "%s: tensor '%s' is missing: the saved state is damaged", path,
                       name);
    const qn_view *view = qn_safetensors_view(file, index);
    if (view->dtype != QN_DTYPE_F32 || qn_view_elements(view) != n)
        return qn_fail(err, QN_E_SHAPE, "%s: tensor '%s' is %s with %lld elements, expected F32 with %lld",
                       path, name, qn_dtype_name(view->dtype), (long long)qn_view_elements(view),
                       (long long)n);
    memcpy(out, view->data, (size_t)n * sizeof *out);
    return QN_OK;
}

static qn_status load_moments(const qn_checkpoint *state, qni_train_weights *w, qn_error *err) {
    qn_store *store = qn_checkpoint_store(state);
    qn_safetensors *file = NULL;
    const uint8_t *data = NULL;
    size_t n_bytes = 0;
    QN_TRY(qn_store_map(store, MOMENTS_FILE, &data, &n_bytes, err));
    QN_TRY(qn_safetensors_parse(data, n_bytes, MOMENTS_FILE, &file, err));
    const char *path = qn_store_path(store);
    qn_status status = copy_moments(file, "exp_avg", path, w->first_moments, w->n_floats, err);
    if (status == QN_OK) status = copy_moments(file, "exp_avg_sq", path, w->second_moments, w->n_floats, err);
    qn_safetensors_free(file);
    return status;
}

qn_status qni_train_state_load(const char *folder, int64_t step, const qni_train_inputs *inputs,
                               qni_train_weights *weights, const qn_context *ctx, qn_error *err) {
    qn_checkpoint *state = NULL;
    char *path = NULL;
    QN_TRY(qni_train_state_path(folder, step, &path, err));
    qn_status status = qn_checkpoint_open(path, &state, err);
    if (status == QN_OK && qn_checkpoint_layout(state)->n_parameters != inputs->layout.n_parameters)
        status = qn_fail(err, QN_E_SHAPE, "%s: %lld parameters, expected %lld", path,
                         (long long)qn_checkpoint_layout(state)->n_parameters,
                         (long long)inputs->layout.n_parameters);
    if (status == QN_OK) status = load_moments(state, weights, err);
    if (status == QN_OK) qni_train_weights_decode(weights, state, &inputs->layout, ctx);
    qn_checkpoint_close(state);
    free(path);
    return status;
}
