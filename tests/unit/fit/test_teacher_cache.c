/* The file of a teacher cache: what it says against the teacher's own logits, any order of reading, being stopped and taken up
 * again, and each way to be wrong. */
#include "expect_error.h"
#include "quern/fit/teacher_cache.h"
#include "quern/model/gradient.h"
#include "quern/text/tokenizer.h"
#include "tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VOCAB = 257, K = 20, SAMPLES = 6, N = 5, T = 9003 };
/* Two batches of the walk: the fourth sequence goes into the second one. */
static const int64_t k_starts[N + 1] = {0, 40, 40, 3001, 9000, T};

static char *folder, *model_path;
static qn_model *model;
static int32_t ids[T];
static const qn_sequences k_sequences = {.ids = ids, .starts = k_starts, .n = N};
static const qn_teacher_cache_options k_options = {.k = K, .n_samples = SAMPLES};
static char teacher_sha256[QN_SHA256_HEX], text_sha256[QN_SHA256_HEX];

static int open_model(void **state) {
    (void)state;
    folder = make_temporary_folder();
    model_path = make_temporary_folder();
    write_tiny_model(model_path, &(tiny_options){.vocab = VOCAB, .layers = 1});
    assert_ok(qn_model_open(model_path, &model, err));
    for (int i = 0; i < T; i++) ids[i] = (i * 13 + i / 7 + i * i % 5) % VOCAB;
    assert_ok(qn_checkpoint_sha256(qn_model_checkpoint(model), NULL, teacher_sha256, err));
    assert_ok(qn_teacher_cache_text_sha256(&k_sequences, text_sha256, err));
    return 0;
}

static int close_model(void **state) {
    (void)state;
    qn_model_close(model);
    remove_tree(folder);
    remove_tree(model_path);
    free(folder);
    free(model_path);
    return 0;
}

static char *make_cache(const char *name) {
    char *path = path_in(folder, name);
    assert_ok(qn_teacher_cache_make(model, &k_sequences, &k_options, path, NULL, NULL, err));
    return path;
}

static void forget(char *path) {
    remove_tree(path);
    free(path);
}

static qn_teacher_rows make_rows(void) {
    qn_teacher_rows rows;
    assert_ok(qn_teacher_rows_alloc(T, K, SAMPLES, &rows, err));
    return rows;
}

/* All positions of a cache. */
static qn_teacher_rows read_all(const char *path) {
    qn_teacher_rows rows = make_rows();
    qn_teacher_cache *cache = NULL;
    assert_ok(qn_teacher_cache_open(path, teacher_sha256, text_sha256, &cache, err));
    assert_ok(qn_teacher_cache_read(cache, 0, N, &rows, 0, err));
    qn_teacher_cache_close(cache);
    return rows;
}

/* ---- what it says ---- */

/* They are none of the largest, and their mean log-probability is the teacher's. */
static void check_samples(const qn_teacher_rows *p, int64_t t, const float *logits, double log_sum) {
    const int32_t *top = p->ids + t * K, *samples = p->sample_ids + t * SAMPLES;
    double mean = 0.0;
    for (int64_t i = 0; i < SAMPLES; i++) {
        for (int64_t j = 0; j < K; j++) assert_true(samples[i] != top[j]);
        assert_true(i == 0 || samples[i] >= samples[i - 1]);
        mean += ((double)logits[samples[i]] - log_sum) / SAMPLES;
    }
    /* As far off as the mass of all others, which it is told relative to. */
    assert_true(fabs(mean - (double)p->sample_log_prob[t]) <= 0.1 + 0.02);
}

