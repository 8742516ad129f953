#include "base/store_private.h"

#include "base/alloc.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

enum { MAX_FOLDER_DEPTH = 64 };

static const char CONFIG_NAME[] = "config.json";

qn_status qni_store_add(qn_store *store, const char *name, uint64_t n_bytes, uint64_t zip_index,
                        qn_error *err) {
    if (store->n_members == store->capacity) {
        size_t capacity = store->capacity ? 2 * store->capacity : 16;
        void *grown = store->members;
        QN_TRY(qni_grow_array(&grown, (int64_t)capacity, sizeof *store->members, err));
        store->members = grown;
        store->capacity = capacity;
    }
    char *copy = qni_copy_string(name);
    if (!copy) return qni_fail_nomem(err, name);
    store->members[store->n_members++] =
        (qni_member){.name = copy, .n_bytes = n_bytes, .zip_index = zip_index};
    return QN_OK;
}

static qn_status walk_folder(qn_store *store, const char *path, int depth, qn_error *err);

/* PATH starts with the store's own path and '/'. Links to files count as the file; links to folders are not
 * entered, so the walk ends. */
static qn_status visit_entry(qn_store *store, const char *path, int depth, qn_error *err) {
    const char *name = path + strlen(store->path) + 1;
    struct stat info;

    if (lstat(path, &info) != 0) return qn_fail_errno(err, "%s: cannot be examined", path);
    if (S_ISLNK(info.st_mode)) {
        if (!store->symlink && !(store->symlink = qni_copy_string(name))) return qni_fail_nomem(err, path);
        if (stat(path, &info) != 0 || S_ISDIR(info.st_mode)) return QN_OK;
    }
    if (S_ISDIR(info.st_mode)) return walk_folder(store, path, depth + 1, err);
    uint64_t n_bytes = S_ISREG(info.st_mode) ? (uint64_t)info.st_size : 0;
    store->total_bytes += n_bytes;
    return qni_store_add(store, name, n_bytes, 0, err);
}

static qn_status walk_folder(qn_store *store, const char *path, int depth, qn_error *err) {
    qn_status status = QN_OK;
    struct dirent *entry;
    DIR *folder;

    if (depth > MAX_FOLDER_DEPTH) {
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: folders nested deeper than %d", path, MAX_FOLDER_DEPTH);
    }
    if (!(folder = opendir(path))) return qn_fail_errno(err, "%s: cannot be read", path);
    while (status == QN_OK && (errno = 0, entry = readdir(folder))) {
        char *child;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (asprintf(&child, "%s/%s", path, entry->d_name) < 0) {
            status = qni_fail_nomem(err, path);
            break;
        }
        status = visit_entry(store, child, depth, err);
        free(child);
    }
    if (status == QN_OK && errno != 0) status = qn_fail_errno(err, "%s: cannot be read", path);
    (void)closedir(folder);
    return status;
}

static int compare_members(const void *a, const void *b) {
    return strcmp(((const qni_member *)a)->name, ((const qni_member *)b)->name);
}

/* Compares two folder names as a walk in name order meets them: '/' sorts before every other character. */
static int compare_folders(const char *a, size_t n_a, const char *b, size_t n_b) {
    size_t n = n_a < n_b ? n_a : n_b;
    for (size_t i = 0; i < n; i++) {
        int x = a[i] == '/' ? 0 : (unsigned char)a[i];
        int y = b[i] == '/' ? 0 : (unsigned char)b[i];
        if (x != y) return x - y;
    }
    return (n_a > n_b) - (n_a < n_b);
}

/* The name of NAME's folder is its first *n_bytes bytes (with the last '/'); false if NAME is no config.json.
 */
static bool is_config(const char *name, size_t *n_bytes) {
    const char *slash = strrchr(name, '/');
    const char *base = slash ? slash + 1 : name;
    *n_bytes = (size_t)(base - name);
    return strcmp(base, CONFIG_NAME) == 0;
}

