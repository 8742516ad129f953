#include "test_data.h"

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *path_in(const char *folder, const char *name) {
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0) abort();
    return path;
}

char *source_path(const char *name) {
    return path_in(QN_SOURCE_DIR, name);
}

char *test_data_path(const char *name) {
    const char *root = getenv("QUERN_TEST_DATA");
    char *shared = root ? strdup(root) : source_path("../shared");
    char *path = path_in(shared, name);
    free(shared);
    if (access(path, R_OK) == 0) return path;
    free(path);
    return NULL;
}

char *require_test_data(const char *name) {
    char *path = test_data_path(name);
    if (path) return path;
    printf("SKIPPED: shared test data '%s' is absent (set QUERN_TEST_DATA)\n", name);
    fflush(stdout);
    skip();
    return NULL;
}

char *make_temporary_folder(void) {
    const char *base = getenv("TMPDIR");
    char *path = path_in(base ? base : "/tmp", "quern-test-XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *walk) {
    (void)info;
    (void)flag;
    (void)walk;
    return remove(path);
}

void remove_tree(const char *path) {
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

void write_test_file(const char *folder, const char *name, const void *data, size_t n_bytes) {
    char *path = path_in(folder, name);
    for (size_t i = strlen(folder) + 1; path[i]; i++) {
        if (path[i] != '/') continue;
        path[i] = 0;
        (void)mkdir(path, 0777);
        path[i] = '/';
    }
    FILE *file = fopen(path, "wb");
    if (!file) fail_msg("cannot create %s", path);
    assert_int_equal(fwrite(data, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
    free(path);
}

int count_entries(const char *folder) {
    DIR *handle = opendir(folder);
    assert_non_null(handle);
    int n = 0;
    while (readdir(handle)) n++;
    closedir(handle);
    return n - 2;
}

json_t *load_json(const char *path) {
    json_error_t error;
    json_t *value = json_load_file(path, JSON_DECODE_ANY, &error);
    if (!value) fail_msg("%s:%d: %s", path, error.line, error.text);
    return value;
}

char *load_file(const char *path, size_t *n_bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) fail_msg("cannot open %s", path);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *data = malloc((size_t)size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, (size_t)size, file), (size_t)size);
    data[size] = 0;
    fclose(file);
    if (n_bytes) *n_bytes = (size_t)size;
    return data;
}
