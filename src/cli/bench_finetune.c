/* Suite finetune: the cache of a teacher's predictions, and whole steps of a model's training towards it, as qn_finetune takes
 * them. The teacher is --model on the beginning of --docs; the student its blocks as ternary latents. The rate is zero. */
#include "bench.h"
#include "inputs.h"
#include "quern/fit/teacher_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 6, CACHED = 24, MOST_KEPT = 128 }; /* sequences of a step and of the cache, ids a position */

typedef struct finetune_bench {
    const bench *b;
    qn_model *model;
    int32_t *ids, *targets; /* [starts[n]] owned */
    int64_t starts[CACHED + 1];
    int64_t n, n_batch; /* sequences */
    int64_t n_targets;  /* of a batch */
    double n_pairs;     /* of a position of the batch and one it attends to */
    char *path;         /* of the cache; owned */
    qn_teacher_cache *cache;
    qn_teacher_cache_info info;
    qn_teacher_rows teacher; /* owned; of a batch */
    qn_trainable set;
} finetune_bench;

static int64_t batch_tokens(const finetune_bench *f) {
    return f->starts[f->n_batch];
}

/* The first windows one after the other, and the next token of each position but the last. */
static qn_status take_text(finetune_bench *f, const qn_windows *windows, qn_error *err) {
    f->n = windows->n_windows < CACHED ? windows->n_windows : CACHED;
    f->n_batch = f->n < BATCH ? f->n : BATCH;
    for (int64_t i = 0; i < f->n; i++) f->starts[i + 1] = f->starts[i] + windows->windows[i].n_ids;
    f->ids = calloc((size_t)f->starts[f->n], sizeof *f->ids);
    f->targets = calloc((size_t)f->starts[f->n], sizeof *f->targets);
    if (!f->ids || !f->targets) return qn_fail(err, QN_E_NOMEM, "bench: no memory for a text");
    for (int64_t i = 0; i < f->n; i++) {
        const int64_t n = windows->windows[i].n_ids;
        int32_t *ids = f->ids + f->starts[i], *targets = f->targets + f->starts[i];
        memcpy(ids, windows->ids + windows->windows[i].first, (size_t)n * sizeof *ids);
        memcpy(targets, ids + 1, (size_t)(n - 1) * sizeof *targets);
        targets[n - 1] = -1;
        if (i >= f->n_batch) continue;
        f->n_targets += n - 1;
        f->n_pairs += (double)n * (double)(n + 1) / 2;
    }
    return QN_OK;
}

/* ---- the cache ---- */

static qn_status make_cache(void *user, qn_error *err) {
    finetune_bench *f = user;
    const qn_sequences sequences = {.ids = f->ids, .starts = f->starts, .n = f->n};
    const int64_t vocab = qn_model_config(f->model)->vocab_size;
    qn_teacher_cache_options options = qn_teacher_cache_options_default();
    options.k = vocab < MOST_KEPT ? vocab : MOST_KEPT;
    if (options.n_samples > vocab - options.k) options.n_samples = vocab - options.k;
    (void)remove(f->path); /* a cache that is there costs no walk */
    return qn_teacher_cache_make(f->model, &sequences, &options, f->path, f->b->ctx, &f->info, err);
}

static qn_status cache_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const finetune_bench *f = user;
    (void)err;
    memcpy(hex, f->info.last_link, QN_SHA256_HEX);
    return QN_OK;
}

static qn_status measure_cache(bench *b, finetune_bench *f, qn_error *err) {
    const double n_tokens = (double)f->starts[f->n];
    double n_pairs = 0;
    for (int64_t i = 0; i < f->n; i++) {
        const double n = (double)(f->starts[i + 1] - f->starts[i]);
        n_pairs += n * (n + 1) / 2;
    }
    const bench_case c = {.suite = "finetune",
                          .name = "teacher's cache, f32",
                          .unit = "tokens/s",
                          .work = n_tokens,
                          .limit = bench_product_limit(b, QN_COMPUTE_F32),
                          .limit_work = bench_operations(f->model, n_tokens, n_pairs, n_tokens),
                          .run = make_cache,
                          .digest = cache_digest,
                          .user = f};
    char name[BENCH_NAME_BYTES];
    QN_TRY(bench_measure(b, &c, err));
    snprintf(name, sizeof name, "teacher's cache, top %lld and %lld samples", (long long)f->info.k,
             (long long)f->info.n_samples);
    return bench_add_fact(b, "finetune", name, "B/token", (double)f->info.n_bytes / n_tokens, err);
}

