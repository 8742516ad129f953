#include "base/store_private.h"

#include "base/alloc.h"
#include "base/unnamed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/banned.h"

enum { COPY_BYTES = 1 << 20 };

static qn_status open_archive(qn_store *store, qn_error *err) {
    int code = 0;
    store->zip = zip_open(store->path, ZIP_RDONLY | ZIP_CHECKCONS, &code);
    if (store->zip) return QN_OK;

    zip_error_t error;
    zip_error_init_with_code(&error, code);
    qn_status status =
        code == ZIP_ER_OPEN || code == ZIP_ER_READ || code == ZIP_ER_SEEK ? QN_E_IO : QN_E_FORMAT;
    qn_fail(err, status, "%s: not a readable zip archive: %s", store->path,
            code == ZIP_ER_EXISTS ? "two members have one name" : zip_error_strerror(&error));
    zip_error_fini(&error);
    return status;
}

/* Why NAME may not be unpacked below a folder, or NULL. Empty and "." parts are refused too: they would give
 * one file several names. One '/' may stand at the end (a folder). */
static const char *name_fault(const char *name) {
    if (!*name) return "has an empty name";
    if (*name == '/') return "has an absolute name";
    if (strchr(name, '\\')) return "has a backslash in its name";
    if (memchr(name, ':', strcspn(name, "/"))) return "has a drive letter in its name";
    while (*name) {
        size_t n = strcspn(name, "/");
        if (n == 2 && name[0] == '.' && name[1] == '.') return "has a name that leaves the archive";
        if (n == 0 || (n == 1 && name[0] == '.')) return "has an empty or \".\" part in its name";
        name += n;
        if (*name == '/') name++;
    }
    return NULL;
}

static const char *member_fault(zip_t *zip, const zip_stat_t *info) {
    zip_uint8_t made_by;
    zip_uint32_t attributes;

    if (info->encryption_method != ZIP_EM_NONE) return "is encrypted";
    if (info->comp_method != ZIP_CM_STORE && info->comp_method != ZIP_CM_DEFLATE) {
        return "is packed by a method other than stored or deflated";
    }
    if (info->size > QN_STORE_MAX_MEMBER_BYTES) return "declares an absurd size";
    if (zip_file_get_external_attributes(zip, info->index, 0, &made_by, &attributes) != 0) {
        return "has unreadable attributes";
    }
    mode_t type = (attributes >> 16) & S_IFMT;
    if (S_ISLNK(type)) return "is a symbolic link";
    if (type != 0 && !S_ISREG(type) && !S_ISDIR(type)) return "is a special file";
    return NULL;
}

static qn_status refuse(const qn_store *store, const char *name, const char *fault, qn_error *err) {
    return qn_fail(err, QN_E_FORMAT, "%s: member \"%s\" %s; the archive is refused", store->path, name,
                   fault);
}

static qn_status add_member(qn_store *store, zip_uint64_t index, qn_error *err) {
    const zip_uint64_t needed = ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    zip_stat_t info;
    const char *name = zip_get_name(store->zip, index, ZIP_FL_ENC_RAW);

    if (!name || zip_stat_index(store->zip, index, 0, &info) != 0 || (info.valid & needed) != needed) {
        return qn_fail(err, QN_E_FORMAT, "%s: member %llu of the archive cannot be examined: %s", store->path,
                       (unsigned long long)index, zip_strerror(store->zip));
    }
    info.index = index;
    const char *fault = name_fault(name);
    if (!fault) fault = member_fault(store->zip, &info);
    if (fault) return refuse(store, name, fault, err);
    return qni_store_add(store, name, info.size, index, err);
}

static bool is_folder(const char *name) {
    return name[strlen(name) - 1] == '/';
}

/* Orders names as if no folder's ended in '/', so that a file and a folder of one name stand together. */
static int compare_names(const void *a, const void *b) {
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    size_t n_x = strlen(x) - is_folder(x), n_y = strlen(y) - is_folder(y);
    int order = memcmp(x, y, n_x < n_y ? n_x : n_y);
    return order ? order : (n_x > n_y) - (n_x < n_y);
}

/* Whether a file of the sorted NAMES is also used as a folder by NAME. */
static bool passes_through_file(const char **names, size_t n, const char *name, char *prefix) {
    for (const char *slash = strchr(name, '/'); slash && slash[1]; slash = strchr(slash + 1, '/')) {
        size_t n_bytes = (size_t)(slash - name);
        memcpy(prefix, name, n_bytes);
        prefix[n_bytes] = 0;
        const char *key = prefix;
        const char **found = bsearch(&key, names, n, sizeof *names, compare_names);
        if (found && !is_folder(*found)) return true;
    }
    return false;
}

