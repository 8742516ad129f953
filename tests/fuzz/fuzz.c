#include "fuzz.h"

#include "quern/base/writer.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static char the_folder[PATH_MAX];
static long n_accepted;

static void remove_folder(void) {
    qn_folder_abandon(the_folder);
}

const char *fuzz_folder(void) {
    struct stat info;
    if (*the_folder) return the_folder;
    const char *base = stat("/dev/shm", &info) == 0 && S_ISDIR(info.st_mode) ? "/dev/shm" : "/tmp";
    (void)snprintf(the_folder, sizeof the_folder, "%s/quern-fuzz-XXXXXX", base);
    fuzz_require(mkdtemp(the_folder) != NULL, "a private folder");
    (void)atexit(remove_folder);
    return the_folder;
}

const char *fuzz_write(const char *name, const void *data, size_t n_bytes) {
    static char path[2 * PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    FILE *file = fopen(path, "wb");
    fuzz_require(file != NULL, path);
    fuzz_require(fwrite(data, 1, n_bytes, file) == n_bytes && fclose(file) == 0, path);
    return path;
}

void fuzz_require(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz: does not hold: %s\n", what);
    abort();
}

void fuzz_accept(void) {
    n_accepted++;
}

long fuzz_n_accepted(void) {
    return n_accepted;
}

void fuzz_touch(const void *data, size_t n_bytes) {
    const uint8_t *bytes = data;
    uint8_t sum = 0;
    for (size_t i = 0; i < n_bytes; i++) sum ^= bytes[i];
    volatile uint8_t sink = sum;
    (void)sink;
}

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

int fuzz_each_file(const char *folder, void (*body)(const char *path, uint8_t *data, size_t n_bytes)) {
    int n = 0;
    struct dirent *entry;
    DIR *handle = opendir(folder);
    fuzz_require(handle != NULL, folder);
    while ((entry = readdir(handle))) {
        char path[PATH_MAX];
        size_t n_bytes;
        if (entry->d_name[0] == '.') continue;
        (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        uint8_t *data = load(path, &n_bytes);
        body(path, data, n_bytes);
        free(data);
        n++;
    }
    closedir(handle);
    fuzz_require(n > 0, "a corpus with files");
    return n;
}
