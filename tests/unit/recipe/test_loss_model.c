/* The loss model of a toy against sums in double over what the walk shows: sensitivities of columns and rows, the embedding's
 * lookups, and the metric of the embedding; tied and untied, plain and rotated. */
#include "recipe/loss_model.h"

#include "expect_error.h"
#include "tiny_model.h"

#include "quern/fit/hessian_fit.h"
#include "quern/fit/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 300, FISHER_T = 100, VOCAB = 61, SEED = 9 };
static const int64_t k_starts[] = {0, 90, 200, T}, k_fisher_starts[] = {0, 60, FISHER_T};
/* Second moments are summed in f32 over up to 1024 tokens, and the factorisation of a damped matrix loses two or three more
 * digits; all that follows is in double. */
static const double k_sensitivity_tolerance = 1e-3;
static const double k_moment_tolerance = 1e-5; /* f32 sums of 300 products, relative to the largest */

typedef struct fixture {
    char *folder;
    qn_model *model;
    const qn_layout *layout;
    const qn_config *config;
    int32_t ids[T], fisher_ids[FISHER_T];
    qn_sequences sequences, fisher_sequences;
    qni_loss_model_options options;
} fixture;

static fixture *open_fixture(tiny_options tiny) {
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    tiny.vocab = VOCAB;
    f->folder = make_temporary_folder();
    write_tiny_model(f->folder, &tiny);
    assert_ok(qn_model_open(f->folder, &f->model, err));
    f->layout = qn_checkpoint_layout(qn_model_checkpoint(f->model));
    f->config = qn_model_config(f->model);
    for (int i = 0; i < T; i++) f->ids[i] = (i * i + i / 7) % 40; /* a third of the vocabulary never occurs */
    for (int i = 0; i < FISHER_T; i++) f->fisher_ids[i] = (i * 13 + 5) % VOCAB;
    f->sequences = (qn_sequences){f->ids, k_starts, 3};
    f->fisher_sequences = (qn_sequences){f->fisher_ids, k_fisher_starts, 2};
    f->options = (qni_loss_model_options){.fit = qn_hessian_fit_defaults(), .seed = SEED};
    return f;
}

static void close_fixture(fixture *f) {
    qn_model_close(f->model);
    remove_tree(f->folder);
    free(f->folder);
    free(f);
}

static qni_loss_model measured(const fixture *f, int n_threads) {
    const qn_context ctx = {.n_threads = n_threads};
    qni_loss_model loss = {0};
    assert_ok(
        qni_loss_model_measure(f->model, &f->sequences, &f->fisher_sequences, &f->options, &ctx, &loss, err));
    return loss;
}

/* ------------------------------------------------------------------------------------------- the direct computation */

typedef struct inputs {
    double **products; /* owned [layout.n] [C, C]: sums of x x^T */
} inputs;

static qn_status on_input(void *user, int64_t index, const float *x, int64_t first, int64_t n, int64_t cols,
                          qn_error *err) {
    inputs *in = user;
    (void)first, (void)err;
    if (!in->products[index]) in->products[index] = calloc((size_t)(cols * cols), sizeof(double));
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < cols; i++)
            for (int64_t j = 0; j < cols; j++)
                in->products[index][i * cols + j] += (double)x[t * cols + i] * (double)x[t * cols + j];
    return QN_OK;
}

static int64_t head_of(const fixture *f) {
    return qn_layout_find(f->layout, f->config->tied ? QN_TENSOR_EMBED : QN_TENSOR_HEAD, -1);
}

static inputs observe(const fixture *f) {
    inputs in = {calloc((size_t)f->layout->n, sizeof(double *))};
    const qn_walk_observer observer = {.on_linear_input = on_input, .user = &in};
    const qn_walk_options options = {.observer = &observer};
    float *hidden = malloc((size_t)(T * f->config->hidden_size) * sizeof *hidden);
    assert_ok(qn_walk(f->model, &f->sequences, &options, NULL, hidden, NULL, err));
    assert_ok(on_input(&in, head_of(f), hidden, 0, T, f->config->hidden_size, NULL));
    free(hidden);
    return in;
}

static void free_inputs(const fixture *f, inputs *in) {
    for (int64_t i = 0; i < f->layout->n; i++) free(in->products[i]);
    free(in->products);
}

