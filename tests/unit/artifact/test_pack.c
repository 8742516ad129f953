/* Packing: order, fixed fields, one SHA-256, and what is refused. */
#include "artifact_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zip.h>

static char *model_folder(const fixture *f) {
    return fixture_path(f, "model");
}

static void test_members(void **state) {
    (void)state;
    fixture f;
    qn_error err;
    char sha[QN_SHA256_HEX];
    int64_t n_bytes = 0;
    int code;

    fixture_open(&f, &(tiny_options){0});
    char *model = model_folder(&f), *out = fixture_path(&f, "out.zip");
    write_text(model, "README.md", "A tiny model.\n");
    write_text(model, "generation_config.json", "{}\n");
    expect_ok(qn_pack(model, out, NULL, sha, &n_bytes, &err), &err);
    struct stat info;
    assert_int_equal(stat(out, &info), 0);
    assert_int_equal(info.st_size, n_bytes);

    static const char *const names[] = {"config.json", "README.md", "generation_config.json",
                                        "model.safetensors"};
    zip_t *zip = zip_open(out, ZIP_RDONLY | ZIP_CHECKCONS, &code);
    assert_non_null(zip);
    assert_int_equal(zip_get_num_entries(zip, 0), 4);
    for (zip_uint64_t i = 0; i < 4; i++) {
        zip_stat_t stat_info;
        zip_uint8_t system;
        zip_uint32_t attributes;
        assert_int_equal(zip_stat_index(zip, i, 0, &stat_info), 0);
        assert_string_equal(stat_info.name, names[i]);
        assert_int_equal(stat_info.comp_method, i == 3 ? ZIP_CM_STORE : ZIP_CM_DEFLATE);
        struct tm local;
        localtime_r(&stat_info.mtime, &local);
        assert_int_equal(local.tm_year, 80);
        assert_int_equal(local.tm_yday, 0);
        assert_int_equal(zip_file_get_external_attributes(zip, i, 0, &system, &attributes), 0);
        assert_int_equal(system, ZIP_OPSYS_UNIX);
        assert_int_equal(attributes >> 16, 0100644);
    }
    zip_discard(zip);

    qn_checkpoint *packed;
    expect_ok(qn_checkpoint_open(out, &packed, &err), &err);
    qn_checkpoint_close(packed);
    assert_int_equal(count_files(f.folder, "out.zip"), 1);
    free(model);
    free(out);
    fixture_close(&f);
}

static void test_same_bytes_whatever_the_surroundings(void **state) {
    (void)state;
    static const char *const zones[] = {"UTC", "Asia/Kathmandu", "America/Los_Angeles"};
    static const mode_t masks[] = {022, 077, 0};
    fixture f;
    qn_error err;
    char first[QN_SHA256_HEX] = "", sha[QN_SHA256_HEX], cwd[4096];
    int64_t n_bytes;

    fixture_open(&f, &(tiny_options){0});
    char *model = model_folder(&f), *out = fixture_path(&f, "out.zip");
    assert_non_null(getcwd(cwd, sizeof cwd));
    for (int i = 0; i < 3; i++) {
        setenv("TZ", zones[i], 1);
        tzset();
        const mode_t old = umask(masks[i]);
        if (i == 2) assert_int_equal(chdir(f.folder), 0);
        const qn_status status =
            qn_pack(i == 2 ? "model" : model, i == 2 ? "out.zip" : out, NULL, sha, &n_bytes, &err);
        umask(old);
        assert_int_equal(chdir(cwd), 0);
        expect_ok(status, &err);
        if (i == 0) memcpy(first, sha, sizeof sha);
        assert_string_equal(sha, first);
    }
    unsetenv("TZ");
    tzset();
    free(model);
    free(out);
    fixture_close(&f);
}

typedef struct unwanted {
    const char *name, *text, *reason;
} unwanted;

