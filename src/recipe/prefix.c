#include "recipe/prefix.h"

#include "base/alloc.h"
#include "quern/fit/bands.h"
#include "quern/fit/column_scales.h"
#include "quern/fit/moments.h"
#include "quern/fit/statistics.h"
#include "quern/model/stepper.h"
#include "recipe/rotation.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* One walk of a model through the calibration text. */
typedef struct walker {
    qn_stepper *stepper;
    float *stream; /* owned [T, h]: in front of the block that is being compressed */
    float *in;     /* owned: a chunk's inputs of one layer */
} walker;

typedef struct prefix {
    const qni_prefix_job *job;
    const qn_context *ctx;
    const qn_layout *layout;
    const qn_config *config;
    walker teacher, student;
    qn_weight *lent;           /* owned [layout.n]: codes of the block that is being compressed */
    double *relative_errors;   /* borrowed, or NULL */
    qni_block_report *reports; /* borrowed, or NULL */
    float **vectors;           /* owned [layout.n]: lent ones of the block, or NULL */
    qni_probe dev;             /* on job->dev's text */
    int64_t n_done;            /* matrices */
    bool walks;                /* something is left to fit or to train: the streams are needed */

    /* Tuning only. */
    float **targets; /* owned [layout.n]: where training begins, or NULL */
    qni_probe probe;
    float *ahead; /* owned [T, h]: the teacher's stream behind the window */
    int64_t ahead_depth;
    float *channel_weights; /* owned [h] */
} prefix;

/* Second moments of one input, as the fits take them. */
typedef struct metric {
    float *hessian, *cross; /* owned [C, C]; cross NULL where the target is the teacher's weight */
    float *rotated;         /* owned [C, C]: the hessian in the basis of the stored matrices, or NULL */
} metric;

static void metric_release(metric *m) {
    free(m->hessian);
    free(m->cross);
    free(m->rotated);
    *m = (metric){0};
}

static void walker_close(walker *w) {
    qn_stepper_close(w->stepper);
    free(w->stream);
    free(w->in);
    *w = (walker){0};
}

static int64_t widest_input(const qn_layout *layout) {
    int64_t widest = 0;
    for (int64_t i = 0; i < layout->n; i++)
        if (layout->entries[i].is_matrix && layout->entries[i].layer >= 0 && layout->entries[i].cols > widest)
            widest = layout->entries[i].cols;
    return widest;
}

static qn_status walker_open(const prefix *p, qn_model *model, walker *w, qn_error *err) {
    const qn_sequences *sequences = p->job->sequences;
    QN_TRY(qn_stepper_open(model, sequences, p->job->options.compute, p->ctx, &w->stepper, err));
    QN_TRY(QNI_ALLOC(w->stream, sequences->starts[sequences->n] * p->config->hidden_size, "a stream", err));
    QN_TRY(QNI_ALLOC(w->in, qn_stepper_longest_chunk(w->stepper) * widest_input(p->layout),
                     "inputs of a layer", err));
    return qn_stepper_embed(w->stepper, w->stream, err);
}

/* The matrix as it is to be stored: with the asymmetric target, and rotated. */
static qn_status make_target(const prefix *p, int64_t entry, const metric *m, float *w, qn_error *err) {
    const qn_layout_entry *e = &p->layout->entries[entry];
    const qni_prefix_options *options = &p->job->options;
    const int32_t rotation = p->job->choices[entry].shape.hadamard;
    qn_weight_decode_rows(qn_model_weight(p->job->teacher, entry), 0, e->rows, w);
    if (m->cross)
        QN_TRY(qn_asymmetric_target(w, m->hessian, m->cross, e->rows, e->cols, options->target_blend,
                                    options->target_ridge, p->ctx, w, err));
    if (rotation) qn_hadamard_rows(w, e->rows, e->cols, rotation, false);
    return QN_OK;
}