/* S^T H S of the definition, column by column. */
static void rotate(double *h, int64_t n, int32_t block) {
    double *half = calloc((size_t)(n * n), sizeof *half);
    float *s = calloc((size_t)(n * n), sizeof *s); /* row k: e_k S */
    for (int64_t k = 0; k < n; k++) s[k * n + k] = 1.0f;
    qn_hadamard_rows(s, n, n, block, false);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < n; k++) half[i * n + j] += h[i * n + k] * (double)s[k * n + j];
    memset(h, 0, (size_t)(n * n) * sizeof *h);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < n; k++) h[i * n + j] += (double)s[k * n + i] * half[k * n + j];
    free(half);
    free(s);
}

static double *diagonal_of(const fixture *f, const double *products, int64_t cols, int32_t rotation) {
    double *h = malloc((size_t)(cols * cols) * sizeof *h), *d = malloc((size_t)cols * sizeof *d);
    float *hessian = malloc((size_t)(cols * cols) * sizeof *hessian);
    for (int64_t k = 0; k < cols * cols; k++) h[k] = products[k] / T;
    if (rotation) rotate(h, cols, rotation);
    for (int64_t i = 0; i < cols; i++)
        for (int64_t j = 0; j < cols; j++)
            hessian[i * cols + j] = (float)h[i <= j ? i * cols + j : j * cols + i];
    assert_ok(qn_feedback_diagonal(hessian, cols, f->options.fit.damping, f->options.fit.activation_order,
                                   NULL, d, err));
    free(h);
    free(hessian);
    return d;
}

typedef struct sums {
    double *columns, *rows;
} sums;

static void add(const fixture *f, int64_t entry, const double *d, const double *row_factor, int32_t rotation,
                sums *out) {
    const qn_layout_entry *e = &f->layout->entries[entry];
    float *w = malloc((size_t)(e->rows * e->cols) * sizeof *w);
    qn_weight_decode_rows(qn_model_weight(f->model, entry), 0, e->rows, w);
    if (rotation) qn_hadamard_rows(w, e->rows, e->cols, rotation, false);
    for (int64_t i = 0; i < e->rows; i++)
        for (int64_t j = 0; j < e->cols; j++) {
            const double weight = (double)w[i * e->cols + j];
            const double cost = row_factor[i] * d[j] * weight * weight;
            out->columns[j] += cost;
            out->rows[i] += cost;
        }
    free(w);
}

/* The part of ENTRY as a linear layer. */
static void add_linear(const fixture *f, const inputs *in, const qn_fisher *fisher, int64_t entry,
                       sums *out) {
    const qn_layout_entry *e = &f->layout->entries[entry];
    const bool rotates = f->options.hadamard && e->layer >= 0 && e->cols % f->options.hadamard == 0;
    const int32_t rotation = rotates ? (int32_t)f->options.hadamard : 0;
    double *d = diagonal_of(f, in->products[entry], e->cols, rotation),
           *output = malloc((size_t)e->rows * sizeof *output);
    for (int64_t i = 0; i < e->rows; i++) output[i] = (double)fisher->output[entry][i];
    add(f, entry, d, output, rotation, out);
    free(d);
    free(output);
}

/* The part of the embedding as a table that is looked up. */
static void add_lookup(const fixture *f, const qn_fisher *fisher, int64_t entry, sums *out) {
    double frequency[VOCAB] = {0}, gradient[64];
    for (int t = 0; t < T; t++) frequency[f->ids[t]] += 1.0 / T;
    for (int64_t j = 0; j < f->config->hidden_size; j++) gradient[j] = (double)fisher->lookup_gradient[j];
    add(f, entry, gradient, frequency, 0, out);
}

/* ------------------------------------------------------------------------------------------- tests */

static void expect_near(const double *got, const double *want, int64_t n, const char *name,
                        const char *what) {
    for (int64_t i = 0; i < n; i++)
        if (fabs(got[i] - want[i]) > k_sensitivity_tolerance * want[i])
            fail_msg("%s: %s %d is %g, not %g", name, what, (int)i, got[i], want[i]);
}

static void check_model(fixture *f) {
    const qn_fisher_options fisher_options = {.seed = SEED};
    qni_loss_model loss = measured(f, 2);
    inputs in = observe(f);
    qn_fisher fisher = {0};
    assert_ok(qn_fisher_measure(f->model, &f->fisher_sequences, &fisher_options, NULL, &fisher, err));
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *e = &f->layout->entries[i];
        const qni_line_losses *got = &loss.matrices[i].bases[0];
        assert_int_equal(loss.matrices[i].n_bases, e->is_matrix ? 1 : 0);
        if (!e->is_matrix) continue;
        sums want = {calloc((size_t)e->cols, sizeof(double)), calloc((size_t)e->rows, sizeof(double))};
        if (e->kind != QN_TENSOR_EMBED || f->config->tied) add_linear(f, &in, &fisher, i, &want);
        if (e->kind == QN_TENSOR_EMBED) add_lookup(f, &fisher, i, &want);
        expect_near(got->columns, want.columns, e->cols, e->name, "column");
        expect_near(got->rows, want.rows, e->rows, e->name, "row");
        free(want.columns);
        free(want.rows);
    }
    qn_fisher_release(&fisher);
    free_inputs(f, &in);
    qni_loss_model_release(&loss);
    assert_null(loss.matrices);
    qni_loss_model_release(&loss);
}

