/* The gates: each rejection under the scorer's name, with the numbers that caused it. */
#include "artifact_support.h"

#include "quern/artifact/verify.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

/* An artifact as folder and as zip, and generous rules. */
typedef struct bench {
    fixture f;
    char *folder, *zip;
    qn_artifact_result folder_result, zip_result;
    qn_verify_options options;
} bench;

static void bench_open(bench *b) {
    *b = (bench){0};
    fixture_open(&b->f, &(tiny_options){.tied = true});
    b->f.profile.budget_bits = 32; /* a tiny model's loader outweighs its codes */
    b->f.profile.reference_parameters = 1 << 20;
    qn_artifact_options options = fixture_options(&b->f);
    b->zip_result = fixture_write(&b->f, "art.zip", &options, 20, 3);
    options.as_archive = false;
    b->folder_result = fixture_write(&b->f, "art", &options, 20, 3);
    b->zip = fixture_path(&b->f, "art.zip");
    b->folder = fixture_path(&b->f, "art");
    b->options = (qn_verify_options){.profile = &b->f.profile};
}

static void bench_close(bench *b) {
    free(b->zip);
    free(b->folder);
    fixture_close(&b->f);
}

static qn_gate gate_of(const qn_verify_report *report, const char *name) {
    for (int i = 0; i < report->n_gates; i++) {
        if (strcmp(report->gates[i].name, name) == 0) return report->gates[i];
    }
    fail_msg("no gate %s", name);
    return (qn_gate){0};
}

/* Rejected with a line that begins `validator_rejection=<text>` and has ALSO in it; one gate and no other has
 * failed. */
static void expect_rejection_of(const bench *b, const char *path, const char *text, const char *also) {
    qn_verify_report report;
    qn_error err;
    char full[256];
    snprintf(full, sizeof full, "validator_rejection=%s", text);
    const qn_status status = qn_verify(path, &b->options, NULL, &report, &err);
    expect_error(status, QN_E_REJECTED, &err, full);
    expect_error(status, QN_E_REJECTED, &err, also);
    assert_int_equal(strncmp(err.message, full, strlen(full)), 0);
    int n_failed = 0;
    for (int i = 0; i < report.n_gates; i++) n_failed += report.gates[i].state == QN_GATE_FAILED;
    assert_int_equal(n_failed, 1);
    qn_verify_report_release(&report);
}

static void expect_rejection(const bench *b, const char *path, const char *text) {
    expect_rejection_of(b, path, text, text);
}

static qn_verify_report expect_accepted(const bench *b, const char *path) {
    qn_verify_report report;
    qn_error err;
    expect_ok(qn_verify(path, &b->options, NULL, &report, &err), &err);
    return report;
}

/* Replaces FROM by TO (of the same length) in FOLDER/NAME. */
static void replace_in(const char *folder, const char *name, const char *from, const char *to) {
    size_t n_bytes;
    char *path = path_in(folder, name), *data = load_file(path, &n_bytes);
    char *at = memmem(data, n_bytes, from, strlen(from));
    assert_int_equal(strlen(from), strlen(to));
    if (!at) fail_msg("'%s' is not in %s", from, path);
    memcpy(at, to, strlen(to));
    write_test_file(folder, name, data, n_bytes);
    free(data);
    free(path);
}

static const char payload_name[] = "payload-00001-of-00001.safetensors";

/* Offset in the payload file of the first byte of one part of a matrix. */
static size_t payload_offset(const char *data, const char *matrix, int band, qn_part_kind kind) {
    uint64_t header;
    memcpy(&header, data, sizeof header);
    json_t *root = json_loadb(data + 8, header, 0, NULL);
    const json_t *range = json_object_get(json_object_get(root, matrix), "data_offsets");
    const json_t *line = json_object_get(json_object_get(root, "__metadata__"), matrix);
    qn_encoded shape = {0};
    qn_part parts[QN_MAX_PARTS];
    qn_error err;
    expect_ok(qn_packed_spec_parse(json_string_value(line), matrix, &shape, &err), &err);
    const int n = qn_encoded_parts(&shape, parts);
    int p = 0;
    while (p < n && (parts[p].band != band || parts[p].kind != kind)) p++;
    assert_true(p < n);
    const size_t at = 8 + header + (size_t)(json_integer_value(json_array_get(range, 0)) + parts[p].offset);
    json_decref(root);
    return at;
}

