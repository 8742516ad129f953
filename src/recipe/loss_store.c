#include "recipe/loss_store.h"

#include "base/alloc.h"
#include "base/mapping.h"
#include "quern/checkpoint/safetensors.h"
#include "recipe/matrix_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/banned.h"

enum { NAME_BYTES = 40, BASIS_VALUES = 1 + QNI_BAND_KIND_COUNT };
static const char k_key[] = "quern.run", k_fisher_tokens[] = "fisher_tokens";
static const char k_basis[] = "basis", k_columns[] = "columns", k_rows[] = "rows", k_fisher[] = "fisher";
static const char k_lookup[] = "lookup_gradient", k_frequency[] = "token_frequency",
                  k_head[] = "head_hessian";

static qn_status path_of(const char *folder, const char *key, char **path, qn_error *err) {
    if (asprintf(path, "%s/losses-%.*s.safetensors", folder, QNI_KEY_DIGITS, key) >= 0) return QN_OK;
    *path = NULL;
    return qni_fail_nomem(err, "a path");
}

/* BASIS -1: of the matrix in any basis. */
static void part_name(char name[NAME_BYTES], int64_t entry, int basis, const char *what) {
    if (basis < 0)
        (void)snprintf(name, NAME_BYTES, "%05lld.%s", (long long)entry, what);
    else
        (void)snprintf(name, NAME_BYTES, "%05lld.%d.%s", (long long)entry, basis, what);
}

/* ---- saving ---- */

/* Tensors to be written; room for all that a model of the layout can have. */
typedef struct listing {
    qn_safetensors_item *items;    /* owned */
    char (*names)[NAME_BYTES];     /* owned */
    double (*bases)[BASIS_VALUES]; /* owned */
    size_t n, n_bases;
} listing;

static void listing_release(listing *l) {
    free(l->items);
    free(l->names);
    free(l->bases);
}

static qn_status listing_alloc(listing *l, int64_t n_entries, qn_error *err) {
    const int64_t most = n_entries * (1 + 3 * QNI_MAX_BASES) + 3;
    l->items = qni_alloc_array(most, sizeof *l->items);
    l->names = qni_alloc_array(most, sizeof *l->names);
    l->bases = qni_alloc_array(n_entries * QNI_MAX_BASES, sizeof *l->bases);
    return l->items && l->names && l->bases ? QN_OK : qni_fail_nomem(err, "a list of tensors");
}

static void list(listing *l, const void *data, qn_dtype dtype, int64_t n) {
    l->items[l->n] =
        (qn_safetensors_item){l->names[l->n], {.data = data, .dtype = dtype, .n_dims = 1, .shape = {n}}};
    l->n++;
}

static void list_basis(listing *l, const qn_layout_entry *e, int64_t entry, int basis,
                       const qni_line_losses *losses) {
    double *values = l->bases[l->n_bases++];
    values[0] = losses->hadamard;
    memcpy(values + 1, losses->relative_error, sizeof losses->relative_error);
    part_name(l->names[l->n], entry, basis, k_basis);
    list(l, values, QN_DTYPE_F64, BASIS_VALUES);
    part_name(l->names[l->n], entry, basis, k_columns);
    list(l, losses->columns, QN_DTYPE_F64, e->cols);
    part_name(l->names[l->n], entry, basis, k_rows);
    list(l, losses->rows, QN_DTYPE_F64, e->rows);
}

static void list_whole(listing *l, const char *name, const float *data, int64_t n) {
    (void)snprintf(l->names[l->n], NAME_BYTES, "%s", name);
    list(l, data, QN_DTYPE_F32, n);
}

static void list_all(listing *l, const qni_loss_model *loss) {
    const qn_layout *layout = loss->layout;
    const qn_layout_entry *embed = &layout->entries[qn_layout_find(layout, QN_TENSOR_EMBED, -1)];
    for (int64_t i = 0; i < layout->n; i++) {
        for (int b = 0; b < loss->matrices[i].n_bases; b++)
            list_basis(l, &layout->entries[i], i, b, &loss->matrices[i].bases[b]);
        if (!loss->fisher.output[i]) continue;
        part_name(l->names[l->n], i, -1, k_fisher);
        list(l, loss->fisher.output[i], QN_DTYPE_F32, layout->entries[i].rows);
    }
    list_whole(l, k_lookup, loss->fisher.lookup_gradient, embed->cols);
    list_whole(l, k_frequency, loss->token_frequency, embed->rows);
    list_whole(l, k_head, loss->head_hessian, embed->cols * embed->cols);
}

qn_status qni_loss_store_save(const char *folder, const char *key, const qni_loss_model *loss,
                              qn_error *err) {
    char *path = NULL, tokens[32];
    listing l = {0};
    (void)snprintf(tokens, sizeof tokens, "%lld", (long long)loss->fisher.n_tokens);
    const qn_safetensors_meta meta[] = {{k_key, key}, {k_fisher_tokens, tokens}};
    qn_status status = path_of(folder, key, &path, err);
    if (status == QN_OK) status = listing_alloc(&l, loss->layout->n, err);
    if (status == QN_OK) {
        list_all(&l, loss);
        status = qn_safetensors_save(path, l.items, l.n, meta, 2, NULL, err);
    }
    listing_release(&l);
    free(path);
    return status;
}

/* ---- loading ---- */

typedef struct reading {
    const char *path;
    const qn_safetensors *file;
    qni_loss_model *loss;
} reading;

static bool has(const reading *r, const char *name) {
    size_t index;
    return qn_safetensors_find(r->file, name, &index);
}