/* ---- steps ---- */

static qn_status step(void *user, qn_error *err) {
    finetune_bench *f = user;
    const qn_sequences sequences = {.ids = f->ids, .starts = f->starts, .n = f->n_batch};
    const qn_adamw_options adamw = qn_adamw_options_default();
    const qn_teacher_top top = qn_teacher_rows_top(&f->teacher, 0);
    const qn_loss_options options = {.compute = QN_COMPUTE_F32,
                                     .ce_weight = 0.5,
                                     .kl_weight = 0.5,
                                     .teacher_top = &top,
                                     .scale = 1.0 / (double)f->n_targets,
                                     .keep_bytes = cli_flag(f->b->args, "recompute") ? 0 : INT64_MAX};
    qn_loss loss;
    qn_trainable_evaluate(&f->set, 0.0, f->b->ctx);
    qn_gradients_renew(&f->set.gradients);
    QN_TRY(qn_teacher_cache_read(f->cache, 0, f->n_batch, &f->teacher, 0, err));
    QN_TRY(qn_loss_gradient(f->model, &sequences, f->targets, &options, f->b->ctx, &f->set.gradients, &loss,
                            err));
    return qn_trainable_step(&f->set, 0.0, &adamw, 0.0, 1, f->b->ctx, err);
}

static qn_status step_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const finetune_bench *f = user;
    return bench_trainable_digest(&f->set, hex, err);
}

static qn_status prepare_steps(finetune_bench *f, qn_error *err) {
    const int64_t n_layers = qn_model_config(f->model)->n_layers;
    QN_TRY(qn_teacher_cache_open(f->path, NULL, NULL, &f->cache, err));
    QN_TRY(qn_teacher_rows_alloc(batch_tokens(f), f->info.k, f->info.n_samples, &f->teacher, err));
    QN_TRY(bench_trainable(f->b, f->model, 0, n_layers, (qn_codec){.code = QN_CODE_TERNARY, .group_size = 64},
                           &f->set, err));
    return qn_trainable_lend(&f->set, f->model, err);
}

static qn_status measure_steps(bench *b, finetune_bench *f, qn_error *err) {
    const double n_tokens = (double)batch_tokens(f);
    const bench_case c = {.suite = "finetune",
                          .name = "whole model, ternary, f32",
                          .unit = "tokens/s",
                          .work = n_tokens,
                          .limit = bench_product_limit(b, QN_COMPUTE_F32),
                          .limit_work =
                              3 * bench_operations(f->model, n_tokens, f->n_pairs, (double)f->n_targets),
                          .run = step,
                          .digest = step_digest,
                          .user = f};
    qn_status st = prepare_steps(f, err);
    if (st == QN_OK) st = bench_measure(b, &c, err);
    if (f->set.parts) qn_trainable_give_back(&f->set, f->model);
    qn_trainable_release(&f->set);
    qn_teacher_cache_close(f->cache);
    qn_teacher_rows_release(&f->teacher);
    return st;
}

qn_status bench_suite_finetune(bench *b, qn_error *err) {
    finetune_bench f = {.b = b};
    cli_text_input text = {0};
    char *folder = NULL;
    const char *model = cli_text(b->args, "model", NULL);
    qn_status st = qn_model_open(model, &f.model, err);
    if (st == QN_OK) st = cli_text_input_open(b->args, model, &text, err);
    if (st == QN_OK) st = take_text(&f, &text.windows, err);
    if (st == QN_OK) st = bench_scratch(&folder, err);
    if (st == QN_OK) st = bench_path(folder, "teacher.cache", &f.path, err);
    if (st == QN_OK) st = measure_cache(b, &f, err);
    if (st == QN_OK) st = measure_steps(b, &f, err);
    if (folder) qn_folder_abandon(folder);
    free(folder);
    free(f.path);
    free(f.ids);
    free(f.targets);
    cli_text_input_release(&text);
    qn_model_close(f.model);
    return st;
}
