/* A document set, read both as JSON lines and as text. */
#include "fuzz.h"

#include "quern/text/documents.h"

static void check(const char *name, const uint8_t *data, size_t n_bytes) {
    qn_error err = {0};
    qn_documents set = {0};
    const char *path = fuzz_write(name, data, n_bytes);
    if (qn_documents_open(path, &set, &err) != QN_OK) {
        fuzz_require(set.documents == NULL && err.code != QN_OK, "nothing published on failure");
        return;
    }
    fuzz_accept();
    fuzz_require(set.n > 0, "a document");
    for (int64_t i = 0; i < set.n; i++) fuzz_touch(set.documents[i].text, set.documents[i].n_bytes);
    qn_documents_release(&set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    check("documents.jsonl", data, n_bytes);
    check("documents.txt", data, n_bytes);
    return 0;
}
