#include "fit/teacher_cache_file.h"

#include "base/alloc.h"
#include "base/json.h"
#include "fit/teacher_cache_code.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define FORMAT "quern-teacher-cache"
enum {
    VERSION = 2,
    MAX_HEADER_BYTES = 4096,
    NUMBER_BYTES = 8,
    HASHED_BYTES = 2 * NUMBER_BYTES + QNI_CACHE_HEX
};

static const char *compute_name(qn_compute compute) {
    return compute == QN_COMPUTE_BF16 ? "bf16" : "f32";
}

/* ---- the line in front ---- */

qn_status qni_cache_header_format(const qn_teacher_cache_info *info, char **out, qn_error *err) {
    json_t *object =
        json_pack("{ss si ss ss sI sI sI ss ss sI sI}", "format", FORMAT, "version", VERSION,
                  "teacher_sha256", info->teacher_sha256, "text_sha256", info->text_sha256, "vocab_size",
                  (json_int_t)info->vocab_size, "k", (json_int_t)info->k, "samples",
                  (json_int_t)info->n_samples, "compute", compute_name(info->compute), "grid", QNI_CACHE_GRID,
                  "sequences", (json_int_t)info->n_sequences, "tokens", (json_int_t)info->n_tokens);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL, *line = NULL;
    if (text && asprintf(&line, "%s\n", text) < 0) line = NULL;
    free(text);
    json_decref(object);
    if (!line) return qni_fail_nomem(err, "header of a teacher cache");
    *out = line;
    return QN_OK;
}

static qn_status get_hash(const json_t *object, const char *key, const char *path, char out[QN_SHA256_HEX],
                          qn_error *err) {
    const char *hex = NULL;
    QN_TRY(qni_json_get_string(object, key, true, path, &hex, err));
    if (strlen(hex) != QNI_CACHE_HEX || strspn(hex, "0123456789abcdef") != QNI_CACHE_HEX)
        return qn_fail(err, QN_E_FORMAT, "%s: %s is no SHA-256", path, key);
    memcpy(out, hex, QN_SHA256_HEX);
    return QN_OK;
}

static qn_status check_kind(const json_t *object, const char *path, qn_error *err) {
    const char *format = "", *grid = "";
    int64_t version = 0;
    QN_TRY(qni_json_get_string(object, "format", true, path, &format, err));
    if (strcmp(format, FORMAT) != 0) return qn_fail(err, QN_E_FORMAT, "%s: is no teacher cache", path);
    QN_TRY(qni_json_get_i64(object, "version", true, path, &version, err));
    QN_TRY(qni_json_get_string(object, "grid", true, path, &grid, err));
    if (version == VERSION && strcmp(grid, QNI_CACHE_GRID) == 0) return QN_OK;
    return qn_fail(
        err, QN_E_UNSUPPORTED,
        "%s: teacher cache of version %lld, grid %.40s; this program reads version %d, grid %s: make "
        "it anew",
        path, (long long)version, grid, VERSION, QNI_CACHE_GRID);
}

static qn_status parse_fields(const json_t *object, const char *path, qn_teacher_cache_info *info,
                              qn_error *err) {
    const char *compute = "";
    QN_TRY(check_kind(object, path, err));
    QN_TRY(get_hash(object, "teacher_sha256", path, info->teacher_sha256, err));
    QN_TRY(get_hash(object, "text_sha256", path, info->text_sha256, err));
    QN_TRY(qni_json_get_i64(object, "vocab_size", true, path, &info->vocab_size, err));
    QN_TRY(qni_json_get_i64(object, "k", true, path, &info->k, err));
    QN_TRY(qni_json_get_i64(object, "samples", true, path, &info->n_samples, err));
    QN_TRY(qni_json_get_string(object, "compute", true, path, &compute, err));
    QN_TRY(qni_json_get_i64(object, "sequences", true, path, &info->n_sequences, err));
    QN_TRY(qni_json_get_i64(object, "tokens", true, path, &info->n_tokens, err));
    info->compute = strcmp(compute, "bf16") == 0 ? QN_COMPUTE_BF16 : QN_COMPUTE_F32;
    if (info->vocab_size < 1 || info->vocab_size > INT32_MAX || info->k < 1 || info->k > info->vocab_size ||
        info->n_samples < 0 || info->n_samples > info->vocab_size - info->k || info->n_sequences < 0 ||
        info->n_tokens < 0)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: %lld ids and %lld samples of %lld at %lld tokens in %lld sequences", path,
                       (long long)info->k, (long long)info->n_samples, (long long)info->vocab_size,
                       (long long)info->n_tokens, (long long)info->n_sequences);
    return QN_OK;
}

qn_status qni_cache_header_parse(const uint8_t *data, size_t n_bytes, const char *path,
                                 qn_teacher_cache_info *out, size_t *n_header, qn_error *err) {
    const size_t n_line = n_bytes < MAX_HEADER_BYTES ? n_bytes : MAX_HEADER_BYTES;
    const uint8_t *end = n_line > 0 ? memchr(data, '\n', n_line) : NULL;
    qn_teacher_cache_info info = {0};
    json_t *object = NULL;
    if (!end) return qn_fail(err, QN_E_FORMAT, "%s: is no teacher cache", path);
    QN_TRY(qni_json_parse(data, (size_t)(end - data), path, &object, err));
    const qn_status status = parse_fields(object, path, &info, err);
    json_decref(object);
    if (status != QN_OK) return status;
    *out = info;
    *n_header = (size_t)(end - data) + 1;
    return QN_OK;
}