static bool is_tuned(const prefix *p) {
    return p->job->options.tuning.tune.steps > 0;
}

static bool keeps_targets(const prefix *p) {
    return is_tuned(p) || p->job->options.keep_targets;
}

/* W, what was to be stored, becomes where descent would put each weight. */
static qn_status find_start(const prefix *p, const qn_banded *banded, const float *hessian, float *w,
                            qn_error *err) {
    float *q = NULL;
    QN_TRY(QNI_ALLOC(q, banded->rows * banded->cols, "a decoded matrix", err));
    qn_banded_decode(banded, q);
    const qn_status status = qn_descent_values(w, q, hessian, banded->rows, banded->cols, p->ctx, w, err);
    free(q);
    return status;
}

/* Column scales chosen for W, and folded into it and a copy of the metric. *scales and *folded are the caller's, on failure
 * too. */
static qn_status fold_column_scales(const qn_layout_entry *e, const float *hessian, float *w,
                                    uint16_t **scales, float **folded, qn_error *err) {
    const int64_t n = e->cols;
    float *diagonal = NULL;
    QN_TRY(QNI_ALLOC(*scales, n, "column scales", err));
    QN_TRY(QNI_ALLOC(*folded, n * n, "second moments", err));
    QN_TRY(QNI_ALLOC(diagonal, n, "column scales", err));
    memcpy(*folded, hessian, (size_t)(n * n) * sizeof **folded);
    for (int64_t j = 0; j < n; j++) diagonal[j] = hessian[j * n + j];
    const qn_status status = qn_column_scales(w, diagonal, e->rows, n, *scales, err);
    free(diagonal);
    if (status == QN_OK) qn_column_scales_fold(*scales, e->rows, n, w, *folded);
    return status;
}

/* Codes and scales of W; with column scales W becomes what these leave for them. */
static qn_status fit_bands(const prefix *p, int64_t entry, const float *hessian, float *w, qn_banded *out,
                           qn_hessian_fit_report *report, qn_error *err) {
    const qni_plan_choice *choice = &p->job->choices[entry];
    const qn_band_shape shape = qn_band_shape_of(&choice->shape, choice->line_band);
    const qn_hessian_fit_options *options = &p->job->options.fit;
    float *folded = NULL;
    uint16_t *scales = NULL;
    if (!choice->shape.column_scaled)
        return qn_hessian_fit(w, hessian, &shape, options, p->ctx, out, report, err);
    qn_status status = fold_column_scales(&p->layout->entries[entry], hessian, w, &scales, &folded, err);
    if (status == QN_OK) status = qn_hessian_fit(w, folded, &shape, options, p->ctx, out, report, err);
    free(folded);
    if (status == QN_OK)
        out->column_scales = scales;
    else
        free(scales);
    return status;
}

/* *target, owned: where training is to begin; NULL without tuning. */
static qn_status fit(const prefix *p, int64_t entry, const metric *m, qn_encoded *out, float **target,
                     double *relative_error, qn_error *err) {
    const qn_layout_entry *e = &p->layout->entries[entry];
    const int32_t rotation = p->job->choices[entry].shape.hadamard;
    qn_hessian_fit_report report = {0};
    qn_banded banded = {0};
    float *w = qni_alloc_array(e->rows * e->cols, sizeof *w);
    if (!w) return qni_fail_nomem(err, e->name);
    qn_status status = make_target(p, entry, m, w, err);
    const float *hessian = rotation ? m->rotated : m->hessian;
    if (status == QN_OK) status = fit_bands(p, entry, hessian, w, &banded, &report, err);
    if (status == QN_OK && keeps_targets(p)) status = find_start(p, &banded, hessian, w, err);
    if (status == QN_OK) status = qn_banded_encode(&banded, rotation, e->name, out, err);
    qn_banded_release(&banded);
    if (status == QN_OK) *relative_error = report.relative_error;
    *target = NULL;
    if (status == QN_OK && keeps_targets(p))
        *target = w;
    else
        free(w);
    return status;
}

