/* Scoring: the golden vectors, the same bytes for any threads, agreement of precisions and instruction sets.
 */
#include "quern/model/score.h"
#include "tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NATS_TOLERANCE 1e-6 /* relative; the reference's own fp32 and float64 sums differ by 1e-8 */
#define BF16_TOLERANCE 2e-3 /* nats a token, on a trained model */
#define ISA_TOLERANCE  2e-6 /* nats a token, f32 with another order of sums */

static qn_model *open_model(const char *path) {
    qn_model *model = NULL;
    qn_error err = {0};
    if (qn_model_open(path, &model, &err) != QN_OK) fail_msg("%s", err.message);
    return model;
}

static qn_score_result score(const qn_model *model, const qn_windows *windows, qn_compute compute,
                             int n_threads, double *window_nats) {
    const qn_context ctx = {.n_threads = n_threads};
    qn_score_result result = {0};
    qn_error err = {0};
    if (qn_score(model, windows, compute, &ctx, window_nats, &result, &err) != QN_OK)
        fail_msg("%s", err.message);
    return result;
}

static void expect_relative(const char *what, double got, double want, double tolerance) {
    if (!(fabs(got / want - 1.0) <= tolerance)) fail_msg("%s: got %.12g, want %.12g", what, got, want);
}

/* Windows of DOCS (a path below the shared data) under PROTOCOL. */
static qn_windows make_windows(const char *docs, const char *tokenizer_path, const char *protocol_text,
                               int64_t max_windows, qn_documents *documents) {
    char *path = require_test_data(docs);
    qn_tokenizer *tokenizer = NULL;
    qn_protocol protocol = qn_protocol_default();
    qn_windows windows = {0};
    qn_error err = {0};
    assert_int_equal(qn_protocol_parse(protocol_text, &protocol, NULL), QN_OK);
    protocol.max_windows = max_windows;
    if (qn_documents_open(path, documents, &err) != QN_OK) fail_msg("%s", err.message);
    if (qn_tokenizer_open(tokenizer_path, &tokenizer, &err) != QN_OK) fail_msg("%s", err.message);
    if (qn_windows_make(documents, tokenizer, &protocol, &windows, &err) != QN_OK)
        fail_msg("%s", err.message);
    qn_tokenizer_free(tokenizer);
    free(path);
    return windows;
}

static void check_heldout(const qn_model *model, const char *tokenizer, const json_t *want) {
    const json_t *contract = json_object_get(want, "contract");
    qn_documents documents = {0};
    qn_windows windows = make_windows("golden/scoring/docs.jsonl", tokenizer, "heldout", 0, &documents);
    const qn_score_result result = score(model, &windows, QN_COMPUTE_F32, 0, NULL);
    assert_string_equal(documents.sha256, json_string_value(json_object_get(want, "document_sha256")));
    assert_int_equal(windows.docs_scored, json_integer_value(json_object_get(contract, "scored_docs")));
    assert_int_equal(result.n_targets, json_integer_value(json_object_get(contract, "token_count")));
    expect_relative("heldout nats", result.total_nats,
                    json_number_value(json_object_get(contract, "nll_fp64")), NATS_TOLERANCE);
    expect_relative("heldout perplexity", result.perplexity,
                    json_number_value(json_object_get(contract, "heldout_ppl")), NATS_TOLERANCE);
    qn_windows_release(&windows);
    qn_documents_release(&documents);
}

static void check_joined(const qn_model *model, const char *tokenizer, const json_t *want,
                         const char *protocol) {
    const json_t *list = json_object_get(want, "windows"), *total = json_object_get(want, "fp64");
    const int64_t n = (int64_t)json_array_size(list);
    qn_documents documents = {0};
    qn_windows windows = make_windows("golden/scoring/text.txt", tokenizer, protocol, n, &documents);
    double *nats = malloc((size_t)n * sizeof *nats);
    assert_int_equal(windows.n_windows, n);
    const qn_score_result result = score(model, &windows, QN_COMPUTE_F32, 0, nats);
    assert_int_equal(result.n_targets, json_integer_value(json_object_get(total, "targets")));
    expect_relative(protocol, result.total_nats, json_number_value(json_object_get(total, "nll")),
                    NATS_TOLERANCE);
    for (int64_t i = 0; i < n; i++)
        expect_relative(protocol, nats[i],
                        json_number_value(json_object_get(json_array_get(list, (size_t)i), "nll_fp64")),
                        NATS_TOLERANCE);
    free(nats);
    qn_windows_release(&windows);
    qn_documents_release(&documents);
}

