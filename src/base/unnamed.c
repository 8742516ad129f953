#include "base/unnamed.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/banned.h"

qn_status qni_unnamed_open(int *fd, qn_error *err) {
    const char *folder = getenv("TMPDIR");
    if (!folder || !*folder) folder = "/tmp";
    *fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (*fd >= 0) return QN_OK;

    char *path;
    if (asprintf(&path, "%s/quern-XXXXXX", folder) < 0) return qni_fail_nomem(err, folder);
    *fd = mkstemp(path);
    if (*fd >= 0) (void)unlink(path);
    free(path);
    if (*fd >= 0) return QN_OK;
    return qn_fail_errno(err, "%s: cannot create a temporary file; set TMPDIR to a writable folder", folder);
}

qn_status qni_unnamed_write(int fd, int64_t offset, const void *data, size_t n_bytes, const char *what,
                            qn_error *err) {
    const char *at = data;
    while (n_bytes > 0) {
        const ssize_t n = pwrite(fd, at, n_bytes, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return qn_fail_errno(err, "%s: cannot be written to a file in $TMPDIR", what);
        at += n;
        offset += n;
        n_bytes -= (size_t)n;
    }
    return QN_OK;
}

qn_status qni_unnamed_read(int fd, int64_t offset, void *data, size_t n_bytes, const char *what,
                           qn_error *err) {
    char *at = data;
    while (n_bytes > 0) {
        const ssize_t n = pread(fd, at, n_bytes, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return qn_fail_errno(err, "%s: cannot be read from a file in $TMPDIR", what);
        if (n == 0) return qn_fail(err, QN_E_IO, "%s: a file in $TMPDIR ends early", what);
        at += n;
        offset += n;
        n_bytes -= (size_t)n;
    }
    return QN_OK;
}
