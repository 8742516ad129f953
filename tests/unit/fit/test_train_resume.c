/* Stopped runs: whatever stops them, they end with the same bytes, and what is saved stays whole. */
#include "train_support.h"

#include "quern/base/rng.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Something that happens when a given number of steps is done, and a given number of polls of is_cancelled later. */
typedef struct event {
    uint64_t at;
    int64_t polls_later; /* -1: while the step's metrics are written and its state is not */
    void (*happen)(void);
    uint64_t done;
    int64_t polls;       /* since then */
    int64_t least_polls; /* of a step */
} event;

static void on_progress(void *user, const qn_progress *progress) {
    event *e = user;
    e->done = progress->done;
    if (!e->least_polls || e->polls < e->least_polls) e->least_polls = e->polls;
    e->polls = 0;
    if (e->happen && e->done == e->at && e->polls_later < 0) e->happen();
}

static bool is_cancelled(void *user) {
    event *e = user;
    if (e->happen && e->done == e->at && e->polls >= e->polls_later) e->happen();
    e->polls++;
    return !e->happen && e->done == e->at;
}

static qn_context context_with(event *e) {
    return (qn_context){.on_progress = on_progress, .is_cancelled = is_cancelled, .user = e};
}

static char *whole_run(toy *t) {
    char *whole = toy_path(t, "whole");
    t->options.out = whole;
    (void)toy_train(&t->options, 0);
    t->options.out = t->out;
    return whole;
}

static void finish_and_compare(toy *t, const char *whole) {
    t->options.resume = true;
    (void)toy_train(&t->options, 2);
    assert_same_model(whole, t->out);
    t->options.resume = false;
}

static void test_a_cancelled_run_resumes_to_the_same_bytes(void **state) {
    toy t = toy_make();
    char *whole = whole_run(&t);
    (void)state;
    for (uint64_t at = 1; at < 12; at += 5) {
        event e = {.at = at};
        const qn_context ctx = context_with(&e);
        qn_train_result result = {0};
        char words[64];
        (void)snprintf(words, sizeof words, "after step %d of 12|--resume|out/state", (int)at);
        assert_error(qn_train(&t.options, &ctx, &result, err), QN_E_CANCELLED, words);
        finish_and_compare(&t, whole);
        remove_tree(t.out);
    }
    free(whole);
    toy_free(&t);
}

static void test_a_finished_run_has_nothing_left_to_do(void **state) {
    toy t = toy_make();
    (void)state;
    t.options.dev = t.dev;
    const qn_train_result first = toy_train(&t.options, 0);
    char *state_folder = path_in(t.out, "state");
    assert_int_equal(access(state_folder, F_OK), -1);
    t.options.resume = true;
    const qn_train_result again = toy_train(&t.options, 0);
    assert_int_equal(again.first_step, 12);
    assert_int_equal(again.tokens, 0);
    assert_true(again.dev_loss == first.dev_loss);
    assert_int_equal(access(state_folder, F_OK), -1);
    free(state_folder);
    toy_free(&t);
}

/* ---- kill -9 ---- */

static void kill_myself(void) {
    (void)raise(SIGKILL);
}

/* When a child dies: after STEP steps of its own, POLLS polls later (as an event). */
typedef struct death {
    int64_t step, polls;
} death;

/* The run of a child: argv[2] the folder of the toy, argv[3] and argv[4] its death. */
static int run_child(char **argv) {
    toy t = toy_at(argv[2]);
    event e = {
        .at = strtoull(argv[3], NULL, 10), .polls_later = strtoll(argv[4], NULL, 10), .happen = kill_myself};
    const qn_context ctx = context_with(&e);
    qn_train_result result = {0};
    t.options.keep_bytes = 0;
    t.options.resume = access(t.out, F_OK) == 0;
    const qn_status status = qn_train(&t.options, &ctx, &result, NULL);
    toy_forget(&t);
    return status == QN_OK ? 0 : 1;
}

