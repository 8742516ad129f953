/* The loss model of a toy against sums in double over what the walk shows: sensitivities of columns and rows, the embedding's
 * lookups, and the metric of the embedding; tied and untied, plain and rotated. */
#include "recipe/loss_model.h"

#include "expect_error.h"
#include "tiny_model.h"

#include "quern/fit/calibrate.h"
#include "quern/fit/hessian_fit.h"
#include "quern/fit/statistics.h"
#include "quern/model/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { T = 300, FISHER_T = 100, VOCAB = 61, SEED = 9 };
static const int64_t k_starts[] = {0, 90, 200, T}, k_fisher_starts[] = {0, 60, FISHER_T},
                     k_even_starts[] = {0, 100, 200, T};
/* Second moments are summed in f32 over up to 1024 tokens, and the factorisation of a damped matrix loses two or three more
 * digits; all that follows is in double. */
static const double k_sensitivity_tolerance = 1e-3;
static const double k_share_tolerance = 1e-6;  /* each share is rounded to f32 */
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
        for (int64_t v = 0; v < VOCAB; v++) frequency += (double)loss.token_frequency[v];
        assert_true(fabs(frequency - 1.0) < k_share_tolerance);
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

/* ------------------------------------------------------------------------------------------- two bases, measured errors */

static void expect_same_lines(const qni_line_losses *a, const qni_line_losses *b, const qn_layout_entry *e) {
    assert_int_equal(a->hadamard, b->hadamard);
    assert_memory_equal(a->columns, b->columns, (size_t)e->cols * sizeof(double));
    assert_memory_equal(a->rows, b->rows, (size_t)e->rows * sizeof(double));
    assert_memory_equal(a->relative_error, b->relative_error, sizeof a->relative_error);
}

static void use_codecs(fixture *f) {
    const qn_codec native = {QN_CODE_TERNARY, 16, QN_SCALE_F16}, q4 = {QN_CODE_Q4, 128, QN_SCALE_F16};
    f->options.codecs = (qni_band_codecs){{native, native, q4}};
    f->options.axis = QN_AXIS_COLUMNS;
}

/* An open rotation gives both bases of each matrix that blocks divide, each as it would be alone. */
static void test_open_rotation(void **state) {
    (void)state;
    fixture *f = open_fixture((tiny_options){.tied = true});
    use_codecs(f);
    f->options.measures_errors = true;
    qni_loss_model plain = measured(f, 1);
    f->options.hadamard = 32; /* of the widths 48, 64 and 80 it divides the second */
    qni_loss_model rotated = measured(f, 1);
    f->options.rotation_is_open = true;
    qni_loss_model both = measured(f, 3);
    int n_open = 0;
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *e = &f->layout->entries[i];
        const qni_matrix_losses *m = &both.matrices[i];
        if (!e->is_matrix) continue;
        const bool is_open = e->layer >= 0 && e->cols == 64;
        assert_int_equal(m->n_bases, is_open ? 2 : 1);
        expect_same_lines(&m->bases[0], &plain.matrices[i].bases[0], e);
        if (is_open) expect_same_lines(&m->bases[1], &rotated.matrices[i].bases[0], e);
        n_open += is_open;
    }
    assert_true(n_open > 0);
    qni_loss_model_release(&plain);
    qni_loss_model_release(&rotated);
    qni_loss_model_release(&both);
    close_fixture(f);
}

/* ------------------------------------------------------------------------------------------- probed */

/* Of a change so small that the model holds: *kl by full walks of both models, *predicted. */
static double kl_of_change(fixture *f, qn_model *changed, int64_t entry, const float *w) {
    const qn_layout_entry *e = &f->layout->entries[entry];
    const qn_weight weight = {
        .kind = QN_WEIGHT_DENSE,
        .dense = {.data = w, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {e->rows, e->cols}}};
    const qn_walk_options options = {.compute = QN_COMPUTE_F32};
    const size_t n_bytes = (size_t)(FISHER_T * f->config->hidden_size) * sizeof(float);
    float *base = malloc(n_bytes), *other = malloc(n_bytes);
    double kl = 0.0;
    assert_ok(qn_walk(f->model, &f->fisher_sequences, &options, NULL, base, NULL, err));
    assert_ok(qn_model_set_weight(changed, entry, &weight, err));
    assert_ok(qn_walk(changed, &f->fisher_sequences, &options, NULL, other, NULL, err));
    assert_ok(qn_head_kl(f->model, base, changed, other, FISHER_T, QN_COMPUTE_F32, NULL, &kl, err));
    assert_ok(qn_model_set_weight(changed, entry, NULL, err));
    free(base);
    free(other);
    return kl;
}

