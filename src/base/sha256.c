#include "quern/base/sha256.h"

#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/banned.h"

enum { READ_BYTES = 1 << 20 };

struct qn_sha256 {
    EVP_MD_CTX *md;
};

qn_status qn_sha256_new(qn_sha256 **out, qn_error *err) {
    qn_sha256 *hash = qni_alloc_array(1, sizeof *hash);
    if (!hash) return qni_fail_nomem(err, "a SHA-256 state");
    hash->md = EVP_MD_CTX_new();
    if (!hash->md || EVP_DigestInit_ex(hash->md, EVP_sha256(), NULL) != 1) {
        qn_sha256_free(hash);
        return qn_fail(err, QN_E_INTERNAL, "libcrypto offers no SHA-256");
    }
    *out = hash;
    return QN_OK;
}

void qn_sha256_free(qn_sha256 *hash) {
    if (!hash) return;
    EVP_MD_CTX_free(hash->md);
    free(hash);
}

/* Once initialised, the software digest of libcrypto has no way to fail. */
void qn_sha256_update(qn_sha256 *hash, const void *data, size_t n_bytes) {
    (void)EVP_DigestUpdate(hash->md, data, n_bytes);
}

void qn_sha256_hex(qn_sha256 *hash, char hex[QN_SHA256_HEX]) {
    static const char digits[] = "0123456789abcdef";
    unsigned char digest[QN_SHA256_BYTES] = {0};
    (void)EVP_DigestFinal_ex(hash->md, digest, NULL);
    for (int i = 0; i < QN_SHA256_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[2 * QN_SHA256_BYTES] = 0;
}

qn_status qn_sha256_of_memory(const void *data, size_t n, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_sha256 *hash;
    QN_TRY(qn_sha256_new(&hash, err));
    qn_sha256_update(hash, data, n);
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

static qn_status hash_descriptor(int fd, const char *path, qn_sha256 *hash, uint64_t *total, qn_error *err) {
    unsigned char *buffer = qni_alloc_aligned(READ_BYTES, 1);
    qn_status status = QN_OK;

    if (!buffer) return qni_fail_nomem(err, "a read buffer");
    for (;;) {
        ssize_t n = read(fd, buffer, READ_BYTES);
        if (n == 0) break;
        if (n < 0) {
            if (errno == EINTR) continue;
            status = qn_fail_errno(err, "%s: cannot be read", path);
            break;
        }
        qn_sha256_update(hash, buffer, (size_t)n);
        *total += (uint64_t)n;
    }
    free(buffer);
    return status;
}

/* Reads instead of mapping, so that a file that shrinks meanwhile is no SIGBUS. */
qn_status qn_sha256_of_file(const char *path, char hex[QN_SHA256_HEX], uint64_t *n_bytes, qn_error *err) {
    qn_sha256 *hash = NULL;
    uint64_t total = 0;
    qn_status status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) return qn_fail_errno(err, "%s: cannot be opened", path);
    if ((status = qn_sha256_new(&hash, err)) != QN_OK) goto done;
    if ((status = hash_descriptor(fd, path, hash, &total, err)) != QN_OK) goto done;
    qn_sha256_hex(hash, hex);
    if (n_bytes) *n_bytes = total;
done:
    qn_sha256_free(hash);
    (void)close(fd);
    return status;
}
