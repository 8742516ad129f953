#include "fit/model_labels.h"

#include "base/alloc.h"
#include "base/clones.h"
#include "quern/base/rng.h"
#include "tensor/ops.h"

#include <stdlib.h>

#include "base/banned.h"

enum {
    RNG_PURPOSE = 0x6c61626c, /* "labl" */
    CHUNK_LOGITS = 1 << 25,   /* 128 MiB */
    MAX_TOKENS = 1024,
    SUM_COLUMNS = 1024 /* of a task that sums over tokens */
};

typedef struct label_job {
    const qn_model *model;
    qn_compute compute;
    uint64_t seed;
    const qn_context *ctx;
    int64_t vocab, max_tokens;
    float *logits;   /* owned [max_tokens, V]; become exponentials */
    double *inverse; /* owned [max_tokens]; one over the sum of a row's exponentials */
    qn_ops *ops;     /* owned */
} label_job;

/* The first place where the running sum of the exponentials E passes a uniform share of their SUM. */
static int32_t draw(const float *e, int64_t n, double sum, uint64_t seed, uint32_t stream) {
    qn_rng rng;
    qn_rng_seed_stream(&rng, seed, RNG_PURPOSE, stream);
    const double threshold = qn_rng_uniform(&rng) * sum;
    double running = 0.0;
    int64_t last = 0; /* the last with a probability: SUM is rounded and may not be reached */
    for (int64_t v = 0; v < n; v++) {
        if (e[v] <= 0.0f) continue;
        last = v;
        running += (double)e[v];
        if (running > threshold) break;
    }
    return (int32_t)last;
}

QNI_CLONES static void add_variances(const float *e, double inverse, int64_t n, double *head) {
    for (int64_t v = 0; v < n; v++) {
        const double p = (double)e[v] * inverse;
        head[v] += p * (1.0 - p);
    }
}

static qn_status run_chunk(const label_job *job, const float *hidden, int64_t n, uint32_t first_token,
                           int32_t *labels, double *head, qn_error *err) {
    const int64_t vocab = job->vocab;
    const int n_threads = qn_context_threads(job->ctx);
    QN_TRY(qn_check_cancelled(job->ctx, err));
    QN_TRY(qn_head_logits(job->model, hidden, n, job->compute, job->ctx, job->logits, NULL, err));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t t = 0; t < n; t++) {
        float *e = job->logits + t * vocab;
        const double sum = (double)job->ops->kernels->softmax(e, vocab, 1.0f);
        job->inverse[t] = 1.0 / sum;
        labels[t] = draw(e, vocab, sum, job->seed, first_token + (uint32_t)t);
    }
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t v = 0; v < vocab; v += SUM_COLUMNS) {
        const int64_t count = vocab - v < SUM_COLUMNS ? vocab - v : SUM_COLUMNS;
        for (int64_t t = 0; t < n; t++)
            add_variances(job->logits + t * vocab + v, job->inverse[t], count, head + v);
    }
    return QN_OK;
}

static qn_status run(label_job *job, const float *hidden, int64_t n, uint32_t first_token, int32_t *labels,
                     double *head, qn_error *err) {
    const int64_t h = qn_model_config(job->model)->hidden_size;
    QN_TRY(qni_ops_open(&job->ops, err));
    QN_TRY(QNI_ALLOC(job->logits, job->max_tokens * job->vocab, "logits", err));
    QN_TRY(QNI_ALLOC(job->inverse, job->max_tokens, "sums of probabilities", err));
    for (int64_t t = 0; t < n; t += job->max_tokens) {
        const int64_t count = n - t < job->max_tokens ? n - t : job->max_tokens;
        QN_TRY(run_chunk(job, hidden + t * h, count, first_token + (uint32_t)t, labels + t, head, err));
    }
    return QN_OK;
}

qn_status qni_model_labels(const qn_model *model, const float *hidden, int64_t n, qn_compute compute,
                           uint64_t seed, uint32_t first_token, const qn_context *ctx, int32_t *labels,
                           double *head, qn_error *err) {
    const int64_t vocab = qn_model_config(model)->vocab_size, fitting = CHUNK_LOGITS / vocab;
    label_job job = {.model = model,
                     .compute = compute,
                     .seed = seed,
                     .ctx = ctx,
                     .vocab = vocab,
                     .max_tokens = fitting < 1            ? 1
                                   : fitting > MAX_TOKENS ? MAX_TOKENS
                                                          : fitting};
    if (job.max_tokens > n) job.max_tokens = n;
    const qn_status status = run(&job, hidden, n, first_token, labels, head, err);
    free(job.logits);
    free(job.inverse);
    qni_ops_close(job.ops);
    return status;
}
