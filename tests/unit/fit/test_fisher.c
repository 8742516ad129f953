/* Fisher diagonals: the head's against the exact expectation over labels, the others against finite differences of a naive
 * forward pass in double; labels are drawn from the model's distribution; threads change nothing. */
#include "fit/model_labels.h"
#include "quern/fit/fisher.h"
#include "quern/model/gradient.h"

#include "expect_error.h"
#include "naive_forward.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 61, SEED = 5 };
/* f32 activations and probabilities against double, relative to the largest value. */
static const double f32_tolerance = 1e-5;
/* Squares of gradients that come out of two f32 blocks; difference quotients in double are good to 1e-7. */
static const double difference_tolerance = 1e-4;

typedef struct fixture {
    char *folder;
    tiny_model *tiny;
    qn_model *model;
    const qn_layout *layout;
} fixture;

static fixture open_fixture(tiny_options options) {
    fixture f = {.folder = make_temporary_folder()};
    options.vocab = VOCAB;
    f.tiny = tiny_model_make(&options);
    tiny_model_write(f.tiny, f.folder, "F32", 1);
    assert_ok(qn_model_open(f.folder, &f.model, err));
    f.layout = qn_checkpoint_layout(qn_model_checkpoint(f.model));
    return f;
}

static void close_fixture(fixture *f) {
    qn_model_close(f->model);
    tiny_model_free(f->tiny);
    remove_tree(f->folder);
    free(f->folder);
}

static qn_fisher measure(const fixture *f, const qn_sequences *s, uint64_t seed, int n_threads) {
    const qn_fisher_options options = {.seed = seed};
    const qn_context ctx = {.n_threads = n_threads};
    qn_fisher fisher = {0};
    assert_ok(qn_fisher_measure(f->model, s, &options, &ctx, &fisher, err));
    return fisher;
}

static float *hidden_of(const fixture *f, const qn_sequences *s) {
    const int64_t h = qn_model_config(f->model)->hidden_size;
    const qn_walk_options options = {.compute = QN_COMPUTE_F32};
    float *hidden = malloc((size_t)(s->starts[s->n] * h) * sizeof *hidden);
    assert_ok(qn_walk(f->model, s, &options, NULL, hidden, NULL, err));
    return hidden;
}

static void labels_of(const fixture *f, const qn_sequences *s, int32_t *labels) {
    double head[VOCAB] = {0};
    float *hidden = hidden_of(f, s);
    assert_ok(qni_model_labels(f->model, hidden, s->starts[s->n], QN_COMPUTE_F32, SEED, 0, NULL, labels, head,
                               err));
    free(hidden);
}

static void softmax(const double *logits, double *p) {
    double sum = 0;
    for (int v = 0; v < VOCAB; v++) sum += exp(logits[v]);
    for (int v = 0; v < VOCAB; v++) p[v] = exp(logits[v]) / sum;
}

/* ---- head ---- */

static void expect_exact_head(tiny_options options) {
    enum { T = 21 };
    static const int64_t starts[] = {0, 9, T};
    fixture f = open_fixture(options);
    int32_t ids[T];
    double want[VOCAB] = {0};
    for (int i = 0; i < T; i++) ids[i] = (i * i + 3) % VOCAB;
    const qn_sequences s = {ids, starts, 2};
    for (int q = 0; q < 2; q++) {
        const int64_t n = starts[q + 1] - starts[q];
        double *logits = naive_logits(f.tiny, ids + starts[q], n), p[VOCAB];
        for (int64_t t = 0; t < n; t++) {
            softmax(logits + t * VOCAB, p);
            for (int label = 0; label < VOCAB; label++)
                for (int v = 0; v < VOCAB; v++) {
                    const double g = p[v] - (v == label); /* d -log p(label) / d logit v */
                    want[v] += p[label] * g * g / T;
                }
        }
        free(logits);
    }
    qn_fisher fisher = measure(&f, &s, SEED, 2);
    const int64_t head = qn_layout_find(f.layout, options.tied ? QN_TENSOR_EMBED : QN_TENSOR_HEAD, -1);
    assert_int_equal(fisher.n_tokens, T);
    for (int v = 0; v < VOCAB; v++)
        assert_true(fabs((double)fisher.output[head][v] - want[v]) <= f32_tolerance);
    qn_fisher_release(&fisher);
    qn_fisher_release(&fisher);
    close_fixture(&f);
}

static void test_head_is_the_expectation_over_labels(void **state) {
    (void)state;
    expect_exact_head((tiny_options){.tied = true});
    expect_exact_head((tiny_options){0});
}

/* ---- linear layers ---- */

static double naive_loss(const fixture *f, int32_t id, int32_t label) {
    double *logits = naive_logits(f->tiny, &id, 1), sum = 0;
    for (int v = 0; v < VOCAB; v++) sum += exp(logits[v]);
    const double loss = log(sum) - logits[label];
    free(logits);
    return loss;
}