static qn_status check_sorted(const qn_store *store, const char **names, size_t n, char *scratch,
                              qn_error *err) {
    for (size_t i = 0; i < n; i++) {
        const char *fault = NULL;
        if (i > 0 && compare_names(&names[i - 1], &names[i]) == 0) fault = "has the name of another one";
        if (passes_through_file(names, n, names[i], scratch)) fault = "lies in a folder that is also a file";
        if (fault) return refuse(store, names[i], fault, err);
    }
    return QN_OK;
}

/* No two members may end up at one place. */
static qn_status check_clashes(const qn_store *store, qn_error *err) {
    const size_t n = store->n_members;
    size_t longest = 0;
    const char **names = qni_alloc_array((int64_t)n, sizeof *names);
    if (!names) return qni_fail_nomem(err, store->path);
    for (size_t i = 0; i < n; i++) {
        names[i] = store->members[i].name;
        if (strlen(names[i]) > longest) longest = strlen(names[i]);
    }
    if (n > 1) qsort(names, n, sizeof *names, compare_names);
    char *scratch = qni_alloc_array((int64_t)longest + 1, 1);
    qn_status status =
        scratch ? check_sorted(store, names, n, scratch, err) : qni_fail_nomem(err, store->path);
    free(scratch);
    free(names);
    return status;
}

/* Folders are members too, but nothing asks for them once the names are checked. */
static void drop_folders(qn_store *store) {
    size_t kept = 0;
    for (size_t i = 0; i < store->n_members; i++) {
        if (is_folder(store->members[i].name)) {
            free(store->members[i].name);
        } else {
            store->members[kept++] = store->members[i];
        }
    }
    store->n_members = kept;
}

qn_status qni_store_open_zip(qn_store *store, qn_error *err) {
    QN_TRY(open_archive(store, err));
    zip_int64_t n = zip_get_num_entries(store->zip, 0);
    QN_TRY(qni_store_check_zip_names(store, (uint64_t)n, err));
    for (zip_int64_t i = 0; i < n; i++) QN_TRY(add_member(store, (zip_uint64_t)i, err));
    QN_TRY(check_clashes(store, err));
    drop_folders(store);
    return QN_OK;
}

static qn_status unpack(const qn_store *store, const qni_member *member, zip_file_t *file, int fd,
                        qn_error *err) {
    uint8_t *buffer = qni_alloc_aligned(COPY_BYTES, 1);
    uint64_t total = 0;
    qn_status status = QN_OK;

    if (!buffer) return qni_fail_nomem(err, "a copy buffer");
    while (status == QN_OK) {
        zip_int64_t n = zip_fread(file, buffer, COPY_BYTES);
        if (n < 0) {
            status = qn_fail(err, QN_E_FORMAT, "%s: member \"%s\" is damaged: %s", store->path, member->name,
                             zip_file_strerror(file));
        }
        if (n <= 0) break;
        total += (uint64_t)n;
        if (total > member->n_bytes) break;
        status = qni_unnamed_write(fd, (int64_t)(total - (uint64_t)n), buffer, (size_t)n, member->name, err);
    }
    if (status == QN_OK && total != member->n_bytes) {
        status = qn_fail(err, QN_E_FORMAT, "%s: member \"%s\" does not unpack to the %llu bytes it declares",
                         store->path, member->name, (unsigned long long)member->n_bytes);
    }
    free(buffer);
    return status;
}

qn_status qni_store_map_zip(const qn_store *store, const qni_member *member, qni_mapping *out,
                            qn_error *err) {
    int fd;
    QN_TRY(qni_unnamed_open(&fd, err));
    qn_status status;
    zip_file_t *file = zip_fopen_index(store->zip, member->zip_index, 0);
    if (file) {
        status = unpack(store, member, file, fd, err);
        (void)zip_fclose(file);
    } else {
        status = qn_fail(err, QN_E_FORMAT, "%s: member \"%s\" cannot be read: %s", store->path, member->name,
                         zip_strerror(store->zip));
    }
    if (status == QN_OK) status = qni_mapping_from_fd(fd, member->name, out, err);
    (void)close(fd);
    return status;
}