/* The fit of one matrix in the given metric, saved and lent to the student. */
static qn_status fit_matrix(prefix *p, int64_t entry, const metric *m, qn_error *err) {
    const char *name = p->layout->entries[entry].name;
    double relative_error = 0.0;
    float *target = NULL;
    qn_encoded encoded = {0};
    QN_TRY(fit(p, entry, m, &encoded, &target, &relative_error, err));
    const qn_status status = qni_matrix_store_save(p->job->store, QNI_STAGE_FITTED, entry, name, &encoded,
                                                   target, relative_error, err);
    if (status != QN_OK) {
        qn_encoded_release(&encoded);
        free(target);
        return status;
    }
    p->targets[entry] = target;
    if (p->relative_errors) p->relative_errors[entry] = relative_error;
    p->lent[entry] = (qn_weight){.kind = QN_WEIGHT_ENCODED, .encoded = encoded};
    return qn_model_set_weight(p->job->student, entry, &p->lent[entry], err);
}

/* Takes a matrix from the store where it is there already. */
static qn_status take_stored(prefix *p, int64_t entry, bool *found, qn_error *err) {
    qn_encoded encoded = {0};
    QN_TRY(qni_matrix_store_load(p->job->store, QNI_STAGE_FITTED, entry, p->layout->entries[entry].name,
                                 &p->job->choices[entry].shape, found, &encoded,
                                 keeps_targets(p) ? &p->targets[entry] : NULL, err));
    if (!*found) return QN_OK;
    if (p->relative_errors)
        QN_TRY(
            qni_matrix_store_error(p->job->store, QNI_STAGE_FITTED, entry, &p->relative_errors[entry], err));
    p->lent[entry] = (qn_weight){.kind = QN_WEIGHT_ENCODED, .encoded = encoded};
    return qn_model_set_weight(p->job->student, entry, &p->lent[entry], err);
}

static void give_back(prefix *p, int64_t entry) {
    (void)!qn_model_set_weight(p->job->student, entry, NULL, NULL); /* its own: cannot fail */
    if (p->lent[entry].kind == QN_WEIGHT_ENCODED) qn_encoded_release(&p->lent[entry].encoded);
    p->lent[entry] = (qn_weight){0};
    free(p->targets[entry]);
    free(p->vectors[entry]);
    p->targets[entry] = p->vectors[entry] = NULL;
}

static void show_progress(prefix *p) {
    qn_report_progress(p->ctx, "quantise", (uint64_t)p->n_done, (uint64_t)p->layout->n_matrices);
}

static bool wants_cross(const prefix *p) {
    return p->job->options.student_inputs && p->job->options.target_blend > 0.0;
}

static qn_status take_means(const prefix *p, const qn_moment *hessian, const qn_moment *cross, metric *out,
                            qn_error *err) {
    const int64_t cols = hessian->cols;
    metric m = {.hessian = qni_alloc_array(cols * cols, sizeof(float))};
    if (cross->cols > 0) m.cross = qni_alloc_array(cols * cols, sizeof(float));
    if (!m.hessian || (cross->cols > 0 && !m.cross)) {
        metric_release(&m);
        return qni_fail_nomem(err, "second moments");
    }
    qn_moment_mean(hessian, m.hessian);
    if (m.cross) qn_moment_mean(cross, m.cross);
    qn_moments_shrink(m.hessian, m.cross, cols, hessian->n_tokens, p->job->options.shrinkage);
    *out = m;
    return QN_OK;
}

