/* Suite train: whole optimiser steps, as `quern train` takes them: gradients of a batch of random ids from random weights,
 * and AdamW. The rate is zero, so that every step does the same work from the same weights. */
#include "bench.h"
#include "inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct train_bench {
    const bench *b;
    const bench_shape *shape;
    qn_model *model;
    const qn_layout *layout;
    qn_gradients gradients;
    float *values;          /* [3, parameters] masters and two moments; owned */
    qn_weight *weights;     /* [layout->n] owned */
    qn_adamw_group *groups; /* [layout->n] owned */
    int32_t *ids, *targets; /* [batch * context] owned */
    int64_t *starts;        /* [batch + 1] owned */
    qn_loss_options options;
} train_bench;

static qn_status step(void *user, qn_error *err) {
    train_bench *t = user;
    const qn_sequences sequences = {.ids = t->ids, .starts = t->starts, .n = t->shape->batch};
    const qn_adamw_options adamw = qn_adamw_options_default();
    qn_loss loss;
    qn_gradients_renew(&t->gradients);
    QN_TRY(qn_loss_gradient(t->model, &sequences, t->targets, &t->options, t->b->ctx, &t->gradients, &loss,
                            err));
    return qn_adamw_step(t->groups, t->layout->n, &adamw, 0.0, 1, t->b->ctx, NULL, err);
}

static qn_status step_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const train_bench *t = user;
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    for (int64_t i = 0; i < t->layout->n; i++)
        qn_sha256_update(hash, t->gradients.per_entry[i], (size_t)t->groups[i].n * sizeof(float));
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

static qn_status allocate(train_bench *t, qn_error *err) {
    const int64_t n_ids = t->shape->batch * t->shape->context;
    t->values = calloc((size_t)t->layout->n_parameters, 3 * sizeof *t->values);
    t->weights = calloc((size_t)t->layout->n, sizeof *t->weights);
    t->groups = calloc((size_t)t->layout->n, sizeof *t->groups);
    t->ids = calloc((size_t)n_ids, sizeof *t->ids);
    t->targets = calloc((size_t)n_ids, sizeof *t->targets);
    t->starts = calloc((size_t)t->shape->batch + 1, sizeof *t->starts);
    if (!t->values || !t->weights || !t->groups || !t->ids || !t->targets || !t->starts)
        return qn_fail(err, QN_E_NOMEM, "bench: no memory for %lld parameters",
                       (long long)t->layout->n_parameters);
    return qn_gradients_alloc(t->layout, &t->gradients, err);
}

/* Masters in place of the checkpoint's weights, which are never read. */
static qn_status lend_weights(train_bench *t, qn_rng *rng, qn_error *err) {
    const int64_t n_all = t->layout->n_parameters;
    float *at = t->values;
    for (int64_t i = 0; i < t->layout->n; i++) {
        const qn_layout_entry *e = &t->layout->entries[i];
        const int64_t n = e->rows * e->cols;
        qn_view *view = &t->weights[i].dense;
        for (int64_t k = 0; k < n; k++) at[k] = e->is_matrix ? (float)(qn_rng_uniform(rng) - 0.5) / 8 : 1.0f;
        t->weights[i].kind = QN_WEIGHT_DENSE;
        *view = (qn_view){.data = at, .dtype = QN_DTYPE_F32, .n_dims = e->is_matrix ? 2 : 1};
        view->shape[0] = e->is_matrix ? e->rows : e->cols;
        view->shape[1] = e->is_matrix ? e->cols : 0;
        t->groups[i] = (qn_adamw_group){.name = e->name,
                                        .param = at,
                                        .grad = t->gradients.per_entry[i],
                                        .m = at + n_all,
                                        .v = at + 2 * n_all,
                                        .n = n,
                                        .lr_scale = 1.0,
                                        .weight_decay = e->is_matrix ? 0.1 : 0.0};
        QN_TRY(qn_model_set_weight(t->model, i, &t->weights[i], err));
        at += n;
    }
    return QN_OK;
}

static void draw_ids(train_bench *t, qn_rng *rng) {
    const int64_t n = t->shape->context;
    for (int64_t s = 0; s < t->shape->batch; s++) {
        int32_t *ids = t->ids + s * n, *targets = t->targets + s * n;
        for (int64_t i = 0; i < n; i++)
            ids[i] = (int32_t)qn_rng_interval(rng, (uint64_t)t->shape->dims.vocab - 1);
        memcpy(targets, ids + 1, (size_t)(n - 1) * sizeof *targets);
        targets[n - 1] = -1;
        t->starts[s + 1] = (s + 1) * n;
    }
}

static qn_status measure(bench *b, train_bench *t, qn_compute compute, qn_error *err) {
    const double batch = (double)t->shape->batch, n = (double)t->shape->context, n_ids = batch * n;
    const double forward = bench_operations(t->model, n_ids, batch * n * (n + 1) / 2, batch * (n - 1));
    char name[BENCH_NAME_BYTES];
    snprintf(name, sizeof name, "%s, %s", t->shape->label, compute == QN_COMPUTE_F32 ? "f32" : "bf16");
    /* Each product of the forward walk has two in the backward one. */
    const bench_case c = {.suite = "train",
                          .name = name,
                          .unit = "tokens/s",
                          .work = n_ids,
                          .limit = bench_product_limit(b, compute),
                          .limit_work = 3 * forward,
                          .run = step,
                          .digest = step_digest,
                          .user = t};
    t->options = (qn_loss_options){.compute = compute,
                                   .ce_weight = 1.0,
                                   .scale = 1.0 / (batch * (n - 1)),
                                   .keep_bytes = cli_flag(b->args, "recompute") ? 0 : INT64_MAX};
    return bench_measure(b, &c, err);
}

static qn_status measure_shape(bench *b, const bench_shape *shape, const char *folder, qn_error *err) {
    train_bench t = {.b = b, .shape = shape};
    qn_rng rng;
    qn_rng_seed(&rng, 2);
    qn_status st = qn_model_open(folder, &t.model, err);
    if (st == QN_OK) {
        t.layout = qn_checkpoint_layout(qn_model_checkpoint(t.model));
        st = allocate(&t, err);
    }
    if (st == QN_OK) st = lend_weights(&t, &rng, err);
    if (st == QN_OK) {
        draw_ids(&t, &rng);
        if (bench_computes(b->args, QN_COMPUTE_F32)) st = measure(b, &t, QN_COMPUTE_F32, err);
        if (st == QN_OK && bench_computes(b->args, QN_COMPUTE_BF16))
            st = measure(b, &t, QN_COMPUTE_BF16, err);
    }
    qn_gradients_release(&t.gradients);
    qn_model_close(t.model);
    free(t.values);
    free(t.weights);
    free(t.groups);
    free(t.ids);
    free(t.targets);
    free(t.starts);
    return st;
}

qn_status bench_suite_train(bench *b, qn_error *err) {
    const bench_shape *shape;
    char *folder = NULL;
    QN_TRY(bench_find_shape(b->args, &shape, err));
    qn_status st = bench_scratch(&folder, err);
    if (st == QN_OK) st = bench_synthetic(folder, &shape->dims, err);
    if (st == QN_OK) st = measure_shape(b, shape, folder, err);
    if (folder) qn_folder_abandon(folder);
    free(folder);
    return st;
}