static void test_positions_are_the_teachers(void **state) {
    (void)state;
    char *path = make_cache("a");
    qn_teacher_rows p = read_all(path);
    const int64_t h = qn_model_config(model)->hidden_size;
    float *hidden = malloc(sizeof *hidden * (size_t)(T * h)), logits[VOCAB];
    const qn_walk_options walk = {.compute = QN_COMPUTE_F32};
    assert_ok(qn_walk(model, &k_sequences, &walk, NULL, hidden, NULL, err));
    for (int64_t t = 0; t < T; t += 97) {
        double sum = 0.0, mass = exp((double)p.tail_log_prob[t]);
        assert_ok(qn_head_logits(model, hidden + t * h, 1, QN_COMPUTE_F32, NULL, logits, NULL, err));
        for (int i = 0; i < VOCAB; i++) sum += exp((double)logits[i]);
        for (int64_t i = 0; i < K; i++) {
            const double want = (double)logits[p.ids[t * K + i]] - log(sum);
            const double step = 2.0 * sqrt(24.0 * -want) / 255.0 + 1e-3; /* of the grid */
            assert_true(fabs((double)p.log_probs[t * K + i] - want) <= step + 0.02);
            mass += exp((double)p.log_probs[t * K + i]);
        }
        assert_true(fabs(mass - 1.0) <= 1e-6);
        check_samples(&p, t, logits, log(sum));
    }
    free(hidden);
    qn_teacher_rows_release(&p);
    forget(path);
}

static void test_info(void **state) {
    qn_teacher_cache *cache = NULL;
    qn_teacher_cache_info made;
    size_t n_bytes;
    (void)state;
    char *path = path_in(folder, "info");
    assert_ok(qn_teacher_cache_make(model, &k_sequences, &k_options, path, NULL, &made, err));
    assert_ok(qn_teacher_cache_open(path, NULL, NULL, &cache, err));
    const qn_teacher_cache_info info = qn_teacher_cache_info_of(cache);
    free(load_file(path, &n_bytes));
    assert_string_equal(info.teacher_sha256, teacher_sha256);
    assert_string_equal(info.text_sha256, text_sha256);
    assert_string_equal(info.last_link, made.last_link);
    assert_true(info.vocab_size == VOCAB && info.k == K && info.n_samples == SAMPLES &&
                info.n_sequences == N && info.n_tokens == T);
    assert_true(info.n_bytes == n_bytes && made.n_bytes == n_bytes);
    for (int64_t i = 0; i < N; i++)
        assert_int_equal(qn_teacher_cache_tokens(cache, i), k_starts[i + 1] - k_starts[i]);
    qn_teacher_cache_close(cache);
    qn_teacher_cache_close(NULL);
    forget(path);
}

static void test_any_order_of_reading(void **state) {
    static const int order[] = {3, 0, 4, 1, 2, 3};
    (void)state;
    char *path = make_cache("order");
    qn_teacher_rows all = read_all(path), one = make_rows(), narrow;
    qn_teacher_cache *cache = NULL;
    assert_ok(qn_teacher_cache_open(path, NULL, NULL, &cache, err));
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        const int64_t first = k_starts[order[i]], n = k_starts[order[i] + 1] - first, at = n < T ? 1 : 0;
        assert_ok(qn_teacher_cache_read(cache, order[i], 1, &one, at, err));
        const qn_teacher_top got = qn_teacher_rows_top(&one, at), want = qn_teacher_rows_top(&all, first);
        const size_t rows = (size_t)n;
        assert_memory_equal(got.ids, want.ids, sizeof *got.ids * rows * K);
        assert_memory_equal(got.log_probs, want.log_probs, sizeof(float) * rows * K);
        assert_memory_equal(got.tail_log_prob, want.tail_log_prob, sizeof(float) * rows);
        assert_memory_equal(got.sample_ids, want.sample_ids, sizeof *got.ids * rows * SAMPLES);
        assert_memory_equal(got.sample_log_prob, want.sample_log_prob, sizeof(float) * rows);
    }
    assert_error(qn_teacher_cache_read(cache, 4, 2, &one, 0, err), QN_E_ARGUMENT, "order|4 .. 6 of 5");
    assert_error(qn_teacher_cache_read(cache, -1, 2, &one, 0, err), QN_E_ARGUMENT, "-1");
    assert_error(qn_teacher_cache_read(cache, 0, N, &one, 1, err), QN_E_ARGUMENT,
                 "order|do not fit|1 .. 9003");
    assert_ok(qn_teacher_rows_alloc(T, K, 0, &narrow, err));
    assert_error(qn_teacher_cache_read(cache, 0, 1, &narrow, 0, err), QN_E_ARGUMENT, "6 samples|20 and 0");
    qn_teacher_cache_close(cache);
    qn_teacher_rows_release(&all);
    qn_teacher_rows_release(&one);
    qn_teacher_rows_release(&narrow);
    forget(path);
}

