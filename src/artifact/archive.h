/* Deterministic zip archives through libzip: fixed order, time, mode and compression level. */
#ifndef QUERN_SRC_ARTIFACT_ARCHIVE_H
#define QUERN_SRC_ARTIFACT_ARCHIVE_H

#include "quern/base/context.h"

#include <stddef.h>

/* A member to be: bytes in memory, or a file. Everything is borrowed. */
typedef struct qni_zip_member {
    const char *name;
    const void *data; /* NULL: read from `path` */
    const char *path;
    bool stored; /* else deflated */
    int64_t raw_bytes;
    int64_t packed_bytes; /* bytes in the archive; only qni_archive_bytes reads it */
} qni_zip_member;

enum { QNI_MAX_COMMENT = 65535 };

/* The archive's order: config.json first, then bytewise by name. */
void qni_zip_sort(qni_zip_member *members, size_t n);

/* Bytes DATA takes as a deflated member, found by deflating it as the writer will. */
QN_NODISCARD qn_status qni_deflated_bytes(const void *data, int64_t n_bytes, int64_t *out, qn_error *err);

/* Exact bytes of an archive without a comment, ZIP64 fields included. */
int64_t qni_archive_bytes(const qni_zip_member *members, size_t n);

/* Checks that an archive can stand at PATH, before any long work, and makes a private folder beside it to
 * build it in. *folder is owned; end with qn_folder_abandon(*folder) in any case. */
QN_NODISCARD qn_status qni_archive_begin(const char *path, char **folder, qn_error *err);

/* Builds the archive in FOLDER, makes it durable and renames it to PATH; on failure PATH is as it was.
 * total_bytes > 0 (needs packed_bytes): a comment of spaces brings the archive to exactly that size. */
QN_NODISCARD qn_status qni_archive_write(const qni_zip_member *members, size_t n, int64_t total_bytes,
                                         const char *folder, const char *path, const qn_context *ctx,
                                         qn_error *err);

#endif