static void set_byte(const char *folder, const char *matrix, int band, qn_part_kind kind, size_t index,
                     int value) {
    size_t n_bytes;
    char *path = path_in(folder, payload_name), *data = load_file(path, &n_bytes);
    data[payload_offset(data, matrix, band, kind) + index] = (char)value;
    write_test_file(folder, payload_name, data, n_bytes);
    free(data);
    free(path);
}

/* ------------------------------------------------------------------------------------------- accepted */

static void check_accepted(const bench *b, const char *path, const qn_artifact_result *written) {
    qn_verify_report report = expect_accepted(b, path);
    assert_int_equal(report.n_gates, 9);
    for (int i = 0; i < 8; i++) assert_int_equal(report.gates[i].state, QN_GATE_PASSED);
    assert_int_equal(gate_of(&report, "heldout_ppl").state, QN_GATE_SKIPPED);
    assert_int_equal(report.bytes, written->bytes);
    assert_int_equal(report.parameters, written->parameters);
    assert_int_equal(report.rescued_parameters, written->rescued_parameters);
    assert_string_equal(report.sha256, written->sha256);
    assert_memory_equal(report.role_bytes, written->role_bytes, sizeof written->role_bytes);
    assert_int_equal(report.n_lint, 0);
    qn_verify_report_release(&report);
    qn_verify_report_release(&report);
}

static void test_accepts_folder_and_zip(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    check_accepted(&b, b.zip, &b.zip_result);
    check_accepted(&b, b.folder, &b.folder_result);
    bench_close(&b);
}

static void test_scores_documents(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    char *docs = fixture_path(&b.f, "docs.jsonl");
    write_text(b.f.folder, "docs.jsonl", "{\"text\": \"two and two make four\"}\n\"x\"\n");
    b.options.documents = docs;
    b.options.tokenizer = "byte";
    double nats[2];
    for (int archive = 0; archive < 2; archive++) {
        qn_verify_report report = expect_accepted(&b, archive ? b.zip : b.folder);
        assert_true(report.scored && isfinite(report.score.perplexity));
        assert_int_equal(report.score.n_targets, 20);
        assert_int_equal(gate_of(&report, "heldout_ppl").state, QN_GATE_PASSED);
        nats[archive] = report.score.total_nats;
        qn_verify_report_release(&report);
    }
    assert_true(nats[0] == nats[1]);
    b.options.documents = "/no/such/docs.jsonl";
    qn_verify_report report;
    qn_error err;
    expect_error(qn_verify(b.zip, &b.options, NULL, &report, &err), QN_E_IO, &err, "/no/such/docs.jsonl");
    qn_verify_report_release(&report);
    free(docs);
    bench_close(&b);
}

static void test_dense_checkpoint(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    char *model = fixture_path(&b.f, "model");
    qn_verify_report report = expect_accepted(&b, model);
    assert_int_equal(gate_of(&report, "manifest").state, QN_GATE_SKIPPED);
    assert_int_equal(report.role_bytes[QN_ROLE_SIDE] + report.role_bytes[QN_ROLE_METADATA], report.bytes);
    qn_verify_report_release(&report);
    free(model);
    bench_close(&b);
}

/* Packed again, the folder's accounting speaks of another file: a warning, no rejection. */
static void test_repacked_folder(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    char *path = fixture_path(&b.f, "again.zip"), sha[QN_SHA256_HEX];
    int64_t n_bytes;
    qn_error err;
    expect_ok(qn_pack(b.folder, path, NULL, sha, &n_bytes, &err), &err);
    qn_verify_report report = expect_accepted(&b, path);
    assert_string_equal(report.sha256, sha);
    assert_int_equal(report.n_lint, 1);
    assert_non_null(strstr(report.lint[0], "packed again"));
    qn_verify_report_release(&report);
    free(path);
    bench_close(&b);
}

/* ------------------------------------------------------------------------------------------- sizes */