/* A model against its own cache: no divergence but what the grid leaves. */
static void test_a_step_learns_from_it(void **state) {
    static int32_t targets[T];
    (void)state;
    char *path = make_cache("step");
    qn_teacher_rows p = read_all(path);
    const qn_teacher_top top = qn_teacher_rows_top(&p, 0);
    qn_loss_options options = {.kl_weight = 1.0, .scale = 1.0, .teacher_top = &top};
    qn_loss loss;
    const int64_t first = k_starts[3], starts[] = {0, 40};
    const qn_sequences one = {.ids = ids, .starts = starts, .n = 1};
    for (int i = 0; i < 40; i++) targets[i] = ids[i + 1];
    assert_ok(qn_loss_gradient(model, &one, targets, &options, NULL, NULL, &loss, err));
    assert_true(fabs(loss.kl_nats) <= 40 * 1e-3); /* an estimate: the samples may take it below 0 */
    const double own = fabs(loss.kl_nats);
    const qn_teacher_top other = qn_teacher_rows_top(&p, first);
    options.teacher_top = &other; /* of other positions */
    assert_ok(qn_loss_gradient(model, &one, targets, &options, NULL, NULL, &loss, err));
    assert_true(loss.kl_nats > 10.0 * own);
    qn_teacher_rows_release(&p);
    forget(path);
}

/* A trained teacher on text: the file against f32 logits, and the divergence that is left of the teacher from its own cache. */
static void test_a_trained_teachers_cache_is_small(void **state) {
    enum { CONTEXT = 512 };
    const int64_t starts[] = {0, CONTEXT};
    const qn_teacher_cache_options options = qn_teacher_cache_options_default();
    (void)state;
    char *root = require_test_data("teacher"), *text_path = path_in(root, "text/dev.txt");
    char *path = path_in(folder, "trained"), *text = load_file(text_path, NULL);
    int32_t targets[CONTEXT];
    qn_teacher_rows rows;
    qn_tokenizer *tokenizer = NULL;
    qn_model *teacher = NULL;
    qn_teacher_cache *cache = NULL;
    qn_teacher_cache_info info;
    qn_ids words = {0};
    qn_loss loss;
    assert_ok(qn_model_open(root, &teacher, err));
    assert_ok(qn_tokenizer_open(root, &tokenizer, err));
    assert_ok(qn_tokenizer_encode(tokenizer, text, 8 * CONTEXT, &words, err));
    assert_true(words.n > CONTEXT);
    const qn_sequences one = {.ids = words.ids, .starts = starts, .n = 1};
    assert_ok(qn_teacher_cache_make(teacher, &one, &options, path, NULL, &info, err));
    const double logits = 4.0 * CONTEXT * (double)info.vocab_size;
    print_message("%.1f bytes a token, %.1f times smaller\n", (double)info.n_bytes / CONTEXT,
                  logits / (double)info.n_bytes);
    assert_true(logits >= 50.0 * (double)info.n_bytes);

    assert_ok(qn_teacher_cache_open(path, NULL, NULL, &cache, err));
    assert_ok(qn_teacher_rows_alloc(CONTEXT, options.k, options.n_samples, &rows, err));
    assert_ok(qn_teacher_cache_read(cache, 0, 1, &rows, 0, err));
    memcpy(targets, words.ids + 1, sizeof targets);
    const qn_teacher_top top = qn_teacher_rows_top(&rows, 0);
    const qn_loss_options loss_options = {.kl_weight = 1.0, .scale = 1.0, .teacher_top = &top};
    assert_ok(qn_loss_gradient(teacher, &one, targets, &loss_options, NULL, NULL, &loss, err));
    /* Errors up to half a step of 0.04 to 0.1 nats, uniform: their mean square over two is below 4e-4. */
    assert_true(loss.kl_nats / CONTEXT <= 4e-4);
    qn_teacher_cache_close(cache);
    qn_model_close(teacher);
    qn_tokenizer_free(tokenizer);
    qn_ids_release(&words);
    free(text);
    free(text_path);
    free(root);
    qn_teacher_rows_release(&rows);
    forget(path);
}

/* ---- the same bytes ---- */

