/* The walk, the head and the session against a naive forward pass, on models made here: both architectures,
 * biases, grouped heads, sliding windows, yarn, several sequences, lengths that fit no tile. */
#include "quern/model/generate.h"
#include "quern/model/score.h"
#include "naive_forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOGIT_TOLERANCE 3e-5 /* f32 against double; logits are of order 1 to 10 */
#define NLL_TOLERANCE   2e-5
/* Root mean square of a logit's error over that of the logits: every activation is rounded by up to 2^-9, and
 * the errors of a few layers add up like noise. An unrounded pass gives 1e-6, a wrong one of order 1. */
#define BF16_RMS_TOLERANCE 0.03
#define BF16_RMS_LEAST     1e-4

typedef struct fixture {
    char *folder;
    tiny_model *tiny;
    qn_model *model;
} fixture;

static void open_model(fixture *f) {
    qn_error err = {0};
    f->folder = make_temporary_folder();
    tiny_model_write(f->tiny, f->folder, "F32", 1);
    if (qn_model_open(f->folder, &f->model, &err) != QN_OK) fail_msg("%s", err.message);
}

static void close_model(fixture *f) {
    qn_model_close(f->model);
    tiny_model_free(f->tiny);
    remove_tree(f->folder);
    free(f->folder);
}

static fixture make_model(const tiny_options *options) {
    fixture f = {.tiny = tiny_model_make(options)};
    open_model(&f);
    return f;
}

static int32_t *make_ids(int64_t n, int64_t vocab) {
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)((i * i * 31 + i * 17 + 5) % vocab);
    return ids;
}

/* Compares n logits: each one in f32, their root mean square error in bf16. */
static void compare_logits(qn_compute compute, const float *got, const double *want, int64_t n) {
    double error = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double difference = (double)got[i] - want[i];
        error += difference * difference;
        size += want[i] * want[i];
        if (compute == QN_COMPUTE_F32 && !(fabs(difference) <= LOGIT_TOLERANCE))
            fail_msg("logit %lld: got %.9g, want %.9g", (long long)i, (double)got[i], want[i]);
    }
    const double rms = sqrt(error / size);
    if (n && compute == QN_COMPUTE_BF16 && !(rms >= BF16_RMS_LEAST && rms <= BF16_RMS_TOLERANCE))
        fail_msg("bf16 logits are off by %g (root mean square, relative)", rms);
}

static void expect_close(const char *what, int64_t at, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance))
        fail_msg("%s %lld: got %.9g, want %.9g", what, (long long)at, got, want);
}

static const int64_t k_starts[] = {0, 1, 4, 137, 137, 150}; /* lengths 1, 3, 133, 0, 13 */
enum { N_SEQUENCES = 5, N_TOKENS = 150 };

static double log_sum_exp(const double *logits, int64_t n) {
    double most = logits[0], sum = 0.0;
    for (int64_t i = 1; i < n; i++) most = fmax(most, logits[i]);
    for (int64_t i = 0; i < n; i++) sum += exp(logits[i] - most);
    return most + log(sum);
}

/* Walks the sequences and compares every logit and loss with the naive pass. */
static void check_walk(const fixture *f, qn_compute compute) {
    const qn_config *config = qn_model_config(f->model);
    const int64_t vocab = config->vocab_size;
    int32_t *ids = make_ids(N_TOKENS, vocab);
    float *hidden = malloc(sizeof(float) * (size_t)(N_TOKENS * config->hidden_size));
    float *logits = malloc(sizeof(float) * (size_t)(N_TOKENS * vocab));
    double nll[N_TOKENS];
    const qn_sequences sequences = {.ids = ids, .starts = k_starts, .n = N_SEQUENCES};
    const qn_walk_options options = {.compute = compute};
    qn_error err = {0};
    if (qn_walk(f->model, &sequences, &options, NULL, hidden, NULL, &err) != QN_OK)
        fail_msg("%s", err.message);
    assert_int_equal(qn_head_logits(f->model, hidden, N_TOKENS, compute, NULL, logits, NULL, NULL), QN_OK);
    assert_int_equal(qn_head_nll(f->model, hidden, ids, N_TOKENS, compute, NULL, nll, NULL, NULL), QN_OK);
    for (int64_t s = 0; s < N_SEQUENCES; s++) {
        const int64_t first = k_starts[s], n = k_starts[s + 1] - first;
        double *want = naive_logits(f->tiny, ids + first, n);
        compare_logits(compute, logits + first * vocab, want, n * vocab);
        for (int64_t t = 0; t < n && compute == QN_COMPUTE_F32; t++)
            expect_close("nll", t, nll[first + t],
                         log_sum_exp(want + t * vocab, vocab) - want[t * vocab + ids[first + t]],
                         NLL_TOLERANCE);
        free(want);
    }
    free(ids);
    free(hidden);
    free(logits);
}

