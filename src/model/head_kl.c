#include "base/alloc.h"
#include "model/pass.h"
#include "quern/model/compare.h"

#include <stdlib.h>

#include "base/banned.h"

enum { BASE, CANDIDATE, N_SIDES };

typedef struct kl_job {
    const qn_model *models[N_SIDES];
    const float *hidden[N_SIDES]; /* [n, h] */
    qni_pass passes[N_SIDES];
    float *logits[N_SIDES];   /* owned [chunk, V] */
    int32_t *targets;         /* owned [chunk] zeros: any will do */
    qni_comparison_row *rows; /* owned [chunk] */
    int64_t chunk_tokens;
} kl_job;

static qn_status prepare(kl_job *job, qn_compute compute, const qn_context *ctx, qn_error *err) {
    const int64_t vocab = job->models[BASE]->config->vocab_size,
                  other = job->models[CANDIDATE]->config->vocab_size;
    if (vocab != other)
        return qn_fail(err, QN_E_SHAPE, "vocabularies of %lld and %lld have no divergence", (long long)vocab,
                       (long long)other);
    job->chunk_tokens = qni_head_chunk_tokens(vocab);
    for (int i = 0; i < N_SIDES; i++) {
        QN_TRY(qni_pass_open(&job->passes[i], job->models[i], compute, ctx, err));
        QN_TRY(QNI_ALLOC(job->logits[i], job->chunk_tokens * vocab, "logits", err));
    }
    job->targets = qni_alloc_array(job->chunk_tokens, sizeof *job->targets);
    job->rows = qni_alloc_array(job->chunk_tokens, sizeof *job->rows);
    return job->targets && job->rows ? QN_OK : qni_fail_nomem(err, "divergences");
}

static qn_status run_chunk(const kl_job *job, int64_t first, int64_t n, double *sum, qn_error *err) {
    for (int i = 0; i < N_SIDES; i++)
        QN_TRY(qni_linear(&job->passes[i], job->models[i]->head, -1,
                          job->hidden[i] + first * job->models[i]->config->hidden_size, 0, n, job->logits[i],
                          err));
    const qni_compare_args args = {.base = job->logits[BASE],
                                   .candidate = job->logits[CANDIDATE],
                                   .m = n,
                                   .n = job->models[BASE]->config->vocab_size,
                                   .targets = job->targets,
                                   .rows = job->rows};
    const qni_pass *pass = &job->passes[BASE];
    pass->ops->compare(pass->ops, &args, pass->n_threads);
    for (int64_t i = 0; i < n; i++) *sum += job->rows[i].kl_nats;
    return QN_OK;
}

qn_status qn_head_kl(const qn_model *base, const float *base_hidden, const qn_model *candidate,
                     const float *candidate_hidden, int64_t n, qn_compute compute, const qn_context *ctx,
                     double *kl_nats, qn_error *err) {
    kl_job job = {.models = {base, candidate}, .hidden = {base_hidden, candidate_hidden}};
    double sum = 0.0;
    qn_status status = prepare(&job, compute, ctx, err);
    for (int64_t first = 0; first < n && status == QN_OK; first += job.chunk_tokens) {
        const int64_t left = n - first;
        status = qn_check_cancelled(ctx, err);
        if (status == QN_OK)
            status = run_chunk(&job, first, left < job.chunk_tokens ? left : job.chunk_tokens, &sum, err);
    }
    for (int i = 0; i < N_SIDES; i++) {
        qni_pass_release(&job.passes[i]);
        free(job.logits[i]);
    }
    free(job.targets);
    free(job.rows);
    if (status == QN_OK) *kl_nats = n > 0 ? sum / (double)n : 0.0;
    return status;
}