/* The change that a probe makes of a matrix, fitted in METRIC; what the model predicts of it where HESSIAN is that of its inputs. */
static double probed_factor(fixture *f, qn_model *changed, int64_t entry, const float *metric,
                            const double *hessian, const qn_fisher *fisher, const float *frequency) {
    const qn_layout_entry *e = &f->layout->entries[entry];
    const qn_band_shape shape = {.rows = e->rows,
                                 .cols = e->cols,
                                 .n_bands = 1,
                                 .bands = {{f->options.codecs.of[QNI_BAND_SINGLE].code, 1, 16, false}}};
    qn_hessian_fit_options fit = f->options.fit;
    qn_banded banded = {0};
    float *w = malloc((size_t)(e->rows * e->cols) * sizeof *w),
          *fitted = malloc((size_t)(e->rows * e->cols) * sizeof *fitted);
    double predicted = 0.0;
    fit.method = QN_HESSIAN_FEEDBACK;
    qn_weight_decode_rows(qn_model_weight(f->model, entry), 0, e->rows, w);
    assert_ok(qn_hessian_fit(w, metric, &shape, &fit, NULL, &banded, NULL, err));
    qn_banded_decode(&banded, fitted);
    for (int64_t k = 0; k < e->rows * e->cols; k++) fitted[k] = 0.5f * (fitted[k] - w[k]);
    for (int64_t r = 0; r < e->rows; r++) {
        const float *d = fitted + r * e->cols;
        for (int64_t i = 0; hessian && i < e->cols; i++)
            for (int64_t j = 0; j < e->cols; j++)
                predicted += 0.5 * (double)fisher->output[entry][r] * (double)d[i] *
                             hessian[i * e->cols + j] / T * (double)d[j];
        for (int64_t j = 0; e->kind == QN_TENSOR_EMBED && j < e->cols; j++)
            predicted +=
                0.5 * (double)frequency[r] * (double)fisher->lookup_gradient[j] * (double)d[j] * (double)d[j];
    }
    for (int64_t k = 0; k < e->rows * e->cols; k++) w[k] += fitted[k];
    const double factor = kl_of_change(f, changed, entry, w) / predicted;
    qn_banded_release(&banded);
    free(fitted);
    free(w);
    return fmin(fmax(factor, 1.0 / 16), 16.0);
}

/* Of f32 walks of nearly the same models: differences of logits of 1e-3 and more, to three digits. */
static const double k_factor_tolerance = 0.02;

static double sum_of(const double *x, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum;
}

/* Sensitivities of a probed model are the others' times KL over prediction, and the probed model has its weights back. */
static void test_probed_sensitivities(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        fixture *f = open_fixture((tiny_options){.tied = tied});
        use_codecs(f);
        qni_loss_model plain = measured(f, 1);
        inputs in = observe(f);
        qn_model *probed = NULL;
        assert_ok(qn_model_open(f->folder, &probed, err));
        f->options.probed = probed;
        f->options.probe_sequences = &f->fisher_sequences;
        qni_loss_model corrected = measured(f, 2);
        const int64_t h = f->config->hidden_size;
        float *metric = malloc((size_t)(80 * 80) * sizeof *metric);
        for (int64_t i = 0; i < f->layout->n; i++) {
            const qn_layout_entry *e = &f->layout->entries[i];
            if (!e->is_matrix) continue;
            const bool is_embedding = e->kind == QN_TENSOR_EMBED;
            const double *hessian = is_embedding && !tied ? NULL : in.products[i];
            if (is_embedding)
                qni_loss_model_embedding_metric(&plain, tied, metric);
            else if (e->kind == QN_TENSOR_HEAD)
                memcpy(metric, plain.head_hessian, (size_t)(h * h) * sizeof *metric);
            else
                for (int64_t k = 0; k < e->cols * e->cols; k++) metric[k] = (float)(in.products[i][k] / T);
            const double want =
                probed_factor(f, probed, i, metric, hessian, &plain.fisher, plain.token_frequency);
            const double got = sum_of(corrected.matrices[i].bases[0].rows, e->rows) /
                               sum_of(plain.matrices[i].bases[0].rows, e->rows);
            if (fabs(got / want - 1.0) > k_factor_tolerance)
                fail_msg("%s: factor %g, not %g", e->name, got, want);
        }
        free(metric);
        free_inputs(f, &in);
        qni_loss_model_release(&plain);
        qni_loss_model_release(&corrected);
        qn_model_close(probed);
        close_fixture(f);
    }
}