static void test_budget_boundary(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    char text[256];
    const int64_t bytes = b.zip_result.bytes;
    b.f.profile.budget_bits = 8;
    b.options.reference_parameters = bytes - 1;
    snprintf(text, sizeof text,
             "artifact_size file_bytes=%lld bits=%lld allowed_bits=%lld allowed_bytes=%lld", (long long)bytes,
             (long long)(8 * bytes), (long long)(8 * bytes - 8), (long long)(bytes - 1));
    expect_rejection(&b, b.zip, text);

    const double parameters = (double)b.zip_result.parameters;
    b.options.reference_parameters = 1 << 20;
    b.f.profile.budget_bits = ((double)(8 * bytes) - 1.5) / parameters; /* ceil: one bit short */
    snprintf(text, sizeof text,
             "quantized_size file_bytes=%lld bits=%lld allowed_bits=%lld allowed_bytes=%lld parameters=",
             (long long)bytes, (long long)(8 * bytes), (long long)(8 * bytes - 1), (long long)(bytes - 1));
    expect_rejection(&b, b.zip, text);
    b.f.profile.budget_bits = ((double)(8 * bytes) - 0.5) / parameters;
    qn_verify_report report = expect_accepted(&b, b.zip);
    qn_verify_report_release(&report);

    b.options.reference_parameters = b.zip_result.parameters / 16 - 1;
    b.f.profile.budget_bits = 2000; /* keeps artifact_size out of the way */
    expect_rejection(&b, b.zip, "parameter_count parameters=");
    bench_close(&b);
}

static void test_declared_digest_and_size(void **state) {
    (void)state;
    bench b;
    char text[256];
    bench_open(&b);
    static const char wrong[] = "0000000000000000000000000000000000000000000000000000000000000000";
    b.options.expected_sha256 = wrong;
    snprintf(text, sizeof text, "sha256 reason=mismatch expected=%s got=%s", wrong, b.zip_result.sha256);
    expect_rejection(&b, b.zip, text);
    b.options.expected_sha256 = b.zip_result.sha256;
    b.options.expected_bytes = b.zip_result.bytes + 1;
    expect_rejection(&b, b.zip, "size reason=mismatch expected_bytes=");
    b.options.expected_bytes = b.zip_result.bytes;
    qn_verify_report report = expect_accepted(&b, b.zip);
    assert_string_equal(report.gates[0].name, "sha256");
    assert_string_equal(report.gates[1].name, "size");
    assert_int_equal(report.n_gates, 11);
    qn_verify_report_release(&report);
    bench_close(&b);
}

static void test_url(void **state) {
    (void)state;
    bench b;
    char *url = NULL;
    bench_open(&b);
    assert_true(asprintf(&url, "file://%s", b.zip) > 0);
    b.options.url = url;
    qn_verify_report report = expect_accepted(&b, b.zip);
    assert_int_equal(gate_of(&report, "url").state, QN_GATE_PASSED);
    qn_verify_report_release(&report);
    expect_rejection(&b, b.folder, "url reason=a_folder_has_no_url");

    char *other = fixture_path(&b.f, "other.zip");
    write_text(b.f.folder, "other.zip", "short");
    free(url);
    assert_true(asprintf(&url, "file://%s", other) > 0);
    b.options.url = url;
    expect_rejection(&b, b.zip, "url reason=size expected_bytes=");
    size_t n_bytes;
    char *data = load_file(b.zip, &n_bytes);
    data[n_bytes / 2] ^= 1;
    write_test_file(b.f.folder, "other.zip", data, n_bytes);
    expect_rejection(&b, b.zip, "url reason=sha256 expected=");
    free(data);
    b.options.url = "http://example.invalid/a.zip";
    expect_rejection(&b, b.zip, "url reason=download_failed error=");
    b.options.url = "ftp://localhost/a.zip";
    expect_rejection(&b, b.zip, "url reason=download_failed error=");
    free(url);
    free(other);
    bench_close(&b);
}

/* ------------------------------------------------------------------------------------------- artifact,
 * model_dir, load */

static void zip_with(const char *path, const char *member, unsigned mode) {
    int code;
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &code);
    assert_non_null(zip);
    zip_source_t *source = zip_source_buffer(zip, "{}", 2, 0);
    const zip_int64_t index = zip_file_add(zip, member, source, 0);
    assert_true(index >= 0);
    zip_file_set_external_attributes(zip, (zip_uint64_t)index, 0, ZIP_OPSYS_UNIX, (zip_uint32_t)mode << 16);
    assert_int_equal(zip_close(zip), 0);
}

