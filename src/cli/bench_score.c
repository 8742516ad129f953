/* Suite score: the whole walk over the documents, as `quern score` takes it. */
#include "bench.h"
#include "inputs.h"

#include <stdlib.h>

typedef struct score_bench {
    const bench *b;
    qn_model *model;
    cli_text_input text;
    qn_compute compute;
    double *window_nats; /* [n_windows] owned */
} score_bench;

static qn_status score(void *user, qn_error *err) {
    score_bench *s = user;
    qn_score_result result;
    return qn_score(s->model, &s->text.windows, s->compute, s->b->ctx, s->window_nats, &result, err);
}

static qn_status score_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const score_bench *s = user;
    return qn_sha256_of_memory(s->window_nats, (size_t)s->text.windows.n_windows * sizeof *s->window_nats,
                               hex, err);
}

double bench_operations(const qn_model *model, double n_ids, double n_pairs, double n_targets) {
    const qn_config *config = qn_model_config(model);
    const qn_layout *layout = qn_checkpoint_layout(qn_model_checkpoint(model));
    double block_weights = 0;
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *e = &layout->entries[i];
        if (e->is_matrix && e->layer >= 0) block_weights += (double)e->rows * (double)e->cols;
    }
    const double head = n_targets * (double)config->vocab_size * (double)config->hidden_size;
    const double attention = 2 * n_pairs * (double)(config->n_layers * config->n_heads * config->head_dim);
    return 2 * (n_ids * block_weights + attention + head);
}

static double operations(const score_bench *s) {
    const qn_windows *w = &s->text.windows;
    double n_ids = 0, n_pairs = 0;
    for (int64_t i = 0; i < w->n_windows; i++) {
        const double n = (double)w->windows[i].n_ids;
        n_ids += n;
        n_pairs += n * (n + 1) / 2;
    }
    return bench_operations(s->model, n_ids, n_pairs, (double)w->n_targets);
}

static qn_status measure(bench *b, score_bench *s, qn_error *err) {
    bench_case c = {.suite = "score",
                    .name = "documents, f32",
                    .unit = "tokens/s",
                    .work = (double)s->text.windows.n_targets,
                    .limit = bench_product_limit(b, QN_COMPUTE_F32),
                    .limit_work = operations(s),
                    .run = score,
                    .digest = score_digest,
                    .user = s};
    s->compute = QN_COMPUTE_F32;
    QN_TRY(bench_measure(b, &c, err));
    if (!bench_has_tiles(b)) return QN_OK; /* elsewhere bf16 is f32 on rounded values: nothing to gain */
    s->compute = QN_COMPUTE_BF16;
    c.name = "documents, bf16";
    c.limit = bench_product_limit(b, QN_COMPUTE_BF16);
    return bench_measure(b, &c, err);
}

qn_status bench_suite_score(bench *b, qn_error *err) {
    score_bench s = {.b = b};
    const char *model = cli_text(b->args, "model", NULL);
    qn_status st = qn_model_open(model, &s.model, err);
    if (st == QN_OK) st = cli_text_input_open(b->args, model, &s.text, err);
    if (st == QN_OK) {
        s.window_nats = calloc((size_t)s.text.windows.n_windows, sizeof *s.window_nats);
        if (!s.window_nats) st = qn_fail(err, QN_E_NOMEM, "bench: no memory for the windows' losses");
    }
    if (st == QN_OK) st = measure(b, &s, err);
    free(s.window_nats);
    cli_text_input_release(&s.text);
    qn_model_close(s.model);
    return st;
}
