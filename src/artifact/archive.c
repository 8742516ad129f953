#include "artifact/archive.h"

#include "base/alloc.h"
#include "base/aside.h"
#include "quern/base/writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

#include "base/banned.h"

/* Sizes of the zip format's records (APPNOTE.TXT 4.3). */
enum {
    LOCAL_HEADER = 30,
    CENTRAL_HEADER = 46,
    END_RECORD = 22,
    END_RECORD_64 = 56 + 20,
    EXTRA_HEADER = 4,
    DEFLATE_LEVEL = 9,
};
/* libzip decides on a ZIP64 local header before it knows the compressed size. */
static const int64_t MAX_STORED = INT64_C(0xFFFFFFFF), MAX_DEFLATED = INT64_C(4294656671);
static const zip_uint16_t DOS_DATE_1980 = 0x21, DOS_MIDNIGHT = 0;
static const zip_uint32_t REGULAR_0644 = (zip_uint32_t)0100644 << 16;

static int compare_members(const void *a, const void *b) {
    const char *x = ((const qni_zip_member *)a)->name, *y = ((const qni_zip_member *)b)->name;
    const bool x_first = strcmp(x, "config.json") == 0, y_first = strcmp(y, "config.json") == 0;
    if (x_first != y_first) return x_first ? -1 : 1;
    return strcmp(x, y);
}

void qni_zip_sort(qni_zip_member *members, size_t n) {
    if (n) qsort(members, n, sizeof *members, compare_members);
}

int64_t qni_archive_bytes(const qni_zip_member *members, size_t n) {
    int64_t offset = 0, central = 0;

    for (size_t i = 0; i < n; i++) {
        const qni_zip_member *m = &members[i];
        const int64_t name = (int64_t)strlen(m->name);
        const bool wide_local = m->raw_bytes > (m->stored ? MAX_STORED : MAX_DEFLATED);
        const int wide = (m->raw_bytes > MAX_STORED) + (m->packed_bytes > MAX_STORED) + (offset > MAX_STORED);

        central += CENTRAL_HEADER + name + (wide ? EXTRA_HEADER + 8 * wide : 0);
        offset += LOCAL_HEADER + name + (wide_local ? EXTRA_HEADER + 16 : 0) + m->packed_bytes;
    }
    const bool wide_end = n > 0xFFFF || offset > MAX_STORED || central > MAX_STORED;
    return offset + central + END_RECORD + (wide_end ? END_RECORD_64 : 0);
}

static qn_status fail_zip(zip_error_t *error, const char *path, qn_error *err) {
    const char *text = zip_error_strerror(error);
    const qn_status code = zip_error_code_zip(error) == ZIP_ER_CANCELLED ? QN_E_CANCELLED : QN_E_IO;
    return qn_fail(err, code, "%s: cannot write the archive: %s", path, text);
}

static bool add_member(zip_t *zip, const qni_zip_member *m) {
    zip_source_t *source = m->data ? zip_source_buffer(zip, m->data, (zip_uint64_t)m->raw_bytes, 0)
                                   : zip_source_file(zip, m->path, 0, -1);
    if (!source) return false;
    const zip_int64_t index = zip_file_add(zip, m->name, source, ZIP_FL_ENC_UTF_8);
    if (index < 0) {
        zip_source_free(source);
        return false;
    }
    const zip_uint64_t i = (zip_uint64_t)index;
    return zip_set_file_compression(zip, i, m->stored ? ZIP_CM_STORE : ZIP_CM_DEFLATE,
                                    m->stored ? 0 : DEFLATE_LEVEL) == 0 &&
           zip_file_set_dostime(zip, i, DOS_MIDNIGHT, DOS_DATE_1980, 0) == 0 &&
           zip_file_set_external_attributes(zip, i, 0, ZIP_OPSYS_UNIX, REGULAR_0644) == 0;
}

static void on_zip_progress(zip_t *zip, double fraction, void *user) {
    (void)zip;
    qn_report_progress(user, "archive", (uint64_t)(fraction * 1000), 1000);
}

static int on_zip_cancel(zip_t *zip, void *user) {
    (void)zip;
    return qn_check_cancelled(user, NULL) != QN_OK;
}

static bool fill(zip_t *zip, const qni_zip_member *members, size_t n, int64_t comment_bytes) {
    for (size_t i = 0; i < n; i++) {
        if (!add_member(zip, &members[i])) return false;
    }
    if (comment_bytes == 0) return true;
    char *spaces = qni_alloc_array(comment_bytes, 1);
    if (!spaces) return false;
    memset(spaces, ' ', (size_t)comment_bytes);
    const bool done = zip_set_archive_comment(zip, spaces, (zip_uint16_t)comment_bytes) == 0;
    free(spaces);
    return done;
}