static void test_hostile_archives(void **state) {
    (void)state;
    static const struct {
        const char *member;
        unsigned mode;
        const char *text;
    } cases[] = {
        {"../evil.txt", 0100644, "artifact reason=path_escape member=../evil.txt"},
        {"a/../../evil", 0100644, "artifact reason=path_escape member=a/../../evil"},
        {"/abs/evil", 0100644, "artifact reason=path_escape member=/abs/evil"},
        {"C:/evil", 0100644, "artifact reason=path_escape member=C:/evil"},
        {"..\\evil", 0100644, "artifact reason=path_escape member=..\\evil"},
        {"config.json", 0120777, "artifact reason=not_a_plain_file member=config.json"},
        {"config.json", 0010644, "artifact reason=not_a_plain_file member=config.json"},
        {"readme.md", 0100644, "model_dir reason=no_config_json"},
        {"config.json", 0100644, "load error="},
    };
    bench b;
    bench_open(&b);
    char *path = fixture_path(&b.f, "evil.zip");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zip_with(path, cases[i].member, cases[i].mode);
        expect_rejection(&b, path, cases[i].text);
    }
    write_text(b.f.folder, "evil.zip", "no archive at all");
    expect_rejection(&b, path, "artifact reason=neither_folder_nor_archive");
    char tar[1024] = "config.json";
    memcpy(tar + 257, "ustar", 5);
    write_test_file(b.f.folder, "evil.zip", tar, sizeof tar);
    expect_rejection(&b, path, "artifact reason=unsupported_tar");
    write_test_file(b.f.folder, "evil.zip", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00", 10);
    expect_rejection(&b, path, "artifact reason=unsupported_tar");
    free(path);
    path = fixture_path(&b.f, "absent");
    expect_rejection(&b, path, "artifact reason=missing");
    free(path);
    bench_close(&b);
}

static void test_folders(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    char *link = fixture_path(&b.f, "art/link"), *loader = fixture_path(&b.f, "art/modeling_quern.py");
    assert_int_equal(symlink("config.json", link), 0);
    expect_rejection(&b, b.folder, "artifact reason=symlink member=link");
    assert_int_equal(unlink(link), 0);
    assert_int_equal(unlink(loader), 0);
    expect_rejection(&b, b.folder, "load error=QN_E_IO message=no modeling_quern.py");
    free(link);
    free(loader);
    bench_close(&b);
}

static void test_broken_payload(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    set_byte(b.folder, "model.layers.1.mlp.up_proj.weight", 0, QN_PART_CODES, 7, 250);
    expect_rejection_of(&b, b.folder,
                        "load error=QN_E_VALUE message=", "model.layers.1.mlp.up_proj.weight: ");
    bench_close(&b);

    bench_open(&b);
    set_byte(b.folder, "model.layers.0.self_attn.q_proj.weight", 1, QN_PART_CODES, 2, 0x88);
    expect_rejection_of(&b, b.folder,
                        "load error=QN_E_VALUE message=", "model.layers.0.self_attn.q_proj.weight: ");
    bench_close(&b);

    bench_open(&b);
    set_byte(b.folder, "model.layers.0.self_attn.q_proj.weight", 0, QN_PART_SCALES, 1, 0x7c);
    expect_rejection_of(&b, b.folder,
                        "load error=QN_E_VALUE message=", "model.layers.0.self_attn.q_proj.weight: ");
    bench_close(&b);

    bench_open(&b);
    replace_in(b.folder, payload_name, " ternary/0/f16 ", " ternary/1/f16 ");
    expect_rejection(&b, b.folder, "load error=");
    bench_close(&b);
}

/* A changed byte that is still legal: only the digest can tell. */
static void test_changed_byte(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    set_byte(b.folder, "model.layers.1.mlp.up_proj.weight", 0, QN_PART_CODES, 7, 0);
    expect_rejection(&b, b.folder,
                     "manifest reason=payload_sha256 file=payload-00001-of-00001.safetensors expected=");
    bench_close(&b);
}