static void assert_same_file(const char *a, const char *b) {
    size_t n_a, n_b;
    char *x = load_file(a, &n_a), *y = load_file(b, &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(x, y, n_a);
    free(x);
    free(y);
}

static void test_threads_change_no_byte(void **state) {
    (void)state;
    char *path = make_cache("one"), *other = path_in(folder, "three");
    const qn_context three = {.n_threads = 3};
    assert_ok(qn_teacher_cache_make(model, &k_sequences, &k_options, other, &three, NULL, err));
    assert_same_file(path, other);
    forget(path);
    forget(other);
}

/* Writes the first N_BYTES of DATA where an unfinished cache of PATH would stand. */
static void put_unfinished(const char *path, const char *data, size_t n_bytes) {
    char name[64];
    snprintf(name, sizeof name, "%s.unfinished", strrchr(path, '/') + 1);
    write_test_file(folder, name, data, n_bytes);
}

/* Where the chunks of a file begin; starts[N] is its end. */
static void find_chunks(const char *data, size_t n_bytes, size_t starts[N + 1]) {
    starts[0] = (size_t)((const char *)memchr(data, '\n', n_bytes) - data) + 1;
    for (int i = 0; i < N; i++) {
        uint64_t n_payload;
        memcpy(&n_payload, data + starts[i] + 8, sizeof n_payload);
        starts[i + 1] = starts[i] + 144 + n_payload;
    }
    assert_int_equal(starts[N], n_bytes);
}

/* Where the walk began. */
static void note_first(void *user, const qn_progress *progress) {
    uint64_t *first = user;
    if (*first == UINT64_MAX && strcmp(progress->stage, "teacher cache") == 0) *first = progress->done;
}

/* Made from an unfinished file of any length, and from one with a byte changed. */
static void test_an_unfinished_cache_is_taken_up(void **state) {
    size_t n_bytes, chunks[N + 1];
    (void)state;
    char *path = make_cache("whole"), *again = path_in(folder, "again"), *data = load_file(path, &n_bytes);
    find_chunks(data, n_bytes, chunks);
    const size_t cuts[] = {0, 10, 300, 900, n_bytes / 3, n_bytes / 2, n_bytes - 100, n_bytes - 1, n_bytes};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        uint64_t first = UINT64_MAX;
        const qn_context ctx = {.on_progress = note_first, .user = &first};
        put_unfinished(again, data, cuts[i]);
        assert_ok(qn_teacher_cache_make(model, &k_sequences, &k_options, again, &ctx, NULL, err));
        assert_same_file(path, again);
        assert_int_equal(first, cuts[i] == n_bytes ? T : cuts[i] >= chunks[3] ? k_starts[3] : 0);
        assert_int_equal(count_entries(folder), 2); /* nothing is left aside */
        remove_tree(again);
    }
    data[n_bytes / 2] ^= 1;
    put_unfinished(again, data, n_bytes);
    assert_ok(qn_teacher_cache_make(model, &k_sequences, &k_options, again, NULL, NULL, err));
    assert_same_file(path, again);
    free(data);
    forget(path);
    forget(again);
}

static bool stop_late(void *user) {
    int *left = user;
    return --*left < 0;
}

static void test_a_stopped_call_goes_on(void **state) {
    int left = 9;
    (void)state;
    char *path = make_cache("through"), *stopped = path_in(folder, "stopped");
    const qn_context ctx = {.is_cancelled = stop_late, .user = &left};
    assert_error(qn_teacher_cache_make(model, &k_sequences, &k_options, stopped, &ctx, NULL, err),
                 QN_E_CANCELLED, "stopped|of 5 sequences|same call");
    assert_true(access(stopped, F_OK) != 0);
    assert_ok(qn_teacher_cache_make(model, &k_sequences, &k_options, stopped, NULL, NULL, err));
    assert_same_file(path, stopped);
    uint64_t first = UINT64_MAX;
    const qn_context watched = {.on_progress = note_first, .user = &first};
    assert_ok(qn_teacher_cache_make(model, &k_sequences, &k_options, stopped, &watched, NULL, err));
    assert_true(first == UINT64_MAX); /* a finished one costs no walk */
    forget(path);
    forget(stopped);
}

/* ---- each way to be wrong ---- */

