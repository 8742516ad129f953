/* An archive above 4 GiB: ZIP64 fields as our arithmetic has them, and two other programs that read them. */
#include "artifact_support.h"

#include "artifact/archive.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

static const int64_t FILLER_BYTES = INT64_C(5) << 30, NEEDED_BYTES = INT64_C(12) << 30;
static const char filler_name[] = "payload-00001-of-00001.safetensors";

static int64_t free_bytes(const char *path) {
    struct statvfs info;
    assert_int_equal(statvfs(path, &info), 0);
    return (int64_t)(info.f_bavail * info.f_frsize);
}

/* In memory, where there is plenty, the test takes half the time. */
static void choose_place(void) {
    const int64_t memory = (int64_t)sysconf(_SC_AVPHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    if (getenv("TMPDIR") || memory < NEEDED_BYTES || access("/dev/shm", W_OK) != 0) return;
    if (free_bytes("/dev/shm") >= NEEDED_BYTES) setenv("TMPDIR", "/dev/shm", 1);
}

static void make_sparse(const char *folder, const char *name, int64_t n_bytes) {
    char *path = path_in(folder, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, n_bytes), 0);
    close(fd);
    free(path);
}

/* Runs a command and returns its output (owned); fails the test when the command fails. NULL when it is not
 * installed. */
static char *output_of(const char *program, const char *command) {
    char *probe = NULL, *text = calloc(1, 4096);
    assert_true(asprintf(&probe, "command -v %s >/dev/null", program) > 0);
    const int absent = system(probe);
    free(probe);
    if (absent) {
        printf("SKIPPED: %s is not installed\n", program);
        free(text);
        return NULL;
    }
    FILE *pipe = popen(command, "re");
    assert_true(pipe && text);
    assert_true(fread(text, 1, 4095, pipe) > 0);
    if (pclose(pipe) != 0) fail_msg("%s: %s", command, text);
    return text;
}

/* COMMAND finds the archive in $ARCHIVE. */
static void check_with(const char *program, const char *command, const char *expected) {
    char *text = output_of(program, command);
    if (text && !strstr(text, expected)) fail_msg("%s: '%s' is not in '%s'", command, expected, text);
    free(text);
}

static void test_five_gibibytes(void **state) {
    (void)state;
    choose_place();
    char *root = make_temporary_folder();
    if (free_bytes(root) < NEEDED_BYTES) {
        printf("SKIPPED: less than 12 GiB free in %s\n", root);
        remove_tree(root);
        free(root);
        skip();
    }
    static const char config[] = "{\"model_type\": \"qwen3\"}\n";
    char *model = path_in(root, "model"), *path = path_in(root, "big.zip"), sha[QN_SHA256_HEX];
    int64_t n_bytes = 0, config_bytes = 0;
    qn_error err;
    write_text(root, "model/config.json", config);
    write_text(root, "model/quern.json", config);
    make_sparse(model, filler_name, FILLER_BYTES);
    expect_ok(qn_pack(model, path, NULL, sha, &n_bytes, &err), &err);

    expect_ok(qni_deflated_bytes(config, sizeof config - 1, &config_bytes, &err), &err);
    qni_zip_member members[] = {
        {.name = "quern.json", .raw_bytes = sizeof config - 1, .packed_bytes = config_bytes},
        {.name = filler_name, .stored = true, .raw_bytes = FILLER_BYTES, .packed_bytes = FILLER_BYTES},
        {.name = "config.json", .raw_bytes = sizeof config - 1, .packed_bytes = config_bytes},
    };
    qni_zip_sort(members, 3);
    assert_int_equal(qni_archive_bytes(members, 3), n_bytes);

    setenv("ARCHIVE", path, 1);
    check_with("unzip", "unzip -l \"$ARCHIVE\"", "5368709120");
    check_with("unzip", "unzip -tq \"$ARCHIVE\" 2>&1", "No errors detected");
    check_with("python3",
               "python3 -c \"import os, zipfile; z = zipfile.ZipFile(os.environ['ARCHIVE']); "
               "print(z.read('quern.json'), z.infolist())\"",
               "file_size=5368709120");
    unsetenv("ARCHIVE");
    free(model);
    free(path);
    remove_tree(root);
    free(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_five_gibibytes)};
    return cmocka_run_group_tests_name("artifact zip64", tests, NULL, NULL);
}
