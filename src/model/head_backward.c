/* The loss at the head and its gradient, for a bounded number of logits at a time. Positions without a target
 * are left out. */
#include "model/backward.h"

#include "base/alloc.h"
#include "model/head_top.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

typedef struct head_job {
    const qni_pass *pass, *teacher;
    const qni_backward *backward; /* or NULL */
    const qn_loss_options *options;
    const qn_teacher_top *top; /* or NULL; never with a teacher */
    const float *x;
    int64_t *rows; /* owned [targets]; where they stand */
    int64_t n_targets, max_tokens;
    /* In the pass's memory: */
    float *picked, *normed, *logits;        /* [max_tokens, h], [.., h], [.., V] */
    float *teacher_picked, *teacher_logits; /* [max_tokens, teacher's h], [.., V] */
    double *losses;                         /* owned [2, max_tokens] */
    int32_t *targets;                       /* owned [max_tokens] */
    qn_teacher_rows top_rows;               /* owned [max_tokens] */
} head_job;

static qn_status find_targets(head_job *job, const int32_t *targets, int64_t n_tokens, qn_error *err) {
    const int64_t vocab = job->pass->model->config->vocab_size;
    job->rows = qni_alloc_array(n_tokens, sizeof *job->rows);
    if (!job->rows) return qni_fail_nomem(err, "list of targets");
    for (int64_t i = 0; i < n_tokens; i++) {
        if (targets[i] < -1 || targets[i] >= vocab) {
            return qn_fail(err, QN_E_VALUE, "target id %d at position %lld is outside the vocabulary of %lld",
                           targets[i], (long long)i, (long long)vocab);
        }
        if (targets[i] >= 0) job->rows[job->n_targets++] = i;
    }
    return QN_OK;
}

static qn_status allocate(head_job *job, qn_error *err) {
    const qn_config *config = job->pass->model->config;
    const int64_t vocab = config->vocab_size;
    const int64_t teacher_h = job->teacher ? job->teacher->model->config->hidden_size : 0;
    int64_t n = qni_head_chunk_tokens(vocab);
    if (n > job->n_targets) n = job->n_targets;
    const int64_t per_token = 2 * config->hidden_size + vocab + (job->teacher ? teacher_h + vocab : 0);
    QN_TRY(qni_memory_take(job->pass->memory, QNI_MEMORY_LOGITS, n * per_token, "logits", &job->picked, err));
    job->max_tokens = n;
    job->normed = job->picked + n * config->hidden_size;
    job->logits = job->normed + n * config->hidden_size;
    job->teacher_picked = job->teacher ? job->logits + n * vocab : NULL;
    job->teacher_logits = job->teacher ? job->teacher_picked + n * teacher_h : NULL;
    if (job->top) QN_TRY(qn_teacher_rows_alloc(n, job->top->k, job->top->n_samples, &job->top_rows, err));
    QN_TRY(QNI_ALLOC(job->losses, 2 * n, "losses", err));
    return QNI_ALLOC(job->targets, n, "targets", err);
}

static void pick_rows(const int64_t *rows, int64_t n, const float *from, int64_t width, float *to) {
    for (int64_t i = 0; i < n; i++)
        memcpy(to + i * width, from + rows[i] * width, (size_t)width * sizeof *to);
}

static qn_status make_logits(const qni_pass *pass, const float *hidden, int64_t n, float *logits,
                             qn_error *err) {
    return qni_linear(pass, pass->model->head, -1, hidden, 0, n, logits, err);
}

static void add_losses(const head_job *job, int64_t n, qn_loss *loss) {
    for (int64_t i = 0; i < n; i++) {
        loss->ce_nats += job->losses[i];
        if (job->teacher || job->top) loss->kl_nats += job->losses[job->max_tokens + i];
    }
    loss->n_targets += n;
}

