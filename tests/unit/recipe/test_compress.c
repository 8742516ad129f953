/* The job on a tiny model: budgets, the plan against the file, one digest, resumption, and failures that leave
 * nothing. */
#include "expect_error.h"
#include "tiny_model.h"

#include "quern/recipe/compress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct bench {
    char *root, *model, *out;
    qn_profile profile;
    qn_recipe recipe;
    qn_compress_options options; /* points into this struct */
} bench;

static void bench_open(bench *b, const char *out) {
    *b = (bench){.root = make_temporary_folder()};
    b->model = path_in(b->root, "model");
    b->out = path_in(b->root, out);
    assert_int_equal(mkdir(b->model, 0777), 0);
    write_tiny_model(b->model, &(tiny_options){.tied = true});
    b->profile = qn_profile_builtin(QN_TRACK_TERNARY);
    b->profile.budget_bits = 32; /* a tiny model's loader outweighs its codes */
    assert_ok(qn_recipe_builtin(NULL, QN_TRACK_TERNARY, &b->recipe, err));
    b->options = (qn_compress_options){
        .model = b->model, .output = b->out, .profile = &b->profile, .recipe = &b->recipe};
}

static void bench_close(bench *b) {
    remove_tree(b->root);
    free(b->model);
    free(b->out);
    free(b->root);
}

/* Runs the job; nothing of *result is owned afterwards. */
static qn_compress_result run(const bench *b, int n_threads) {
    qn_compress_result result = {0};
    const qn_context ctx = {.n_threads = n_threads};
    assert_ok(qn_compress(&b->options, &ctx, &result, err));
    qn_compress_result copy = result;
    qn_compress_result_release(&result);
    copy.verified = (qn_verify_report){0};
    return copy;
}

static int64_t file_bytes(const char *path) {
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    return (int64_t)info.st_size;
}

static void test_plan_is_the_file(void **state) {
    (void)state;
    bench b;
    bench_open(&b, "a.zip");
    b.options.dry_run = true;
    const qn_compress_result plan = run(&b, 1);
    assert_int_equal(count_entries(b.root), 1);
    b.options.dry_run = false;
    const qn_compress_result result = run(&b, 2);
    assert_int_equal(count_entries(b.root), 2);
    assert_int_equal(file_bytes(b.out), plan.bytes);
    assert_int_equal(result.bytes, plan.bytes);
    assert_int_equal(result.minimum_bytes, plan.minimum_bytes);
    assert_int_equal(result.budget_bytes, plan.budget_bytes);
    assert_true(result.rescued_parameters > 0 && result.rescued_parameters <= plan.rescued_parameters);
    assert_true(plan.rescued_parameters <= plan.parameters / 10);
    int64_t sum = 0;
    for (int role = 0; role < QN_ROLE_COUNT; role++) sum += result.role_bytes[role];
    assert_int_equal(sum, result.bytes);
    assert_false(result.scored);
    char sha256[QN_SHA256_HEX];
    assert_ok(qn_sha256_of_file(b.out, sha256, NULL, err));
    assert_string_equal(sha256, result.sha256);
    bench_close(&b);
}

/* With entropy coding the plan is a bound: the file ends where its streams end, and every gate takes it. Asked for before the
 * recipe of a file could: the data-free way, which is quick. */
static void test_plan_bounds_entropy_coding(void **state) {
    (void)state;
    char sha256[2][QN_SHA256_HEX];
    for (int archive = 0; archive < 2; archive++) {
        bench b;
        bench_open(&b, archive ? "a.zip" : "a");
        b.recipe.entropy_coding = true;
        b.options.dry_run = true;
        const qn_compress_result plan = run(&b, 1);
        b.options.dry_run = false;
        const qn_compress_result result = run(&b, 2);
        assert_true(result.bytes < plan.bytes);
        if (archive) assert_int_equal(file_bytes(b.out), result.bytes);
        assert_int_equal(result.parameters, plan.parameters);
        int64_t sum = 0;
        for (int role = 0; role < QN_ROLE_COUNT; role++) sum += result.role_bytes[role];
        assert_int_equal(sum, result.bytes);
        for (int again = 0; archive && again < 2; again++) {
            assert_int_equal(unlink(b.out), 0);
            memcpy(sha256[again], run(&b, 1 + again).sha256, QN_SHA256_HEX);
            assert_string_equal(sha256[again], result.sha256);
        }
        b.profile.entropy_coding = false;
        qn_compress_result refused = {0};
        char *other = path_in(b.root, "b.zip");
        b.options.output = other;
        assert_error(qn_compress(&b.options, NULL, &refused, err), QN_E_REJECTED, "forbids entropy coding");
        free(other);
        bench_close(&b);
    }
}

