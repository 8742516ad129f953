#include "quern/fit/trainable.h"

#include "base/alloc.h"
#include "fit/sign_planes.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* Kinds of parameters of a part: latents, thresholds, and the scales of each plane. */
enum { MAX_GROUPS_A_PART = 2 + QN_MAX_BANDS * QN_MAX_PLANES };

static int64_t part_values(const qn_trainable *t, const qn_trainable_part *part) {
    const qn_layout_entry *e = &t->layout->entries[part->entry];
    return e->rows * e->cols;
}

static bool is_vector(const qn_trainable *t, const qn_trainable_part *part) {
    return !t->layout->entries[part->entry].is_matrix;
}

qn_status qn_trainable_init(const qn_layout *layout, qn_trainable *out, qn_error *err) {
    qn_trainable t = {.layout = layout, .parts = qni_alloc_array(layout->n, sizeof *t.parts)};
    if (!t.parts) return qni_fail_nomem(err, "trainable weights");
    *out = t;
    return QN_OK;
}

static qn_status add_part(qn_trainable *t, int64_t entry, qn_trainable_part **out, qn_error *err) {
    const qn_layout_entry *e = &t->layout->entries[entry];
    qn_trainable_part *part = &t->parts[t->n_parts];
    part->entry = entry;
    QN_TRY(QNI_ALLOC(part->dense, e->rows * e->cols, e->name, err));
    part->weight = (qn_weight){.kind = QN_WEIGHT_DENSE,
                               .dense = {.data = part->dense,
                                         .dtype = QN_DTYPE_F32,
                                         .n_dims = e->is_matrix ? 2 : 1,
                                         .shape = {e->is_matrix ? e->rows : e->cols, e->cols}}};
    t->n_parts++;
    *out = part;
    return QN_OK;
}

static qn_status add_signs(qn_trainable_part *part, qn_error *err) {
    part->signs = qni_alloc_array(1, sizeof *part->signs);
    return part->signs ? qni_sign_planes_make(&part->latents, part->signs, err)
                       : qni_fail_nomem(err, "signs of a matrix");
}

qn_status qn_trainable_add_matrix(qn_trainable *t, int64_t entry, qn_latents *latents, qn_error *err) {
    const qn_layout_entry *e = &t->layout->entries[entry];
    qn_trainable_part *part;
    if (latents->rows != e->rows || latents->cols != e->cols)
        return qn_fail(err, QN_E_SHAPE, "%s: latents of %lld x %lld for a matrix of %lld x %lld", e->name,
                       (long long)latents->rows, (long long)latents->cols, (long long)e->rows,
                       (long long)e->cols);
    QN_TRY(add_part(t, entry, &part, err));
    part->has_latents = true;
    part->latents = *latents;
    *latents = (qn_latents){0};
    return qni_sign_planes_serve(&part->latents) ? add_signs(part, err) : QN_OK;
}

qn_status qn_trainable_add_vector(qn_trainable *t, int64_t entry, const qn_weight *weight, qn_error *err) {
    const qn_layout_entry *e = &t->layout->entries[entry];
    qn_trainable_part *part;
    QN_TRY(add_part(t, entry, &part, err));
    QN_TRY(QNI_ALLOC(part->masters, e->cols, e->name, err));
    return qn_view_to_f32(&weight->dense, 0, e->cols, part->masters, err);
}

qn_status qn_trainable_add_dense(qn_trainable *t, int64_t entry, const qn_weight *weight, qn_error *err) {
    const qn_layout_entry *e = &t->layout->entries[entry];
    qn_trainable_part *part;
    QN_TRY(add_part(t, entry, &part, err));
    QN_TRY(QNI_ALLOC(part->masters, e->rows * e->cols, e->name, err));
    qn_weight_decode_rows(weight, 0, e->rows, part->masters);
    return QN_OK;
}

void qn_trainable_release(qn_trainable *t) {
    for (int64_t i = 0; t->parts && i < t->layout->n; i++) {
        qn_latents_release(&t->parts[i].latents);
        free(t->parts[i].masters);
        free(t->parts[i].dense);
        if (t->parts[i].signs) qni_signs_release(t->parts[i].signs);
        free(t->parts[i].signs);
    }
    free(t->parts);
    free(t->groups);
    free(t->state);
    free(t->snapshot);
    qn_gradients_release(&t->gradients);
    *t = (qn_trainable){0};
}

