#include "quern/base/writer.h"

#include "base/aside.h"
#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum { BUFFER_BYTES = 1 << 20 };

struct qn_writer {
    char *path;
    char *temporary; /* beside PATH, so that the rename stays in one file system */
    int fd;
    qn_sha256 *hash;
    uint64_t n_bytes;
    uint8_t *buffer;
    size_t n_buffered;
    bool has_failed; /* the file has a hole: it must never be put in place */
};

static void writer_free(qn_writer *writer) {
    if (writer->fd >= 0) (void)close(writer->fd);
    if (writer->temporary) (void)unlink(writer->temporary);
    qn_sha256_free(writer->hash);
    free(writer->temporary);
    free(writer->buffer);
    free(writer->path);
    free(writer);
}

/* A device, fifo or folder at PATH would be replaced or would make the rename fail at the very end. */
static qn_status check_target(const char *path, qn_error *err) {
    struct stat info;
    if (stat(path, &info) != 0) {
        if (errno == ENOENT) return QN_OK;
        return qn_fail_errno(err, "%s: cannot be written", path);
    }
    if (S_ISREG(info.st_mode)) return QN_OK;
    return qn_fail(err, QN_E_IO, "%s: is %s; choose the path of a regular file", path,
                   S_ISDIR(info.st_mode) ? "a folder" : "a special file");
}

qn_status qn_writer_open(const char *path, qn_writer **out, qn_error *err) {
    qn_writer *writer = NULL;
    qn_status status;

    QN_TRY(check_target(path, err));
    if (!(writer = qni_alloc_array(1, sizeof *writer))) return qni_fail_nomem(err, "a file writer");
    writer->fd = -1;
    writer->path = qni_copy_string(path);
    writer->buffer = qni_alloc_aligned(BUFFER_BYTES, 1);
    if (!writer->path || !writer->buffer) {
        status = qni_fail_nomem(err, "a write buffer");
        goto fail;
    }
    if ((status = qn_sha256_new(&writer->hash, err)) != QN_OK) goto fail;
    if ((status = qni_aside_file(path, &writer->temporary, &writer->fd, err)) != QN_OK) goto fail;
    *out = writer;
    return QN_OK;
fail:
    writer_free(writer);
    return status;
}

static qn_status write_all(qn_writer *writer, const uint8_t *data, size_t n_bytes, qn_error *err) {
    while (n_bytes > 0) {
        ssize_t n = write(writer->fd, data, n_bytes);
        if (n < 0) {
            if (errno == EINTR) continue;
            writer->has_failed = true;
            return qn_fail_errno(err, "%s: cannot write after byte %llu", writer->path,
                                 (unsigned long long)writer->n_bytes);
        }
        data += n;
        n_bytes -= (size_t)n;
    }
    return QN_OK;
}

static qn_status flush(qn_writer *writer, qn_error *err) {
    QN_TRY(write_all(writer, writer->buffer, writer->n_buffered, err));
    writer->n_buffered = 0;
    return QN_OK;
}

qn_status qn_writer_write(qn_writer *writer, const void *data, size_t n_bytes, qn_error *err) {
    if (n_bytes == 0) return QN_OK;
    if (n_bytes > BUFFER_BYTES - writer->n_buffered) QN_TRY(flush(writer, err));
    if (n_bytes > BUFFER_BYTES) {
        QN_TRY(write_all(writer, data, n_bytes, err));
    } else {
        memcpy(writer->buffer + writer->n_buffered, data, n_bytes);
        writer->n_buffered += n_bytes;
    }
    qn_sha256_update(writer->hash, data, n_bytes);
    writer->n_bytes += n_bytes;
    return QN_OK;
}

uint64_t qn_writer_bytes(const qn_writer *writer) {
    return writer->n_bytes;
}

static qn_status close_durably(qn_writer *writer, qn_error *err) {
    if (writer->has_failed) return qn_fail(err, QN_E_IO, "%s: an earlier write failed", writer->path);
    QN_TRY(flush(writer, err));
    if (fsync(writer->fd) != 0) return qn_fail_errno(err, "%s: cannot be made durable", writer->path);
    int fd = writer->fd;
    writer->fd = -1;
    if (close(fd) != 0) return qn_fail_errno(err, "%s: cannot be closed", writer->path);
    return QN_OK;
}

qn_status qn_writer_commit(qn_writer *writer, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_status status = close_durably(writer, err);
    if (status == QN_OK && rename(writer->temporary, writer->path) != 0) {
        status = qn_fail_errno(err, "%s: cannot be put in place", writer->path);
    }
    if (status == QN_OK) {
        free(writer->temporary);
        writer->temporary = NULL;
        status = qni_aside_sync_parent(writer->path, err);
    }
    if (status == QN_OK && hex) qn_sha256_hex(writer->hash, hex);
    writer_free(writer);
    return status;
}

void qn_writer_abandon(qn_writer *writer) {
    if (writer) writer_free(writer);
}

qn_status qn_write_file(const char *path, const void *data, size_t n_bytes, qn_error *err) {
    qn_writer *writer;
    QN_TRY(qn_writer_open(path, &writer, err));
    qn_status status = qn_writer_write(writer, data, n_bytes, err);
    if (status != QN_OK) {
        qn_writer_abandon(writer);
        return status;
    }
    return qn_writer_commit(writer, NULL, err);
}
