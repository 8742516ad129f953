#include "quern/fit/fisher.h"

#include "base/alloc.h"
#include "fit/model_labels.h"
#include "quern/fit/moments.h"
#include "quern/model/gradient.h"

#include <stdlib.h>

#include "base/banned.h"

enum { BATCH_TOKENS = 2048 }; /* that walk back together; a longer sequence is a batch by itself */

typedef struct fisher_job {
    const qn_model *model;
    const qn_layout *layout;
    const qn_fisher_options *options;
    const qn_context *ctx;
    qn_context silent;  /* ctx for walks that are steps of this one: no progress of their own */
    qn_moment *outputs; /* owned [layout->n]; of the embedding: what it looks up */
    double *head;       /* owned [V] */
    float *hidden;      /* owned [longest batch, h] */
    int32_t *labels;    /* owned [longest batch] */
    int64_t *starts;    /* owned [sequences + 1] */
} fisher_job;

static bool is_watched(const qn_layout_entry *entry) {
    return entry->is_matrix && entry->kind != QN_TENSOR_HEAD;
}

/* One past the last sequence of the batch that starts at FIRST. */
static int64_t batch_end(const qn_sequences *s, int64_t first) {
    int64_t end = first + 1;
    while (end < s->n && s->starts[end + 1] - s->starts[first] <= BATCH_TOKENS) end++;
    return end;
}

static qn_status prepare(fisher_job *job, const qn_sequences *s, qn_error *err) {
    const qn_config *config = qn_model_config(job->model);
    int64_t longest = 1, floats;
    for (int64_t first = 0, end; first < s->n; first = end) {
        end = batch_end(s, first);
        if (s->starts[end] - s->starts[first] > longest) longest = s->starts[end] - s->starts[first];
    }
    if (!qni_multiply_i64(longest, config->hidden_size, &floats)) return qni_fail_nomem(err, "hidden states");
    QN_TRY(QNI_ALLOC(job->hidden, floats, "hidden states", err));
    QN_TRY(QNI_ALLOC(job->labels, longest, "labels", err));
    QN_TRY(QNI_ALLOC(job->starts, s->n + 1, "starts of sequences", err));
    job->head = qni_alloc_array(config->vocab_size, sizeof *job->head);
    job->outputs = qni_alloc_array(job->layout->n, sizeof *job->outputs);
    if (!job->head || !job->outputs) return qni_fail_nomem(err, "moments of gradients");
    for (int64_t i = 0; i < job->layout->n; i++) {
        const qn_layout_entry *entry = &job->layout->entries[i];
        const int64_t width = entry->kind == QN_TENSOR_EMBED ? entry->cols : entry->rows;
        if (is_watched(entry)) QN_TRY(qn_moment_init(&job->outputs[i], QN_MOMENT_DIAGONAL, width, err));
    }
    return QN_OK;
}

static void release(fisher_job *job) {
    for (int64_t i = 0; job->outputs && i < job->layout->n; i++) qn_moment_release(&job->outputs[i]);
    free(job->outputs);
    free(job->head);
    free(job->hidden);
    free(job->labels);
    free(job->starts);
}

static qn_status on_gradient(void *user, int64_t index, const float *dy, int64_t first_token,
                             int64_t n_tokens, int64_t rows, qn_error *err) {
    fisher_job *job = user;
    (void)first_token, (void)rows;
    return qn_moment_add(&job->outputs[index], dy, dy, n_tokens, job->ctx, err);
}

/* Sequences [first, end). */
static qn_status run_batch(fisher_job *job, const qn_sequences *s, int64_t first, int64_t end,
                           qn_error *err) {
    const int64_t token0 = s->starts[first], n = s->starts[end] - token0;
    const qn_sequences batch = {.ids = s->ids + token0, .starts = job->starts, .n = end - first};
    const qn_walk_options walk = {.compute = job->options->compute};
    const qn_gradient_observer observer = {.on_linear_output_gradient = on_gradient, .user = job};
    const qn_loss_options loss = {.compute = job->options->compute,
                                  .ce_weight = 1.0,
                                  .scale = 1.0,
                                  .spill = true,
                                  .observer = &observer};
    qn_loss unused;
    for (int64_t i = first; i <= end; i++) job->starts[i - first] = s->starts[i] - token0;
    QN_TRY(qn_walk(job->model, &batch, &walk, &job->silent, job->hidden, NULL, err));
    QN_TRY(qni_model_labels(job->model, job->hidden, n, job->options->compute, job->options->seed,
                            (uint32_t)token0, &job->silent, job->labels, job->head, err));
    return qn_loss_gradient(job->model, &batch, job->labels, &loss, &job->silent, NULL, &unused, err);
}

