/* A zip archive: names of an accepted one stay inside a folder, and its members map to their declared size.
 */
#include "fuzz.h"

#include "quern/base/store.h"

#include <string.h>

static void check_name(const char *name) {
    fuzz_require(*name && *name != '/' && !strchr(name, '\\'), "a relative name");
    for (const char *part = name; part; part = strchr(part, '/')) {
        if (*part == '/') part++;
        fuzz_require(strncmp(part, "../", 3) != 0 && strcmp(part, "..") != 0, "a name inside the archive");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    qn_error err = {0};
    qn_store *store = NULL;
    const char *path = fuzz_write("input.zip", data, n_bytes);
    if (qn_store_open(path, &store, &err) != QN_OK) {
        fuzz_require(store == NULL && err.code != QN_OK, "nothing published on failure");
        return 0;
    }
    fuzz_accept();
    for (size_t i = 0; i < qn_store_count(store); i++) {
        const uint8_t *member;
        size_t n_member;
        check_name(qn_store_name(store, i));
        if (i > 0)
            fuzz_require(strcmp(qn_store_name(store, i - 1), qn_store_name(store, i)) < 0, "sorted names");
        if (qn_store_map(store, qn_store_name(store, i), &member, &n_member, &err) != QN_OK) continue;
        fuzz_require(n_member == qn_store_member_bytes(store, i), "the declared size");
        fuzz_touch(member, n_member);
    }
    qn_store_close(store);
    return 0;
}