/* *out, owned: the N values of tensor NAME. */
static qn_status take(const reading *r, const char *name, qn_dtype dtype, int64_t n, void **out,
                      qn_error *err) {
    size_t index;
    const bool found = qn_safetensors_find(r->file, name, &index);
    const qn_view *view = found ? qn_safetensors_view(r->file, index) : NULL;
    if (!view || view->dtype != dtype || qn_view_elements(view) != n)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: expected %lld %s values named %s; remove the file and start again", r->path,
                       (long long)n, qn_dtype_name(dtype), name);
    *out = qni_alloc_array(n, qn_dtype_bytes(dtype));
    if (!*out) return qni_fail_nomem(err, "a loss model");
    memcpy(*out, view->data, (size_t)n * qn_dtype_bytes(dtype));
    return QN_OK;
}

static qn_status take_floats(const reading *r, const char *name, int64_t n, float **out, qn_error *err) {
    void *values = NULL;
    QN_TRY(take(r, name, QN_DTYPE_F32, n, &values, err));
    *out = values;
    return QN_OK;
}

static qn_status take_doubles(const reading *r, int64_t entry, int basis, const char *what, int64_t n,
                              double **out, qn_error *err) {
    char name[NAME_BYTES];
    void *values = NULL;
    part_name(name, entry, basis, what);
    QN_TRY(take(r, name, QN_DTYPE_F64, n, &values, err));
    *out = values;
    return QN_OK;
}

static qn_status take_basis(const reading *r, int64_t entry, int basis, qn_error *err) {
    const qn_layout_entry *e = &r->loss->layout->entries[entry];
    qni_matrix_losses *matrix = &r->loss->matrices[entry];
    qni_line_losses *losses = &matrix->bases[matrix->n_bases++];
    double *values = NULL;
    QN_TRY(take_doubles(r, entry, basis, k_basis, BASIS_VALUES, &values, err));
    const double hadamard = values[0];
    memcpy(losses->relative_error, values + 1, sizeof losses->relative_error);
    free(values);
    if (!(hadamard >= 0.0 && hadamard <= (double)e->cols && hadamard <= INT32_MAX))
        return qn_fail(err, QN_E_FORMAT,
                       "%s: %s is rotated in blocks of %g columns; remove the file and start again", r->path,
                       e->name, hadamard);
    losses->hadamard = (int32_t)hadamard;
    QN_TRY(take_doubles(r, entry, basis, k_columns, e->cols, &losses->columns, err));
    return take_doubles(r, entry, basis, k_rows, e->rows, &losses->rows, err);
}

static qn_status take_matrix(const reading *r, int64_t entry, qn_error *err) {
    char name[NAME_BYTES];
    for (int b = 0; b < QNI_MAX_BASES; b++) {
        part_name(name, entry, b, k_basis);
        if (b > 0 && !has(r, name)) break; /* one there always is */
        QN_TRY(take_basis(r, entry, b, err));
    }
    part_name(name, entry, -1, k_fisher);
    if (!has(r, name)) return QN_OK; /* of an embedding that is no head */
    return take_floats(r, name, r->loss->layout->entries[entry].rows, &r->loss->fisher.output[entry], err);
}

static qn_status take_all(const reading *r, const char *key, qn_error *err) {
    qni_loss_model *loss = r->loss;
    const qn_layout *layout = loss->layout;
    const qn_layout_entry *embed = &layout->entries[qn_layout_find(layout, QN_TENSOR_EMBED, -1)];
    const char *saved = qn_safetensors_metadata(r->file, k_key),
               *tokens = qn_safetensors_metadata(r->file, k_fisher_tokens);
    if (!saved || strcmp(saved, key) != 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s belongs to another run: expected %s, found %s; give another --work folder",
                       r->path, key, saved ? saved : "none");
    loss->fisher.n = layout->n;
    loss->fisher.n_tokens = tokens ? strtoll(tokens, NULL, 10) : 0;
    loss->fisher.output = qni_alloc_array(layout->n, sizeof *loss->fisher.output);
    loss->matrices = qni_alloc_array(layout->n, sizeof *loss->matrices);
    if (!loss->fisher.output || !loss->matrices) return qni_fail_nomem(err, "a loss model");
    for (int64_t i = 0; i < layout->n; i++)
        if (layout->entries[i].is_matrix) QN_TRY(take_matrix(r, i, err));
    QN_TRY(take_floats(r, k_lookup, embed->cols, &loss->fisher.lookup_gradient, err));
    QN_TRY(take_floats(r, k_frequency, embed->rows, &loss->token_frequency, err));
    return take_floats(r, k_head, embed->cols * embed->cols, &loss->head_hessian, err);
}

static qn_status load(const char *path, const char *key, qni_loss_model *loss, qn_error *err) {
    qni_mapping mapping = {0};
    qn_safetensors *file = NULL;
    QN_TRY(qni_mapping_open(path, &mapping, err));
    qn_status status = qn_safetensors_parse(mapping.data, mapping.n_bytes, path, &file, err);
    const reading r = {.path = path, .file = file, .loss = loss};
    if (status == QN_OK) status = take_all(&r, key, err);
    qn_safetensors_free(file);
    qni_mapping_release(&mapping);
    return status;
}

qn_status qni_loss_store_load(const char *folder, const char *key, const qn_layout *layout, bool *found,
                              qni_loss_model *out, qn_error *err) {
    qni_loss_model loss = {.layout = layout};
    char *path = NULL;
    QN_TRY(path_of(folder, key, &path, err));
    *found = access(path, F_OK) == 0;
    const qn_status status = *found ? load(path, key, &loss, err) : QN_OK;
    free(path);
    if (*found && status == QN_OK)
        *out = loss;
    else
        qni_loss_model_release(&loss);
    return status;
}
