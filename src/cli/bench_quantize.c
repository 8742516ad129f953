/* Suite quantize: closed-form fits of all matrices, and the whole of `quern compress`. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

typedef struct quantize_bench {
    const bench *b;
    qn_checkpoint *checkpoint;
    const qn_layout *layout;
    qn_codec native;
    qn_encoded *encoded; /* [layout->n] owned; matrices of the last run */
    char *archive;       /* path that compress writes to; owned */
    char archive_sha256[QN_SHA256_HEX];
} quantize_bench;

static qn_status fit(void *user, qn_error *err) {
    quantize_bench *q = user;
    const qn_rowmix_options options = {
        .native = q->native, .rescue = {.code = QN_CODE_Q4, .group_size = 128}, .rule = QN_FIT_OPTIMAL};
    for (int64_t i = 0; i < q->layout->n; i++) {
        const qn_layout_entry *e = &q->layout->entries[i];
        if (!e->is_matrix) continue;
        qn_encoded_release(&q->encoded[i]);
        QN_TRY(qn_rowmix_encode(qn_checkpoint_weight(q->checkpoint, i), e->name, &options, NULL, NULL,
                                q->b->ctx, &q->encoded[i], err));
    }
    return QN_OK;
}

static qn_status fit_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const quantize_bench *q = user;
    qn_sha256 *hash;
    QN_TRY(qn_sha256_new(&hash, err));
    for (int64_t i = 0; i < q->layout->n; i++) {
        const qn_encoded *e = &q->encoded[i];
        if (q->layout->entries[i].is_matrix) qn_sha256_update(hash, e->data, (size_t)qn_encoded_bytes(e));
    }
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

static qn_status compress(void *user, qn_error *err) {
    quantize_bench *q = user;
    const qn_profile profile = qn_profile_builtin(QN_TRACK_TERNARY);
    qn_recipe recipe;
    qn_compress_result result = {0};
    QN_TRY(qn_recipe_builtin("fast", QN_TRACK_TERNARY, &recipe, err));
    const qn_compress_options options = {.model = cli_text(q->b->args, "model", NULL),
                                         .output = q->archive,
                                         .profile = &profile,
                                         .recipe = &recipe,
                                         .without_tokenizer = true};
    QN_TRY(qn_compress(&options, q->b->ctx, &result, err));
    memcpy(q->archive_sha256, result.sha256, sizeof q->archive_sha256);
    qn_compress_result_release(&result);
    return QN_OK;
}

static qn_status compress_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const quantize_bench *q = user;
    (void)err;
    memcpy(hex, q->archive_sha256, sizeof q->archive_sha256);
    return QN_OK;
}

static qn_status measure(bench *b, quantize_bench *q, qn_error *err) {
    double source_bytes = 0;
    for (int64_t i = 0; i < q->layout->n; i++) {
        const qn_weight *w = qn_checkpoint_weight(q->checkpoint, i);
        if (w->kind != QN_WEIGHT_DENSE)
            return qn_fail(err, QN_E_ARGUMENT,
                           "%s is packed already: the quantize suite needs a dense checkpoint",
                           cli_text(b->args, "model", NULL));
        if (q->layout->entries[i].is_matrix)
            source_bytes += (double)qn_view_elements(&w->dense) * (double)qn_dtype_bytes(w->dense.dtype);
    }
    bench_case c = {.suite = "quantize",
                    .name = "fit sign",
                    .unit = "GB/s",
                    .work = source_bytes / 1e9,
                    .limit = BENCH_READ_ALL,
                    .limit_work = source_bytes,
                    .run = fit,
                    .digest = fit_digest,
                    .user = q};
    q->native = (qn_codec){.code = QN_CODE_SIGN, .group_size = 128};
    QN_TRY(bench_measure(b, &c, err));
    c.name = "fit ternary";
    q->native = (qn_codec){.code = QN_CODE_TERNARY, .group_size = 64};
    QN_TRY(bench_measure(b, &c, err));
    c.name = "compress ternary, fast";
    c.run = compress;
    c.digest = compress_digest;
    return bench_measure(b, &c, err);
}

qn_status bench_suite_quantize(bench *b, qn_error *err) {
    quantize_bench q = {.b = b};
    char *folder = NULL;
    int64_t n = 0;
    qn_status st = qn_checkpoint_open(cli_text(b->args, "model", NULL), &q.checkpoint, err);
    if (st == QN_OK) st = bench_scratch(&folder, err);
    if (st == QN_OK) st = bench_path(folder, "artifact.zip", &q.archive, err);
    if (st == QN_OK) {
        q.layout = qn_checkpoint_layout(q.checkpoint);
        n = q.layout->n;
        q.encoded = calloc((size_t)n, sizeof *q.encoded);
        if (!q.encoded) st = qn_fail(err, QN_E_NOMEM, "bench: no memory for %lld matrices", (long long)n);
    }
    if (st == QN_OK) st = measure(b, &q, err);
    for (int64_t i = 0; i < n && q.encoded; i++) qn_encoded_release(&q.encoded[i]);
    free(q.encoded);
    free(q.archive);
    if (folder) qn_folder_abandon(folder);
    free(folder);
    qn_checkpoint_close(q.checkpoint);
    return st;
}
