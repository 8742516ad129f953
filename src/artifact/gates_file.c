/* Gates that look at files, not at what is in the tensors. */
#include "artifact/gates.h"

#include "base/alloc.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <zip.h>

#include "base/banned.h"

/* ------------------------------------------------------------------------------------------- artifact */

qn_status qni_gate_present(qni_verification *v, qn_error *err) {
    struct stat info;
    const char *link = NULL;

    if (stat(v->path, &info) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) return qni_reject(v, err, "reason=missing");
        return qni_reject(v, err, "reason=unreadable error=%s", strerror(errno));
    }
    v->is_folder = S_ISDIR(info.st_mode);
    v->file_bytes = (int64_t)info.st_size;
    if (!v->is_folder && !S_ISREG(info.st_mode))
        return qni_reject(v, err, "reason=neither_folder_nor_archive");
    if (v->is_folder) {
        qn_error inner;
        const qn_status status = qn_store_open(v->path, &v->store, &inner);
        if (status == QN_E_NOMEM) return qn_fail(err, status, "%s", inner.message);
        if (status != QN_OK) return qni_reject(v, err, "reason=unreadable error=%.300s", inner.message);
        if (qn_store_has_symlink(v->store, &link))
            return qni_reject(v, err, "reason=symlink member=%s", link);
        v->file_bytes = (int64_t)qn_store_total_bytes(v->store);
    }
    v->report->bytes = v->file_bytes;
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- sha256, size,
 * url */

static bool is_weights(const char *name) {
    static const char suffix[] = ".safetensors";
    const size_t n = strlen(name), n_suffix = sizeof suffix - 1;
    return n >= n_suffix && strcmp(name + n - n_suffix, suffix) == 0;
}

/* A folder's digest: of the lines `<hex>  <name>` of its weight files, as qn_artifact_result has it. */
static qn_status folder_sha256(qni_verification *v, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_sha256 *hash = NULL;
    qn_status status = qn_sha256_new(&hash, err);

    for (size_t i = 0; status == QN_OK && i < qn_store_count(v->store); i++) {
        const char *name = qn_store_name(v->store, i);
        const uint8_t *data;
        size_t n_bytes;
        char digest[QN_SHA256_HEX];
        if (!is_weights(name)) continue;
        status = qn_store_map(v->store, name, &data, &n_bytes, err);
        if (status == QN_OK) status = qn_sha256_of_memory(data, n_bytes, digest, err);
        if (status != QN_OK) break;
        qn_sha256_update(hash, digest, strlen(digest));
        qn_sha256_update(hash, "  ", 2);
        qn_sha256_update(hash, name, strlen(name));
        qn_sha256_update(hash, "\n", 1);
    }
    if (status == QN_OK) qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return status;
}

static qn_status digest_once(qni_verification *v, qn_error *err) {
    if (v->report->sha256[0]) return QN_OK;
    if (v->is_folder) return folder_sha256(v, v->report->sha256, err);
    return qn_sha256_of_file(v->path, v->report->sha256, NULL, err);
}

qn_status qni_gate_sha256(qni_verification *v, qn_error *err) {
    QN_TRY(digest_once(v, err));
    if (strcasecmp(v->report->sha256, v->options->expected_sha256) == 0) return QN_OK;
    return qni_reject(v, err, "reason=mismatch expected=%.80s got=%s", v->options->expected_sha256,
                      v->report->sha256);
}

qn_status qni_gate_size(qni_verification *v, qn_error *err) {
    if (v->file_bytes == v->options->expected_bytes) return QN_OK;
    return qni_reject(v, err, "reason=mismatch expected_bytes=%lld file_bytes=%lld",
                      (long long)v->options->expected_bytes, (long long)v->file_bytes);
}

qn_status qni_gate_url(qni_verification *v, qn_error *err) {
    char hex[QN_SHA256_HEX] = "";
    int64_t n_bytes = 0;
    qn_error inner;

    if (v->is_folder) return qni_reject(v, err, "reason=a_folder_has_no_url");
    QN_TRY(digest_once(v, err));
    const qn_status status = qni_url_sha256(v->options->url, v->file_bytes, v->ctx, hex, &n_bytes, &inner);
    if (status == QN_E_IO) return qni_reject(v, err, "reason=download_failed error=%.300s", inner.message);
    if (status != QN_OK) return qn_fail(err, status, "%s", inner.message);
    if (n_bytes != v->file_bytes) {
        return qni_reject(v, err, "reason=size expected_bytes=%lld got_bytes=%s%lld",
                          (long long)v->file_bytes, n_bytes > v->file_bytes ? "at_least_" : "",
                          (long long)n_bytes);
    }
    if (strcmp(hex, v->report->sha256) == 0) return QN_OK;
    return qni_reject(v, err, "reason=sha256 expected=%s got=%s", v->report->sha256, hex);
}