/* What a profile forbids is named, and the strict profile takes rows with q4 rows. */
static void test_forbidden_features(void **state) {
    (void)state;
    static const struct {
        size_t flag;
        const char *feature;
    } cases[] = {{offsetof(qn_profile, two_planes), "two planes"},
                 {offsetof(qn_profile, log6_scales), "log6 scales"},
                 {offsetof(qn_profile, column_bands), "column bands"},
                 {offsetof(qn_profile, rotation), "rotation"},
                 {offsetof(qn_profile, entropy_coding), "entropy coding"}};
    bench b;
    bench_open(&b);
    const qn_profile generous = b.f.profile;
    b.f.profile.two_planes = b.f.profile.log6_scales = b.f.profile.column_bands = b.f.profile.rotation =
        b.f.profile.entropy_coding = false;
    check_accepted(&b, b.zip, &b.zip_result);

    b.f.profile = generous;
    b.f.banded = b.f.deflated = true;
    const qn_artifact_options options = fixture_options(&b.f);
    const qn_artifact_result written = fixture_write(&b.f, "banded.zip", &options, 0, 0);
    char *path = fixture_path(&b.f, "banded.zip");
    assert_true(written.role_bytes[QN_ROLE_RESIDUAL] > 0);
    check_accepted(&b, path, &written);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        b.f.profile = generous;
        memset((char *)&b.f.profile + cases[i].flag, 0, sizeof(bool));
        expect_rejection_of(&b, path, "manifest reason=forbidden tensor=", cases[i].feature);
    }
    free(path);
    bench_close(&b);
}

/* ------------------------------------------------------------------------------------------- manifest */

typedef struct manifest_case {
    const char *from, *to, *text;
} manifest_case;

static void test_own_manifest(void **state) {
    (void)state;
    static const manifest_case cases[] = {
        {"\"role\":\"side\"", "\"role\":\"sode\"",
         "manifest file=quern.json entry=model.embed_tokens.weight reason=unknown_role"},
        {"\"rescue_fraction\":0.0", "\"rescue_fraction\":0.9",
         "manifest file=quern.json reason=declared_total key=rescue_fraction declared=0.9"},
        {"\"sha256\":\"", "\"sha257\":\"", "manifest reason=payload_sha256 file=payload"},
        {"\"payload\":[{", "\"pailoat\":[{", "manifest reason=payload_undeclared file=payload"},
        {"\"metadata\":", "\"metadatb\":", "manifest file=quern.json reason=file_total"},
        {"\"entries\":", "\"entriez\":", "manifest file=quern.json reason=stored_parameters"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bench b;
        bench_open(&b);
        replace_in(b.folder, "quern.json", cases[i].from, cases[i].to);
        expect_rejection(&b, b.folder, cases[i].text);
        bench_close(&b);
    }
    bench b;
    bench_open(&b);
    char *manifest = fixture_path(&b.f, "art/quern.json");
    assert_int_equal(unlink(manifest), 0);
    expect_rejection(&b, b.folder, "manifest reason=missing file=quern.json");
    free(manifest);
    bench_close(&b);
}

/* The public rules on any JSON file that declares entries, here beside a dense checkpoint. */
static void test_rules_of_any_manifest(void **state) {
    (void)state;
    static const struct {
        const char *manifest, *text;
    } cases[] = {
        {"{\"entries\": [{\"role\": \"magic\", \"parameters\": 1, \"bits\": 1}]}",
         "entry=0 reason=unknown_role role=magic"},
        {"{\"tensors\": [{\"role\": \"side\", \"parameters\": -1, \"bits\": 1}]}",
         "entry=0 reason=parameter_count"},
        {"{\"components\": [{\"role\": \"side\", \"name\": \"n\", \"parameters\": 1}]}",
         "entry=n reason=bits"},
        {"{\"entries\": [{\"role\": \"rescue\", \"parameters\": 100, \"bits\": 500}]}",
         "entry=0 reason=rescue_bits bits_per_parameter=5 limit=4.125"},
        {"{\"entries\": [{\"role\": \"rescue_q4\", \"parameters\": 33, \"bits\": 132},"
         "{\"role\": \"binary\", \"parameter_count\": 67, \"total_bits\": 67}]}",
         "reason=rescue_fraction value=0.33 limit=0.1"},
        {"{\"total_bits\": 60, \"entries\": [{\"role\": \"binary\", \"parameters\": 61, "
         "\"bits_per_parameter\": 1}]}",
         "reason=declared_total key=total_bits declared=60 computed=61"},
        {"{\"entries\": [{\"role\": \"side\", \"parameters\": 1, \"bits\": 1, \"q4_codes\": [7, -8], "
         "\"q4_scales\": [1]}]}",
         "entry=0 reason=q4_code_range"},
        {"{\"entries\": [{\"role\": \"side\", \"parameters\": 1, \"bits\": 1, \"q4_codes\": [7], "
         "\"q4_scales\": [1, 1]}]}",
         "entry=0 reason=q4_scale_count scales=2 codes=1"},
        {"{\"entries\": [{\"role\": \"side\", \"parameters\": 1, \"bits\": 1, \"q4_codes\": [7], "
         "\"q4_scales\": [0.1]}]}",
         "entry=0 reason=q4_scale_not_fp16 value=0.1"},
        {"{\"entries\": [{\"role\": \"side\", \"parameters\": 1, \"bits\": 1e12}]}",
         "reason=more_than_the_file bits=1000000000000"},
        {"{\"entries\": [{\"role\": \"side\", \"parameters\": 99999999, \"bits\": 1}]}",
         "reason=more_than_the_model"},
    };
    bench b;
    bench_open(&b);
    char *model = fixture_path(&b.f, "model"), text[256];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text(model, "declared.json", cases[i].manifest);
        snprintf(text, sizeof text, "manifest file=declared.json %s", cases[i].text);
        expect_rejection(&b, model, text);
    }
    write_text(model, "declared.json",
               "{\"covers_model\": false, \"bits_per_parameter\": 1.0000001, \"rescue_fraction\": 0.0,"
               "\"entries\": [{\"role\": \"binary\", \"parameters\": 99999, \"bits\": 99999}]}");
    qn_verify_report report = expect_accepted(&b, model);
    assert_int_equal(gate_of(&report, "manifest").state, QN_GATE_PASSED);
    qn_verify_report_release(&report);
    free(model);
    bench_close(&b);
}