/* Every budget from the minimum on is kept, and met to the byte while it binds. */
static void test_budgets(void **state) {
    (void)state;
    bench b;
    bench_open(&b, "a.zip");
    b.recipe.automatic_groups = false;
    b.options.dry_run = true;
    const qn_compress_result all = run(&b, 1);
    int n_met = 0;
    for (int64_t budget = all.minimum_bytes; budget <= all.bytes + 500; budget += 251) {
        b.options.budget_bytes = budget;
        const qn_compress_result plan = run(&b, 1);
        assert_int_equal(plan.budget_bytes, budget);
        assert_true(plan.bytes >= plan.minimum_bytes && plan.bytes <= budget);
        if (plan.rescued_parameters > 0 && budget <= all.bytes) {
            assert_int_equal(plan.bytes, budget);
            n_met++;
        }
    }
    assert_true(n_met > 5);
    b.options.budget_bytes = all.minimum_bytes - 1;
    qn_compress_result result = {0};
    char words[64];
    snprintf(words, sizeof words, "at least %lld bytes|--bytes %lld", (long long)all.minimum_bytes,
             (long long)all.minimum_bytes);
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_BUDGET, words);
    bench_close(&b);
}

/* No budget above what the size gates allow is planned for. */
static void test_gates_bind(void **state) {
    (void)state;
    bench b;
    bench_open(&b, "a.zip");
    b.options.dry_run = true;
    const int64_t gate_bytes = run(&b, 1).budget_bytes;
    assert_int_equal(gate_bytes, qn_profile_budget_bytes(&b.profile, run(&b, 1).parameters));
    b.options.budget_bytes = 10 * gate_bytes;
    assert_int_equal(run(&b, 1).budget_bytes, gate_bytes);
    b.options.reference_parameters = INT64_C(27000000000);
    assert_int_equal(run(&b, 1).budget_bytes, gate_bytes);
    b.options.reference_parameters = 2000;
    b.options.budget_bytes = 0;
    qn_compress_result result = {0};
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_BUDGET,
                 "budget of 8000 bytes|--bits-per-parameter");
    bench_close(&b);
}

static void test_coarser_groups_when_they_must(void **state) {
    (void)state;
    bench b;
    bench_open(&b, "a.zip");
    b.recipe.group_size = 8;
    b.options.dry_run = true;
    const qn_compress_result fine = run(&b, 1);
    assert_int_equal(fine.native.group_size, 8);
    b.options.budget_bytes = fine.minimum_bytes - 1;
    const qn_compress_result coarse = run(&b, 1);
    assert_true(coarse.native.group_size > 8);
    assert_true(coarse.minimum_bytes < fine.minimum_bytes);
    b.recipe.automatic_groups = false;
    qn_compress_result result = {0};
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_BUDGET, "per 8 columns|larger group_size");
    bench_close(&b);
}

static void test_one_digest(void **state) {
    (void)state;
    static const char *const names[] = {"a.zip", "folder"};
    for (int i = 0; i < 2; i++) {
        bench b;
        bench_open(&b, names[i]);
        const qn_compress_result one = run(&b, 1);
        char *other = path_in(b.root, i ? "other" : "other.zip");
        b.options.output = other;
        const qn_compress_result two = run(&b, 4);
        assert_string_equal(one.sha256, two.sha256);
        b.options.seed = 1;
        if (!i) assert_string_not_equal(run(&b, 1).sha256, one.sha256);
        free(other);
        bench_close(&b);
    }
}

static void test_scores_documents(void **state) {
    (void)state;
    bench b;
    bench_open(&b, "a.zip");
    write_test_file(b.root, "docs.txt", "two and two make four\n", 22);
    char *docs = path_in(b.root, "docs.txt");
    b.options.documents = docs;
    b.options.tokenizer = "byte";
    const qn_compress_result result = run(&b, 2);
    assert_true(result.scored);
    assert_int_equal(result.teacher.n_targets, 21);
    assert_int_equal(result.student.n_targets, 21);
    assert_true(isfinite(result.teacher.nats) && isfinite(result.student.nats));
    assert_true(result.teacher.nats != result.student.nats);
    free(docs);
    bench_close(&b);
}