/* ------------------------------------------------------------------------------------------- size */

qn_status qni_gate_artifact_size(qni_verification *v, qn_error *err) {
    const qn_profile *p = v->options->profile;
    const int64_t allowed = qn_profile_budget_bytes(p, v->reference_parameters);
    char budget[QNI_REAL_BYTES];

    if (v->file_bytes <= allowed) return QN_OK;
    qni_real_text(p->budget_bits, budget);
    return qni_reject(
        v, err, "file_bytes=%lld bits=%lld allowed_bits=%lld allowed_bytes=%lld budget_bits_per_parameter=%s",
        (long long)v->file_bytes, (long long)(8 * v->file_bytes),
        (long long)ceil((double)v->reference_parameters * p->budget_bits), (long long)allowed, budget);
}

/* ------------------------------------------------------------------------------------------- members */

/* As the scorer judges names: as text, before anything is written. */
static bool leaves_the_archive(const char *name) {
    bool first = true;

    if (name[0] == '/' || name[0] == '\\') return true;
    for (const char *part = name; *part;) {
        const size_t n = strcspn(part, "/\\");
        if (n == 2 && part[0] == '.' && part[1] == '.') return true;
        if (n > 0 && !(n == 1 && part[0] == '.')) {
            if (first && memchr(part, ':', n)) return true;
            first = false;
        }
        part += n + (part[n] != 0);
    }
    return false;
}

static qn_status judge_member(qni_verification *v, zip_t *zip, zip_uint64_t i, qn_error *err) {
    zip_uint8_t system = 0;
    zip_uint32_t attributes = 0;
    const char *name = zip_get_name(zip, i, ZIP_FL_ENC_GUESS);

    if (!name) return qni_reject(v, err, "reason=unreadable error=%.200s", zip_strerror(zip));
    if (leaves_the_archive(name)) return qni_reject(v, err, "reason=path_escape member=%.200s", name);
    if (zip_file_get_external_attributes(zip, i, 0, &system, &attributes) != 0) return QN_OK;
    const unsigned kind = attributes >> 16 & S_IFMT;
    if (kind == 0 || kind == S_IFREG || kind == S_IFDIR) return QN_OK;
    return qni_reject(v, err, "reason=not_a_plain_file member=%.200s", name);
}

static bool is_tar(const char *path) {
    static const struct {
        const char *magic;
        size_t offset, n;
    } kinds[] = {{"ustar", 257, 5},
                 {"\x1f\x8b", 0, 2},
                 {"BZh", 0, 3},
                 {"\xfd"
                  "7zXZ",
                  0, 5},
                 {"\x28\xb5\x2f\xfd", 0, 4}};
    char head[512] = {0};
    FILE *file = fopen(path, "rbe");
    if (!file) return false;
    const size_t n = fread(head, 1, sizeof head, file);
    (void)fclose(file);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        if (n > kinds[k].offset + kinds[k].n && !memcmp(head + kinds[k].offset, kinds[k].magic, kinds[k].n))
            return true;
    }
    return false;
}

static qn_status reject_unopened(qni_verification *v, int code, qn_error *err) {
    if (is_tar(v->path))
        return qni_reject(v, err, "reason=unsupported_tar advice=unpack it and run: quern pack");
    if (code == ZIP_ER_NOZIP) return qni_reject(v, err, "reason=neither_folder_nor_archive");
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const qn_status status = qni_reject(v, err, "reason=unreadable error=%.200s", zip_error_strerror(&error));
    zip_error_fini(&error);
    return status;
}

static qn_status judge_archive(qni_verification *v, qn_error *err) {
    int code = 0;
    qn_status status = QN_OK;
    zip_t *zip = zip_open(v->path, ZIP_RDONLY, &code);

    if (!zip) return reject_unopened(v, code, err);
    const zip_int64_t n = zip_get_num_entries(zip, 0);
    for (zip_int64_t i = 0; status == QN_OK && i < n; i++)
        status = judge_member(v, zip, (zip_uint64_t)i, err);
    zip_discard(zip);
    return status;
}

qn_status qni_gate_contents(qni_verification *v, qn_error *err) {
    qn_error inner;

    if (v->is_folder) return digest_once(v, err);
    QN_TRY(judge_archive(v, err));
    const qn_status status = qn_store_open(v->path, &v->store, &inner);
    if (status == QN_E_NOMEM) return qn_fail(err, status, "%s", inner.message);
    if (status != QN_OK) return qni_reject(v, err, "reason=unreadable error=%.300s", inner.message);
    return digest_once(v, err);
}

qn_status qni_gate_model_dir(qni_verification *v, qn_error *err) {
    size_t index;
    if (!qn_store_find(v->store, "config.json", &index)) return qni_reject(v, err, "reason=no_config_json");
    return qni_lint(v->store, &v->lint, err);
}