static void test_sensitivities(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        fixture *f = open_fixture((tiny_options){.tied = i % 2, .attention_bias = i == 3});
        f->options.fit.activation_order = i < 2;
        f->options.fit.damping = i < 2 ? 0.01 : 0.1;
        check_model(f);
        close_fixture(f);
    }
}

/* Blocks of 16 divide the widths 48, 64 and 80; of 32 only 64: the others stay as they are. */
static void test_rotated_sensitivities(void **state) {
    (void)state;
    for (int64_t block = 16; block <= 32; block *= 2) {
        fixture *f = open_fixture((tiny_options){.tied = block == 16});
        f->options.hadamard = block;
        check_model(f);
        close_fixture(f);
    }
}

/* The head's H, and 1 / sum F of diag G; of an untied model diag G alone. */
static void test_embedding_metric(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        fixture *f = open_fixture((tiny_options){.tied = tied});
        const int64_t h = f->config->hidden_size, embed = qn_layout_find(f->layout, QN_TENSOR_EMBED, -1);
        qni_loss_model loss = measured(f, 1);
        inputs in = observe(f);
        float *metric = malloc((size_t)(h * h) * sizeof *metric);
        qni_loss_model_embedding_metric(&loss, tied, metric);
        double total = 0.0, largest = 0.0;
        for (int64_t v = 0; tied && v < VOCAB; v++) total += (double)loss.fisher.output[embed][v];
        for (int64_t k = 0; k < h * h; k++) largest = fmax(largest, fabs(in.products[head_of(f)][k] / T));
        for (int64_t i = 0; i < h; i++)
            for (int64_t j = 0; j < h; j++) {
                double want = tied ? in.products[embed][i * h + j] / T : 0.0;
                if (i == j) want += (double)loss.fisher.lookup_gradient[i] / (tied ? total : 1.0);
                const double got = (double)metric[i * h + j];
                assert_true(fabs(got - want) <= (tied ? k_moment_tolerance * largest : 1e-6 * want));
                assert_true(metric[i * h + j] == metric[j * h + i]);
            }
        double frequency = 0.0;
        for (int64_t v = 0; v < VOCAB; v++) frequency += loss.token_frequency[v];
        assert_true(fabs(frequency - 1.0) < 1e-12);
        free(metric);
        free_inputs(f, &in);
        qni_loss_model_release(&loss);
        close_fixture(f);
    }
}

static void test_threads_change_nothing(void **state) {
    (void)state;
    fixture *f = open_fixture((tiny_options){.tied = true});
    qni_loss_model one = measured(f, 1), three = measured(f, 3);
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *e = &f->layout->entries[i];
        if (!e->is_matrix) continue;
        const qni_line_losses *a = &one.matrices[i].bases[0], *b = &three.matrices[i].bases[0];
        assert_memory_equal(a->columns, b->columns, (size_t)e->cols * sizeof(double));
        assert_memory_equal(a->rows, b->rows, (size_t)e->rows * sizeof(double));
    }
    qni_loss_model_release(&one);
    qni_loss_model_release(&three);
    close_fixture(f);
}

static bool cancel_at_once(void *user) {
    (void)user;
    return true;
}

/* Nothing is handed out, and nothing is lost. */
static void test_failures(void **state) {
    (void)state;
    fixture *f = open_fixture((tiny_options){.tied = true});
    qni_loss_model loss = {0};
    const qn_context cancelled = {.is_cancelled = cancel_at_once};
    assert_error(qni_loss_model_measure(f->model, &f->sequences, &f->fisher_sequences, &f->options,
                                        &cancelled, &loss, err),
                 QN_E_CANCELLED, "");
    f->ids[250] = VOCAB;
    assert_error(
        qni_loss_model_measure(f->model, &f->sequences, &f->fisher_sequences, &f->options, NULL, &loss, err),
        QN_E_VALUE, "61");
    assert_null(loss.matrices);
    qni_loss_model_release(&loss);
    close_fixture(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sensitivities),    cmocka_unit_test(test_rotated_sensitivities),
        cmocka_unit_test(test_embedding_metric), cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests_name("recipe loss_model", tests, NULL, NULL);
}
