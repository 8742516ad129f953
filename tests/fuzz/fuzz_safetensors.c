/* A safetensors file: every view of an accepted one lies inside it, and its header can be laid out again. */
#include "fuzz.h"

#include "quern/checkpoint/safetensors.h"

#include <stdlib.h>

static void check_view(const qn_view *view, const uint8_t *data, size_t n_bytes) {
    const uint8_t *start = view->data;
    const int64_t n = qn_view_elements(view);
    fuzz_require(n >= 0, "a countable tensor");
    const size_t size = (size_t)n * qn_dtype_bytes(view->dtype);
    fuzz_require(start >= data && size <= n_bytes - (size_t)(start - data), "a tensor inside the file");
    (void)qn_view_find_nonfinite(view, 0, n);
    fuzz_touch(start, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    qn_error err = {0};
    qn_safetensors *file = NULL;
    if (qn_safetensors_parse(data, n_bytes, "input", &file, &err) != QN_OK) {
        fuzz_require(file == NULL && err.code != QN_OK, "nothing published on failure");
        return 0;
    }
    fuzz_accept();
    for (size_t i = 0; i < qn_safetensors_count(file); i++) {
        size_t found;
        const char *name = qn_safetensors_tensor_name(file, i);
        fuzz_require(qn_safetensors_find(file, name, &found) && found == i, "a tensor that is found by name");
        check_view(qn_safetensors_view(file, i), data, n_bytes);
    }
    (void)qn_safetensors_metadata(file, "format");
    qn_safetensors_free(file);
    return 0;
}
