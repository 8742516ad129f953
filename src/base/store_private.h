/* What the two kinds of store (store.c: folder, store_zip.c: archive) share. */
#ifndef QUERN_SRC_BASE_STORE_PRIVATE_H
#define QUERN_SRC_BASE_STORE_PRIVATE_H

#include "quern/base/store.h"
#include "base/mapping.h"

#include <zip.h>

typedef struct qni_member {
    char *name; /* from the top of the store; owned */
    uint64_t n_bytes;
    uint64_t zip_index;
    qni_mapping mapping; /* valid when is_mapped */
    bool is_mapped;
} qni_member;

struct qn_store {
    char *path;
    zip_t *zip;    /* NULL for a folder */
    char *symlink; /* the first symbolic link met, or NULL */
    uint64_t total_bytes;
    qni_member *members; /* in bytewise order of names */
    size_t n_members, capacity;
    size_t root_bytes;          /* length of the root's name with its last '/', 0 for the top */
    size_t first, n_below_root; /* the members below the root */
};

/* Appends a copy of NAME. */
QN_NODISCARD qn_status qni_store_add(qn_store *store, const char *name, uint64_t n_bytes, uint64_t zip_index,
                                     qn_error *err);

/* Opens the archive at store->path, checks every member and adds the files among them. */
QN_NODISCARD qn_status qni_store_open_zip(qn_store *store, qn_error *err);

/* Refuses an archive with a NUL in a member's name. */
QN_NODISCARD qn_status qni_store_check_zip_names(const qn_store *store, uint64_t n_entries, qn_error *err);

/* Unpacks a member into an unlinked temporary file and maps that. */
QN_NODISCARD qn_status qni_store_map_zip(const qn_store *store, const qni_member *member, qni_mapping *out,
                                         qn_error *err);

#endif