static void check_golden(const char *name, bool bytes) {
    char text[128];
    snprintf(text, sizeof text, "golden/models/%s", name);
    char *folder = require_test_data(text);
    snprintf(text, sizeof text, "golden/scoring/expected-%s.json", name);
    char *expected = require_test_data(text);
    json_t *want = load_json(expected);
    qn_model *model = open_model(folder);
    const char *tokenizer = bytes ? "byte" : folder;
    check_heldout(model, tokenizer, want);
    check_joined(model, tokenizer, json_object_get(want, "llama_512"), "llama-512");
    check_joined(model, tokenizer, json_object_get(want, "gptq_128"), "window:128");
    qn_model_close(model);
    json_decref(want);
    free(expected);
    free(folder);
}

static void test_golden_vectors(void **state) {
    (void)state;
    check_golden("qwen3-tied", false);
    check_golden("qwen3-byte", true);
}

/* Windows of uneven lengths over made-up ids. */
typedef struct made_up {
    int32_t *ids;
    qn_window *list;
    qn_windows windows;
} made_up;

static made_up make_up(int64_t n_windows, int64_t longest, int64_t vocab) {
    made_up m = {.ids = malloc((size_t)(n_windows * longest) * sizeof *m.ids),
                 .list = malloc((size_t)n_windows * sizeof *m.list)};
    int64_t n = 0;
    for (int64_t i = 0; i < n_windows; i++) {
        const int64_t length = 2 + i * 37 % (longest - 1);
        m.list[i] = (qn_window){.first = n, .n_ids = length, .first_target = 1 + i % (length - 1)};
        m.windows.n_targets += length - m.list[i].first_target;
        n += length;
    }
    for (int64_t i = 0; i < n; i++) m.ids[i] = (int32_t)((i * i * 7 + i * 13) % vocab);
    m.windows.ids = m.ids;
    m.windows.n_ids = n;
    m.windows.windows = m.list;
    m.windows.n_windows = n_windows;
    m.windows.target_bytes = m.windows.n_targets;
    return m;
}

static void made_up_release(made_up *m) {
    free(m->ids);
    free(m->list);
}

static char *write_model(const tiny_options *options) {
    char *folder = make_temporary_folder();
    write_tiny_model(folder, options);
    return folder;
}

static void remove_model(char *folder, qn_model *model) {
    qn_model_close(model);
    remove_tree(folder);
    free(folder);
}

static void test_threads_do_not_matter(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 5};
    enum { N = 30 };
    char *folder = write_model(
        &(tiny_options){.vocab = 1200, .hidden = 96, .intermediate = 300, .attention_bias = true});
    qn_model *model = open_model(folder);
    made_up m = make_up(N, 700, 1200);
    for (int compute = 0; compute < 2; compute++) {
        qn_score_result first = {0}, result;
        double first_nats[N], nats[N];
        for (int t = 0; t < 4; t++) {
            result = score(model, &m.windows, (qn_compute)compute, threads[t], nats);
            if (t == 0) {
                first = result;
                memcpy(first_nats, nats, sizeof nats);
            }
            assert_memory_equal(nats, first_nats, sizeof nats);
            assert_true(result.total_nats == first.total_nats && result.std_error == first.std_error);
            assert_true(result.stats.largest_activation == first.stats.largest_activation);
            assert_string_equal(result.stats.largest_where, first.stats.largest_where);
        }
    }
    made_up_release(&m);
    remove_model(folder, model);
}

/* 70 000 tokens of a narrow model are more than one batch: a window's loss does not depend on its company. */
static void test_batches_do_not_matter(void **state) {
    (void)state;
    enum { N = 140, LENGTH = 500 };
    char *folder = write_model(
        &(tiny_options){.hidden = 16, .intermediate = 16, .layers = 1, .heads = 1, .kv_heads = 1});
    qn_model *model = open_model(folder);
    made_up m = make_up(N, LENGTH, 257);
    double nats[N], alone;
    for (int64_t i = 0; i < N; i++) m.list[i] = (qn_window){.first = i, .n_ids = LENGTH, .first_target = 1};
    score(model, &m.windows, QN_COMPUTE_F32, 0, nats);
    for (int64_t i = 0; i < N; i += 23) {
        qn_windows one = m.windows;
        one.windows = m.list + i;
        one.n_windows = 1;
        score(model, &one, QN_COMPUTE_F32, 0, &alone);
        expect_relative("window alone", alone, nats[i], 1e-6);
    }
    made_up_release(&m);
    remove_model(folder, model);
}