static qn_status add_chunk(prefix *p, int64_t layer, int64_t entry, int64_t chunk, qn_moment *hessian,
                           qn_moment *cross, qn_error *err) {
    const bool own = p->job->options.student_inputs;
    walker *inputs = own ? &p->student : &p->teacher;
    int64_t n = 0;
    QN_TRY(qn_stepper_input(inputs->stepper, layer, entry, chunk, inputs->stream, inputs->in, &n, err));
    QN_TRY(qn_moment_add(hessian, inputs->in, inputs->in, n, p->ctx, err));
    if (cross->cols == 0) return QN_OK;
    QN_TRY(
        qn_stepper_input(p->teacher.stepper, layer, entry, chunk, p->teacher.stream, p->teacher.in, &n, err));
    return qn_moment_add(cross, p->teacher.in, inputs->in, n, p->ctx, err);
}

/* A file of a finished walk that somebody removed since it began. */
static qn_status fail_gone(const prefix *p, int64_t entry, qn_error *err) {
    return qn_fail(err, QN_E_IO, "%s: %s has gone", p->job->store->folder, p->layout->entries[entry].name);
}

/* H = E[x x^T] and C = E[x_teacher x^T] of the input of ENTRY. */
static qn_status measure_input(prefix *p, int64_t layer, int64_t entry, metric *out, qn_error *err) {
    const int64_t cols = p->layout->entries[entry].cols;
    qn_moment hessian = {0}, cross = {0};
    if (!p->walks) return fail_gone(p, entry, err);
    qn_status status = qn_moment_init(&hessian, QN_MOMENT_SYMMETRIC, cols, err);
    if (status == QN_OK && wants_cross(p)) status = qn_moment_init(&cross, QN_MOMENT_CROSS, cols, err);
    for (int64_t c = 0; c < qn_stepper_chunks(p->student.stepper) && status == QN_OK; c++)
        status = add_chunk(p, layer, entry, c, &hessian, &cross, err);
    if (status == QN_OK) status = take_means(p, &hessian, &cross, out, err);
    qn_moment_release(&hessian);
    qn_moment_release(&cross);
    return status;
}

static qn_status rotate(metric *m, int64_t cols, int32_t rotation, qn_error *err) {
    if (rotation == 0) return QN_OK;
    m->rotated = qni_alloc_array(cols * cols, sizeof *m->rotated);
    if (!m->rotated) return qni_fail_nomem(err, "second moments");
    memcpy(m->rotated, m->hessian, (size_t)(cols * cols) * sizeof *m->rotated);
    qni_rotate_metric(m->rotated, cols, rotation);
    return QN_OK;
}

/* The matrices of LAYER that share the input of ENTRY. */
static qn_status compress_input(prefix *p, int64_t layer, int64_t entry, qn_error *err) {
    metric m = {0};
    qn_status status = QN_OK;
    for (int64_t i = 0; i < p->layout->n && status == QN_OK; i++) {
        const qn_layout_entry *e = &p->layout->entries[i];
        bool found = false;
        if (!e->is_matrix || e->layer != layer || qn_statistics_shared_input(p->layout, i) != entry) continue;
        status = take_stored(p, i, &found, err);
        if (status == QN_OK && !found && !m.hessian) status = measure_input(p, layer, entry, &m, err);
        if (status == QN_OK && !found && !m.rotated)
            status = rotate(&m, e->cols, p->job->choices[i].shape.hadamard, err);
        if (status == QN_OK && !found) status = fit_matrix(p, i, &m, err);
        p->n_done++;
        show_progress(p);
    }
    metric_release(&m);
    return status;
}

/* ---- training a block ---- */

static int64_t window_end(const prefix *p, int64_t layer) {
    const int64_t end = layer + p->job->options.tuning.window;
    return end < p->config->n_layers ? end : p->config->n_layers;
}

static qn_status open_tuning(prefix *p, qn_error *err) {
    const int64_t h = p->config->hidden_size, n_tokens = p->job->sequences->starts[p->job->sequences->n];
    if (!is_tuned(p)) return QN_OK;
    QN_TRY(QNI_ALLOC(p->channel_weights, h, "the weights of channels", err));
    QN_TRY(QNI_ALLOC(p->ahead, n_tokens * h, "a stream", err));
    QN_TRY(qn_stepper_embed(p->teacher.stepper, p->ahead, err));
    return qni_probe_open(p->job->teacher, p->job->student, p->job->probe, p->job->options.compute, p->ctx,
                          &p->probe, err);
}

