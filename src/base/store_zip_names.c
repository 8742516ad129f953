/* libzip hands out names as C strings, which hides a NUL and all that follows it: two readers could then
 * disagree on a member's name. So the names are looked at once more where they stand, in the archive's
 * central directory (APPNOTE.TXT 4.3.12 to 4.3.16). */
#include "base/store_private.h"

#include <string.h>

#include "base/banned.h"

enum {
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR64_BYTES = 20,
    ENTRY_BYTES = 46,
    MAX_COMMENT_BYTES = 65535,
};

static uint64_t get(const uint8_t *p, int n_bytes) {
    uint64_t value = 0;
    for (int i = n_bytes; i-- > 0;) value = value << 8 | p[i];
    return value;
}

static bool has_signature(const qni_mapping *file, uint64_t at, uint64_t n_bytes, const char *signature) {
    return at <= file->n_bytes && n_bytes <= file->n_bytes - at && memcmp(file->data + at, signature, 4) == 0;
}

/* The last record whose comment reaches exactly to the end of the file. */
static bool find_end(const qni_mapping *file, uint64_t *at) {
    for (uint64_t comment = 0; comment <= MAX_COMMENT_BYTES && comment + END_BYTES <= file->n_bytes;
         comment++) {
        uint64_t candidate = file->n_bytes - END_BYTES - comment;
        if (has_signature(file, candidate, END_BYTES, "PK\5\6") &&
            get(file->data + candidate + 20, 2) == comment) {
            *at = candidate;
            return true;
        }
    }
    return false;
}

/* Where the central directory starts. */
static bool find_directory(const qni_mapping *file, uint64_t *at) {
    uint64_t end;
    if (!find_end(file, &end)) return false;
    if (end >= LOCATOR64_BYTES && has_signature(file, end - LOCATOR64_BYTES, LOCATOR64_BYTES, "PK\6\7")) {
        uint64_t end64 = get(file->data + end - LOCATOR64_BYTES + 8, 8);
        if (!has_signature(file, end64, END64_BYTES, "PK\6\6")) return false;
        *at = get(file->data + end64 + 48, 8);
        return true;
    }
    *at = get(file->data + end + 16, 4);
    return true;
}

static qn_status check_names(const qni_mapping *file, const char *path, uint64_t n_entries, qn_error *err) {
    uint64_t at;
    bool followed = find_directory(file, &at);
    for (uint64_t i = 0; i < n_entries && followed; i++) {
        followed = has_signature(file, at, ENTRY_BYTES, "PK\1\2");
        if (!followed) break;
        const uint8_t *entry = file->data + at;
        uint64_t name_bytes = get(entry + 28, 2);
        uint64_t rest_bytes = name_bytes + get(entry + 30, 2) + get(entry + 32, 2);
        followed = rest_bytes <= file->n_bytes - at - ENTRY_BYTES;
        if (followed && memchr(entry + ENTRY_BYTES, 0, name_bytes)) {
            return qn_fail(err, QN_E_FORMAT, "%s: member %llu has a NUL in its name; the archive is refused",
                           path, (unsigned long long)i);
        }
        at += ENTRY_BYTES + rest_bytes;
    }
    if (followed) return QN_OK;
    return qn_fail(err, QN_E_FORMAT, "%s: the archive's central directory cannot be followed", path);
}

qn_status qni_store_check_zip_names(const qn_store *store, uint64_t n_entries, qn_error *err) {
    qni_mapping file;
    QN_TRY(qni_mapping_open(store->path, &file, err));
    qn_status status = check_names(&file, store->path, n_entries, err);
    qni_mapping_release(&file);
    return status;
}
