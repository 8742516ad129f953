/* Suite pack: an archive of a checkpoint folder, and the hash that bounds it. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct pack_bench {
    const bench *b;
    char *folder, *weights, *archive; /* owned */
    char *model;                      /* the folder that is packed; owned */
    char sha256[QN_SHA256_HEX];       /* of the last run */
} pack_bench;

static qn_status hash_file(void *user, qn_error *err) {
    pack_bench *p = user;
    return qn_sha256_of_file(p->weights, p->sha256, NULL, err);
}

static qn_status pack(void *user, qn_error *err) {
    pack_bench *p = user;
    int64_t n_bytes;
    return qn_pack(p->model, p->archive, p->b->ctx, p->sha256, &n_bytes, err);
}

static qn_status last_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const pack_bench *p = user;
    (void)err;
    memcpy(hex, p->sha256, sizeof p->sha256);
    return QN_OK;
}

static qn_status measure(bench *b, pack_bench *p, qn_error *err) {
    uint64_t n_bytes;
    QN_TRY(qn_sha256_of_file(p->weights, p->sha256, &n_bytes, err));
    bench_case c = {.suite = "pack",
                    .name = "sha256 of a file",
                    .unit = "MB/s",
                    .work = (double)n_bytes / 1e6,
                    .limit = BENCH_SHA256,
                    .limit_work = (double)n_bytes,
                    .run = hash_file,
                    .digest = last_digest,
                    .user = p};
    QN_TRY(bench_measure(b, &c, err));
    c.name = "pack a folder";
    c.limit = BENCH_DURABLE_WRITE;
    c.run = pack;
    return bench_measure(b, &c, err);
}

qn_status bench_suite_pack(bench *b, qn_error *err) {
    pack_bench p = {.b = b};
    qn_status st = bench_scratch(&p.folder, err);
    if (st == QN_OK) st = bench_path(p.folder, "model", &p.model, err);
    if (st == QN_OK) st = bench_path(p.folder, "model/model.safetensors", &p.weights, err);
    if (st == QN_OK) st = bench_path(p.folder, "model.zip", &p.archive, err);
    if (st == QN_OK && mkdir(p.model, 0777) != 0)
        st = qn_fail_errno(err, "%s: cannot create this folder", p.model);
    if (st == QN_OK) st = bench_synthetic(p.model, &bench_head_dims, err);
    if (st == QN_OK) st = measure(b, &p, err);
    if (p.folder) qn_folder_abandon(p.folder);
    free(p.folder);
    free(p.model);
    free(p.weights);
    free(p.archive);
    return st;
}