static qn_status build(const qni_zip_member *members, size_t n, int64_t comment_bytes, const char *path,
                       const qn_context *ctx, qn_error *err) {
    int code = 0;
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &code);
    if (!zip) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        qn_status status = fail_zip(&error, path, err);
        zip_error_fini(&error);
        return status;
    }
    void *user = (void *)(uintptr_t)ctx;
    zip_register_progress_callback_with_state(zip, 0.001, on_zip_progress, NULL, user);
    zip_register_cancel_callback_with_state(zip, on_zip_cancel, NULL, user);
    if (fill(zip, members, n, comment_bytes) && zip_close(zip) == 0) return QN_OK;
    qn_status status = fail_zip(zip_get_error(zip), path, err);
    zip_discard(zip);
    return status;
}

static qn_status make_durable(const char *path, int64_t total_bytes, qn_error *err) {
    struct stat info;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return qn_fail_errno(err, "%s: cannot be opened", path);
    const bool synced = fstat(fd, &info) == 0 && fsync(fd) == 0;
    qn_status status = synced ? QN_OK : qn_fail_errno(err, "%s: cannot be made durable", path);
    (void)close(fd);
    if (status == QN_OK && total_bytes > 0 && info.st_size != total_bytes) {
        status = qn_fail(err, QN_E_INTERNAL, "%s: the archive has %lld bytes, planned %lld", path,
                         (long long)info.st_size, (long long)total_bytes);
    }
    return status;
}

static qn_status put_in_place(const char *temporary, const char *path, qn_error *err) {
    if (rename(temporary, path) != 0) return qn_fail_errno(err, "%s: cannot be put in place", path);
    return qni_aside_sync_parent(path, err);
}

qn_status qni_archive_begin(const char *path, char **folder, qn_error *err) {
    qn_writer *probe = NULL;
    char *parts = NULL;

    QN_TRY(qn_writer_open(path, &probe, err));
    qn_writer_abandon(probe);
    if (asprintf(&parts, "%s.parts", path) < 0) return qni_fail_nomem(err, "a path");
    qn_status status = qn_folder_begin(parts, folder, err);
    free(parts);
    return status;
}

qn_status qni_archive_write(const qni_zip_member *members, size_t n, int64_t total_bytes, const char *folder,
                            const char *path, const qn_context *ctx, qn_error *err) {
    const int64_t comment_bytes = total_bytes > 0 ? total_bytes - qni_archive_bytes(members, n) : 0;
    char *temporary = NULL;

    if (comment_bytes < 0 || comment_bytes > QNI_MAX_COMMENT) {
        return qn_fail(err, QN_E_INTERNAL, "%s: an archive comment of %lld bytes", path,
                       (long long)comment_bytes);
    }
    if (asprintf(&temporary, "%s/archive.zip", folder) < 0) return qni_fail_nomem(err, "a path");
    qn_status status = build(members, n, comment_bytes, temporary, ctx, err);
    if (status == QN_OK) status = make_durable(temporary, total_bytes, err);
    if (status == QN_OK) status = put_in_place(temporary, path, err);
    free(temporary);
    return status;
}

/* An archive of one member, built in memory: its size less the records around the member. */
qn_status qni_deflated_bytes(const void *data, int64_t n_bytes, int64_t *out, qn_error *err) {
    const qni_zip_member member = {.name = "x", .data = data ? data : "", .raw_bytes = n_bytes};
    zip_error_t error;
    zip_stat_t info;
    qn_status status = QN_OK;

    zip_error_init(&error);
    zip_source_t *buffer = zip_source_buffer_create(NULL, 0, 0, &error);
    zip_t *zip = buffer ? zip_open_from_source(buffer, ZIP_TRUNCATE, &error) : NULL;
    if (!zip) {
        zip_source_free(buffer);
        status = fail_zip(&error, "(memory)", err);
        zip_error_fini(&error);
        return status;
    }
    zip_source_keep(buffer);
    if (!add_member(zip, &member) || zip_close(zip) != 0) {
        status = fail_zip(zip_get_error(zip), "(memory)", err);
        zip_discard(zip);
    } else if (zip_source_stat(buffer, &info) != 0) {
        status = fail_zip(zip_source_error(buffer), "(memory)", err);
    } else {
        const qni_zip_member empty = {.name = "x"};
        *out = (int64_t)info.size - qni_archive_bytes(&empty, 1);
    }
    zip_source_free(buffer);
    zip_error_fini(&error);
    return status;
}