/* The teacher's stream behind the window that begins with LAYER. */
static qn_status walk_ahead(prefix *p, int64_t layer, qn_error *err) {
    for (; p->ahead_depth < window_end(p, layer); p->ahead_depth++)
        QN_TRY(qn_stepper_block(p->teacher.stepper, p->ahead_depth, p->ahead, err));
    return QN_OK;
}

/* E[g^2] of the stream behind the window: that of its last layer's outputs, with a mean of 1. */
static const float *weigh_channels(prefix *p, int64_t layer) {
    const int64_t h = p->config->hidden_size,
                  down = qn_layout_find(p->layout, QN_TENSOR_DOWN, window_end(p, layer) - 1);
    double sum = 0.0;
    if (!p->job->options.tuning.fisher_weights) return NULL;
    const float *fisher = p->job->fisher->output[down];
    for (int64_t j = 0; j < h; j++) sum += (double)fisher[j];
    if (!(sum > 0.0)) return NULL;
    for (int64_t j = 0; j < h; j++) p->channel_weights[j] = (float)((double)fisher[j] * (double)h / sum);
    return p->channel_weights;
}

static qn_status make_set(const prefix *p, int64_t layer, qn_trainable *out, qn_error *err) {
    const qn_encoded **fitted = qni_alloc_array(p->layout->n, sizeof *fitted);
    if (!fitted) return qni_fail_nomem(err, "the matrices of a block");
    for (int64_t i = 0; i < p->layout->n; i++) fitted[i] = &p->lent[i].encoded;
    qn_status status = qni_layer_trainable(p->job->teacher, layer, fitted, p->targets,
                                           &p->job->options.tuning.rates, p->ctx, out, err);
    free(fitted);
    if (status != QN_OK) return status;
    status = qni_take_vectors(p->job->store, QNI_STAGE_FITTED, out, err);
    if (status != QN_OK) qn_trainable_release(out);
    return status;
}

/* The student passes the block as it stands. */
static qn_status pass_block(prefix *p, int64_t layer, qn_error *err) {
    if (p->job->dev) {
        QN_TRY(qni_probe_pass(&p->dev, layer, err));
        QN_TRY(qni_dev_trace_block(p->job->dev, &p->dev, layer, p->ctx, err));
    }
    if (!p->walks) return QN_OK;
    if (is_tuned(p)) QN_TRY(qni_probe_pass(&p->probe, layer, err));
    return qn_stepper_block(p->student.stepper, layer, p->student.stream, err);
}

/* The same with what the training made of it. */
static qn_status pass_trained(prefix *p, int64_t layer, qn_trainable *t, qn_error *err) {
    qn_status status = qn_trainable_lend(t, p->job->student, err);
    if (status == QN_OK) status = pass_block(p, layer, err);
    qn_trainable_give_back(t, p->job->student);
    return status;
}

static qn_status tune_block(prefix *p, int64_t layer, qn_error *err) {
    const qni_prefix_options *o = &p->job->options;
    qn_trainable t = {0};
    qni_block_report report;
    if (p->walks) QN_TRY(walk_ahead(p, layer, err));
    QN_TRY(make_set(p, layer, &t, err));
    const qni_block_job job = {.tuning = &o->tuning,
                               .store = p->job->store,
                               .sequences = p->job->sequences,
                               .teacher = p->job->teacher,
                               .student = p->job->student,
                               .probe = &p->probe,
                               .stream = o->tuning.student_inputs ? p->student.stream : p->teacher.stream,
                               .target = p->ahead,
                               .channel_weights = p->walks ? weigh_channels(p, layer) : NULL,
                               .layer = layer};
    qn_status status = qni_tune_block(&job, &t, p->ctx, &report, err);
    if (status == QN_OK && p->reports) p->reports[layer] = report;
    if (status == QN_OK) status = pass_trained(p, layer, &t, err);
    qn_trainable_release(&t);
    return status;
}

