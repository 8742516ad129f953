/* A set of trainable weights as a file: one F32 tensor a group of parameters, and with the state of a run its moments and snapshot. */
#include "base/alloc.h"
#include "base/mapping.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/fit/trainable.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { NAME_BYTES = 32, NUMBER_BYTES = 32, N_STATE = 3 };
static const char *const k_state_names[N_STATE] = {"first_moments", "second_moments", "snapshot"};

static void state_arrays(const qn_trainable *t, float *arrays[N_STATE]) {
    arrays[0] = t->state + t->n_floats;
    arrays[1] = t->state + 2 * t->n_floats;
    arrays[2] = t->snapshot;
}

static void group_name(int64_t group, char name[NAME_BYTES]) {
    (void)snprintf(name, NAME_BYTES, "parameters.%05lld", (long long)group);
}

static qn_view view_of(const float *data, int64_t n) {
    return (qn_view){.data = data, .dtype = QN_DTYPE_F32, .n_dims = 1, .shape = {n}};
}

enum { N_MARK_NUMBERS = 8, N_MARK_ITEMS = 1 + N_MARK_NUMBERS };

/* What a mark says; counts as numbers are written without a point. TEXTS is what the items point to. */
static void format_mark(const qn_trainable_mark *mark, char texts[N_MARK_NUMBERS][NUMBER_BYTES],
                        qn_safetensors_meta items[N_MARK_ITEMS]) {
    const struct {
        const char *key;
        double value;
    } numbers[N_MARK_NUMBERS] = {{"step", (double)mark->step},   {"best_step", (double)mark->best_step},
                                 {"was_trap", mark->was_trap},   {"diverged", mark->diverged},
                                 {"best_loss", mark->best_loss}, {"first_loss", mark->first_loss},
                                 {"first_kl", mark->first_kl},   {"best_kl", mark->best_kl}};
    items[0] = (qn_safetensors_meta){"quern.run", mark->key};
    for (int i = 0; i < N_MARK_NUMBERS; i++) {
        (void)snprintf(texts[i], NUMBER_BYTES, "%.17g", numbers[i].value);
        items[1 + i] = (qn_safetensors_meta){numbers[i].key, texts[i]};
    }
}

static qn_status save_items(const qn_trainable *t, const char *path, const qn_trainable_mark *mark,
                            bool with_state, qn_safetensors_item *items, char (*names)[NAME_BYTES],
                            qn_error *err) {
    qn_safetensors_meta meta[N_MARK_ITEMS];
    char texts[N_MARK_NUMBERS][NUMBER_BYTES];
    float *arrays[N_STATE];
    size_t n = 0;
    for (int64_t g = 0; g < t->n_groups; g++) {
        group_name(g, names[g]);
        items[n++] = (qn_safetensors_item){names[g], view_of(t->groups[g].param, t->groups[g].n)};
    }
    state_arrays(t, arrays);
    for (int k = 0; k < N_STATE && with_state; k++)
        if (arrays[k]) items[n++] = (qn_safetensors_item){k_state_names[k], view_of(arrays[k], t->n_floats)};
    format_mark(mark, texts, meta);
    return qn_safetensors_save(path, items, n, meta, N_MARK_ITEMS, NULL, err);
}

qn_status qn_trainable_save(const qn_trainable *t, const char *path, const qn_trainable_mark *mark,
                            bool with_state, qn_error *err) {
    qn_safetensors_item *items = qni_alloc_array(t->n_groups + N_STATE, sizeof *items);
    char(*names)[NAME_BYTES] = qni_alloc_array(t->n_groups, sizeof *names);
    const qn_status status = items && names ? save_items(t, path, mark, with_state, items, names, err)
                                            : qni_fail_nomem(err, "the list of trainable weights");
    free(items);
    free(names);
    return status;
}

static qn_status copy_tensor(const qn_safetensors *file, const char *path, const char *name, float *out,
                             int64_t n, qn_error *err) {
    size_t index = 0;
    const bool found = qn_safetensors_find(file, name, &index);
    const qn_view *view = found ? qn_safetensors_view(file, index) : NULL;
    if (!view || view->dtype != QN_DTYPE_F32 || qn_view_elements(view) != n)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: expected %lld F32 values named %s; remove the file and go on without it", path,
                       (long long)n, name);
    memcpy(out, view->data, (size_t)n * sizeof *out);
    return QN_OK;
}

static double number(const qn_safetensors *file, const char *key) {
    const char *text = qn_safetensors_metadata(file, key);
    return text ? strtod(text, NULL) : 0.0;
}

/* -1: the file has no such count. */
static int64_t count_of(const qn_safetensors *file, const char *key) {
    const char *text = qn_safetensors_metadata(file, key);
    char *end = NULL;
    const long long value = text ? strtoll(text, &end, 10) : -1;
    return text && end != text && !*end ? value : -1;
}

static qn_status take_mark(const qn_safetensors *file, const char *path, qn_trainable_mark *mark,
                           qn_error *err) {
    const int64_t step = count_of(file, "step"), best_step = count_of(file, "best_step");
    if (step < 0 || best_step < 0 || best_step > step)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: its best step is not one of the steps it has done; remove the file and go on "
                       "without it",
                       path);
    mark->step = step;
    mark->best_step = best_step;
    mark->best_loss = number(file, "best_loss");
    mark->first_loss = number(file, "first_loss");
    mark->first_kl = number(file, "first_kl");
    mark->best_kl = number(file, "best_kl");
    mark->was_trap = count_of(file, "was_trap") > 0;
    mark->diverged = count_of(file, "diverged") > 0;
    return QN_OK;
}

static qn_status take_state(qn_trainable *t, const qn_safetensors *file, const char *path, qn_error *err) {
    float *arrays[N_STATE];
    size_t index;
    if (qn_safetensors_find(file, k_state_names[2], &index) && !t->snapshot)
        QN_TRY(QNI_ALLOC(t->snapshot, t->n_floats, "a snapshot of the weights", err));
    state_arrays(t, arrays);
    for (int k = 0; k < N_STATE; k++)
        if (arrays[k]) QN_TRY(copy_tensor(file, path, k_state_names[k], arrays[k], t->n_floats, err));
    return QN_OK;
}

static qn_status take(qn_trainable *t, const qn_safetensors *file, const char *path, qn_trainable_mark *mark,
                      bool with_state, qn_error *err) {
    const char *saved = qn_safetensors_metadata(file, "quern.run");
    if (!saved || strcmp(saved, mark->key) != 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s belongs to another run (other weights, recipe, text, seed or processor): expected "
                       "run %s, found %s; give another --work folder",
                       path, mark->key, saved ? saved : "none");
    for (int64_t g = 0; g < t->n_groups; g++) {
        char name[NAME_BYTES];
        group_name(g, name);
        QN_TRY(copy_tensor(file, path, name, t->groups[g].param, t->groups[g].n, err));
    }
    if (with_state) QN_TRY(take_state(t, file, path, err));
    return take_mark(file, path, mark, err);
}

qn_status qn_trainable_load(qn_trainable *t, const char *path, qn_trainable_mark *mark, bool with_state,
                            bool *found, qn_error *err) {
    qni_mapping mapping = {0};
    qn_safetensors *file = NULL;
    *found = access(path, F_OK) == 0;
    if (!*found) return QN_OK;
    QN_TRY(qni_mapping_open(path, &mapping, err));
    qn_status status = qn_safetensors_parse(mapping.data, mapping.n_bytes, path, &file, err);
    if (status == QN_OK) status = take(t, file, path, mark, with_state, err);
    qn_safetensors_free(file);
    qni_mapping_release(&mapping);
    return status;
}
