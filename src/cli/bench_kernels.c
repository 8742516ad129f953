/* Suite kernels: what the machine can do, decoding of packed rows, and the matrix product from dense and from packed
 * weights. The product is the head of a checkpoint of random weights: y [TOKENS, V] = x [TOKENS, h] W^T. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

enum { TOKENS = 512, TILE_ROWS = 64 /* decoded at a time: 256 KiB, as the product does it */ };

typedef struct kernel_bench {
    const bench *b;
    qn_model *model;
    int64_t head; /* layout entry of W */
    qn_weight packed;
    qn_compute compute;
    int64_t n_tokens;
    float *x, *y; /* [TOKENS, BENCH_HIDDEN], [TOKENS, BENCH_VOCAB]; owned */
    float *tile;  /* [TILE_ROWS, BENCH_HIDDEN] owned */
    qn_sha256 *hash;
} kernel_bench;

static qn_status product(void *user, qn_error *err) {
    kernel_bench *k = user;
    return qn_head_logits(k->model, k->x, k->n_tokens, k->compute, k->b->ctx, k->y, NULL, err);
}

static qn_status product_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const kernel_bench *k = user;
    return qn_sha256_of_memory(k->y, (size_t)(k->n_tokens * BENCH_VOCAB) * sizeof *k->y, hex, err);
}

static qn_status decode(void *user, qn_error *err) {
    kernel_bench *k = user;
    (void)err;
    for (int64_t row = 0; row < BENCH_VOCAB; row += TILE_ROWS) {
        qn_encoded_decode_rows(&k->packed.encoded, row, TILE_ROWS, k->tile);
        if (k->hash) qn_sha256_update(k->hash, k->tile, sizeof(float) * TILE_ROWS * BENCH_HIDDEN);
    }
    return QN_OK;
}

static qn_status decode_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    kernel_bench *k = user;
    QN_TRY(qn_sha256_new(&k->hash, err));
    (void)decode(k, err);
    qn_sha256_hex(k->hash, hex);
    qn_sha256_free(k->hash);
    k->hash = NULL;
    return QN_OK;
}

static qn_status add_limits(bench *b, qn_error *err) {
    for (int i = 0; i < BENCH_LIMIT_COUNT; i++) {
        double rate;
        if ((i == BENCH_TILES_ALL || i == BENCH_PARTS_ALL) && !bench_has_tiles(b)) continue;
        QN_TRY(bench_limit_rate(b, (bench_limit)i, &rate, err));
        QN_TRY(bench_add_fact(b, "kernels", bench_limit_name((bench_limit)i),
                              bench_is_arithmetic((bench_limit)i) ? "GFLOP/s" : "GB/s", rate / 1e9, err));
    }
    return QN_OK;
}

static qn_status measure_product(bench *b, kernel_bench *k, const char *name, qn_error *err) {
    const double n_operations = 2.0 * (double)k->n_tokens * BENCH_VOCAB * BENCH_HIDDEN;
    const bench_case c = {.suite = "kernels",
                          .name = name,
                          .unit = "GFLOP/s",
                          .work = n_operations / 1e9,
                          .limit = bench_product_limit(b, k->compute),
                          .limit_work = n_operations,
                          .run = product,
                          .digest = product_digest,
                          .user = k};
    return bench_measure(b, &c, err);
}

/* One token: every weight is read for one multiply-add. */
static qn_status measure_token(bench *b, kernel_bench *k, qn_error *err) {
    const double n_bytes = (double)sizeof(uint16_t) * BENCH_VOCAB * BENCH_HIDDEN;
    const bench_case c = {.suite = "kernels",
                          .name = "product, 1 token, bf16 weights",
                          .unit = "GB/s",
                          .work = n_bytes / 1e9,
                          .limit = BENCH_READ_ALL,
                          .limit_work = n_bytes,
                          .run = product,
                          .digest = product_digest,
                          .user = k};
    k->n_tokens = 1;
    qn_status st = bench_measure(b, &c, err);
    k->n_tokens = TOKENS;
    return st;
}