/* A session that is fed in uneven pieces gives the logits of the naive pass after each. */
static void check_session(const fixture *f, qn_compute compute) {
    static const int64_t pieces[] = {1, 40, 2, 1, 1, 90};
    const int64_t vocab = qn_model_config(f->model)->vocab_size, n = 135;
    int32_t *ids = make_ids(n, vocab);
    float *logits = malloc(sizeof(float) * (size_t)vocab);
    double *want = naive_logits(f->tiny, ids, n);
    qn_session *session = NULL;
    assert_int_equal(qn_session_new(f->model, n, compute, NULL, &session, NULL), QN_OK);
    for (int64_t p = 0, done = 0; p < 6; p++) {
        assert_int_equal(qn_session_feed(session, ids + done, pieces[p], logits, NULL), QN_OK);
        done += pieces[p];
        compare_logits(compute, logits, want + (done - 1) * vocab, vocab);
    }
    qn_session_free(session);
    free(ids);
    free(logits);
    free(want);
}

static void check_model(fixture *f) {
    check_walk(f, QN_COMPUTE_F32);
    check_session(f, QN_COMPUTE_F32);
    check_walk(f, QN_COMPUTE_BF16);
    check_session(f, QN_COMPUTE_BF16);
    close_model(f);
}

static void test_architectures(void **state) {
    (void)state;
    static const tiny_options options[] = {
        {.seed = 1},
        {.tied = true, .seed = 2},
        {.attention_bias = true, .kv_heads = 1, .seed = 3},
        {.model_type = "qwen2", .hidden = 64, .seed = 4},
        {.hidden = 40,
         .intermediate = 100,
         .heads = 6,
         .kv_heads = 3,
         .head_dim = 10,
         .vocab = 1100,
         .layers = 3},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        fixture f = make_model(&options[i]);
        check_model(&f);
    }
}

static void test_sliding_window(void **state) {
    (void)state;
    for (int64_t window = 1; window <= 70; window += 23) {
        fixture f = {.tiny = tiny_model_make(&(tiny_options){.layers = 3, .seed = 5})};
        json_object_set_new(f.tiny->config, "use_sliding_window", json_true());
        json_object_set_new(f.tiny->config, "sliding_window", json_integer(window));
        json_object_set_new(f.tiny->config, "max_window_layers", json_integer(1));
        open_model(&f);
        check_model(&f);
    }
}

static void test_yarn(void **state) {
    (void)state;
    fixture f = {.tiny = tiny_model_make(&(tiny_options){.seed = 6})};
    json_object_set_new(f.tiny->config, "rope_scaling",
                        json_pack("{s:s, s:f, s:i}", "rope_type", "yarn", "factor", 4.0,
                                  "original_max_position_embeddings", 32));
    open_model(&f);
    check_model(&f);
}

/* The dtype a model is stored in does not matter when its values fit them all. */
static void test_stored_dtypes(void **state) {
    (void)state;
    static const char *const dtypes[] = {"BF16", "F16", "F32"};
    double nats[3] = {0};
    for (int i = 0; i < 3; i++) {
        char *folder = make_temporary_folder();
        qn_model *model = NULL;
        int32_t *ids = make_ids(60, 257);
        qn_window window = {.n_ids = 60, .first_target = 1};
        const qn_windows windows = {
            .ids = ids, .n_ids = 60, .windows = &window, .n_windows = 1, .target_bytes = 59};
        qn_score_result result;
        write_tiny_model(folder, &(tiny_options){.dtype = dtypes[i], .n_shards = i + 1, .seed = 7});
        assert_int_equal(qn_model_open(folder, &model, NULL), QN_OK);
        assert_int_equal(qn_score(model, &windows, QN_COMPUTE_F32, NULL, NULL, &result, NULL), QN_OK);
        nats[i] = result.nats;
        qn_model_close(model);
        remove_tree(folder);
        free(folder);
        free(ids);
    }
    assert_true(nats[0] == nats[1] && nats[1] == nats[2]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_architectures),
        cmocka_unit_test(test_sliding_window),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_stored_dtypes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