/* ---- the walk ---- */

/* Norms and biases of an artifact that training goes on from; a fit leaves none. The sets of blocks in training have them. */
static qn_status lend_vectors(prefix *p, int64_t layer, qn_error *err) {
    for (int64_t i = 0; i < p->layout->n; i++) {
        const qn_layout_entry *e = &p->layout->entries[i];
        bool found = false;
        if (e->is_matrix || e->layer != layer) continue;
        QN_TRY(QNI_ALLOC(p->vectors[i], e->cols, e->name, err));
        QN_TRY(qni_vector_store_load(p->job->store, QNI_STAGE_FITTED, i, e->name, e->cols, &found,
                                     p->vectors[i], err));
        if (!found) continue;
        p->lent[i] = (qn_weight){
            .kind = QN_WEIGHT_DENSE,
            .dense = {.data = p->vectors[i], .dtype = QN_DTYPE_F32, .n_dims = 1, .shape = {e->cols}}};
        QN_TRY(qn_model_set_weight(p->job->student, i, &p->lent[i], err));
    }
    return QN_OK;
}

static qn_status compress_block(prefix *p, int64_t layer, qn_error *err) {
    static const qn_tensor_kind order[] = {QN_TENSOR_Q, QN_TENSOR_O, QN_TENSOR_GATE, QN_TENSOR_DOWN};
    if (!is_tuned(p)) QN_TRY(lend_vectors(p, layer, err));
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        QN_TRY(qn_check_cancelled(p->ctx, err));
        QN_TRY(compress_input(p, layer, qn_layout_find(p->layout, order[k], layer), err));
    }
    if (is_tuned(p))
        QN_TRY(tune_block(p, layer, err));
    else
        QN_TRY(pass_block(p, layer, err));
    if (p->walks) QN_TRY(qn_stepper_block(p->teacher.stepper, layer, p->teacher.stream, err));
    for (int64_t i = 0; i < p->layout->n; i++)
        if (p->layout->entries[i].layer == layer) give_back(p, i);
    return QN_OK;
}

static qn_status open_dev(prefix *p, qn_error *err) {
    if (!p->job->dev) return QN_OK;
    const qn_sequences sequences = qni_window_batch_sequences(&p->job->dev->batch);
    return qni_probe_open(p->job->teacher, p->job->student, &sequences, p->job->options.compute, p->ctx,
                          &p->dev, err);
}

/* Before the streams are opened: they begin with it. */
static qn_status compress_embedding(prefix *p, qn_error *err) {
    const int64_t entry = qn_layout_find(p->layout, QN_TENSOR_EMBED, -1), h = p->config->hidden_size;
    metric m = {0};
    bool found = false;
    QN_TRY(take_stored(p, entry, &found, err));
    p->n_done++;
    if (found) return QN_OK;
    m.hessian = qni_alloc_array(h * h, sizeof(float));
    if (!m.hessian) return qni_fail_nomem(err, "second moments");
    memcpy(m.hessian, p->job->embedding_metric, (size_t)(h * h) * sizeof(float));
    const qn_status status = fit_matrix(p, entry, &m, err);
    metric_release(&m);
    return status;
}

