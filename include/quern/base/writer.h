/* Durable file writing: write aside, hash while writing, check every call, fsync, rename, fsync the folder.
 *
 * Until qn_writer_commit succeeds nothing stands at PATH that did not stand there before; an abandoned or
 * failed writer leaves no temporary file behind. The mode is 0666 less the umask, and no content depends on
 * either. */
#ifndef QUERN_BASE_WRITER_H
#define QUERN_BASE_WRITER_H

#include "quern/base/sha256.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_writer qn_writer;

/* Starts writing a file that will stand at PATH once committed, in place of the regular file that may be
 * there. A folder, device or fifo at PATH is refused now. The temporary file is PATH.tmp-XXXXXXXX. */
QN_NODISCARD QN_API qn_status qn_writer_open(const char *path, qn_writer **out, qn_error *err);

QN_NODISCARD QN_API qn_status qn_writer_write(qn_writer *writer, const void *data, size_t n_bytes,
                                              qn_error *err);

/* Bytes written so far. */
QN_API uint64_t qn_writer_bytes(const qn_writer *writer);

/* Makes the file durable and visible, then frees the writer whatever happens. hex (may be NULL): its SHA-256.
 * After a failed write it fails too. */
QN_NODISCARD QN_API qn_status qn_writer_commit(qn_writer *writer, char hex[QN_SHA256_HEX], qn_error *err);

/* Removes the temporary file and frees the writer. Accepts NULL. */
QN_API void qn_writer_abandon(qn_writer *writer);

/* A whole small file at once. */
QN_NODISCARD QN_API qn_status qn_write_file(const char *path, const void *data, size_t n_bytes,
                                            qn_error *err);

/* A folder that is built aside as `PATH.tmp-XXXXXXXX` and put in place by one rename. On begin, *temporary
 * receives the folder to fill (owned, free()). An existing PATH that is not an empty folder is refused, by
 * begin already: nothing a user made is overwritten. A failed commit leaves the temporary folder; abandon
 * removes it and everything in it. */
QN_NODISCARD QN_API qn_status qn_folder_begin(const char *path, char **temporary, qn_error *err);
QN_NODISCARD QN_API qn_status qn_folder_commit(const char *temporary, const char *path, qn_error *err);
QN_API void qn_folder_abandon(const char *temporary);

#ifdef __cplusplus
}
#endif
#endif
