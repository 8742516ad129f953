#include "quern/fit/teacher_cache.h"

#include "base/alloc.h"
#include "base/mapping.h"
#include "fit/teacher_cache_code.h"
#include "fit/teacher_cache_file.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/banned.h"

struct qn_teacher_cache {
    char *path; /* owned */
    qni_mapping file;
    qn_teacher_cache_info info;
    qni_cache_code code;
    qni_cache_chunk *chunks; /* owned [n_sequences] */
};

/* ---- opening ---- */

static qn_status read_chunks(qn_teacher_cache *cache, uint64_t offset, qn_error *err) {
    qn_teacher_cache_info *info = &cache->info;
    int64_t n_tokens = 0;
    for (int64_t i = 0; i < info->n_sequences; i++) {
        qni_cache_found found;
        QN_TRY(qni_cache_next(cache->file.data, info->n_bytes, &offset, info->last_link, &cache->chunks[i],
                              &found, err));
        if (found == QNI_CACHE_CUT)
            return qn_fail(err, QN_E_FORMAT, "%s: is cut short after %lld of %lld sequences: make it anew",
                           cache->path, (long long)i, (long long)info->n_sequences);
        if (found == QNI_CACHE_BROKEN)
            return qn_fail(
                err, QN_E_FORMAT,
                "%s: the chain of hashes breaks at sequence %lld: it is damaged, or its chunks are "
                "out of order: make it anew",
                cache->path, (long long)i);
        if (cache->chunks[i].n_tokens > info->n_tokens - n_tokens) break;
        n_tokens += cache->chunks[i].n_tokens;
    }
    if (n_tokens == info->n_tokens && offset == info->n_bytes) return QN_OK;
    return qn_fail(err, QN_E_FORMAT, "%s: its sequences are not the %lld tokens it announces: make it anew",
                   cache->path, (long long)info->n_tokens);
}

static qn_status open_file(qn_teacher_cache *cache, const char *teacher_sha256, const char *text_sha256,
                           qn_error *err) {
    qn_teacher_cache_info *info = &cache->info;
    size_t n_header;
    QN_TRY(qni_mapping_open(cache->path, &cache->file, err));
    QN_TRY(qni_cache_header_parse(cache->file.data, cache->file.n_bytes, cache->path, info, &n_header, err));
    QN_TRY(qni_cache_check_origin(info, teacher_sha256, text_sha256, cache->path, err));
    info->n_bytes = cache->file.n_bytes;
    QN_TRY(qn_sha256_of_memory(cache->file.data, n_header, info->last_link, err));
    if ((uint64_t)info->n_sequences > info->n_bytes / QNI_CACHE_RECORD_BYTES)
        return qn_fail(err, QN_E_FORMAT, "%s: is cut short: %llu bytes for %lld sequences: make it anew",
                       cache->path, (unsigned long long)info->n_bytes, (long long)info->n_sequences);
    cache->chunks = qni_alloc_array(info->n_sequences, sizeof *cache->chunks);
    if (!cache->chunks) return qni_fail_nomem(err, "chunks of a teacher cache");
    QN_TRY(read_chunks(cache, n_header, err));
    qni_cache_code_init(&cache->code, info->vocab_size, info->k, info->n_samples);
    return QN_OK;
}

qn_status qn_teacher_cache_open(const char *path, const char *teacher_sha256, const char *text_sha256,
                                qn_teacher_cache **out, qn_error *err) {
    qn_teacher_cache *cache = qni_alloc_array(1, sizeof *cache);
    if (!cache || !(cache->path = qni_copy_string(path))) {
        free(cache);
        return qni_fail_nomem(err, path);
    }
    const qn_status status = open_file(cache, teacher_sha256, text_sha256, err);
    if (status == QN_OK)
        *out = cache;
    else
        qn_teacher_cache_close(cache);
    return status;
}

