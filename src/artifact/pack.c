/* A deterministic zip of a model folder. */
#include "quern/artifact/artifact.h"

#include "artifact/archive.h"
#include "artifact/lint.h"
#include "base/alloc.h"
#include "quern/base/store.h"
#include "quern/base/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static qn_status check_folder(qn_store *store, const char *folder, qn_error *err) {
    char *config = NULL;
    FILE *file = NULL;

    if (qn_store_is_archive(store)) {
        return qn_fail(err, QN_E_ARGUMENT, "%s: is an archive already; give a folder", folder);
    }
    if (asprintf(&config, "%s/config.json", folder) < 0) return qni_fail_nomem(err, "a path");
    qn_status status = QN_OK;
    if (!(file = fopen(config, "rbe"))) {
        status = qn_fail_errno(err, "%s: a model folder has it at the top", config);
    } else {
        (void)fclose(file);
    }
    free(config);
    return status;
}

static qn_status refuse_findings(qn_store *store, const char *folder, qn_error *err) {
    qni_findings findings = {0};
    qn_status status = qni_lint(store, &findings, err);

    if (status == QN_OK && findings.n > 0) {
        status = qn_fail(err, QN_E_REJECTED, "%s: refused to pack %s (%lld such finding%s); remove it",
                         folder, findings.items[0], (long long)findings.n, findings.n > 1 ? "s" : "");
    }
    qni_findings_release(&findings);
    return status;
}

static bool is_stored(const char *name) {
    static const char suffix[] = ".safetensors";
    const size_t n = strlen(name), n_suffix = sizeof suffix - 1;
    return n >= n_suffix && strcmp(name + n - n_suffix, suffix) == 0;
}

static qn_status list_members(qn_store *store, const char *folder, qni_zip_member *members, char **paths,
                              size_t n, qn_error *err) {
    for (size_t i = 0; i < n; i++) {
        const char *name = qn_store_name(store, i);
        if (asprintf(&paths[i], "%s/%s", folder, name) < 0) {
            paths[i] = NULL;
            return qni_fail_nomem(err, "a path");
        }
        members[i] = (qni_zip_member){.name = name,
                                      .path = paths[i],
                                      .stored = is_stored(name),
                                      .raw_bytes = (int64_t)qn_store_member_bytes(store, i)};
    }
    qni_zip_sort(members, n);
    return QN_OK;
}

static qn_status write_members(qn_store *store, const char *folder, const char *path, const qn_context *ctx,
                               qn_error *err) {
    const size_t n = qn_store_count(store);
    qni_zip_member *members = qni_alloc_array((int64_t)n, sizeof *members);
    char **paths = qni_alloc_array((int64_t)n, sizeof *paths);
    char *staging = NULL;
    qn_status status = members && paths ? QN_OK : qni_fail_nomem(err, "archive members");

    if (status == QN_OK) status = list_members(store, folder, members, paths, n, err);
    if (status == QN_OK) status = qni_archive_begin(path, &staging, err);
    if (status == QN_OK) {
        status = qni_archive_write(members, n, 0, staging, path, ctx, err);
        qn_folder_abandon(staging);
    }
    for (size_t i = 0; paths && i < n; i++) free(paths[i]);
    free(paths);
    free(members);
    free(staging);
    return status;
}

qn_status qn_pack(const char *folder, const char *path, const qn_context *ctx, char sha256[QN_SHA256_HEX],
                  int64_t *n_bytes, qn_error *err) {
    qn_store *store = NULL;
    char hex[QN_SHA256_HEX];
    uint64_t bytes = 0;

    QN_TRY(qn_store_open(folder, &store, err));
    qn_status status = check_folder(store, folder, err);
    if (status == QN_OK) status = refuse_findings(store, folder, err);
    if (status == QN_OK) status = write_members(store, folder, path, ctx, err);
    if (status == QN_OK) status = qn_sha256_of_file(path, hex, &bytes, err);
    if (status == QN_OK) {
        memcpy(sha256, hex, sizeof hex);
        *n_bytes = (int64_t)bytes;
    }
    qn_store_close(store);
    return status;
}
