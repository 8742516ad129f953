/* The golden checkpoints: hidden states, branches, logits, losses and greedy continuations against numbers of
 * the reference stack. */
#include "quern/checkpoint/safetensors.h"
#include "quern/model/generate.h"
#include "quern/model/score.h"
#include "test_data.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* fp32 against fp32 of another summation order; the reference's own distance from float64 is 5e-6 on a logit,
 * 5e-5 on a hidden value (1e-6 of the layer's largest). */
#define LOGIT_TOLERANCE  3e-5
#define NLL_TOLERANCE    2e-5
#define PPL_TOLERANCE    1e-6
#define HIDDEN_TOLERANCE 3e-6 /* of the layer's largest value */

static const char *const k_models[] = {"qwen3-tied",
                                       "qwen3-untied-sharded",
                                       "qwen3-attention-bias",
                                       "qwen2-bias",
                                       "qwen3-f32",
                                       "qwen3-f16",
                                       "qwen3-yarn",
                                       "qwen3-byte"};
static const char *const k_sequences[] = {"seq1", "seq7", "seq33", "seq96", "seq200"};

typedef struct golden {
    const char *sequence; /* the one under test */
    qn_model *model;
    qn_safetensors *file;
    char *bytes;
    json_t *json;
} golden;

static golden golden_open(const char *name) {
    char path[256], *root;
    golden g = {0};
    qn_error err = {0};
    size_t n_bytes;
    snprintf(path, sizeof path, "golden/models/%s", name);
    root = require_test_data(path);
    if (qn_model_open(root, &g.model, &err) != QN_OK) fail_msg("%s", err.message);
    snprintf(path, sizeof path, "%s/golden.safetensors", root);
    g.bytes = load_file(path, &n_bytes);
    if (qn_safetensors_parse((const uint8_t *)g.bytes, n_bytes, path, &g.file, &err) != QN_OK)
        fail_msg("%s", err.message);
    snprintf(path, sizeof path, "%s/golden.json", root);
    g.json = load_json(path);
    free(root);
    return g;
}

static void golden_close(golden *g) {
    qn_model_close(g->model);
    qn_safetensors_free(g->file);
    free(g->bytes);
    json_decref(g->json);
}

/* Tensor SEQUENCE.NAME, or NULL. */
static const qn_view *find(const golden *g, const char *name) {
    char full[96];
    size_t index;
    snprintf(full, sizeof full, "%s.%s", g->sequence, name);
    return qn_safetensors_find(g->file, full, &index) ? qn_safetensors_view(g->file, index) : NULL;
}

static void compare_scaled(const golden *g, const char *name, const float *got) {
    const qn_view *view = find(g, name);
    if (!view) return;
    const int64_t n = qn_view_elements(view);
    float *want = malloc((size_t)n * sizeof *want);
    double scale = 0.0, worst = 0.0;
    assert_int_equal(qn_view_to_f32(view, 0, n, want, NULL), QN_OK);
    for (int64_t i = 0; i < n; i++) scale = fmax(scale, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)want[i] - (double)got[i]));
    if (!(worst <= HIDDEN_TOLERANCE * scale))
        fail_msg("%s.%s: off by %g of %g", g->sequence, name, worst, scale);
    free(want);
}

static qn_status on_hidden(void *user, int64_t depth, const float *x, int64_t n_tokens, qn_error *err) {
    const golden *g = user;
    char name[32];
    (void)n_tokens;
    (void)err;
    if (depth > qn_model_config(g->model)->n_layers) {
        snprintf(name, sizeof name, "hidden.norm");
    } else {
        snprintf(name, sizeof name, "hidden.%lld", (long long)depth);
    }
    compare_scaled(g, name, x);
    return QN_OK;
}

static qn_status on_branch(void *user, int64_t layer, bool is_mlp, const float *y, int64_t first_token,
                           int64_t n_tokens, qn_error *err) {
    char name[32];
    (void)n_tokens;
    (void)err;
    assert_int_equal(first_token, 0);
    snprintf(name, sizeof name, "%s.%lld", is_mlp ? "mlp" : "mixer", (long long)layer);
    compare_scaled(user, name, y);
    return QN_OK;
}

static void compare_logits(const golden *g, const float *logits, int64_t vocab) {
    const qn_view *rows = find(g, "logits_rows"), *view = find(g, "logits");
    float *want = malloc((size_t)vocab * sizeof *want);
    double worst = 0.0;
    for (int64_t r = 0; r < rows->shape[0]; r++) {
        int64_t row;
        memcpy(&row, (const char *)rows->data + r * 8, sizeof row);
        assert_int_equal(qn_view_to_f32(view, r * vocab, vocab, want, NULL), QN_OK);
        for (int64_t i = 0; i < vocab; i++)
            worst = fmax(worst, fabs((double)want[i] - (double)logits[row * vocab + i]));
    }
    if (!(worst <= LOGIT_TOLERANCE)) fail_msg("%s: a logit is off by %g", g->sequence, worst);
    free(want);
}

/* Returns the sum of the sequence's losses. */
static double compare_nll(const golden *g, const float *hidden, const int32_t *ids, int64_t n) {
    const qn_view *view = find(g, "nll64");
    double *nll = malloc((size_t)n * sizeof *nll), sum = 0.0;
    if (!view) return 0.0;
    assert_int_equal(qn_head_nll(g->model, hidden, ids + 1, n - 1, QN_COMPUTE_F32, NULL, nll, NULL, NULL),
                     QN_OK);
    for (int64_t i = 0; i < n - 1; i++) {
        double want;
        memcpy(&want, (const char *)view->data + i * 8, sizeof want);
        if (!(fabs(want - nll[i]) <= NLL_TOLERANCE))
            fail_msg("%s nll %lld: %g, not %g", g->sequence, (long long)i, nll[i], want);
        sum += nll[i];
    }
    free(nll);
    return sum;
}