static qn_status try_read(const char *path, qn_error *err) {
    qn_teacher_cache *cache = NULL;
    qn_teacher_rows rows = make_rows();
    qn_status status = qn_teacher_cache_open(path, teacher_sha256, text_sha256, &cache, err);
    if (status == QN_OK) status = qn_teacher_cache_read(cache, 0, N, &rows, 0, err);
    qn_teacher_cache_close(cache);
    qn_teacher_rows_release(&rows);
    return status;
}

static void test_a_cut_is_found(void **state) {
    size_t n_bytes;
    (void)state;
    char *path = make_cache("cut"), *data = load_file(path, &n_bytes);
    for (size_t n = 0; n < n_bytes; n += n < 2000 ? 37 : 1013) {
        write_test_file(folder, "cut", data, n);
        assert_error(try_read(path, err), QN_E_FORMAT, "cut");
    }
    write_test_file(folder, "cut", data, n_bytes - 1);
    assert_error(try_read(path, err), QN_E_FORMAT, "cut short after 4 of 5");
    data = realloc(data, n_bytes + 1);
    data[n_bytes] = 0;
    write_test_file(folder, "cut", data, n_bytes + 1);
    assert_error(try_read(path, err), QN_E_FORMAT, "announces");
    free(data);
    forget(path);
}

static void test_damage_is_found(void **state) {
    size_t n_bytes;
    (void)state;
    char *path = make_cache("damage"), *data = load_file(path, &n_bytes);
    for (size_t i = 0; i < n_bytes; i += i < 1500 ? 1 : 997) {
        qn_error reason = {0};
        data[i] ^= 4;
        write_test_file(folder, "damage", data, n_bytes);
        if (try_read(path, &reason) == QN_OK) fail_msg("byte %zu may change unseen", i);
        assert_true(strstr(reason.message, "damage") != NULL);
        data[i] ^= 4;
    }
    free(data);
    forget(path);
}

static void test_chunks_out_of_order_are_found(void **state) {
    size_t n_bytes, starts[N + 1];
    (void)state;
    char *path = make_cache("swap"), *data = load_file(path, &n_bytes), *swapped = malloc(n_bytes);
    find_chunks(data, n_bytes, starts);
    const size_t n_2 = starts[3] - starts[2], n_3 = starts[4] - starts[3];
    memcpy(swapped, data, n_bytes);
    memcpy(swapped + starts[2], data + starts[3], n_3);
    memcpy(swapped + starts[2] + n_3, data + starts[2], n_2);
    write_test_file(folder, "swap", swapped, n_bytes);
    assert_error(try_read(path, err), QN_E_FORMAT, "swap|chain|sequence 2|order");
    free(data);
    free(swapped);
    forget(path);
}