/* The measured rows are kept in the work folder: the same bytes, and no other run's rows. */
static void test_work_folder(void **state) {
    (void)state;
    bench b;
    bench_open(&b, "a.zip");
    char *work = path_in(b.root, "work"), *measured = path_in(b.root, "work/row-errors.safetensors");
    const qn_compress_result plain = run(&b, 1);
    b.options.work = work;
    assert_string_equal(run(&b, 1).sha256, plain.sha256);
    qn_compress_result result = {0};
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_ARGUMENT, "holds a run already|--resume");
    b.options.resume = true;
    assert_string_equal(run(&b, 2).sha256, plain.sha256);
    b.options.budget_bytes = plain.bytes - 300; /* another choice from the same rows */
    assert_string_not_equal(run(&b, 1).sha256, plain.sha256);
    b.options.budget_bytes = 0;
    assert_int_equal(unlink(measured), 0); /* stopped before it had any */
    assert_string_equal(run(&b, 1).sha256, plain.sha256);

    qn_recipe other = b.recipe;
    other.sha256[0] = other.sha256[0] == '0' ? '1' : '0';
    b.options.recipe = &other;
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_ARGUMENT, "work");
    b.options.recipe = &b.recipe;
    size_t n_bytes;
    char *data = load_file(measured, &n_bytes);
    write_test_file(b.root, "work/row-errors.safetensors", data, n_bytes - 1);
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_FORMAT, "row-errors.safetensors");
    free(data);
    free(measured);
    free(work);
    bench_close(&b);
}

static bool cancel_at_once(void *user) {
    (void)user;
    return true;
}

/* Whatever fails, what stood at the output still stands, and nothing stands beside it. */
static void test_failures_leave_nothing(void **state) {
    (void)state;
    static const char *const names[] = {"a.zip", "folder"};
    for (int i = 0; i < 2; i++) {
        bench b;
        bench_open(&b, names[i]);
        if (i) {
            assert_int_equal(mkdir(b.out, 0777), 0);
        } else {
            write_test_file(b.root, "a.zip", "old", 3);
        }
        const qn_context cancelled = {.is_cancelled = cancel_at_once};
        qn_compress_result result = {.bytes = 7};
        assert_int_equal(qn_compress(&b.options, &cancelled, &result, NULL), QN_E_CANCELLED);
        assert_int_equal(count_entries(b.root), 2);
        b.options.documents = "/nonexistent/documents.txt";
        b.options.tokenizer = "byte";
        assert_int_equal(qn_compress(&b.options, NULL, &result, NULL), QN_E_IO);
        b.options.documents = NULL;
        b.profile.rescue_bits = 1; /* a rule the finished artifact breaks */
        assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_REJECTED,
                     "validator_rejection=manifest|rescue_bits");
        assert_int_equal(count_entries(b.root), 2);
        assert_int_equal(result.bytes, 7);
        if (i) {
            assert_int_equal(count_entries(b.out), 0);
        } else {
            assert_int_equal(file_bytes(b.out), 3);
        }
        bench_close(&b);
    }
}

static void test_outputs_refused_first(void **state) {
    (void)state;
    bench b;
    bench_open(&b, "none/a.zip");
    qn_compress_result result = {0};
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_IO, "none/a.zip");
    b.options.output = b.model;
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_IO, "model|holds files");
    b.options.model = b.out;
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_IO, "none/a.zip");
    bench_close(&b);
}

/* A vector that is not finite is named before anything is computed, though no fit looks at it. */
static void test_vector_not_finite(void **state) {
    (void)state;
    bench b;
    bench_open(&b, "a.zip");
    tiny_model *tiny = tiny_model_make(&(tiny_options){.tied = true});
    tiny_model_find(tiny, "model.layers.1.self_attn.k_norm.weight")->values[2] = NAN;
    tiny_model_write(tiny, b.model, NULL, 1);
    tiny_model_free(tiny);
    qn_compress_result result = {0};
    assert_error(qn_compress(&b.options, NULL, &result, err), QN_E_VALUE,
                 "model.safetensors|model.layers.1.self_attn.k_norm.weight|column 2");
    assert_int_equal(count_entries(b.root), 1);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_is_the_file),
        cmocka_unit_test(test_plan_bounds_entropy_coding),
        cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_gates_bind),
        cmocka_unit_test(test_coarser_groups_when_they_must),
        cmocka_unit_test(test_one_digest),
        cmocka_unit_test(test_scores_documents),
        cmocka_unit_test(test_work_folder),
        cmocka_unit_test(test_failures_leave_nothing),
        cmocka_unit_test(test_outputs_refused_first),
        cmocka_unit_test(test_vector_not_finite),
    };
    return cmocka_run_group_tests_name("recipe compress", tests, NULL, NULL);
}