static void test_summary(void **state) {
    (void)state;
    enum { N = 7 };
    char *folder = write_model(&(tiny_options){0});
    qn_model *model = open_model(folder);
    made_up m = make_up(N, 40, 257);
    double nats[N], total = 0.0, spread = 0.0;
    const qn_score_result r = score(model, &m.windows, QN_COMPUTE_F32, 0, nats);
    for (int i = 0; i < N; i++) total += nats[i];
    assert_true(r.total_nats == total);
    assert_int_equal(r.n_targets, m.windows.n_targets);
    assert_true(r.nats == total / (double)r.n_targets && r.perplexity == exp(r.nats));
    expect_relative("bits per byte", r.bits_per_byte, r.nats / log(2.0), 1e-12);
    for (int i = 0; i < N; i++) {
        const double n = (double)(m.list[i].n_ids - m.list[i].first_target);
        spread += n / (double)r.n_targets * pow(nats[i] / n - r.nats, 2.0);
    }
    expect_relative("std_error", r.std_error, sqrt(spread / N), 1e-9);
    assert_true(r.stats.largest_activation > 0.0 && r.stats.largest_where[0]);
    made_up_release(&m);
    remove_model(folder, model);
}

static void test_bf16_on_a_trained_model(void **state) {
    (void)state;
    char *teacher = require_test_data("teacher");
    qn_documents documents = {0};
    qn_model *model = open_model(teacher);
    qn_windows windows = make_windows("teacher/text/dev.txt", teacher, "heldout", 0, &documents);
    windows.n_windows = 4;
    const qn_score_result wide = score(model, &windows, QN_COMPUTE_F32, 0, NULL);
    const qn_score_result narrow = score(model, &windows, QN_COMPUTE_BF16, 0, NULL);
    assert_true(wide.nats > 2.0 && wide.nats < 5.0);
    if (!(fabs(wide.nats - narrow.nats) <= BF16_TOLERANCE))
        fail_msg("f32 %.6f, bf16 %.6f", wide.nats, narrow.nats);
    assert_true(wide.nats != narrow.nats);
    qn_windows_release(&windows);
    qn_documents_release(&documents);
    qn_model_close(model);
    free(teacher);
}

/* The mean loss with QN_ISA=ISA, computed by a child: the choice is made once a process. */
static double score_in_child(const char *isa, const char *folder) {
    int ends[2], code = 0;
    double nats = 0.0;
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        setenv("QN_ISA", isa, 1);
        qn_model *model = open_model(folder);
        made_up m = make_up(5, 80, 257);
        nats = score(model, &m.windows, QN_COMPUTE_F32, 1, NULL).nats;
        _exit(write(ends[1], &nats, sizeof nats) == sizeof nats ? 0 : 1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &nats, sizeof nats), sizeof nats);
    close(ends[0]);
    waitpid(child, &code, 0);
    assert_true(WIFEXITED(code) && WEXITSTATUS(code) == 0);
    return nats;
}

/* Before any test of this process starts threads or chooses a path. */
static void test_instruction_sets_agree(void **state) {
    (void)state;
    char *folder = write_model(&(tiny_options){.seed = 9});
    const double reference = score_in_child("ref", folder);
    assert_true(reference > 1.0);
#if defined(__x86_64__)
    const bool usable[] = {__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"),
                           __builtin_cpu_supports("avx512vl") != 0};
    const char *const names[] = {"avx2", "avx512"};
    for (int i = 0; i < 2; i++) {
        if (!usable[i]) continue;
        const double nats = score_in_child(names[i], folder);
        if (!(fabs(nats - reference) <= ISA_TOLERANCE))
            fail_msg("%s: %.9g, ref: %.9g", names[i], nats, reference);
    }
#endif
    remove_model(folder, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_instruction_sets_agree),
        cmocka_unit_test(test_golden_vectors),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_batches_do_not_matter),
        cmocka_unit_test(test_summary),
        cmocka_unit_test(test_bf16_on_a_trained_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
