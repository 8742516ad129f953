/* Suite distill: whole steps of block-wise distillation, as qn_distill takes them. One block of random weights is trained towards a
 * random stream: latents to weights, loss, gradients, AdamW, projection. The rate is zero, so that every step does the same
 * work from the same latents. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 6 };

typedef struct distill_bench {
    const bench *b;
    const bench_shape *shape;
    qn_model *model;
    qn_trainable set;
    float *stream, *target;    /* [BATCH * context, hidden] owned */
    int64_t starts[BATCH + 1]; /* of the sequences */
    qn_compute compute;
} distill_bench;

/* ---- the set ---- */

static qn_status add_matrix(const bench *b, const qn_model *model, int64_t entry, qn_codec codec,
                            qn_trainable *t, qn_error *err) {
    const qn_layout_entry *e = &t->layout->entries[entry];
    const qn_weight *weight = qn_checkpoint_weight(qn_model_checkpoint(model), entry);
    const qn_rowmix_options options = {
        .native = codec, .rescue = {.code = QN_CODE_Q4, .group_size = 128}, .rule = QN_FIT_OPTIMAL};
    qn_encoded encoded = {0};
    qn_banded start = {0};
    qn_latents latents = {0};
    float *values = calloc((size_t)(e->rows * e->cols), sizeof *values);
    qn_status st = values ? QN_OK : qn_fail(err, QN_E_NOMEM, "bench: no memory for %s", e->name);
    if (st == QN_OK) {
        qn_weight_decode_rows(weight, 0, e->rows, values);
        st = qn_rowmix_encode(weight, e->name, &options, NULL, NULL, b->ctx, &encoded, err);
    }
    if (st == QN_OK) st = qn_banded_unpack(&encoded, &start, err);
    if (st == QN_OK) st = qn_latents_init(&start, 0, values, b->ctx, &latents, err);
    if (st == QN_OK) st = qn_trainable_add_matrix(t, entry, &latents, err);
    qn_latents_release(&latents);
    qn_encoded_release(&encoded);
    free(values);
    return st;
}

static qn_status add_parts(const bench *b, const qn_model *model, int64_t first_layer, int64_t n_layers,
                           qn_codec codec, qn_trainable *t, qn_error *err) {
    for (int64_t i = 0; i < t->layout->n; i++) {
        const qn_layout_entry *e = &t->layout->entries[i];
        if (e->layer < first_layer || e->layer >= first_layer + n_layers) continue;
        if (e->is_matrix)
            QN_TRY(add_matrix(b, model, i, codec, t, err));
        else
            QN_TRY(qn_trainable_add_vector(t, i, qn_checkpoint_weight(qn_model_checkpoint(model), i), err));
    }
    return QN_OK;
}

qn_status bench_trainable(const bench *b, const qn_model *model, int64_t first_layer, int64_t n_layers,
                          qn_codec codec, qn_trainable *out, qn_error *err) {
    const qn_trainable_rates rates = {
        .latent_rate = 1.0, .scale_rate = 1.0, .threshold_rate = 1.0, .vector_rate = 1.0};
    qn_trainable t = {0};
    QN_TRY(qn_trainable_init(qn_checkpoint_layout(qn_model_checkpoint(model)), &t, err));
    qn_status st = add_parts(b, model, first_layer, n_layers, codec, &t, err);
    if (st == QN_OK) st = qn_trainable_seal(&t, &rates, err);
    if (st != QN_OK)
        qn_trainable_release(&t);
    else
        *out = t;
    return st;
}

qn_status bench_trainable_digest(const qn_trainable *t, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    for (int64_t g = 0; g < t->n_groups; g++)
        qn_sha256_update(hash, t->groups[g].grad, (size_t)t->groups[g].n * sizeof(float));
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

/* ---- steps ---- */

static qn_status step(void *user, qn_error *err) {
    distill_bench *d = user;
    const qn_sequences sequences = {.starts = d->starts, .n = BATCH};
    const qn_adamw_options adamw = qn_adamw_options_default();
    const qn_window_options options = {
        .n_layers = 1,
        .compute = d->compute,
        .scale = 1.0 / ((double)d->starts[BATCH] * (double)d->shape->dims.hidden),
        .keep_bytes = cli_flag(d->b->args, "recompute") ? 0 : INT64_MAX,
    };
    double loss;
    qn_trainable_evaluate(&d->set, 0.0, d->b->ctx);
    qn_gradients_renew(&d->set.gradients);
    QN_TRY(qn_window_gradient(d->model, &sequences, d->stream, d->target, &options, d->b->ctx,
                              &d->set.gradients, &loss, err));
    return qn_trainable_step(&d->set, 0.0, &adamw, 0.0, 1, d->b->ctx, err);
}

static qn_status step_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const distill_bench *d = user;
    return bench_trainable_digest(&d->set, hex, err);
}

