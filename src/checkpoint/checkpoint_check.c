/* Passes over all bytes of an open checkpoint: finite values, digests. */
#include "checkpoint/checkpoint_files.h"

#include "base/mapping.h"
#include "checkpoint/pages.h"
#include "quern/base/sha256.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/banned.h"

enum { DIGEST_BYTES = 4 << 20 }; /* read before their pages are left behind */

typedef struct first_failure {
    _Atomic int64_t entry; /* the lowest that failed; layout.n while none did */
    qn_status status;
    qn_error error;
} first_failure;

static void record(first_failure *failure, int64_t entry, qn_status status, const qn_error *error) {
#pragma omp critical(qni_checkpoint_failure)
    if (entry < atomic_load(&failure->entry)) {
        atomic_store(&failure->entry, entry);
        failure->status = status;
        failure->error = *error;
    }
}

qn_status qni_checkpoint_for_each(const qn_checkpoint *c, const qn_context *ctx, const char *stage,
                                  qni_weight_check check, qn_error *err) {
    const int64_t n = c->layout.n;
    first_failure failure = {.entry = n};
    _Atomic bool cancelled = false;
    _Atomic int64_t n_done = 0;
#pragma omp parallel for schedule(dynamic, 1) num_threads(qn_context_threads(ctx))
    for (int64_t i = 0; i < n; i++) {
        /* Entries below a known failure still count: the lowest one is reported. */
        if (atomic_load(&cancelled) || i > atomic_load(&failure.entry)) continue;
        qn_error error = {0};
        const qn_status status = check(c, i, &error);
        qni_checkpoint_forget(c, i);
        if (status != QN_OK) record(&failure, i, status, &error);
        const int64_t done = atomic_fetch_add(&n_done, 1) + 1;
        if (!stage || omp_get_thread_num() != 0) continue;
        qn_report_progress(ctx, stage, (uint64_t)done, (uint64_t)n);
        if (qn_check_cancelled(ctx, NULL) != QN_OK) atomic_store(&cancelled, true);
    }
    if (atomic_load(&cancelled)) return qn_fail(err, QN_E_CANCELLED, "%s: cancelled", stage);
    if (failure.status != QN_OK && err) *err = failure.error;
    return failure.status;
}

static qn_status check_weight_finite(const qn_checkpoint *c, int64_t entry, qn_error *err) {
    const qn_weight *weight = &c->weights[entry];
    if (weight->kind != QN_WEIGHT_DENSE)
        return QN_OK; /* the scales of packed matrices were checked when opened */
    const int64_t at = qn_view_find_nonfinite(&weight->dense, 0, qn_view_elements(&weight->dense));
    if (at < 0) return QN_OK;
    const int64_t cols = qn_weight_cols(weight);
    return qn_fail(
        err, QN_E_VALUE,
        "%s: tensor '%s' holds NaN or infinity at row %lld, column %lld (element %lld): the checkpoint is "
        "damaged, use another one",
        c->files[c->file_of[entry]].name, c->layout.entries[entry].name, (long long)(at / cols),
        (long long)(at % cols), (long long)at);
}

qn_status qn_checkpoint_check_finite(const qn_checkpoint *checkpoint, const qn_context *ctx, qn_error *err) {
    return qni_checkpoint_for_each(checkpoint, ctx, "check: finite weights", check_weight_finite, err);
}

/* Of a mapped file, whose pages are left behind. */
static qn_status digest_of(const qni_weight_file *file, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    for (size_t at = 0; at < file->n_bytes; at += DIGEST_BYTES) {
        const size_t n = file->n_bytes - at < DIGEST_BYTES ? file->n_bytes - at : DIGEST_BYTES;
        qn_sha256_update(hash, file->data + at, n);
        qni_mapping_forget(file->data + at, n);
    }
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

/* Adds `<hex>  <name>\n` of one file to HASH. */
static qn_status add_digest_line(const qni_weight_file *file, qn_sha256 *hash, qn_error *err) {
    char hex[QN_SHA256_HEX];
    QN_TRY(digest_of(file, hex, err));
    qn_sha256_update(hash, hex, strlen(hex));
    qn_sha256_update(hash, "  ", 2);
    qn_sha256_update(hash, file->member, strlen(file->member));
    qn_sha256_update(hash, "\n", 1);
    return QN_OK;
}

qn_status qn_checkpoint_sha256(const qn_checkpoint *checkpoint, const qn_context *ctx, char hex[65],
                               qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    qn_status status = QN_OK;
    for (size_t i = 0; i < checkpoint->n_files && status == QN_OK; i++) {
        qn_report_progress(ctx, "hash: weight files", i, checkpoint->n_files);
        status = qn_check_cancelled(ctx, err);
        if (status == QN_OK) status = add_digest_line(&checkpoint->files[i], hash, err);
    }
    if (status == QN_OK) {
        qn_report_progress(ctx, "hash: weight files", checkpoint->n_files, checkpoint->n_files);
        qn_sha256_hex(hash, hex);
    }
    qn_sha256_free(hash);
    return status;
}
