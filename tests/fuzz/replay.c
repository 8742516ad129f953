/* Runs every file of the given folder through a fuzz target, and each of them cut short and with changed
 * bytes. The library must accept the files themselves, so that the seeds stay good when a format moves. */
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_VARIANTS = 200 };

/* A copy of exactly the right size, so that a sanitizer sees a read past its end. */
static void run(const uint8_t *data, size_t n_bytes) {
    uint8_t *copy = malloc(n_bytes ? n_bytes : 1);
    fuzz_require(copy != NULL, "memory");
    if (n_bytes) memcpy(copy, data, n_bytes);
    (void)LLVMFuzzerTestOneInput(copy, n_bytes);
    free(copy);
}

static void run_variants(uint8_t *data, size_t n_bytes) {
    uint32_t random = 1;
    for (int i = 0; i < N_VARIANTS && n_bytes > 0; i++) {
        random = random * 1664525u + 1013904223u;
        size_t at = (random >> 8) % n_bytes;
        uint8_t kept = data[at];
        data[at] = (uint8_t)(kept ^ (1u << (random & 7)));
        run(data, n_bytes);
        data[at] = kept;
        run(data, at);
    }
}

static void replay(const char *path, uint8_t *data, size_t n_bytes) {
    const long n_before = fuzz_n_accepted();
    run(data, n_bytes);
    fuzz_require(fuzz_n_accepted() > n_before, path);
    run_variants(data, n_bytes);
}

int main(int argc, char **argv) {
    fuzz_require(argc == 2, "usage: replay_NAME CORPUS");
    printf("replayed %d files and their variants\n", fuzz_each_file(argv[1], replay));
    return 0;
}