static void test_refuses_what_is_not_for_others(void **state) {
    (void)state;
    static const unwanted cases[] = {
        {"notes.ipynb", "{\"cells\": []}", "a notebook"},
        {"modeling.pyc", "x", "a cache"},
        {".env", "X=1", "secrets"},
        {".gitignore", "x", "a hidden file"},
        {"server.pem", "x", "secrets"},
        {"server.key", "x", "secrets"},
        {"train.jsonl", "{}", "not part of a model folder"},
        {"pytorch_model.bin", "x", "run code"},
        {"old.zip", "x", "an archive inside"},
        {"na\xc3\xafve.json", "{}", "does not travel"},
        {"a.json", "{\"token\": \"hf_abcdefghijABCDEFGHIJ0123456789abcd\"}", "an access token in line 1"},
        {"b.json", "{}\n\"sk-abcdefghijABCDEFGHIJ0123456789\"", "an access token in line 2"},
        {"c.py", "key = 'AKIAABCDEFGHIJKLMNOP'\n", "an access token"},
        {"d.md", "see /home/ada/models\n", "somebody's machine"},
        {"e.md", "see /Users/ada/models\n", "somebody's machine"},
        {"f.json", "{\"_name_or_path\": \"C:\\\\Users\\\\ada\"}", "somebody's machine"},
        {"g.md", "-----BEGIN RSA PRIVATE KEY-----\n", "a private key"},
    };
    fixture f;
    qn_error err;
    char sha[QN_SHA256_HEX];
    int64_t n_bytes;

    fixture_open(&f, &(tiny_options){0});
    char *model = model_folder(&f), *out = fixture_path(&f, "out.zip");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = NULL;
        write_text(model, cases[i].name, cases[i].text);
        const qn_status status = qn_pack(model, out, NULL, sha, &n_bytes, &err);
        expect_error(status, QN_E_REJECTED, &err, cases[i].reason);
        expect_error(status, QN_E_REJECTED, &err, cases[i].name);
        assert_true(asprintf(&path, "%s/%s", model, cases[i].name) > 0);
        assert_int_equal(unlink(path), 0);
        free(path);
    }
    assert_int_equal(count_files(f.folder, "out.zip"), 0);
    /* Vocabularies are data: any string may occur in them. */
    write_text(model, "vocab.json", "{\"/home/ada\": 1}");
    expect_ok(qn_pack(model, out, NULL, sha, &n_bytes, &err), &err);
    free(model);
    free(out);
    fixture_close(&f);
}

static void test_refuses_caches_links_and_no_config(void **state) {
    (void)state;
    fixture f;
    qn_error err;
    char sha[QN_SHA256_HEX];
    int64_t n_bytes;

    fixture_open(&f, &(tiny_options){0});
    char *model = model_folder(&f), *out = fixture_path(&f, "out.zip"),
         *path = fixture_path(&f, "model/__pycache__");
    assert_int_equal(mkdir(path, 0777), 0);
    write_text(path, "a.json", "{}");
    expect_error(qn_pack(model, out, NULL, sha, &n_bytes, &err), QN_E_REJECTED, &err, "a cache");
    remove_tree(path);
    free(path);

    path = fixture_path(&f, "model/link.json");
    assert_int_equal(symlink("config.json", path), 0);
    expect_error(qn_pack(model, out, NULL, sha, &n_bytes, &err), QN_E_REJECTED, &err,
                 "link.json: a symbolic link");
    assert_int_equal(unlink(path), 0);
    free(path);

    expect_error(qn_pack(f.folder, out, NULL, sha, &n_bytes, &err), QN_E_IO, &err, "at the top");
    assert_int_equal(count_files(f.folder, "out.zip"), 0);
    free(model);
    free(out);
    fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_same_bytes_whatever_the_surroundings),
        cmocka_unit_test(test_refuses_what_is_not_for_others),
        cmocka_unit_test(test_refuses_caches_links_and_no_config),
    };
    return cmocka_run_group_tests_name("artifact pack", tests, NULL, NULL);
}
