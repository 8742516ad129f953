/* A read-only folder of files: a directory on disk or a zip archive, seen the same way.
 *
 * Every MODEL argument of Quern is a store. The store's root is the first folder that holds a config.json
 * (the top is tried first, then sub-folders in name order), as the contract's scorer looks for it; a store
 * without one keeps the top as its root. Member names are relative to the root, with '/' between folders.
 *
 * Archives are hostile input. Refused before anything is read: names that leave the archive or could be read
 * in two ways ("../", absolute, drive letters, backslashes, NUL, "a//b", "a/./b"), symbolic links and device
 * nodes, two members at one place, encrypted members, methods other than stored and deflated, a member whose
 * declared size exceeds `QN_STORE_MAX_MEMBER_BYTES`, local headers that contradict the central directory. In
 * directories symbolic links to files are followed for checkpoints (the Hugging Face cache is made of them),
 * links to folders are not entered; qn_store_has_symlink tells the verifier of either.
 *
 * Members of a zip are unpacked on demand into an anonymous temporary file in $TMPDIR (else /tmp) and mapped,
 * so memory stays small. A store belongs to one thread at a time. */
#ifndef QUERN_BASE_STORE_H
#define QUERN_BASE_STORE_H

#include "quern/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QN_STORE_MAX_MEMBER_BYTES (UINT64_C(1) << 40)

typedef struct qn_store qn_store;

QN_NODISCARD QN_API qn_status qn_store_open(const char *path, qn_store **out, qn_error *err);
QN_API void qn_store_close(qn_store *store);

QN_API const char *qn_store_path(const qn_store *store); /* as given to qn_store_open */
QN_API bool qn_store_is_archive(const qn_store *store);  /* zip, not directory */
/* Whether a symbolic link was met; *name (may be NULL) receives the first one, relative to the top. */
QN_API bool qn_store_has_symlink(const qn_store *store, const char **name);

/* Bytes an outsider would count: of the archive file, or the sum over all files of the directory, those
 * outside the root included. */
QN_API uint64_t qn_store_total_bytes(const qn_store *store);

/* Members below the root in bytewise name order. */
QN_API size_t qn_store_count(const qn_store *store);
QN_API const char *qn_store_name(const qn_store *store, size_t index);
QN_API uint64_t qn_store_member_bytes(const qn_store *store, size_t index);
QN_API bool qn_store_find(const qn_store *store, const char *name, size_t *index);

/* Maps member NAME read-only; the bytes live until the store is closed. Asking twice gives the same mapping.
 * Errors: QN_E_IO when absent or unreadable, QN_E_FORMAT when the archive's checksum does not fit. */
QN_NODISCARD QN_API qn_status qn_store_map(qn_store *store, const char *name, const uint8_t **data,
                                           size_t *n_bytes, qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