static qn_status measure_head(prefix *p, metric *out, qn_error *err) {
    const int64_t h = p->config->hidden_size;
    const int64_t n_tokens = p->job->sequences->starts[p->job->sequences->n];
    walker *inputs = p->job->options.student_inputs ? &p->student : &p->teacher;
    qn_moment hessian = {0}, cross = {0};
    qn_status status = qn_stepper_norm(p->student.stepper, p->student.stream, err);
    if (status == QN_OK) status = qn_stepper_norm(p->teacher.stepper, p->teacher.stream, err);
    if (status == QN_OK) status = qn_moment_init(&hessian, QN_MOMENT_SYMMETRIC, h, err);
    if (status == QN_OK)
        status = qn_moment_add(&hessian, inputs->stream, inputs->stream, n_tokens, p->ctx, err);
    if (status == QN_OK && wants_cross(p)) {
        status = qn_moment_init(&cross, QN_MOMENT_CROSS, h, err);
        if (status == QN_OK)
            status = qn_moment_add(&cross, p->teacher.stream, inputs->stream, n_tokens, p->ctx, err);
    }
    if (status == QN_OK) status = take_means(p, &hessian, &cross, out, err);
    qn_moment_release(&hessian);
    qn_moment_release(&cross);
    return status;
}

static qn_status compress_head(prefix *p, qn_error *err) {
    const int64_t entry = qn_layout_find(p->layout, QN_TENSOR_HEAD, -1);
    metric m = {0};
    bool found = false;
    if (entry < 0) return QN_OK; /* tied: compressed as embedding */
    QN_TRY(take_stored(p, entry, &found, err));
    if (found) return QN_OK;
    if (!p->walks) return fail_gone(p, entry, err);
    qn_status status = measure_head(p, &m, err);
    if (status == QN_OK) status = fit_matrix(p, entry, &m, err);
    metric_release(&m);
    return status;
}

static bool is_complete(const prefix *p) {
    for (int64_t i = 0; i < p->layout->n; i++)
        if (p->layout->entries[i].is_matrix && !qni_matrix_store_has(p->job->store, QNI_STAGE_FITTED, i))
            return false;
    for (int64_t l = 0; l < p->config->n_layers && is_tuned(p); l++)
        if (!qni_trained_block_is_stored(p->job->store, l)) return false;
    return true;
}

static qn_status open_walk(prefix *p, qn_error *err) {
    if (!p->walks) return QN_OK;
    QN_TRY(walker_open(p, p->job->student, &p->student, err));
    QN_TRY(walker_open(p, p->job->teacher, &p->teacher, err));
    return open_tuning(p, err);
}

static qn_status run(prefix *p, qn_error *err) {
    p->lent = qni_alloc_array(p->layout->n, sizeof *p->lent);
    p->targets = qni_alloc_array(p->layout->n, sizeof *p->targets);
    p->vectors = qni_alloc_array(p->layout->n, sizeof *p->vectors);
    if (!p->lent || !p->targets || !p->vectors) return qni_fail_nomem(err, "weights");
    p->walks = !is_complete(p);
    show_progress(p);
    QN_TRY(compress_embedding(p, err));
    QN_TRY(open_walk(p, err));
    QN_TRY(open_dev(p, err));
    for (int64_t l = 0; l < p->config->n_layers; l++) QN_TRY(compress_block(p, l, err));
    return compress_head(p, err);
}

qn_status qni_prefix_run(const qni_prefix_job *job, const qn_context *ctx, double *relative_errors,
                         qni_block_report *reports, qn_error *err) {
    prefix p = {.job = job,
                .ctx = ctx,
                .layout = qn_checkpoint_layout(qn_model_checkpoint(job->teacher)),
                .config = qn_model_config(job->teacher),
                .relative_errors = relative_errors,
                .reports = reports};
    const qn_status status = run(&p, err);
    walker_close(&p.teacher);
    walker_close(&p.student);
    qni_probe_close(&p.probe);
    qni_probe_close(&p.dev);
    for (int64_t i = 0; p.lent && p.targets && p.vectors && i < p.layout->n; i++) give_back(&p, i);
    free(p.lent);
    free(p.targets);
    free(p.vectors);
    free(p.ahead);
    free(p.channel_weights);
    return status;
}