/* ------------------------------------------------------------------------------------------- logits */

static void test_logits(void **state) {
    (void)state;
    bench b;
    bench_open(&b);
    char *narrow = fixture_path(&b.f, "narrow"), *loud = fixture_path(&b.f, "loud");
    assert_int_equal(mkdir(narrow, 0777), 0);
    assert_int_equal(mkdir(loud, 0777), 0);
    write_tiny_model(narrow, &(tiny_options){.vocab = 100});
    b.f.profile.budget_bits = 64; /* F32 weights */
    b.options.tokenizer = "byte";
    expect_rejection(&b, narrow, "logits reason=too_narrow width=100 largest_id=");
    b.options.tokenizer = NULL;
    qn_verify_report report = expect_accepted(&b, narrow);
    assert_int_equal(gate_of(&report, "logits").state, QN_GATE_SKIPPED);
    qn_verify_report_release(&report);

    tiny_model *tiny = tiny_model_make(&(tiny_options){.dtype = "F32"});
    tiny_tensor *norm = tiny_model_find(tiny, "model.layers.0.post_attention_layernorm.weight");
    for (int64_t i = 0; i < norm->shape[0]; i++) norm->values[i] = 3e4F;
    tiny_model_write(tiny, loud, "F32", 1);
    report = expect_accepted(&b, loud);
    assert_true(report.n_lint >= 1);
    assert_non_null(strstr(report.lint[report.n_lint - 1], "above 65504"));
    qn_verify_report_release(&report);
    norm->values[3] = NAN;
    tiny_model_write(tiny, loud, "F32", 1);
    expect_rejection(&b, loud, "logits reason=not_finite");
    tiny_model_free(tiny);
    free(narrow);
    free(loud);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts_folder_and_zip),
        cmocka_unit_test(test_scores_documents),
        cmocka_unit_test(test_dense_checkpoint),
        cmocka_unit_test(test_repacked_folder),
        cmocka_unit_test(test_budget_boundary),
        cmocka_unit_test(test_declared_digest_and_size),
        cmocka_unit_test(test_url),
        cmocka_unit_test(test_hostile_archives),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_broken_payload),
        cmocka_unit_test(test_changed_byte),
        cmocka_unit_test(test_forbidden_features),
        cmocka_unit_test(test_own_manifest),
        cmocka_unit_test(test_rules_of_any_manifest),
        cmocka_unit_test(test_logits),
    };
    return cmocka_run_group_tests_name("artifact verify", tests, NULL, NULL);
}