/* In sequences of one token a bias moves the output of its layer at that token alone. */
static void test_outputs_are_squared_slopes(void **state) {
    (void)state;
    enum { T = 6 };
    static const float step = 1.0f / 512;
    fixture f = open_fixture((tiny_options){.attention_bias = true});
    const int32_t ids[T] = {3, 17, 17, 40, 8, 60};
    const int64_t starts[T + 1] = {0, 1, 2, 3, 4, 5, 6};
    const qn_sequences s = {ids, starts, T};
    int32_t labels[T];
    labels_of(&f, &s, labels);
    qn_fisher fisher = measure(&f, &s, SEED, 1);
    static const struct {
        qn_tensor_kind matrix, bias;
        int64_t layer;
    } cases[] = {{QN_TENSOR_V, QN_TENSOR_V_BIAS, 0},
                 {QN_TENSOR_O, QN_TENSOR_O_BIAS, 0},
                 {QN_TENSOR_O, QN_TENSOR_O_BIAS, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const int64_t matrix = qn_layout_find(f.layout, cases[c].matrix, cases[c].layer);
        const int64_t bias = qn_layout_find(f.layout, cases[c].bias, cases[c].layer);
        float *values = tiny_model_find(f.tiny, f.layout->entries[bias].name)->values;
        for (int64_t i = 0; i < f.layout->entries[matrix].rows; i += 5) {
            const float kept = values[i];
            double want = 0;
            for (int t = 0; t < T; t++) {
                values[i] = kept + step;
                const double above = naive_loss(&f, ids[t], labels[t]), high = (double)values[i];
                values[i] = kept - step;
                const double below = naive_loss(&f, ids[t], labels[t]);
                const double slope = (above - below) / (high - (double)values[i]);
                want += slope * slope / T;
            }
            values[i] = kept;
            const double got = (double)fisher.output[matrix][i];
            if (!(fabs(got - want) <= difference_tolerance * want)) fail_msg("got %g, want %g", got, want);
        }
    }
    qn_fisher_release(&fisher);
    close_fixture(&f);
}

typedef struct squares {
    double *sums[64]; /* by layout entry */
} squares;

static qn_status add_squares(void *user, int64_t index, const float *dy, int64_t first, int64_t n,
                             int64_t rows, qn_error *err) {
    squares *s = user;
    (void)first, (void)err;
    if (!s->sums[index]) s->sums[index] = calloc((size_t)rows, sizeof(double));
    for (int64_t t = 0; t < n; t++)
        for (int64_t r = 0; r < rows; r++)
            s->sums[index][r] += (double)dy[t * rows + r] * (double)dy[t * rows + r];
    return QN_OK;
}

/* Several batches: the mean over all tokens of the squares that the walk backwards shows for the same labels. */
static void test_batches_make_one_mean(void **state) {
    (void)state;
    static const int64_t starts[] = {0, 1200, 2300, 2300, 5300, 5301};
    enum { T = 5301 };
    static int32_t ids[T], labels[T];
    fixture f = open_fixture((tiny_options){.tied = true});
    for (int i = 0; i < T; i++) ids[i] = (i * 7 + i / 5) % VOCAB;
    const qn_sequences s = {ids, starts, 5};
    squares all = {0};
    const qn_gradient_observer observer = {add_squares, &all};
    const qn_loss_options options = {.ce_weight = 1.0, .scale = 1.0, .observer = &observer};
    qn_loss loss;
    labels_of(&f, &s, labels);
    assert_ok(qn_loss_gradient(f.model, &s, labels, &options, NULL, NULL, &loss, err));
    qn_fisher fisher = measure(&f, &s, SEED, 2);
    int n_shown = 0;
    for (int64_t e = 0; e < f.layout->n; e++) {
        const bool is_table = f.layout->entries[e].kind == QN_TENSOR_EMBED;
        const float *got = is_table ? fisher.lookup_gradient : fisher.output[e];
        assert_true((got != NULL) == (all.sums[e] != NULL));
        if (!got) continue;
        const int64_t n = is_table ? f.layout->entries[e].cols : f.layout->entries[e].rows;
        for (int64_t i = 0; i < n; i++) {
            const double want = all.sums[e][i] / T;
            assert_true(fabs((double)got[i] - want) <= f32_tolerance * want);
        }
        free(all.sums[e]);
        n_shown++;
    }
    assert_int_equal(n_shown, 1 + 2 * 7);
    qn_fisher_release(&fisher);
    close_fixture(&f);
}

/* ---- labels ---- */

static void test_labels_follow_the_models_distribution(void **state) {
    (void)state;
    enum { N = 20000 };
    fixture f = open_fixture((tiny_options){.tied = true});
    const int64_t h = qn_model_config(f.model)->hidden_size, starts[] = {0, 3};
    const int32_t ids[] = {1, 2, 3};
    const qn_sequences s = {ids, starts, 1};
    float *one = hidden_of(&f, &s), *many = malloc((size_t)(N * h) * sizeof *many);
    static int32_t labels[N];
    double head[VOCAB] = {0}, p[VOCAB], *logits = naive_logits(f.tiny, ids, 3);
    int64_t counts[VOCAB] = {0};
    for (int64_t t = 0; t < N; t++) memcpy(many + t * h, one + 2 * h, (size_t)h * sizeof *many);
    assert_ok(qni_model_labels(f.model, many, N, QN_COMPUTE_F32, 1, 7, NULL, labels, head, err));
    softmax(logits + 2 * VOCAB, p);
    for (int t = 0; t < N; t++) counts[labels[t]]++;
    for (int v = 0; v < VOCAB; v++) /* six standard deviations of a binomial count */
        assert_true(fabs((double)counts[v] - N * p[v]) <= 6 * sqrt(N * p[v] * (1 - p[v])) + 1);
    free(logits);
    free(one);
    free(many);
    close_fixture(&f);
}

static void test_labels_depend_on_place_and_seed_only(void **state) {
    (void)state;
    enum { T = 1500, CUT = 700 };
    static int32_t ids[T], whole[T], parts[T], other[T];
    const int64_t starts[] = {0, T};
    fixture f = open_fixture((tiny_options){.tied = true});
    const int64_t h = qn_model_config(f.model)->hidden_size;
    double head[VOCAB] = {0};
    for (int i = 0; i < T; i++) ids[i] = i % VOCAB;
    const qn_sequences s = {ids, starts, 1};
    float *hidden = hidden_of(&f, &s);
    const qn_context one = {.n_threads = 1}, three = {.n_threads = 3};
    assert_ok(qni_model_labels(f.model, hidden, T, QN_COMPUTE_F32, 1, 0, &one, whole, head, err));
    assert_ok(qni_model_labels(f.model, hidden, CUT, QN_COMPUTE_F32, 1, 0, &three, parts, head, err));
    assert_ok(qni_model_labels(f.model, hidden + CUT * h, T - CUT, QN_COMPUTE_F32, 1, CUT, &three,
                               parts + CUT, head, err));
    assert_memory_equal(whole, parts, sizeof whole);
    assert_ok(qni_model_labels(f.model, hidden, T, QN_COMPUTE_F32, 2, 0, NULL, other, head, err));
    assert_memory_not_equal(whole, other, sizeof whole);
    free(hidden);
    close_fixture(&f);
}

static void test_threads_change_no_byte(void **state) {
    (void)state;
    enum { T = 900 };
    static int32_t ids[T];
    static const int64_t starts[] = {0, 300, 650, T};
    fixture f = open_fixture((tiny_options){0});
    for (int i = 0; i < T; i++) ids[i] = (i * 5) % VOCAB;
    const qn_sequences s = {ids, starts, 3};
    qn_fisher a = measure(&f, &s, SEED, 1), b = measure(&f, &s, SEED, 3);
    for (int64_t e = 0; e < f.layout->n; e++) {
        const size_t n_bytes = (size_t)f.layout->entries[e].rows * sizeof(float);
        if (a.output[e]) assert_memory_equal(a.output[e], b.output[e], n_bytes);
    }
    assert_memory_equal(a.lookup_gradient, b.lookup_gradient, 48 * sizeof(float));
    qn_fisher_release(&a);
    qn_fisher_release(&b);
    close_fixture(&f);
}

static bool stop(void *user) {
    (void)user;
    return true;
}

static void test_errors(void **state) {
    (void)state;
    fixture f = open_fixture((tiny_options){0});
    const int32_t ids[] = {1, VOCAB, 2, 3};
    const int64_t starts[] = {0, 2};
    const qn_sequences none = {0}, bad = {ids, starts, 1}, good = {ids + 2, starts, 1};
    const qn_fisher_options options = {0};
    const qn_context cancelled = {.is_cancelled = stop};
    qn_fisher fisher = {.n_tokens = 7};
    assert_error(qn_fisher_measure(f.model, &none, &options, NULL, &fisher, err), QN_E_ARGUMENT, "0 tokens");
    assert_error(qn_fisher_measure(f.model, &bad, &options, NULL, &fisher, err), QN_E_VALUE, "token id 61");
    assert_error(qn_fisher_measure(f.model, &good, &options, &cancelled, &fisher, err), QN_E_CANCELLED, "");
    assert_int_equal(fisher.n_tokens, 7);
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_is_the_expectation_over_labels),
        cmocka_unit_test(test_outputs_are_squared_slopes),
        cmocka_unit_test(test_batches_make_one_mean),
        cmocka_unit_test(test_labels_follow_the_models_distribution),
        cmocka_unit_test(test_labels_depend_on_place_and_seed_only),
        cmocka_unit_test(test_threads_change_no_byte),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