void qn_teacher_cache_close(qn_teacher_cache *cache) {
    if (!cache) return;
    qni_mapping_release(&cache->file);
    free(cache->chunks);
    free(cache->path);
    free(cache);
}

qn_teacher_cache_info qn_teacher_cache_info_of(const qn_teacher_cache *cache) {
    return cache->info;
}

int64_t qn_teacher_cache_tokens(const qn_teacher_cache *cache, int64_t sequence) {
    return cache->chunks[sequence].n_tokens;
}

/* ---- reading ---- */

static qn_status fail_damaged(const qn_teacher_cache *cache, int64_t sequence, qn_error *err) {
    return qn_fail(err, QN_E_FORMAT, "%s: sequence %lld is damaged: make it anew", cache->path,
                   (long long)sequence);
}

static qn_status read_sequence(const qn_teacher_cache *cache, int64_t sequence, uint8_t *bytes,
                               size_t n_bytes, const qn_teacher_rows *rows, int64_t first_row,
                               qn_error *err) {
    const qni_cache_chunk *chunk = &cache->chunks[sequence];
    uLongf n_inflated = n_bytes;
    bool fits = false;
    QN_TRY(qni_cache_payload_fits(cache->file.data, chunk, &fits, err));
    if (fits)
        fits = uncompress(bytes, &n_inflated, cache->file.data + chunk->offset, chunk->n_bytes) == Z_OK &&
               n_inflated == n_bytes &&
               qni_cache_code_read(&cache->code, bytes, chunk->n_tokens, rows, first_row);
    return fits ? QN_OK : fail_damaged(cache, sequence, err);
}

static qn_status check_read(const qn_teacher_cache *cache, int64_t first_sequence, int64_t n_sequences,
                            const qn_teacher_rows *rows, int64_t first_row, qn_error *err) {
    const qn_teacher_cache_info *info = &cache->info;
    int64_t left = rows->n - first_row;
    if (first_sequence < 0 || n_sequences < 0 || first_sequence > info->n_sequences ||
        n_sequences > info->n_sequences - first_sequence)
        return qn_fail(err, QN_E_ARGUMENT, "%s: sequences %lld .. %lld of %lld", cache->path,
                       (long long)first_sequence, (long long)(first_sequence + n_sequences),
                       (long long)info->n_sequences);
    if (rows->k != info->k || rows->n_samples != info->n_samples)
        return qn_fail(err, QN_E_ARGUMENT, "%s: of %lld ids and %lld samples, read as %lld and %lld",
                       cache->path, (long long)info->k, (long long)info->n_samples, (long long)rows->k,
                       (long long)rows->n_samples);
    for (int64_t i = 0; i < n_sequences && left >= 0; i++) left -= cache->chunks[first_sequence + i].n_tokens;
    if (first_row >= 0 && left >= 0) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "%s: sequences %lld .. %lld do not fit rows %lld .. %lld", cache->path,
                   (long long)first_sequence, (long long)(first_sequence + n_sequences), (long long)first_row,
                   (long long)rows->n);
}

qn_status qn_teacher_cache_read(const qn_teacher_cache *cache, int64_t first_sequence, int64_t n_sequences,
                                const qn_teacher_rows *rows, int64_t first_row, qn_error *err) {
    QN_TRY(check_read(cache, first_sequence, n_sequences, rows, first_row, err));
    qn_status status = QN_OK;
    int64_t row = first_row;
    for (int64_t i = first_sequence; i < first_sequence + n_sequences && status == QN_OK; i++) {
        uint8_t *bytes = NULL;
        size_t n_bytes = 0;
        if (!qni_cache_code_bytes(&cache->code, cache->chunks[i].n_tokens, &n_bytes) ||
            !(bytes = qni_alloc_aligned((int64_t)n_bytes, 1)))
            return qni_fail_nomem(err, "a sequence of a teacher cache");
        status = read_sequence(cache, i, bytes, n_bytes, rows, row, err);
        row += cache->chunks[i].n_tokens;
        free(bytes);
    }
    return status;
}
