#include "quern/base/writer.h"

#include "base/alloc.h"
#include "base/aside.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

/* PATH without the slashes at its end: "out/" is the folder "out". */
static char *trimmed(const char *path) {
    char *copy = qni_copy_string(path);
    if (!copy) return NULL;
    for (size_t n = strlen(copy); n > 1 && copy[n - 1] == '/'; n--) copy[n - 1] = 0;
    return copy;
}

static qn_status check_absent_or_empty(const char *path, qn_error *err) {
    struct stat info;
    if (lstat(path, &info) != 0) {
        return errno == ENOENT ? QN_OK : qn_fail_errno(err, "%s: cannot be written", path);
    }
    if (!S_ISDIR(info.st_mode)) {
        return qn_fail(err, QN_E_IO, "%s: exists and is no folder; choose another path", path);
    }
    DIR *folder = opendir(path);
    if (!folder) return qn_fail_errno(err, "%s: cannot be read", path);
    int n_entries = 0;
    while (n_entries <= 2 && readdir(folder)) n_entries++;
    (void)closedir(folder);
    if (n_entries > 2) {
        return qn_fail(err, QN_E_IO, "%s: is a folder that holds files; choose another path or empty it",
                       path);
    }
    return QN_OK;
}

qn_status qn_folder_begin(const char *path, char **temporary, qn_error *err) {
    char *target = trimmed(path);
    if (!target) return qni_fail_nomem(err, path);
    qn_status status = check_absent_or_empty(target, err);
    if (status == QN_OK) status = qni_aside_folder(target, temporary, err);
    free(target);
    return status;
}

qn_status qn_folder_commit(const char *temporary, const char *path, qn_error *err) {
    char *target = trimmed(path);
    if (!target) return qni_fail_nomem(err, path);
    qn_status status = qni_sync_folder(temporary, err);
    if (status == QN_OK && rename(temporary, target) != 0) {
        status = qn_fail_errno(err, "%s: cannot be put in place", target);
    }
    if (status == QN_OK) status = qni_aside_sync_parent(target, err);
    free(target);
    return status;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *where) {
    (void)info, (void)type, (void)where;
    return remove(path);
}

void qn_folder_abandon(const char *temporary) {
    if (temporary) (void)nftw(temporary, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}
