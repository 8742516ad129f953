/* Runs every file of the given folders through a fuzz target, and each of them cut short and with changed
 * bytes. The library must accept the files themselves, so that the seeds stay good when a format moves. */
#include "fuzz.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_VARIANTS = 200 };

static uint8_t *load(const char *path, size_t *n_bytes) {
    FILE *file = fopen(path, "rb");
    fuzz_require(file != NULL, path);
    fuzz_require(fseek(file, 0, SEEK_END) == 0, path);
    long size = ftell(file);
    rewind(file);
    uint8_t *data = malloc((size_t)size + 1);
    fuzz_require(data && fread(data, 1, (size_t)size, file) == (size_t)size, path);
    (void)fclose(file);
    *n_bytes = (size_t)size;
    return data;
}

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

static int replay_folder(const char *folder) {
    int n = 0;
    struct dirent *entry;
    DIR *handle = opendir(folder);
    fuzz_require(handle != NULL, folder);
    while ((entry = readdir(handle))) {
        char path[PATH_MAX];
        if (entry->d_name[0] == '.') continue;
        (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        size_t n_bytes;
        uint8_t *data = load(path, &n_bytes);
        const long n_before = fuzz_n_accepted();
        run(data, n_bytes);
        fuzz_require(fuzz_n_accepted() > n_before, path);
        run_variants(data, n_bytes);
        free(data);
        n++;
    }
    closedir(handle);
    return n;
}

int main(int argc, char **argv) {
    int n = 0;
    for (int i = 1; i < argc; i++) n += replay_folder(argv[i]);
    fuzz_require(n > 0, "a corpus with files");
    printf("replayed %d files and their variants\n", n);
    return 0;
}
