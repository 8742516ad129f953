#include "fit/teacher_cache_file.h"

#include "base/alloc.h"
#include "base/aside.h"
#include "base/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/banned.h"

void qni_cache_writer_close(qni_cache_writer *writer) {
    if (writer->is_begun && writer->n_sequences == 0) (void)unlink(writer->unfinished);
    if (writer->fd >= 0) (void)close(writer->fd);
    free(writer->path);
    free(writer->unfinished);
    *writer = (qni_cache_writer){.fd = -1};
}

static qn_status write_all(qni_cache_writer *writer, const void *data, size_t n_bytes, qn_error *err) {
    const uint8_t *next = data;
    while (n_bytes > 0) {
        const ssize_t n = write(writer->fd, next, n_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return qn_fail_errno(err, "%s: cannot write after byte %llu", writer->unfinished,
                                 (unsigned long long)writer->n_bytes);
        writer->n_bytes += (uint64_t)n;
        next += n;
        n_bytes -= (size_t)n;
    }
    return QN_OK;
}

/* ---- taking up ---- */

/* Counts the whole chunks that fit SEQUENCES behind the header; writer->n_bytes moves behind them. */
static qn_status count_whole(qni_cache_writer *writer, const uint8_t *data, size_t n_bytes,
                             const qn_sequences *sequences, qn_error *err) {
    while (writer->n_sequences < sequences->n) {
        const int64_t *starts = sequences->starts + writer->n_sequences;
        uint64_t offset = writer->n_bytes;
        char link[QN_SHA256_HEX];
        qni_cache_chunk chunk;
        qni_cache_found found;
        bool fits = false;
        memcpy(link, writer->link, sizeof link);
        QN_TRY(qni_cache_next(data, n_bytes, &offset, link, &chunk, &found, err));
        if (found == QNI_CACHE_WHOLE) QN_TRY(qni_cache_payload_fits(data, &chunk, &fits, err));
        if (!fits || chunk.n_tokens != starts[1] - starts[0]) break;
        memcpy(writer->link, link, sizeof link);
        writer->n_bytes = offset;
        writer->n_sequences++;
    }
    return QN_OK;
}

/* What is there is either the beginning of this header, after which nothing was written, or begins with all of it. */
static qn_status take_up(qni_cache_writer *writer, const char *header, const qn_teacher_cache_info *info,
                         const qn_sequences *sequences, const qni_mapping *there, qn_error *err) {
    const size_t n_header = strlen(header), n_shared = there->n_bytes < n_header ? there->n_bytes : n_header;
    if (n_shared > 0 && memcmp(there->data, header, n_shared) != 0) {
        qn_teacher_cache_info found;
        size_t n_found;
        QN_TRY(
            qni_cache_header_parse(there->data, there->n_bytes, writer->unfinished, &found, &n_found, err));
        QN_TRY(qni_cache_check_same(&found, info, writer->unfinished, err));
        return qn_fail(err, QN_E_FORMAT, "%s: its header is damaged: remove it", writer->unfinished);
    }
    if (n_shared < n_header) return QN_OK;
    writer->n_bytes = n_header;
    return count_whole(writer, there->data, there->n_bytes, sequences, err);
}

static qn_status begin(qni_cache_writer *writer, const qn_teacher_cache_info *info,
                       const qn_sequences *sequences, const char *header, qn_error *err) {
    qni_mapping there = {0};
    QN_TRY(qn_sha256_of_memory(header, strlen(header), writer->link, err));
    writer->fd = open(writer->unfinished, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (writer->fd < 0) return qn_fail_errno(err, "%s: cannot be written", writer->unfinished);
    if (flock(writer->fd, LOCK_EX | LOCK_NB) != 0)
        return qn_fail_errno(err, "%s: is being written by another process", writer->unfinished);
    QN_TRY(qni_mapping_from_fd(writer->fd, writer->unfinished, &there, err));
    const qn_status status = take_up(writer, header, info, sequences, &there, err);
    qni_mapping_release(&there);
    QN_TRY(status);
    if (ftruncate(writer->fd, (off_t)writer->n_bytes) != 0 ||
        lseek(writer->fd, (off_t)writer->n_bytes, SEEK_SET) < 0)
        return qn_fail_errno(err, "%s: cannot be taken up", writer->unfinished);
    writer->is_begun = true;
    return writer->n_bytes == 0 ? write_all(writer, header, strlen(header), err) : QN_OK;
}

qn_status qni_cache_writer_open(const char *path, const qn_teacher_cache_info *info,
                                const qn_sequences *sequences, qni_cache_writer *out, qn_error *err) {
    qni_cache_writer writer = {.fd = -1, .path = qni_copy_string(path)};
    char *header = NULL;
    if (!writer.path || asprintf(&writer.unfinished, "%s.unfinished", path) < 0) {
        free(writer.path);
        return qni_fail_nomem(err, path);
    }
    qn_status status = qni_cache_header_format(info, &header, err);
    if (status == QN_OK) status = begin(&writer, info, sequences, header, err);
    free(header);
    if (status == QN_OK)
        *out = writer;
    else
        qni_cache_writer_close(&writer);
    return status;
}

/* ---- growing ---- */

qn_status qni_cache_writer_append(qni_cache_writer *writer, int64_t n_tokens, const uint8_t *payload,
                                  uint64_t n_bytes, qn_error *err) {
    qni_cache_chunk chunk = {.n_tokens = n_tokens, .n_bytes = n_bytes};
    uint8_t record[QNI_CACHE_RECORD_BYTES];
    QN_TRY(qn_sha256_of_memory(payload, (size_t)n_bytes, chunk.sha256, err));
    QN_TRY(qni_cache_record_make(&chunk, writer->link, record, err));
    QN_TRY(write_all(writer, record, sizeof record, err));
    QN_TRY(write_all(writer, payload, (size_t)n_bytes, err));
    writer->n_sequences++;
    return QN_OK;
}

qn_status qni_cache_writer_sync(const qni_cache_writer *writer, qn_error *err) {
    return fsync(writer->fd) == 0 ? QN_OK
                                  : qn_fail_errno(err, "%s: cannot be made durable", writer->unfinished);
}

qn_status qni_cache_writer_publish(qni_cache_writer *writer, qn_error *err) {
    QN_TRY(qni_cache_writer_sync(writer, err));
    if (rename(writer->unfinished, writer->path) != 0)
        return qn_fail_errno(err, "%s: cannot be put in place", writer->path);
    return qni_aside_sync_parent(writer->path, err);
}