static qn_status run(fisher_job *job, const qn_sequences *s, qn_error *err) {
    const uint64_t total = (uint64_t)s->starts[s->n];
    QN_TRY(prepare(job, s, err));
    for (int64_t first = 0, end; first < s->n; first = end) {
        end = batch_end(s, first);
        qn_report_progress(job->ctx, "gradients", (uint64_t)s->starts[first], total);
        if (s->starts[end] > s->starts[first]) QN_TRY(run_batch(job, s, first, end, err));
    }
    qn_report_progress(job->ctx, "gradients", total, total);
    return QN_OK;
}

static qn_status mean_of(const qn_moment *moment, float **out, qn_error *err) {
    QN_TRY(QNI_ALLOC(*out, moment->cols, "Fisher diagonals", err));
    qn_moment_mean(moment, *out);
    return QN_OK;
}

static qn_status head_of(const fisher_job *job, int64_t n_tokens, float **out, qn_error *err) {
    const int64_t vocab = qn_model_config(job->model)->vocab_size;
    QN_TRY(QNI_ALLOC(*out, vocab, "Fisher diagonals", err));
    for (int64_t v = 0; v < vocab; v++) (*out)[v] = (float)(job->head[v] / (double)n_tokens);
    return QN_OK;
}

static qn_status collect(const fisher_job *job, int64_t n_tokens, qn_fisher *out, qn_error *err) {
    const qn_layout *layout = job->layout;
    const bool tied = qn_model_config(job->model)->tied;
    out->output = qni_alloc_array(layout->n, sizeof *out->output);
    if (!out->output) return qni_fail_nomem(err, "Fisher diagonals");
    out->n = layout->n;
    out->n_tokens = n_tokens;
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *entry = &layout->entries[i];
        const bool is_head = entry->kind == (tied ? QN_TENSOR_EMBED : QN_TENSOR_HEAD);
        if (entry->kind == QN_TENSOR_EMBED)
            QN_TRY(mean_of(&job->outputs[i], &out->lookup_gradient, err));
        else if (is_watched(entry))
            QN_TRY(mean_of(&job->outputs[i], &out->output[i], err));
        if (is_head) QN_TRY(head_of(job, n_tokens, &out->output[i], err));
    }
    return QN_OK;
}

qn_status qn_fisher_measure(const qn_model *model, const qn_sequences *sequences,
                            const qn_fisher_options *options, const qn_context *ctx, qn_fisher *out,
                            qn_error *err) {
    const int64_t n_tokens = sequences->n > 0 ? sequences->starts[sequences->n] : 0;
    fisher_job job = {.model = model,
                      .layout = qn_checkpoint_layout(qn_model_checkpoint(model)),
                      .options = options,
                      .ctx = ctx,
                      .silent = ctx ? *ctx : (qn_context){0}};
    qn_fisher fisher = {0};
    if (n_tokens < 1 || n_tokens > (int64_t)UINT32_MAX)
        return qn_fail(err, QN_E_ARGUMENT, "%lld tokens for the Fisher diagonals: expected 1 to 2^32 - 1",
                       (long long)n_tokens);
    job.silent.on_progress = NULL;
    qn_status status = run(&job, sequences, err);
    if (status == QN_OK) status = collect(&job, n_tokens, &fisher, err);
    release(&job);
    if (status == QN_OK)
        *out = fisher;
    else
        qn_fisher_release(&fisher);
    return status;
}

void qn_fisher_release(qn_fisher *fisher) {
    for (int64_t i = 0; fisher->output && i < fisher->n; i++) free(fisher->output[i]);
    free(fisher->output);
    free(fisher->lookup_gradient);
    *fisher = (qn_fisher){0};
}