static qn_status measure(bench *b, distill_bench *d, const char *code_name, qn_compute compute,
                         qn_error *err) {
    const double n = (double)d->shape->context, n_ids = BATCH * n;
    char name[BENCH_NAME_BYTES];
    snprintf(name, sizeof name, "block, %s, %s, %s", d->shape->label, code_name,
             compute == QN_COMPUTE_F32 ? "f32" : "bf16");
    /* Each product of the forward walk has two in the backward one. */
    const bench_case c = {.suite = "distill",
                          .name = name,
                          .unit = "tokens/s",
                          .work = n_ids,
                          .limit = bench_product_limit(b, compute),
                          .limit_work = 3 * bench_operations(d->model, n_ids, BATCH * n * (n + 1) / 2, 0),
                          .run = step,
                          .digest = step_digest,
                          .user = d};
    if (!bench_computes(b->args, compute)) return QN_OK;
    d->compute = compute;
    return bench_measure(b, &c, err);
}

static qn_status measure_code(bench *b, distill_bench *d, const char *name, qn_codec codec, qn_error *err) {
    QN_TRY(bench_trainable(b, d->model, 0, 1, codec, &d->set, err));
    qn_status st = qn_trainable_lend(&d->set, d->model, err);
    if (st == QN_OK) st = measure(b, d, name, QN_COMPUTE_F32, err);
    if (st == QN_OK) st = measure(b, d, name, QN_COMPUTE_BF16, err);
    qn_trainable_give_back(&d->set, d->model);
    qn_trainable_release(&d->set);
    return st;
}

static qn_status draw_streams(distill_bench *d, qn_error *err) {
    const size_t n = (size_t)BATCH * (size_t)d->shape->context * (size_t)d->shape->dims.hidden;
    qn_rng rng;
    qn_rng_seed(&rng, 3);
    d->stream = calloc(n, sizeof *d->stream);
    d->target = calloc(n, sizeof *d->target);
    if (!d->stream || !d->target)
        return qn_fail(err, QN_E_NOMEM, "bench: no memory for the streams of a batch");
    for (size_t i = 0; i < n; i++) {
        d->stream[i] = (float)(2.0 * qn_rng_uniform(&rng) - 1.0);
        d->target[i] = (float)(2.0 * qn_rng_uniform(&rng) - 1.0);
    }
    for (int64_t i = 0; i <= BATCH; i++) d->starts[i] = i * d->shape->context;
    return QN_OK;
}

static qn_status measure_shape(bench *b, distill_bench *d, const char *folder, qn_error *err) {
    QN_TRY(qn_model_open(folder, &d->model, err));
    qn_status st = draw_streams(d, err);
    if (st == QN_OK)
        st = measure_code(b, d, "sign", (qn_codec){.code = QN_CODE_SIGN, .group_size = 128}, err);
    if (st == QN_OK)
        st = measure_code(b, d, "ternary", (qn_codec){.code = QN_CODE_TERNARY, .group_size = 64}, err);
    free(d->stream);
    free(d->target);
    qn_model_close(d->model);
    return st;
}

qn_status bench_suite_distill(bench *b, qn_error *err) {
    distill_bench d = {.b = b};
    char *folder = NULL;
    QN_TRY(bench_find_shape(b->args, &d.shape, err));
    bench_dims one_block = d.shape->dims;
    one_block.layers = 1;
    qn_status st = bench_scratch(&folder, err);
    if (st == QN_OK) st = bench_synthetic(folder, &one_block, err);
    if (st == QN_OK) st = measure_shape(b, &d, folder, err);
    if (folder) qn_folder_abandon(folder);
    free(folder);
    return st;
}