/* ------------------------------------------------------------------------------------------- read */

static void calibrate(fixture *f, const char *path, int64_t n_fisher_tokens, bool diagonal) {
    int64_t starts[] = {0, 100, 200, T};
    const qn_calibration_text text = {.ids = f->ids, .starts = starts, .n = 3, .context = 100};
    qn_calibrate_options options = qn_calibrate_options_default();
    qn_calibrate_result result;
    options.n_fisher_tokens = n_fisher_tokens;
    options.diagonal = diagonal;
    options.seed = SEED;
    assert_ok(qn_calibrate(f->model, &text, &options, path, NULL, &result, err));
}

static qn_status read_from(const fixture *f, const char *path, qni_loss_model *out, qn_error *error) {
    qn_statistics *statistics = NULL;
    assert_ok(qn_statistics_open(path, f->layout, &statistics, err));
    const qn_status status =
        qni_loss_model_read(f->model, statistics, "s.stats", &f->options, NULL, out, error);
    qn_statistics_close(statistics);
    return status;
}

/* Statistics of the same text give the same bytes as a walk. */
static void test_read_from_statistics(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        fixture *f = open_fixture((tiny_options){.tied = tied});
        char *path = path_in(f->folder, "s.stats");
        qni_loss_model read = {0};
        use_codecs(f);
        f->options.measures_errors = true;
        f->options.hadamard = 16;
        f->options.rotation_is_open = true;
        f->sequences = (qn_sequences){f->ids, k_even_starts, 3};
        f->fisher_sequences = f->sequences;
        qni_loss_model walked = measured(f, 2);
        calibrate(f, path, T, false);
        assert_ok(read_from(f, path, &read, err));
        for (int64_t i = 0; i < f->layout->n; i++) {
            assert_int_equal(read.matrices[i].n_bases, walked.matrices[i].n_bases);
            for (int b = 0; b < read.matrices[i].n_bases; b++)
                expect_same_lines(&read.matrices[i].bases[b], &walked.matrices[i].bases[b],
                                  &f->layout->entries[i]);
        }
        const size_t h = (size_t)f->config->hidden_size;
        assert_memory_equal(read.head_hessian, walked.head_hessian, h * h * sizeof(float));
        assert_int_equal(read.fisher.n_tokens, T);
        qni_loss_model_release(&read);
        qni_loss_model_release(&walked);
        free(path);
        close_fixture(f);
    }
}

static void test_statistics_that_lack_something(void **state) {
    (void)state;
    fixture *f = open_fixture((tiny_options){.tied = true});
    char *path = path_in(f->folder, "s.stats");
    qni_loss_model loss = {0};
    calibrate(f, path, T, true);
    assert_error(read_from(f, path, &loss, err), QN_E_ARGUMENT, "s.stats: no input_hessian of |--diagonal");
    calibrate(f, path, 0, false);
    assert_error(read_from(f, path, &loss, err), QN_E_ARGUMENT,
                 "s.stats: no output_fisher of |--fisher-tokens 0");
    assert_null(loss.matrices);
    free(path);
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
        cmocka_unit_test(test_sensitivities),
        cmocka_unit_test(test_rotated_sensitivities),
        cmocka_unit_test(test_embedding_metric),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_open_rotation),
        cmocka_unit_test(test_probed_sensitivities),
        cmocka_unit_test(test_read_from_statistics),
        cmocka_unit_test(test_statistics_that_lack_something),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests_name("recipe loss_model", tests, NULL, NULL);
}
