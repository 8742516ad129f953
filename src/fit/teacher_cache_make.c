#include "quern/fit/teacher_cache.h"

#include "base/alloc.h"
#include "fit/teacher_cache_code.h"
#include "fit/teacher_cache_file.h"
#include "model/pass.h"
#include "model/walk_stage.h"
#include "quern/base/rng.h"

#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#include "base/banned.h"

enum {
    RNG_PURPOSE = 0x73616d70, /* "samp" */
    BATCH_TOKENS = 8192, /* walked together: enough to amortise decoding weights, little enough to lose */
    LEVEL = 6            /* of zlib: 9 gains half a percent for three times the time */
};

qn_teacher_cache_options qn_teacher_cache_options_default(void) {
    return (qn_teacher_cache_options){.k = 128, .n_samples = 32, .compute = QN_COMPUTE_F32};
}

qn_status qn_teacher_cache_text_sha256(const qn_sequences *sequences, char hex[QN_SHA256_HEX],
                                       qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    for (int64_t i = 0; i < sequences->n; i++) {
        const int64_t n = sequences->starts[i + 1] - sequences->starts[i];
        qn_sha256_update(hash, &n, sizeof n);
        qn_sha256_update(hash, sequences->ids + sequences->starts[i], (size_t)n * sizeof *sequences->ids);
    }
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

typedef struct cache_job {
    const qn_model *teacher;
    const qn_sequences *sequences;
    qn_compute compute;
    const qn_context *ctx;
    qni_stage stage;
    qni_cache_code code;
    qn_ops *ops;                                        /* owned; for its kernels */
    int64_t max_batch_tokens, max_tokens, chunk_tokens; /* of a batch, a sequence, a chunk of logits */
    size_t max_bytes;                                   /* of a sequence before it is deflated */
    int64_t *starts;                                    /* owned [n + 1]; of a batch */
    float *hidden;                                      /* owned [batch tokens, h] */
    float *logits;                                      /* owned [chunk tokens, V] */
    qni_cache_work work;                                /* owned, of chunk tokens */
    uint8_t *bytes, *deflated;                          /* owned [max_bytes], [its bound] */
    qni_cache_writer writer;
} cache_job;

static void release(cache_job *job) {
    qni_ops_close(job->ops);
    qni_cache_writer_close(&job->writer);
    free(job->starts);
    free(job->hidden);
    free(job->logits);
    free(job->work.largest);
    free(job->work.ids);
    free(job->work.samples);
    free(job->bytes);
    free(job->deflated);
}

static int64_t length_of(const qn_sequences *sequences, int64_t i) {
    return sequences->starts[i + 1] - sequences->starts[i];
}

static qn_status check_arguments(const qn_sequences *sequences, const qn_teacher_cache_info *info,
                                 qn_error *err) {
    if (info->k < 1 || info->k > info->vocab_size)
        return qn_fail(err, QN_E_ARGUMENT, "a teacher cache of %lld ids a position, of a vocabulary of %lld",
                       (long long)info->k, (long long)info->vocab_size);
    if (info->n_samples < 0 || info->n_samples > info->vocab_size - info->k)
        return qn_fail(err, QN_E_ARGUMENT,
                       "a teacher cache of %lld samples a position, of %lld ids beside the %lld largest",
                       (long long)info->n_samples, (long long)(info->vocab_size - info->k),
                       (long long)info->k);
    if (sequences->n < 1) return qn_fail(err, QN_E_ARGUMENT, "a teacher cache of no sequence");
    for (int64_t i = 0; i < sequences->n; i++)
        if (sequences->starts[i] < 0 || length_of(sequences, i) < 0)
            return qn_fail(err, QN_E_ARGUMENT, "sequence %lld ends before it begins", (long long)i);
    return QN_OK;
}

/* The sequence behind the batch that begins with FIRST. A function of the sequences only. */
static int64_t batch_end(const qn_sequences *sequences, int64_t first) {
    int64_t end = first + 1, n_tokens = length_of(sequences, first);
    while (end < sequences->n && length_of(sequences, end) <= BATCH_TOKENS - n_tokens)
        n_tokens += length_of(sequences, end++);
    return end;
}

static void measure(cache_job *job) {
    const qn_sequences *s = job->sequences;
    for (int64_t i = 0; i < s->n; i++)
        if (length_of(s, i) > job->max_tokens) job->max_tokens = length_of(s, i);
    for (int64_t first = 0, end; first < s->n; first = end) {
        end = batch_end(s, first);
        const int64_t n = s->starts[end] - s->starts[first];
        if (n > job->max_batch_tokens) job->max_batch_tokens = n;
    }
}

static qn_status prepare(cache_job *job, const qn_teacher_cache_info *info, qn_error *err) {
    const qn_config *config = qn_model_config(job->teacher);
    int64_t floats;
    measure(job);
    qni_cache_code_init(&job->code, info->vocab_size, info->k, info->n_samples);
    job->chunk_tokens = qni_head_chunk_tokens(config->vocab_size);
    if (job->chunk_tokens > job->max_tokens) job->chunk_tokens = job->max_tokens;
    job->stage =
        (qni_stage){.name = "teacher cache", .total = (uint64_t)info->n_tokens * (uint64_t)config->n_layers};
    if (!qni_multiply_i64(job->max_batch_tokens, config->hidden_size, &floats) ||
        !qni_cache_code_bytes(&job->code, job->max_tokens, &job->max_bytes))
        return qni_fail_nomem(err, "hidden states");
    QN_TRY(qni_ops_open(&job->ops, err));
    QN_TRY(QNI_ALLOC(job->starts, job->sequences->n + 1, "starts of sequences", err));
    QN_TRY(QNI_ALLOC(job->hidden, floats, "hidden states", err));
    QN_TRY(QNI_ALLOC(job->logits, job->chunk_tokens * config->vocab_size, "logits", err));
    QN_TRY(QNI_ALLOC(job->work.largest, job->chunk_tokens * info->k, "largest logits", err));
    QN_TRY(QNI_ALLOC(job->work.ids, job->chunk_tokens * info->k, "largest logits", err));
    QN_TRY(QNI_ALLOC(job->work.samples, job->chunk_tokens * info->n_samples, "samples", err));
    QN_TRY(QNI_ALLOC(job->bytes, (int64_t)job->max_bytes, "a coded sequence", err));
    return QNI_ALLOC(job->deflated, (int64_t)compressBound(job->max_bytes), "a deflated sequence", err);
}

/* Where a position's samples begin: a function of the place in the text alone. */
static double uniform_of(int64_t sequence, int64_t token) {
    qn_rng rng;
    qn_rng_seed_stream(&rng, (uint64_t)sequence, RNG_PURPOSE, (uint32_t)token);
    return qn_rng_uniform(&rng);
}

/* Positions [first, first + n) of sequence INDEX of N_TOKENS, of which HIDDEN is the first. */
static qn_status code_positions(const cache_job *job, const float *hidden, int64_t index, int64_t first,
                                int64_t n, int64_t n_tokens, qn_error *err) {
    const qni_cache_code *code = &job->code;
    const int n_threads = qn_context_threads(job->ctx);
    QN_TRY(qn_check_cancelled(job->ctx, err));
    QN_TRY(qn_head_logits(job->teacher, hidden + first * qn_model_config(job->teacher)->hidden_size, n,
                          job->compute, job->ctx, job->logits, NULL, err));
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < n; i++) {
        const qni_cache_work work = {.largest = job->work.largest + i * code->k,
                                     .ids = job->work.ids + i * code->k,
                                     .samples = job->work.samples + i * code->n_samples};
        qni_cache_code_row(code, job->ops->kernels, job->logits + i * code->vocab,
                           uniform_of(index, first + i), &work, n_tokens, first + i, job->bytes);
    }
    return QN_OK;
}