static void find_root(qn_store *store) {
    const char *root = NULL;
    size_t root_bytes = 0;

    for (size_t i = 0; i < store->n_members; i++) {
        const char *name = store->members[i].name;
        size_t n_bytes;
        if (!is_config(name, &n_bytes)) continue;
        if (!root || compare_folders(name, n_bytes, root, root_bytes) < 0) {
            root = name;
            root_bytes = n_bytes;
        }
    }
    store->root_bytes = root_bytes;
    for (size_t i = 0; i < store->n_members; i++) {
        bool below = !root || strncmp(store->members[i].name, root, root_bytes) == 0;
        if (below && store->n_below_root++ == 0) store->first = i;
    }
}

static qn_status fill(qn_store *store, qn_error *err) {
    struct stat info;
    if (stat(store->path, &info) != 0) return qn_fail_errno(err, "%s: cannot be opened", store->path);
    if (S_ISDIR(info.st_mode)) {
        QN_TRY(walk_folder(store, store->path, 0, err));
    } else if (S_ISREG(info.st_mode)) {
        store->total_bytes = (uint64_t)info.st_size;
        QN_TRY(qni_store_open_zip(store, err));
    } else {
        return qn_fail(err, QN_E_IO, "%s: is a special file, expected a model folder or a zip archive",
                       store->path);
    }
    if (store->n_members > 0)
        qsort(store->members, store->n_members, sizeof *store->members, compare_members);
    find_root(store);
    return QN_OK;
}

qn_status qn_store_open(const char *path, qn_store **out, qn_error *err) {
    qn_store *store = qni_alloc_array(1, sizeof *store);
    if (!store) return qni_fail_nomem(err, path);
    store->path = qni_copy_string(path);
    qn_status status = store->path ? fill(store, err) : qni_fail_nomem(err, path);
    if (status != QN_OK) {
        qn_store_close(store);
        return status;
    }
    *out = store;
    return QN_OK;
}

void qn_store_close(qn_store *store) {
    if (!store) return;
    for (size_t i = 0; i < store->n_members; i++) {
        qni_mapping_release(&store->members[i].mapping);
        free(store->members[i].name);
    }
    if (store->zip) zip_discard(store->zip);
    free(store->members);
    free(store->symlink);
    free(store->path);
    free(store);
}

const char *qn_store_path(const qn_store *store) {
    return store->path;
}

bool qn_store_is_archive(const qn_store *store) {
    return store->zip != NULL;
}

bool qn_store_has_symlink(const qn_store *store, const char **name) {
    if (store->symlink && name) *name = store->symlink;
    return store->symlink != NULL;
}

uint64_t qn_store_total_bytes(const qn_store *store) {
    return store->total_bytes;
}

size_t qn_store_count(const qn_store *store) {
    return store->n_below_root;
}

const char *qn_store_name(const qn_store *store, size_t index) {
    return store->members[store->first + index].name + store->root_bytes;
}

uint64_t qn_store_member_bytes(const qn_store *store, size_t index) {
    return store->members[store->first + index].n_bytes;
}

bool qn_store_find(const qn_store *store, const char *name, size_t *index) {
    size_t low = 0, high = store->n_below_root;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(qn_store_name(store, middle), name);
        if (order == 0) {
            if (index) *index = middle;
            return true;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return false;
}

static qn_status map_file(const qn_store *store, const qni_member *member, qni_mapping *out, qn_error *err) {
    char *path;
    if (asprintf(&path, "%s/%s", store->path, member->name) < 0) return qni_fail_nomem(err, member->name);
    qn_status status = qni_mapping_open(path, out, err);
    free(path);
    return status;
}

qn_status qn_store_map(qn_store *store, const char *name, const uint8_t **data, size_t *n_bytes,
                       qn_error *err) {
    size_t index;
    if (!qn_store_find(store, name, &index)) {
        return qn_fail(err, QN_E_IO, "%s: has no file \"%s\"", store->path, name);
    }
    qni_member *member = &store->members[store->first + index];
    if (!member->is_mapped) {
        QN_TRY(store->zip ? qni_store_map_zip(store, member, &member->mapping, err)
                          : map_file(store, member, &member->mapping, err));
        member->is_mapped = true;
    }
    *data = member->mapping.data;
    *n_bytes = member->mapping.n_bytes;
    return QN_OK;
}