/* ---- groups ---- */

static double mean(const float *values, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)values[i];
    return n > 0 ? sum / (double)n : 0.0;
}

static double mean_magnitude(const float *values, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += fabs((double)values[i]);
    return n > 0 ? sum / (double)n : 0.0;
}

static double root_mean_square(const float *values, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += (double)values[i] * (double)values[i];
    return n > 0 ? sqrt(sum / (double)n) : 0.0;
}

static void add_group(qn_trainable *t, const qn_trainable_part *part, float *params, int64_t n,
                      double lr_scale) {
    if (n == 0) return;
    t->groups[t->n_groups++] = (qn_adamw_group){
        .name = t->layout->entries[part->entry].name, .param = params, .n = n, .lr_scale = lr_scale};
    t->n_floats += n;
}

static void list_groups(qn_trainable *t, qn_trainable_part *part, const qn_trainable_rates *rates) {
    qn_latents *l = &part->latents;
    if (!part->has_latents) {
        const int64_t n = part_values(t, part);
        add_group(t, part, part->masters, n,
                  is_vector(t, part) ? rates->vector_rate * root_mean_square(part->masters, n)
                                     : rates->latent_rate * mean_magnitude(part->masters, n));
        return;
    }
    l->are_frozen = rates->latent_rate == 0.0 && rates->threshold_rate == 0.0;
    add_group(t, part, l->values, l->n_values, rates->latent_rate * l->unit);
    for (int b = 0; b < l->codes.n_bands; b++) {
        for (int p = 0; p < l->codes.bands[b].spec.n_planes; p++) {
            int64_t first;
            const int64_t n = qn_latents_plane_scales(l, b, p, &first);
            add_group(t, part, l->scales + first, n, rates->scale_rate * mean(l->scales + first, n));
        }
    }
    add_group(t, part, l->thresholds, l->n_thresholds, rates->threshold_rate);
}

static void place_state(qn_trainable *t) {
    float *at = t->state;
    for (int64_t g = 0; g < t->n_groups; g++) {
        t->groups[g].grad = at;
        t->groups[g].m = at + t->n_floats;
        t->groups[g].v = at + 2 * t->n_floats;
        at += t->groups[g].n;
    }
}

static qn_status alloc_gradients(qn_trainable *t, qn_error *err) {
    bool *wanted = qni_alloc_array(t->layout->n, sizeof *wanted);
    if (!wanted) return qni_fail_nomem(err, "gradients");
    for (int64_t i = 0; i < t->n_parts; i++) wanted[t->parts[i].entry] = true;
    const qn_status status = qn_gradients_alloc_some(t->layout, wanted, &t->gradients, err);
    free(wanted);
    return status;
}

qn_status qn_trainable_seal(qn_trainable *t, const qn_trainable_rates *rates, qn_error *err) {
    t->groups = qni_alloc_array(t->n_parts * MAX_GROUPS_A_PART, sizeof *t->groups);
    if (!t->groups) return qni_fail_nomem(err, "trainable weights");
    for (int64_t i = 0; i < t->n_parts; i++) list_groups(t, &t->parts[i], rates);
    t->state = qni_alloc_array(t->n_floats, 3 * sizeof *t->state);
    if (!t->state) return qni_fail_nomem(err, "the moments of AdamW");
    place_state(t);
    return alloc_gradients(t, err);
}

/* ---- the model ---- */

qn_status qn_trainable_lend(qn_trainable *t, qn_model *model, qn_error *err) {
    for (int64_t i = 0; i < t->n_parts; i++)
        QN_TRY(qn_model_set_weight(model, t->parts[i].entry, &t->parts[i].weight, err));
    return QN_OK;
}

void qn_trainable_give_back(const qn_trainable *t, qn_model *model) {
    for (int64_t i = 0; i < t->n_parts; i++)
        (void)!qn_model_set_weight(model, t->parts[i].entry, NULL, NULL); /* its own: cannot fail */
}