qn_status qni_cache_check_origin(const qn_teacher_cache_info *found, const char *teacher_sha256,
                                 const char *text_sha256, const char *path, qn_error *err) {
    if (teacher_sha256 && strcmp(found->teacher_sha256, teacher_sha256) != 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s: is a cache of teacher %s, expected %s: remove it, or choose another path, and "
                       "cache this teacher",
                       path, found->teacher_sha256, teacher_sha256);
    if (text_sha256 && strcmp(found->text_sha256, text_sha256) != 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s: is a cache over text %s, expected %s: remove it, or choose another path, and "
                       "cache the teacher on this text",
                       path, found->text_sha256, text_sha256);
    return QN_OK;
}

qn_status qni_cache_check_same(const qn_teacher_cache_info *found, const qn_teacher_cache_info *wanted,
                               const char *path, qn_error *err) {
    QN_TRY(qni_cache_check_origin(found, wanted->teacher_sha256, wanted->text_sha256, path, err));
    if (found->k == wanted->k && found->n_samples == wanted->n_samples && found->compute == wanted->compute)
        return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%s: is a cache of %lld ids and %lld samples a position made with %s, expected %lld, %lld "
                   "and %s: remove it, or choose another path",
                   path, (long long)found->k, (long long)found->n_samples, compute_name(found->compute),
                   (long long)wanted->k, (long long)wanted->n_samples, compute_name(wanted->compute));
}

/* ---- chunks ---- */

static void put_u64(uint8_t *bytes, uint64_t value) {
    for (int i = 0; i < NUMBER_BYTES; i++) bytes[i] = (uint8_t)(value >> (8 * i));
}

static uint64_t get_u64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = 0; i < NUMBER_BYTES; i++) value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static qn_status next_link(const char before[QN_SHA256_HEX], const uint8_t *record, char link[QN_SHA256_HEX],
                           qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    qn_sha256_update(hash, before, QNI_CACHE_HEX);
    qn_sha256_update(hash, record, HASHED_BYTES);
    qn_sha256_hex(hash, link);
    qn_sha256_free(hash);
    return QN_OK;
}

qn_status qni_cache_record_make(const qni_cache_chunk *chunk, char link[QN_SHA256_HEX],
                                uint8_t record[QNI_CACHE_RECORD_BYTES], qn_error *err) {
    char next[QN_SHA256_HEX];
    put_u64(record, (uint64_t)chunk->n_tokens);
    put_u64(record + NUMBER_BYTES, chunk->n_bytes);
    memcpy(record + 2 * NUMBER_BYTES, chunk->sha256, QNI_CACHE_HEX);
    QN_TRY(next_link(link, record, next, err));
    memcpy(record + HASHED_BYTES, next, QNI_CACHE_HEX);
    memcpy(link, next, sizeof next);
    return QN_OK;
}

qn_status qni_cache_next(const uint8_t *data, uint64_t n_bytes, uint64_t *offset, char link[QN_SHA256_HEX],
                         qni_cache_chunk *chunk, qni_cache_found *found, qn_error *err) {
    const uint64_t left = n_bytes - *offset;
    char next[QN_SHA256_HEX];
    *found = QNI_CACHE_CUT;
    if (left < QNI_CACHE_RECORD_BYTES) return QN_OK;
    const uint8_t *record = data + *offset;
    const uint64_t n_tokens = get_u64(record), n_payload = get_u64(record + NUMBER_BYTES);
    QN_TRY(next_link(link, record, next, err));
    *found = QNI_CACHE_BROKEN;
    if (memcmp(record + HASHED_BYTES, next, QNI_CACHE_HEX) != 0 || n_tokens > INT64_MAX) return QN_OK;
    *found = QNI_CACHE_CUT;
    if (n_payload > left - QNI_CACHE_RECORD_BYTES) return QN_OK;
    *found = QNI_CACHE_WHOLE;
    *chunk = (qni_cache_chunk){
        .n_tokens = (int64_t)n_tokens, .n_bytes = n_payload, .offset = *offset + QNI_CACHE_RECORD_BYTES};
    memcpy(chunk->sha256, record + 2 * NUMBER_BYTES, QNI_CACHE_HEX);
    memcpy(link, next, sizeof next);
    *offset = chunk->offset + n_payload;
    return QN_OK;
}

qn_status qni_cache_payload_fits(const uint8_t *data, const qni_cache_chunk *chunk, bool *fits,
                                 qn_error *err) {
    char hex[QN_SHA256_HEX];
    QN_TRY(qn_sha256_of_memory(data + chunk->offset, (size_t)chunk->n_bytes, hex, err));
    *fits = strcmp(hex, chunk->sha256) == 0;
    return QN_OK;
}