static qn_status add_sequence(cache_job *job, const float *hidden, int64_t index, qn_error *err) {
    const int64_t n_tokens = length_of(job->sequences, index);
    size_t n_bytes = 0;
    (void)qni_cache_code_bytes(&job->code, n_tokens, &n_bytes); /* no more than that of the longest */
    for (int64_t first = 0; first < n_tokens; first += job->chunk_tokens) {
        const int64_t left = n_tokens - first;
        QN_TRY(code_positions(job, hidden, index, first, left < job->chunk_tokens ? left : job->chunk_tokens,
                              n_tokens, err));
    }
    uLongf n_deflated = compressBound(job->max_bytes);
    if (compress2(job->deflated, &n_deflated, job->bytes, n_bytes, LEVEL) != Z_OK)
        return qni_fail_nomem(err, "zlib's state");
    return qni_cache_writer_append(&job->writer, n_tokens, job->deflated, n_deflated, err);
}

/* Sequences [first, end), of which those are appended that are not in the file yet. */
static qn_status run_batch(cache_job *job, int64_t first, int64_t end, qn_error *err) {
    const qn_sequences *s = job->sequences;
    const int64_t origin = s->starts[first], h = qn_model_config(job->teacher)->hidden_size;
    const qn_sequences batch = {.ids = s->ids + origin, .starts = job->starts, .n = end - first};
    const qn_walk_options options = {.compute = job->compute};
    for (int64_t i = first; i <= end; i++) job->starts[i - first] = s->starts[i] - origin;
    if (s->starts[end] > origin)
        QN_TRY(qni_walk(job->teacher, &batch, &options, job->ctx, &job->stage, job->hidden, NULL, err));
    for (int64_t i = job->writer.n_sequences; i < end; i++)
        QN_TRY(add_sequence(job, job->hidden + (s->starts[i] - origin) * h, i, err));
    return qni_cache_writer_sync(&job->writer, err);
}