/* The signs are those of codes, which a smooth start does not follow. */
static void evaluate_matrix(qn_trainable_part *part, double temperature, const qn_context *ctx) {
    qn_latents_weights(&part->latents, temperature, ctx, part->dense);
    part->weight.signs = temperature == 0.0 ? part->signs : NULL;
    if (part->weight.signs) qni_sign_planes_set(&part->latents, ctx, part->signs);
}

void qn_trainable_evaluate(qn_trainable *t, double temperature, const qn_context *ctx) {
    for (int64_t i = 0; i < t->n_parts; i++) {
        qn_trainable_part *part = &t->parts[i];
        if (part->has_latents) {
            evaluate_matrix(part, temperature, ctx);
            continue;
        }
        const int64_t n = part_values(t, part);
        if (is_vector(t, part))
            for (int64_t c = 0; c < n; c++) part->dense[c] = qn_f16_to_f32(qn_f32_to_f16(part->masters[c]));
        else
            memcpy(part->dense, part->masters, (size_t)n * sizeof *part->dense);
    }
}

/* Groups follow one another in the order of their parts: values, scales, thresholds lie side by side in the gradients. */
static void find_gradients(qn_trainable *t, double temperature, const qn_context *ctx) {
    float *at = t->state;
    for (int64_t i = 0; i < t->n_parts; i++) {
        qn_trainable_part *part = &t->parts[i];
        const qn_latents *l = &part->latents;
        float *dense = t->gradients.per_entry[part->entry];
        if (part->has_latents) {
            float *scales = at + l->n_values, *thresholds = scales + l->n_scales;
            qn_latents_gradient(l, temperature, ctx, dense, at, scales, thresholds);
            at = thresholds + l->n_thresholds;
        } else {
            const int64_t n = part_values(t, part);
            memcpy(at, dense, (size_t)n * sizeof *at);
            at += n;
        }
    }
}

qn_status qn_trainable_step(qn_trainable *t, double temperature, const qn_adamw_options *adamw, double lr,
                            int64_t step, const qn_context *ctx, qn_error *err) {
    find_gradients(t, temperature, ctx);
    QN_TRY(qn_adamw_step(t->groups, t->n_groups, adamw, lr, step, ctx, NULL, err));
    for (int64_t i = 0; i < t->n_parts; i++)
        if (t->parts[i].has_latents) qn_latents_project(&t->parts[i].latents);
    return QN_OK;
}

/* ---- snapshot ---- */

void qn_trainable_copy(const qn_trainable *t, float *out) {
    for (int64_t g = 0; g < t->n_groups; out += t->groups[g++].n)
        memcpy(out, t->groups[g].param, (size_t)t->groups[g].n * sizeof *out);
}

void qn_trainable_set(qn_trainable *t, const float *values) {
    for (int64_t g = 0; g < t->n_groups; values += t->groups[g++].n)
        memcpy(t->groups[g].param, values, (size_t)t->groups[g].n * sizeof *values);
}

qn_status qn_trainable_keep(qn_trainable *t, qn_error *err) {
    if (!t->snapshot) QN_TRY(QNI_ALLOC(t->snapshot, t->n_floats, "a snapshot of the weights", err));
    qn_trainable_copy(t, t->snapshot);
    return QN_OK;
}

void qn_trainable_restore(qn_trainable *t) {
    if (t->snapshot) qn_trainable_set(t, t->snapshot);
}

qn_status qn_trainable_take(qn_trainable *t, qn_trainable *from, qn_error *err) {
    for (int64_t i = 0; i < from->n_parts; i++) {
        qn_trainable_part *part = &from->parts[i];
        const int64_t n = part_values(from, part);
        if (part->has_latents) {
            QN_TRY(qn_trainable_add_matrix(t, part->entry, &part->latents, err));
            continue;
        }
        const qn_weight masters = {
            .kind = QN_WEIGHT_DENSE,
            .dense = {.data = part->masters, .dtype = QN_DTYPE_F32, .n_dims = 1, .shape = {n}}};
        if (!is_vector(from, part))
            return qn_fail(err, QN_E_ARGUMENT, "%s: a matrix in no code is not handed on",
                           from->layout->entries[part->entry].name);
        QN_TRY(qn_trainable_add_vector(t, part->entry, &masters, err));
    }
    return QN_OK;
}