/* One sequence through walk and head; returns its loss and adds its targets. */
static double check_sequence(golden *g, const char *sequence, int64_t *n_targets) {
    g->sequence = sequence;
    const qn_view *view = find(g, "ids");
    if (!view) return 0.0;
    const qn_config *config = qn_model_config(g->model);
    const int64_t n = view->shape[0], starts[2] = {0, n};
    int32_t *ids = malloc((size_t)n * sizeof *ids);
    float *hidden = malloc((size_t)(n * config->hidden_size) * sizeof *hidden);
    float *logits = malloc((size_t)(n * config->vocab_size) * sizeof *logits);
    const qn_walk_observer observer = {.on_hidden = on_hidden, .on_branch = on_branch, .user = g};
    const qn_walk_options options = {.compute = QN_COMPUTE_F32, .observer = &observer};
    const qn_sequences sequences = {.ids = ids, .starts = starts, .n = 1};
    qn_error err = {0};
    for (int64_t i = 0; i < n; i++) {
        int64_t id;
        memcpy(&id, (const char *)view->data + i * 8, sizeof id);
        ids[i] = (int32_t)id;
    }
    if (qn_walk(g->model, &sequences, &options, NULL, hidden, NULL, &err) != QN_OK)
        fail_msg("%s", err.message);
    assert_int_equal(qn_head_logits(g->model, hidden, n, QN_COMPUTE_F32, NULL, logits, NULL, &err), QN_OK);
    compare_logits(g, logits, config->vocab_size);
    const double sum = compare_nll(g, hidden, ids, n);
    *n_targets += n - 1;
    free(ids);
    free(hidden);
    free(logits);
    return sum;
}

static void test_forward_matches_the_reference(void **state) {
    (void)state;
    for (size_t m = 0; m < sizeof k_models / sizeof *k_models; m++) {
        golden g = golden_open(k_models[m]);
        double sum = 0.0;
        int64_t n_targets = 0;
        for (size_t s = 0; s < sizeof k_sequences / sizeof *k_sequences; s++)
            sum += check_sequence(&g, k_sequences[s], &n_targets);
        const double want = json_number_value(json_object_get(g.json, "ppl"));
        assert_int_equal(n_targets, json_integer_value(json_object_get(g.json, "targets")));
        const double got = exp(sum / (double)n_targets);
        if (!(fabs(got / want - 1.0) <= PPL_TOLERANCE))
            fail_msg("%s: perplexity %.9g, not %.9g", k_models[m], got, want);
        golden_close(&g);
    }
}

static int32_t argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

static int64_t load_prompt(const golden *g, int32_t *ids) {
    const json_t *list =
        json_object_get(json_object_get(json_object_get(g->json, "sequences"), "seq33"), "ids");
    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return (int64_t)json_array_size(list);
}

/* The next token without a cache: a fresh walk over everything so far. */
static int32_t next_by_walk(const golden *g, const int32_t *ids, int64_t n, float *logits) {
    const int64_t h = qn_model_config(g->model)->hidden_size, vocab = qn_model_config(g->model)->vocab_size;
    const int64_t starts[2] = {0, n};
    const qn_sequences sequences = {.ids = ids, .starts = starts, .n = 1};
    const qn_walk_options options = {.compute = QN_COMPUTE_F32};
    float *hidden = malloc((size_t)(n * h) * sizeof *hidden);
    assert_int_equal(qn_walk(g->model, &sequences, &options, NULL, hidden, NULL, NULL), QN_OK);
    assert_int_equal(
        qn_head_logits(g->model, hidden + (n - 1) * h, 1, QN_COMPUTE_F32, NULL, logits, NULL, NULL), QN_OK);
    free(hidden);
    return argmax(logits, vocab);
}

static void test_greedy_continuation_with_and_without_cache(void **state) {
    (void)state;
    for (size_t m = 0; m < sizeof k_models / sizeof *k_models; m++) {
        golden g = golden_open(k_models[m]);
        const json_t *want = json_object_get(json_object_get(g.json, "greedy"), "ids");
        const int64_t vocab = qn_model_config(g.model)->vocab_size, n_want = (int64_t)json_array_size(want);
        float *logits = malloc((size_t)vocab * sizeof *logits),
              *walked = malloc((size_t)vocab * sizeof *walked);
        int32_t ids[64];
        int64_t n = load_prompt(&g, ids);
        qn_session *session = NULL;
        assert_true(n_want > 0 && n + n_want <= 64);
        assert_int_equal(qn_session_new(g.model, 64, QN_COMPUTE_F32, NULL, &session, NULL), QN_OK);
        assert_int_equal(qn_session_feed(session, ids, n, logits, NULL), QN_OK);
        for (int64_t i = 0; i < n_want; i++) {
            const int32_t id = (int32_t)json_integer_value(json_array_get(want, (size_t)i));
            assert_int_equal(argmax(logits, vocab), id);
            assert_int_equal(next_by_walk(&g, ids, n, walked), id);
            for (int64_t v = 0; v < vocab; v++)
                assert_true(fabsf(logits[v] - walked[v]) <= (float)LOGIT_TOLERANCE);
            ids[n++] = id;
            assert_int_equal(qn_session_feed(session, &id, 1, logits, NULL), QN_OK);
        }
        qn_session_free(session);
        free(logits);
        free(walked);
        golden_close(&g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward_matches_the_reference),
        cmocka_unit_test(test_greedy_continuation_with_and_without_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
