#include "base/aside.h"

#include "base/alloc.h"
#include "quern/base/writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

#define SUFFIX ".tmp-"
enum { MAX_TRIES = 100, HEX_DIGITS = 8 };

/* Not mkstemp and mkdtemp: those make the entry private, and the umask cannot be read without changing it. */
static int make_file(const char *name) {
    return open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
}

static int make_folder(const char *name) {
    return mkdir(name, 0777);
}

static qn_status make_aside(const char *path, int (*make)(const char *), char **name, int *result,
                            qn_error *err) {
    for (int i = 0; i < MAX_TRIES; i++) {
        uint32_t unique;
        char *candidate;
        if (getrandom(&unique, sizeof unique, 0) != (ssize_t)sizeof unique) {
            return qn_fail_errno(err, "%s: no random name for a temporary file", path);
        }
        if (asprintf(&candidate, "%s" SUFFIX "%08" PRIx32, path, unique) < 0)
            return qni_fail_nomem(err, path);
        int made = make(candidate);
        if (made >= 0) {
            *name = candidate;
            *result = made;
            return QN_OK;
        }
        free(candidate);
        if (errno != EEXIST) break;
    }
    return qn_fail_errno(err, "%s: cannot create a temporary file beside it", path);
}

qn_status qni_aside_file(const char *path, char **name, int *fd, qn_error *err) {
    return make_aside(path, make_file, name, fd, err);
}

qn_status qni_aside_folder(const char *path, char **name, qn_error *err) {
    int made;
    return make_aside(path, make_folder, name, &made, err);
}

/* Whether ENTRY is NAME.tmp-XXXXXXXX, of any NAME where it is NULL. */
static bool is_aside(const char *entry, const char *name) {
    const size_t n = strlen(entry), n_suffix = strlen(SUFFIX) + HEX_DIGITS;
    if (n <= n_suffix) return false;
    const char *suffix = entry + n - n_suffix, *digits = suffix + strlen(SUFFIX);
    if (strncmp(suffix, SUFFIX, strlen(SUFFIX)) != 0) return false;
    if (strspn(digits, "0123456789abcdef") != HEX_DIGITS) return false;
    return !name || (strlen(name) == n - n_suffix && strncmp(entry, name, n - n_suffix) == 0);
}

void qni_aside_sweep(const char *folder, const char *name) {
    DIR *entries = opendir(folder);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        char *path = NULL;
        if (!is_aside(entry->d_name, name) || asprintf(&path, "%s/%s", folder, entry->d_name) < 0) continue;
        qn_folder_abandon(path);
        free(path);
    }
    (void)closedir(entries);
}

qn_status qni_sync_folder(const char *folder, qn_error *err) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return qn_fail_errno(err, "%s: cannot be opened", folder);
    /* Some file systems have no fsync of folders and say EINVAL. */
    int failed = fsync(fd) != 0 && errno != EINVAL;
    qn_status status = failed ? qn_fail_errno(err, "%s: cannot be made durable", folder) : QN_OK;
    (void)close(fd);
    return status;
}

qn_status qni_aside_sync_parent(const char *path, qn_error *err) {
    char *copy = qni_copy_string(path);
    if (!copy) return qni_fail_nomem(err, path);
    qn_status status = qni_sync_folder(dirname(copy), err);
    free(copy);
    return status;
}
