/* SHA-256 of files and streams (OpenSSL libcrypto underneath). */
#ifndef QUERN_BASE_SHA256_H
#define QUERN_BASE_SHA256_H

#include "quern/base/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { QN_SHA256_BYTES = 32, QN_SHA256_HEX = 65 };

typedef struct qn_sha256 qn_sha256;

QN_NODISCARD QN_API qn_status qn_sha256_new(qn_sha256 **out, qn_error *err);
QN_API void qn_sha256_free(qn_sha256 *hash);
QN_API void qn_sha256_update(qn_sha256 *hash, const void *data, size_t n_bytes);

/* Writes the digest as 64 lower-case hex digits and a NUL. The object can only be freed afterwards. */
QN_API void qn_sha256_hex(qn_sha256 *hash, char hex[QN_SHA256_HEX]);

/* Digest of a memory block or of a whole file; n_bytes (may be NULL) receives the file's size. */
QN_NODISCARD QN_API qn_status qn_sha256_of_memory(const void *data, size_t n, char hex[QN_SHA256_HEX],
                                                  qn_error *err);
QN_NODISCARD QN_API qn_status qn_sha256_of_file(const char *path, char hex[QN_SHA256_HEX], uint64_t *n_bytes,
                                                qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