static qn_status run(cache_job *job, const qn_teacher_cache_info *info, const char *path, qn_error *err) {
    const int64_t n = job->sequences->n;
    const uint64_t n_layers = (uint64_t)qn_model_config(job->teacher)->n_layers;
    QN_TRY(qni_cache_writer_open(path, info, job->sequences, &job->writer, err));
    QN_TRY(prepare(job, info, err));
    for (int64_t first = 0, end; first < n; first = end) {
        end = batch_end(job->sequences, first);
        if (end > job->writer.n_sequences)
            QN_TRY(run_batch(job, first, end, err));
        else
            job->stage.done +=
                (uint64_t)(job->sequences->starts[end] - job->sequences->starts[first]) * n_layers;
    }
    qn_report_progress(job->ctx, job->stage.name, job->stage.total, job->stage.total);
    return qni_cache_writer_publish(&job->writer, err);
}

/* Says how a stopped run goes on. */
static qn_status explain(const cache_job *job, qn_status status, const char *path, qn_error *err) {
    if (status != QN_E_CANCELLED) return status;
    return qn_fail(err, status, "%s: stopped after %lld of %lld sequences; the same call goes on from there",
                   path, (long long)job->writer.n_sequences, (long long)job->sequences->n);
}

static qn_status describe(const qn_model *teacher, const qn_sequences *sequences,
                          const qn_teacher_cache_options *options, const qn_context *ctx,
                          qn_teacher_cache_info *out, qn_error *err) {
    *out = (qn_teacher_cache_info){.vocab_size = qn_model_config(teacher)->vocab_size,
                                   .k = options->k,
                                   .n_samples = options->n_samples,
                                   .n_sequences = sequences->n,
                                   .compute = options->compute};
    QN_TRY(check_arguments(sequences, out, err));
    out->n_tokens = sequences->starts[sequences->n] - sequences->starts[0];
    QN_TRY(qn_checkpoint_sha256(qn_model_checkpoint(teacher), ctx, out->teacher_sha256, err));
    return qn_teacher_cache_text_sha256(sequences, out->text_sha256, err);
}

/* The finished cache at PATH, if it is that of WANTED. */
static qn_status inspect(const char *path, const qn_teacher_cache_info *wanted, qn_teacher_cache_info *out,
                         qn_error *err) {
    qn_teacher_cache *cache = NULL;
    QN_TRY(qn_teacher_cache_open(path, wanted->teacher_sha256, wanted->text_sha256, &cache, err));
    const qn_teacher_cache_info found = qn_teacher_cache_info_of(cache);
    qn_teacher_cache_close(cache);
    QN_TRY(qni_cache_check_same(&found, wanted, path, err));
    if (out) *out = found;
    return QN_OK;
}

qn_status qn_teacher_cache_make(const qn_model *teacher, const qn_sequences *sequences,
                                const qn_teacher_cache_options *options, const char *path,
                                const qn_context *ctx, qn_teacher_cache_info *out, qn_error *err) {
    cache_job job = {
        .teacher = teacher, .sequences = sequences, .compute = options->compute, .ctx = ctx, .writer.fd = -1};
    qn_teacher_cache_info info;
    QN_TRY(describe(teacher, sequences, options, ctx, &info, err));
    if (access(path, F_OK) != 0) {
        const qn_status status = explain(&job, run(&job, &info, path, err), path, err);
        release(&job);
        QN_TRY(status);
    }
    return inspect(path, &info, out, err);
}
