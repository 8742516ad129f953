#include "quern/model/walk.h"

#include "model/pass.h"

#include "base/banned.h"

enum {
    CHUNK_LOGITS = 1 << 25, /* of a chunk: 128 MiB */
    MIN_TOKENS = 64, /* below that, reading the head and writing its gradient cost more than the product */
    MAX_TOKENS = 1024
};

int64_t qni_head_chunk_tokens(int64_t vocab_size) {
    const int64_t fitting = CHUNK_LOGITS / vocab_size;
    return fitting < MIN_TOKENS ? MIN_TOKENS : fitting > MAX_TOKENS ? MAX_TOKENS : fitting;
}

qn_status qn_head_logits(const qn_model *model, const float *hidden, int64_t n, qn_compute compute,
                         const qn_context *ctx, float *logits, qn_walk_stats *stats, qn_error *err) {
    qni_pass pass = {0};
    float largest = 0.0f;
    QN_TRY(qni_pass_open(&pass, model, compute, ctx, err));
    pass.stats = stats;
    const qni_linear_args args = {
        .bf16 = pass.bf16, .x = hidden, .m = n, .w = &pass.matrices[model->head], .y = logits};
    qn_status status = pass.ops->linear(pass.ops, &args, pass.n_threads, &largest, err);
    if (status == QN_OK) status = qni_note_largest(&pass, largest, -1, "logits", err);
    qni_pass_release(&pass);
    return status;
}

static qn_status check_targets(const int32_t *targets, int64_t n, int64_t vocab, qn_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (targets[i] < 0 || targets[i] >= vocab) {
            return qn_fail(err, QN_E_VALUE, "target id %d is outside the vocabulary of %lld", targets[i],
                           (long long)vocab);
        }
    }
    return QN_OK;
}

qn_status qn_head_nll(const qn_model *model, const float *hidden, const int32_t *targets, int64_t n,
                      qn_compute compute, const qn_context *ctx, double *nll, qn_walk_stats *stats,
                      qn_error *err) {
    qni_pass pass = {0};
    float largest = 0.0f;
    QN_TRY(check_targets(targets, n, qn_model_config(model)->vocab_size, err));
    QN_TRY(qni_pass_open(&pass, model, compute, ctx, err));
    pass.stats = stats;
    const qni_nll_args args = {.bf16 = pass.bf16,
                               .x = hidden,
                               .m = n,
                               .w = &pass.matrices[model->head],
                               .targets = targets,
                               .nll = nll};
    qn_status status = pass.ops->nll(pass.ops, &args, pass.n_threads, &largest, err);
    if (status == QN_OK) status = qni_note_largest(&pass, largest, -1, "logits", err);
    qni_pass_release(&pass);
    return status;
}