/* From the gradient of the logits to the rows of dx. */
static qn_status chunk_backward(const head_job *job, const int64_t *rows, int64_t n, float *dx,
                                qn_error *err) {
    const qn_model *model = job->pass->model;
    const int64_t h = model->config->hidden_size;
    float *d_normed = job->normed; /* read no more once the head's gradient has it */
    QN_TRY(
        qni_linear_backward(job->backward, model->head, -1, job->logits, job->normed, n, false, NULL, err));
    QN_TRY(qni_linear_backward(job->backward, model->head, -1, job->logits, NULL, n, false, d_normed, err));
    QN_TRY(qni_norm_backward(job->backward, model->final_norm, job->picked, d_normed, n, h, false, d_normed,
                             err));
    for (int64_t i = 0; i < n; i++) memcpy(dx + rows[i] * h, d_normed + i * h, (size_t)h * sizeof *dx);
    return QN_OK;
}

/* Targets [first, + n). */
static qn_status run_chunk(const head_job *job, const int32_t *targets, int64_t first, int64_t n, float *dx,
                           qn_loss *loss, qn_error *err) {
    const qni_pass *pass = job->pass;
    const qn_model *model = pass->model;
    const qn_loss_options *options = job->options;
    const int64_t h = model->config->hidden_size, *rows = job->rows + first;
    QN_TRY(qn_check_cancelled(pass->ctx, err));
    for (int64_t i = 0; i < n; i++) job->targets[i] = targets[rows[i]];
    pick_rows(rows, n, job->x, h, job->picked);
    QN_TRY(qni_norm(pass, model->final_norm, job->picked, n, h, job->normed, err));
    QN_TRY(make_logits(pass, job->normed, n, job->logits, err));
    if (job->teacher) {
        pick_rows(rows, n, options->teacher_hidden, job->teacher->model->config->hidden_size,
                  job->teacher_picked);
        QN_TRY(make_logits(job->teacher, job->teacher_picked, n, job->teacher_logits, err));
    }
    const qni_loss_top top = job->top ? qni_top_pick(&job->top_rows, job->top, rows, n) : (qni_loss_top){0};
    const qni_loss_args args = {.logits = job->logits,
                                .teacher = job->teacher_logits,
                                .top = job->top ? &top : NULL,
                                .m = n,
                                .n = model->config->vocab_size,
                                .targets = job->targets,
                                .ce_factor = options->scale * options->ce_weight,
                                .kl_factor = options->scale * options->kl_weight,
                                .ce = job->losses,
                                .kl = job->losses + job->max_tokens};
    pass->ops->loss(pass->ops, &args, pass->n_threads);
    add_losses(job, n, loss);
    return job->backward ? chunk_backward(job, rows, n, dx, err) : QN_OK;
}

static qn_status run(head_job *job, const int32_t *targets, float *dx, qn_loss *loss, qn_error *err) {
    if (job->top)
        QN_TRY(qni_top_check(job->top, job->rows, job->n_targets, job->pass->model->config->vocab_size, err));
    QN_TRY(allocate(job, err));
    for (int64_t first = 0; first < job->n_targets; first += job->max_tokens) {
        const int64_t left = job->n_targets - first;
        QN_TRY(
            run_chunk(job, targets, first, left < job->max_tokens ? left : job->max_tokens, dx, loss, err));
    }
    return QN_OK;
}

qn_status qni_head_loss(const qni_pass *pass, const qni_pass *teacher, const qni_backward *backward,
                        const qn_loss_options *options, const float *x, const int32_t *targets,
                        int64_t n_tokens, float *dx, qn_loss *out, qn_error *err) {
    head_job job = {.pass = pass, .teacher = teacher, .backward = backward, .options = options, .x = x};
    if (options->kl_weight != 0.0) job.top = options->teacher_top;
    qn_loss loss = {0};
    const size_t bytes = (size_t)(n_tokens * pass->model->config->hidden_size) * sizeof *dx;
    qn_status status = find_targets(&job, targets, n_tokens, err);
    if (status == QN_OK && backward) memset(dx, 0, bytes);
    if (status == QN_OK && job.n_targets > 0) status = run(&job, targets, dx, &loss, err);
    free(job.rows);
    free(job.losses);
    free(job.targets);
    qn_teacher_rows_release(&job.top_rows);
    if (status == QN_OK) *out = loss;
    return status;
}