static void test_another_teacher_or_text_is_refused(void **state) {
    static const char k_other[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    qn_teacher_cache *cache = NULL;
    char words[200];
    (void)state;
    char *path = make_cache("other");
    snprintf(words, sizeof words, "other|teacher %s|expected %s|remove", teacher_sha256, k_other);
    assert_error(qn_teacher_cache_open(path, k_other, NULL, &cache, err), QN_E_ARGUMENT, words);
    snprintf(words, sizeof words, "other|text %s|expected %s|remove", text_sha256, k_other);
    assert_error(qn_teacher_cache_open(path, NULL, k_other, &cache, err), QN_E_ARGUMENT, words);
    assert_null(cache);
    forget(path);
}

/* What stands at the path or aside is of something else: it is named and left alone. */
static void test_nothing_else_is_overwritten(void **state) {
    const qn_teacher_cache_options other_k = {.k = K + 1, .n_samples = SAMPLES}, none = {.k = K};
    const qn_sequences shorter = {.ids = ids, .starts = k_starts, .n = 2};
    size_t n_bytes;
    (void)state;
    char *path = make_cache("kept"), *data = load_file(path, &n_bytes), *fresh = path_in(folder, "fresh");
    assert_error(qn_teacher_cache_make(model, &k_sequences, &other_k, path, NULL, NULL, err), QN_E_ARGUMENT,
                 "kept|20 ids|expected 21|remove");
    assert_error(qn_teacher_cache_make(model, &k_sequences, &none, path, NULL, NULL, err), QN_E_ARGUMENT,
                 "kept|6 samples|expected 20, 0 |remove");
    assert_error(qn_teacher_cache_make(model, &shorter, &k_options, path, NULL, NULL, err), QN_E_ARGUMENT,
                 "kept|text|expected|remove");
    put_unfinished(fresh, data, n_bytes / 2);
    assert_error(qn_teacher_cache_make(model, &shorter, &k_options, fresh, NULL, NULL, err), QN_E_ARGUMENT,
                 "fresh.unfinished|text|expected|remove");
    put_unfinished(fresh, "something else\n", 15);
    assert_error(qn_teacher_cache_make(model, &k_sequences, &k_options, fresh, NULL, NULL, err), QN_E_FORMAT,
                 "fresh.unfinished");
    char *unfinished = path_in(folder, "fresh.unfinished"), *left = load_file(unfinished, NULL);
    assert_string_equal(left, "something else\n");
    write_test_file(folder, "kept", "{}\n", 3);
    assert_error(qn_teacher_cache_make(model, &k_sequences, &k_options, path, NULL, NULL, err), QN_E_FORMAT,
                 "kept");
    free(left);
    free(data);
    forget(unfinished);
    forget(path);
    free(fresh);
}

static void test_another_version_is_refused(void **state) {
    size_t n_bytes;
    (void)state;
    char *path = make_cache("older"), *data = load_file(path, &n_bytes),
         *version = strstr(data, "\"version\":2");
    assert_non_null(version);
    version[strlen("\"version\":")] = '1';
    write_test_file(folder, "older", data, n_bytes);
    assert_error(try_read(path, err), QN_E_UNSUPPORTED, "older|version 1|reads version 2|anew");
    free(data);
    forget(path);
}

static void test_bad_arguments_leave_nothing(void **state) {
    static const int64_t backwards[] = {0, 10, 5};
    static const int32_t outside[] = {1, VOCAB, 2};
    static const int64_t three[] = {0, 3};
    const qn_sequences none = {.ids = ids, .starts = k_starts, .n = 0},
                       bad = {.ids = ids, .starts = backwards, .n = 2},
                       wrong_ids = {.ids = outside, .starts = three, .n = 1};
    qn_teacher_cache_options options = {.k = 0};
    (void)state;
    char *path = path_in(folder, "bad");
#define MAKE(sequences) qn_teacher_cache_make(model, (sequences), &options, path, NULL, NULL, err)
    assert_error(MAKE(&k_sequences), QN_E_ARGUMENT, "0 ids");
    options.k = VOCAB + 1;
    assert_error(MAKE(&k_sequences), QN_E_ARGUMENT, "258 ids|257");
    options.k = VOCAB - 1;
    options.n_samples = 2;
    assert_error(MAKE(&k_sequences), QN_E_ARGUMENT, "2 samples|1 ids beside the 256");
    options.k = VOCAB;
    options.n_samples = 0;
    assert_error(MAKE(&none), QN_E_ARGUMENT, "no sequence");
    assert_error(MAKE(&bad), QN_E_ARGUMENT, "sequence 1");
    assert_error(MAKE(&wrong_ids), QN_E_VALUE, "257");
    assert_int_equal(count_entries(folder), 0);
    free(path);
    path = path_in(folder, "no/such/folder");
    assert_error(MAKE(&k_sequences), QN_E_IO, "no/such/folder");
#undef MAKE
    qn_teacher_cache *cache = NULL;
    assert_error(qn_teacher_cache_open(path, NULL, NULL, &cache, err), QN_E_IO, "no/such/folder");
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_positions_are_the_teachers),
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_any_order_of_reading),
        cmocka_unit_test(test_a_step_learns_from_it),
        cmocka_unit_test(test_a_trained_teachers_cache_is_small),
        cmocka_unit_test(test_threads_change_no_byte),
        cmocka_unit_test(test_an_unfinished_cache_is_taken_up),
        cmocka_unit_test(test_a_stopped_call_goes_on),
        cmocka_unit_test(test_a_cut_is_found),
        cmocka_unit_test(test_damage_is_found),
        cmocka_unit_test(test_chunks_out_of_order_are_found),
        cmocka_unit_test(test_another_teacher_or_text_is_refused),
        cmocka_unit_test(test_nothing_else_is_overwritten),
        cmocka_unit_test(test_another_version_is_refused),
        cmocka_unit_test(test_bad_arguments_leave_nothing),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
