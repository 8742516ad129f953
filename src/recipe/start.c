#include "recipe/start.h"

#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static qn_status check_same(const qn_layout *start, const qn_layout *teacher, const char *path,
                            qn_error *err) {
    if (start->n != teacher->n)
        return qn_fail(err, QN_E_SHAPE, "%s: %lld tensors, the teacher has %lld: not of one shape", path,
                       (long long)start->n, (long long)teacher->n);
    for (int64_t i = 0; i < start->n; i++) {
        const qn_layout_entry *a = &start->entries[i], *b = &teacher->entries[i];
        if (strcmp(a->name, b->name) != 0 || a->rows != b->rows || a->cols != b->cols)
            return qn_fail(err, QN_E_SHAPE,
                           "%s: %s is %lld x %lld where the teacher has %s, %lld x %lld: teacher and student "
                           "must be of one shape",
                           path, a->name, (long long)a->rows, (long long)a->cols, b->name, (long long)b->rows,
                           (long long)b->cols);
    }
    return QN_OK;
}

/* Training knows weights by their codes and scales of groups alone; streams are made anew. */
static qn_status take_shape(const qn_encoded *e, const char *path, const char *name, qn_encoded *shape,
                            qn_error *err) {
    if (e->column_scaled)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: %s has column scales, which are not trained", path, name);
    *shape = qn_encoded_shape(e);
    shape->stream_bytes = 0;
    return QN_OK;
}

qn_status qni_start_shapes(const qn_checkpoint *start, const qn_layout *teacher, qn_encoded **shapes,
                           qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(start);
    const char *path = qn_store_path(qn_checkpoint_store(start));
    QN_TRY(check_same(layout, teacher, path, err));
    qn_encoded *found = qni_alloc_array(layout->n, sizeof *found);
    if (!found) return qni_fail_nomem(err, "the shapes of matrices");
    qn_status status = QN_OK;
    for (int64_t i = 0; i < layout->n && status == QN_OK; i++) {
        const qn_weight *w = qn_checkpoint_weight(start, i);
        if (!layout->entries[i].is_matrix) continue;
        if (w->kind == QN_WEIGHT_ENCODED)
            status = take_shape(&w->encoded, path, layout->entries[i].name, &found[i], err);
        else
            status = qn_fail(err, QN_E_ARGUMENT, "%s: %s is in no code; compress the model first", path,
                             layout->entries[i].name);
    }
    if (status == QN_OK)
        *shapes = found;
    else
        free(found);
    return status;
}

static qn_status fill_vector(const qn_layout_entry *e, int64_t entry, const qn_weight *w,
                             const qni_matrix_store *store, qn_error *err) {
    float *values = NULL;
    QN_TRY(QNI_ALLOC(values, e->cols, e->name, err));
    qn_status status = qn_view_to_f32(&w->dense, 0, e->cols, values, err);
    if (status == QN_OK)
        status = qni_vector_store_save(store, QNI_STAGE_FITTED, entry, e->name, values, e->cols, err);
    free(values);
    return status;
}

static qn_status fill_matrix(const qn_layout_entry *e, int64_t entry, const qn_encoded *encoded,
                             const qn_model *teacher, const qni_matrix_store *store, qn_error *err) {
    float *target = NULL;
    QN_TRY(QNI_ALLOC(target, e->rows * e->cols, e->name, err));
    qn_weight_decode_rows(qn_model_weight(teacher, entry), 0, e->rows, target);
    if (encoded->hadamard) qn_hadamard_rows(target, e->rows, e->cols, encoded->hadamard, false);
    const qn_status status =
        qni_matrix_store_save(store, QNI_STAGE_FITTED, entry, e->name, encoded, target, -1.0, err);
    free(target);
    return status;
}

qn_status qni_start_fill(const qn_checkpoint *start, const qn_model *teacher, const qni_matrix_store *store,
                         const qn_context *ctx, qn_error *err) {
    const qn_layout *layout = qn_checkpoint_layout(start);
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *e = &layout->entries[i];
        const qn_weight *w = qn_checkpoint_weight(start, i);
        qn_encoded there = {0};
        bool found = false;
        QN_TRY(qn_check_cancelled(ctx, err));
        if (!e->is_matrix) {
            QN_TRY(fill_vector(e, i, w, store, err));
            continue;
        }
        QN_TRY(qni_matrix_store_load(store, QNI_STAGE_FITTED, i, e->name, &w->encoded, &found, &there, NULL,
                                     err));
        qn_encoded_release(&there);
        if (!found) QN_TRY(fill_matrix(e, i, &w->encoded, teacher, store, err));
    }
    return QN_OK;
}