/* Not fork alone: a child of a process whose threads have run cannot start threads of its own. */
static void train_in_child_until_killed(const toy *t, death d) {
    char step[24], polls[24];
    int status = 0;
    (void)snprintf(step, sizeof step, "%lld", (long long)d.step);
    (void)snprintf(polls, sizeof polls, "%lld", (long long)d.polls);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_train_resume", "--child", t->folder, step, polls, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* Polls of is_cancelled that every step has; the run is left finished in WHOLE. */
static int64_t count_polls(toy *t, const char *whole) {
    event e = {.at = UINT64_MAX};
    const qn_context ctx = context_with(&e);
    qn_train_result result = {0};
    t->options.out = whole;
    t->options.keep_bytes = 0;
    assert_ok(qn_train(&t->options, &ctx, &result, err));
    t->options.out = t->out;
    return e.least_polls;
}

/* $QN_TEST_SEED, else another seed each time. */
static uint64_t seed_of_test(void) {
    const char *asked = getenv("QN_TEST_SEED");
    uint64_t seed = 0;
    if (asked) return strtoull(asked, NULL, 10);
    assert_int_equal(getrandom(&seed, sizeof seed, 0), sizeof seed);
    return seed;
}

/* A state is saved each 4 steps, after the metrics of its step. */
static int64_t last_saved(int64_t step, int64_t polls) {
    return (polls < 0 && step > 0 ? step - 1 : step) / 4 * 4;
}

static void test_a_run_killed_anywhere_resumes_to_the_same_bytes(void **state) {
    const uint64_t seed = seed_of_test();
    toy t = toy_make();
    char *whole = toy_path(&t, "whole");
    const int64_t n_polls = count_polls(&t, whole);
    qn_rng rng;
    (void)state;
    print_message("QN_TEST_SEED=%llu repeats these deaths:\n", (unsigned long long)seed);
    assert_true(n_polls >= 5); /* two blocks there and back, and the head */
    qn_rng_seed(&rng, seed);
    for (int64_t i = 0, begun_at = 0; i < 5; i++) {
        const int64_t step = begun_at + (int64_t)qn_rng_interval(&rng, (uint64_t)(11 - begun_at));
        const death d = {step - begun_at, (int64_t)qn_rng_interval(&rng, (uint64_t)n_polls) - 1};
        print_message("after step %d, %d polls later\n", (int)step, (int)d.polls);
        train_in_child_until_killed(&t, d);
        const int64_t saved = last_saved(step, d.polls);
        if (saved > begun_at) begun_at = saved; /* a death before any step leaves the state it began with */
    }
    finish_and_compare(&t, whole);
    free(whole);
    toy_free(&t);
}

static void test_what_a_kill_leaves_half_made_is_cleared_away(void **state) {
    toy t = toy_make();
    char *whole = whole_run(&t), *state_folder = path_in(t.out, "state"),
         *metrics = path_in(t.out, "metrics.jsonl");
    event e = {.at = 5};
    const qn_context ctx = context_with(&e);
    qn_train_result result = {0};
    (void)state;
    assert_error(qn_train(&t.options, &ctx, &result, err), QN_E_CANCELLED, "");
    write_test_file(t.folder, "out/state/step-00000008.tmp-1234abcd/model.safetensors", "half", 4);
    write_test_file(t.folder, "out/state/step-00000004.removed/config.json", "{}", 2);
    assert_int_equal(truncate(metrics, 40), 0); /* in the middle of a line */
    finish_and_compare(&t, whole);
    char *text = load_file(metrics, NULL);
    assert_non_null(strstr(text, "\n{\"resumed_at\":5}\n{\"step\":6,"));
    free(text);
    assert_int_equal(access(state_folder, F_OK), -1);
    free(whole);
    free(state_folder);
    free(metrics);
    toy_free(&t);
}

/* Killed as the run's folder was made, as its model was written, and as its last state was removed. */
static void test_leftovers_in_the_runs_own_folder_go(void **state) {
    toy t = toy_make();
    char *whole = whole_run(&t);
    (void)state;
    const int n_files = count_entries(whole);
    write_test_file(t.folder, "out/train.json.tmp-0123abcd", "{", 1);
    finish_and_compare(&t, whole);
    assert_int_equal(count_entries(t.out), n_files);
    write_test_file(t.folder, "out/model.safetensors.tmp-fedc4567", "half", 4);
    write_test_file(t.folder, "out/state.removed/step-00000012/config.json", "{}", 2);
    finish_and_compare(&t, whole);
    assert_int_equal(count_entries(t.out), n_files);
    free(whole);
    toy_free(&t);
}

static void test_a_run_killed_before_its_first_state_starts_again(void **state) {
    toy t = toy_make();
    char *whole = whole_run(&t), *source = path_in(whole, "train.json");
    size_t n = 0;
    char *identity = load_file(source, &n);
    (void)state;
    write_test_file(t.folder, "out/train.json", identity, n);
    finish_and_compare(&t, whole);
    free(identity);
    free(source);
    free(whole);
    toy_free(&t);
}

/* ---- a full disk ---- */

static void limit_files(rlim_t n_bytes) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = n_bytes < limit.rlim_max ? n_bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void fill_disk(void) {
    limit_files(32768); /* metrics still fit, weights do not */
}

static void test_a_full_disk_keeps_the_state_before(void **state) {
    toy t = toy_make();
    char *whole = whole_run(&t), *state_folder = path_in(t.out, "state");
    event e = {.at = 7, .happen = fill_disk};
    const qn_context ctx = context_with(&e);
    qn_train_result result = {0};
    void (*before)(int) = signal(SIGXFSZ, SIG_IGN);
    (void)state;
    assert_error(qn_train(&t.options, &ctx, &result, err), QN_E_IO, "model.safetensors|cannot write");
    limit_files(RLIM_INFINITY);
    (void)signal(SIGXFSZ, before);
    assert_int_equal(count_entries(state_folder), 1);
    finish_and_compare(&t, whole);
    free(state_folder);
    free(whole);
    toy_free(&t);
}

/* ---- another run ---- */

static void expect_other(const qn_train_options *options, const char *words) {
    qn_train_result result = {0};
    assert_error(qn_train(options, NULL, &result, err), QN_E_ARGUMENT, words);
}

static void test_resuming_with_anything_else_is_refused(void **state) {
    toy t = toy_make();
    event e = {.at = 5};
    const qn_context ctx = context_with(&e);
    qn_train_result result = {0};
    (void)state;
    assert_error(qn_train(&t.options, &ctx, &result, err), QN_E_CANCELLED, "");
    t.options.resume = true;
    const qn_train_options good = t.options;
    t.options.schedule.peak = 4e-3;
    t.options.batch = 2;
    expect_other(&t.options, "train.json|another run|lr was 0.003, is now 0.004|batch was 3, is now 2");
    t.options = good;
    t.options.roles[QN_TRAIN_VECTORS].weight_decay = 0.5;
    expect_other(&t.options, "roles was");
    t.options = good;
    t.options.text = t.dev;
    expect_other(&t.options, "text_sha256 was");
    t.options = good;
    t.options.init_from = t.model;
    expect_other(&t.options, "start_sha256 was \"random\"");
    t.options = good;
    t.options.seed = UINT64_MAX;
    expect_other(&t.options, "seed was \"0\", is now \"18446744073709551615\"");
    t.options = good;
    t.options.save_every = 1; /* decides nothing */
    t.options.eval_every = 3;
    t.options.dev = t.dev;
    (void)toy_train(&t.options, 0);
    toy_free(&t);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_cancelled_run_resumes_to_the_same_bytes),
        cmocka_unit_test(test_a_finished_run_has_nothing_left_to_do),
        cmocka_unit_test(test_a_run_killed_anywhere_resumes_to_the_same_bytes),
        cmocka_unit_test(test_what_a_kill_leaves_half_made_is_cleared_away),
        cmocka_unit_test(test_leftovers_in_the_runs_own_folder_go),
        cmocka_unit_test(test_a_run_killed_before_its_first_state_starts_again),
        cmocka_unit_test(test_a_full_disk_keeps_the_state_before),
        cmocka_unit_test(test_resuming_with_anything_else_is_refused),
    };
    if (argc == 5 && strcmp(argv[1], "--child") == 0) return run_child(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