static qn_status measure_decode(bench *b, kernel_bench *k, const char *name, qn_error *err) {
    const double n_bytes = (double)sizeof(float) * BENCH_VOCAB * BENCH_HIDDEN;
    const bench_case c = {.suite = "kernels",
                          .name = name,
                          .unit = "GB/s",
                          .work = n_bytes / 1e9,
                          .limit = BENCH_COPY_CACHE_ONE,
                          .limit_work = n_bytes,
                          .run = decode,
                          .digest = decode_digest,
                          .user = k};
    return bench_measure(b, &c, err);
}

/* Decodes and multiplies W packed with CODEC; published fits, since only speed counts here. */
static qn_status measure_packed(bench *b, kernel_bench *k, qn_codec codec, const char *decode_name,
                                const char *product_name, qn_error *err) {
    const qn_rowmix_options options = {
        .native = codec, .rescue = {.code = QN_CODE_Q4, .group_size = 128}, .rule = QN_FIT_PUBLISHED};
    k->packed = (qn_weight){.kind = QN_WEIGHT_ENCODED};
    QN_TRY(qn_rowmix_encode(qn_model_weight(k->model, k->head), "W", &options, NULL, NULL, b->ctx,
                            &k->packed.encoded, err));
    qn_status st = measure_decode(b, k, decode_name, err);
    if (st == QN_OK && product_name) {
        st = qn_model_set_weight(k->model, k->head, &k->packed, err);
        if (st == QN_OK) st = measure_product(b, k, product_name, err);
        qn_status restored = qn_model_set_weight(k->model, k->head, NULL, st == QN_OK ? err : NULL);
        if (st == QN_OK) st = restored;
    }
    qn_encoded_release(&k->packed.encoded);
    return st;
}

static qn_status measure(bench *b, kernel_bench *k, qn_error *err) {
    QN_TRY(add_limits(b, err));
    QN_TRY(measure_product(b, k, "product, bf16 weights", err));
    if (b->isa == QN_ISA_AMX) {
        k->compute = QN_COMPUTE_BF16;
        QN_TRY(measure_product(b, k, "product in bf16, bf16 weights", err));
        k->compute = QN_COMPUTE_F32;
    }
    QN_TRY(measure_token(b, k, err));
    QN_TRY(measure_packed(b, k, (qn_codec){.code = QN_CODE_SIGN, .group_size = 128},
                          "decode sign/128, 1 thread", "product, sign/128 weights", err));
    QN_TRY(measure_packed(b, k, (qn_codec){.code = QN_CODE_TERNARY, .group_size = 64},
                          "decode ternary/64, 1 thread", "product, ternary/64 weights", err));
    return measure_packed(b, k, (qn_codec){.code = QN_CODE_Q4, .group_size = 128}, "decode q4/128, 1 thread",
                          NULL, err);
}

static qn_status allocate(kernel_bench *k, qn_error *err) {
    qn_rng rng;
    k->x = calloc((size_t)TOKENS * BENCH_HIDDEN, sizeof *k->x);
    k->y = calloc((size_t)TOKENS * BENCH_VOCAB, sizeof *k->y);
    k->tile = aligned_alloc(64, sizeof *k->tile * TILE_ROWS * BENCH_HIDDEN);
    if (!k->x || !k->y || !k->tile) return qn_fail(err, QN_E_NOMEM, "bench: no memory for a matrix product");
    qn_rng_seed(&rng, 1);
    for (int64_t i = 0; i < (int64_t)TOKENS * BENCH_HIDDEN; i++)
        k->x[i] = (float)(qn_rng_uniform(&rng) - 0.5);
    return QN_OK;
}

qn_status bench_suite_kernels(bench *b, qn_error *err) {
    kernel_bench k = {.b = b, .n_tokens = TOKENS};
    char *folder = NULL;
    qn_status st = bench_scratch(&folder, err);
    if (st == QN_OK) st = bench_synthetic(folder, &bench_head_dims, err);
    if (st == QN_OK) st = qn_model_open(folder, &k.model, err);
    if (st == QN_OK) st = allocate(&k, err);
    if (st == QN_OK) {
        k.head = qn_layout_find(qn_checkpoint_layout(qn_model_checkpoint(k.model)), QN_TENSOR_EMBED, -1);
        st = measure(b, &k, err);
    }
    free(k.x);
    free(k.y);
    free(k.tile);
    qn_model_close(k.model);
    if (folder) qn_folder_abandon(folder);
    free(folder);
    return st;
}
