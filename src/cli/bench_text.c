/* Suite tokenizer: text to ids and back, on one thread. */
#include "bench.h"

#include <stdlib.h>

typedef struct text_bench {
    qn_tokenizer *tokenizer;
    qn_documents documents;
    qn_ids ids;      /* of all documents, one after the other */
    int64_t *starts; /* [documents.n + 1] owned */
    qn_sha256 *hash; /* of the texts decoded in the present digest */
} text_bench;

static qn_status encode(void *user, qn_error *err) {
    text_bench *t = user;
    t->ids.n = 0;
    for (int64_t i = 0; i < t->documents.n; i++) {
        const qn_document *d = &t->documents.documents[i];
        t->starts[i] = t->ids.n;
        QN_TRY(qn_tokenizer_encode(t->tokenizer, d->text, d->n_bytes, &t->ids, err));
    }
    t->starts[t->documents.n] = t->ids.n;
    return QN_OK;
}

static qn_status encode_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const text_bench *t = user;
    return qn_sha256_of_memory(t->ids.ids, (size_t)t->ids.n * sizeof *t->ids.ids, hex, err);
}

static qn_status decode(void *user, qn_error *err) {
    text_bench *t = user;
    for (int64_t i = 0; i < t->documents.n; i++) {
        char *text;
        size_t n_bytes;
        QN_TRY(qn_tokenizer_decode(t->tokenizer, t->ids.ids + t->starts[i], t->starts[i + 1] - t->starts[i],
                                   false, &text, &n_bytes, err));
        if (t->hash) qn_sha256_update(t->hash, text, n_bytes);
        free(text);
    }
    return QN_OK;
}

static qn_status decode_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    text_bench *t = user;
    QN_TRY(qn_sha256_new(&t->hash, err));
    qn_status st = decode(t, err);
    if (st == QN_OK) qn_sha256_hex(t->hash, hex);
    qn_sha256_free(t->hash);
    t->hash = NULL;
    return st;
}

static qn_status measure(bench *b, text_bench *t, qn_error *err) {
    double n_bytes = 0;
    for (int64_t i = 0; i < t->documents.n; i++) n_bytes += (double)t->documents.documents[i].n_bytes;
    bench_case c = {.suite = "tokenizer", .unit = "MB/s", .work = n_bytes / 1e6, .user = t};
    c.limit = BENCH_COPY_ONE;
    c.limit_work = n_bytes;
    c.name = "encode, 1 thread";
    c.run = encode;
    c.digest = encode_digest;
    QN_TRY(bench_measure(b, &c, err));
    c.name = "decode, 1 thread";
    c.run = decode;
    c.digest = decode_digest;
    return bench_measure(b, &c, err);
}

qn_status bench_suite_tokenizer(bench *b, qn_error *err) {
    text_bench t = {0};
    const char *tokenizer = cli_text(b->args, "tokenizer", cli_text(b->args, "model", NULL));
    qn_status st = qn_tokenizer_open(tokenizer, &t.tokenizer, err);
    if (st == QN_OK) st = qn_documents_open(cli_text(b->args, "docs", NULL), &t.documents, err);
    if (st == QN_OK) {
        t.starts = calloc((size_t)t.documents.n + 1, sizeof *t.starts);
        if (!t.starts) st = qn_fail(err, QN_E_NOMEM, "bench: no memory for the places of the documents");
    }
    if (st == QN_OK) st = measure(b, &t, err);
    free(t.starts);
    qn_ids_release(&t.ids);
    qn_documents_release(&t.documents);
    qn_tokenizer_free(t.tokenizer);
    return st;
}
