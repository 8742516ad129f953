/* Calibration of models made here and of golden ones: the statistics against sums over what the walk shows. */
#include "quern/fit/calibrate.h"
#include "quern/fit/fisher.h"
#include "quern/fit/statistics.h"

#include "expect_error.h"
#include "tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sums of at most 2048 f32 products, relative to the sum of their sizes. */
static const double sum_tolerance = 1e-5;
enum { CONTEXT = 24, N_TEXTS = 8 };

static const char *const k_texts[N_TEXTS] = {
    "It was the best of times, it was the worst of times, it was the age of wisdom,",
    "it was the age of foolishness, it was the epoch of belief, it was the epoch of incredulity,",
    "it was the season of Light, it was the season of Darkness, it was the spring of hope,",
    "it was the winter of despair, we had everything before us, we had nothing before us,",
    "we were all going direct to Heaven, we were all going direct the other way - in short,",
    "the period was so far like the present period, that some of its noisiest authorities",
    "insisted on its being received, for good or for evil, in the superlative degree of",
    "comparison only. There were a king with a large jaw and a queen with a plain face."};

typedef struct fixture {
    char *folder, *path;
    qn_model *model;
    const qn_layout *layout;
} fixture;

static fixture open_at(char *folder, const char *model) {
    fixture f = {.folder = folder, .path = path_in(folder, "statistics.safetensors")};
    assert_ok(qn_model_open(model, &f.model, err));
    f.layout = qn_checkpoint_layout(qn_model_checkpoint(f.model));
    return f;
}

static fixture open_fixture(tiny_options options) {
    char *folder = make_temporary_folder();
    write_tiny_model(folder, &options);
    return open_at(folder, folder);
}

static void close_fixture(fixture *f) {
    qn_model_close(f->model);
    remove_tree(f->folder);
    free(f->folder);
    free(f->path);
}

/* Texts [first, first + n) as bytes, of which N_TOKENS are wanted. */
static qn_status make_text(const fixture *f, int first, int n, int64_t n_tokens, const qn_context *ctx,
                           qn_calibration_text *out, qn_error *err) {
    qn_document items[N_TEXTS];
    qn_documents documents = {.documents = items, .n = n, .sha256 = "0123"};
    qn_tokenizer *tokenizer = NULL;
    for (int i = 0; i < n; i++) items[i] = (qn_document){k_texts[first + i], strlen(k_texts[first + i])};
    assert_int_equal(qn_tokenizer_open("byte", &tokenizer, NULL), QN_OK);
    const qn_status status = qn_calibration_text_make(
        &documents, "texts", tokenizer, qn_model_config(f->model), CONTEXT, n_tokens, ctx, out, err);
    qn_tokenizer_free(tokenizer);
    return status;
}

static qn_calibration_text whole_text(const fixture *f) {
    qn_calibration_text text = {0};
    assert_ok(make_text(f, 0, N_TEXTS, CONTEXT * 25, NULL, &text, err));
    assert_int_equal(text.n, 25);
    assert_string_equal(text.sha256, "0123");
    return text;
}

static qn_calibrate_result calibrate(const fixture *f, const qn_calibration_text *text,
                                     const qn_calibrate_options *options, int n_threads) {
    const qn_context ctx = {.n_threads = n_threads};
    qn_calibrate_result result;
    assert_ok(qn_calibrate(f->model, text, options, f->path, &ctx, &result, err));
    return result;
}

/* ---- against plain sums ---- */

typedef struct plain_sums {
    const qn_layout *layout;
    double **products, **sizes; /* [layout->n] [C, C] */
} plain_sums;

static void add_products(plain_sums *sums, int64_t index, const float *x, int64_t n, int64_t cols) {
    if (!sums->products[index]) {
        sums->products[index] = calloc((size_t)(cols * cols), sizeof(double));
        sums->sizes[index] = calloc((size_t)(cols * cols), sizeof(double));
    }
    for (int64_t t = 0; t < n; t++)
        for (int64_t i = 0; i < cols; i++)
            for (int64_t j = 0; j < cols; j++) {
                const double product = (double)x[t * cols + i] * (double)x[t * cols + j];
                sums->products[index][i * cols + j] += product;
                sums->sizes[index][i * cols + j] += fabs(product);
            }
}

static qn_status on_input(void *user, int64_t index, const float *x, int64_t first, int64_t n, int64_t cols,
                          qn_error *err) {
    (void)first, (void)err;
    add_products(user, index, x, n, cols);
    return QN_OK;
}

static plain_sums sum_up(const fixture *f, const qn_calibration_text *text) {
    const size_t n = (size_t)f->layout->n;
    plain_sums sums = {f->layout, calloc(n, sizeof(double *)), calloc(n, sizeof(double *))};
    const qn_walk_observer observer = {.on_linear_input = on_input, .user = &sums};
    const qn_walk_options options = {.observer = &observer};
    const qn_sequences s = qn_calibration_sequences(text);
    const qn_config *config = qn_model_config(f->model);
    const int64_t h = config->hidden_size, T = s.starts[s.n];
    float *hidden = malloc((size_t)(T * h) * sizeof *hidden);
    assert_ok(qn_walk(f->model, &s, &options, NULL, hidden, NULL, err));
    add_products(&sums, qn_layout_find(f->layout, config->tied ? QN_TENSOR_EMBED : QN_TENSOR_HEAD, -1),
                 hidden, T, h);
    free(hidden);
    return sums;
}

static void free_sums(plain_sums *sums) {
    for (int64_t i = 0; i < sums->layout->n; i++) {
        free(sums->products[i]);
        free(sums->sizes[i]);
    }
    free(sums->products);
    free(sums->sizes);
}

static void expect_hessian(const qn_statistics *s, const plain_sums *sums, int64_t entry, int64_t n_tokens) {
    const int64_t cols = sums->layout->entries[entry].cols;
    float *h = malloc((size_t)(cols * cols) * sizeof *h);
    const float *moments = qn_statistics_vector(s, QN_STATISTIC_SECOND_MOMENT, entry);
    assert_non_null(moments);
    assert_ok(qn_statistics_hessian(s, entry, h, err));
    for (int64_t i = 0; i < cols * cols; i++)
        assert_true(fabs((double)h[i] * (double)n_tokens - sums->products[entry][i]) <=
                    sum_tolerance * sums->sizes[entry][i]);
    for (int64_t c = 0; c < cols; c++) assert_true(moments[c] == h[c * cols + c]);
    free(h);
}

/* All inputs of the model in F's folder against plain sums. Returns their number. */
static int expect_inputs(const fixture *f, const qn_calibration_text *text) {
    plain_sums sums = sum_up(f, text);
    qn_statistics *s = NULL;
    int n = 0;
    assert_ok(qn_statistics_open(f->path, f->layout, &s, err));
    assert_ok(qn_statistics_check_model(s, qn_model_checkpoint(f->model), NULL, err));
    for (int64_t i = 0; i < f->layout->n; i++) {
        assert_true((sums.products[i] != NULL) == qn_statistics_has_hessian(s, i));
        if (!sums.products[i]) continue;
        expect_hessian(s, &sums, i, text->n * text->context);
        n++;
    }
    qn_statistics_close(s);
    free_sums(&sums);
    return n;
}

static void check_model(tiny_options options) {
    fixture f = open_fixture(options);
    qn_calibration_text text = whole_text(&f);
    const qn_calibrate_options o = {.n_fisher_tokens = 4 * CONTEXT + 3};
    const qn_calibrate_result r = calibrate(&f, &text, &o, 2);
    assert_int_equal(r.n_tokens, 25 * CONTEXT);
    assert_int_equal(r.n_fisher_tokens, 4 * CONTEXT);
    assert_int_equal(r.widest_input, 80);
    assert_int_equal(r.rank_bound, 80);
    assert_int_equal(r.n_inputs, 2 * (48 + 64 + 48 + 80) + 48);
    assert_int_equal(r.n_dead_inputs, 0);
    assert_int_equal(expect_inputs(&f, &text), 2 * 7 + 1);
    qn_calibration_text_release(&text);
    close_fixture(&f);
}

static void test_inputs_are_those_of_the_walk(void **state) {
    (void)state;
    check_model((tiny_options){.tied = true});
    check_model((tiny_options){.attention_bias = true});
}

static void test_golden_models(void **state) {
    (void)state;
    static const char *const models[] = {"golden/models/qwen3-tied", "golden/models/qwen2-bias"};
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        char *model = require_test_data(models[m]);
        fixture f = open_at(make_temporary_folder(), model);
        qn_calibration_text text = whole_text(&f);
        const qn_calibrate_options o = {0};
        (void)calibrate(&f, &text, &o, 2);
        assert_true(expect_inputs(&f, &text) > 7);
        qn_calibration_text_release(&text);
        close_fixture(&f);
        free(model);
    }
}

/* ---- outputs ---- */

static void test_outputs_are_the_fisher_diagonals(void **state) {
    (void)state;
    fixture f = open_fixture((tiny_options){.tied = true});
    qn_calibration_text text = whole_text(&f), part = {0};
    const qn_calibrate_options o = {.n_fisher_tokens = 6 * CONTEXT, .seed = 9, .diagonal = true};
    const qn_fisher_options fo = {.seed = 9};
    qn_statistics *s = NULL;
    qn_fisher fisher = {0};
    (void)calibrate(&f, &text, &o, 2);
    assert_ok(qn_calibration_text_part(&text, 6 * CONTEXT, &part, err));
    assert_int_equal(part.n, 6);
    for (int i = 0; i < 6; i++)
        assert_memory_equal(part.ids + i * CONTEXT, text.ids + (i * 25 / 6) * CONTEXT,
                            CONTEXT * sizeof(int32_t));
    const qn_sequences sequences = qn_calibration_sequences(&part);
    assert_ok(qn_fisher_measure(f.model, &sequences, &fo, NULL, &fisher, err));
    assert_ok(qn_statistics_open(f.path, f.layout, &s, err));
    assert_string_equal(qn_statistics_info_of(s).seed, "9");
    assert_string_equal(qn_statistics_info_of(s).context, "24");
    const int64_t embed = qn_layout_find(f.layout, QN_TENSOR_EMBED, -1);
    for (int64_t i = 0; i < f.layout->n; i++) {
        const float *got = qn_statistics_vector(s, QN_STATISTIC_OUTPUT_FISHER, i);
        assert_false(qn_statistics_has_hessian(s, i));
        assert_true((got != NULL) == (fisher.output[i] != NULL));
        if (got) assert_memory_equal(got, fisher.output[i], (size_t)f.layout->entries[i].rows * sizeof *got);
    }
    assert_memory_equal(qn_statistics_vector(s, QN_STATISTIC_LOOKUP_GRADIENT, embed), fisher.lookup_gradient,
                        48 * sizeof(float));
    const float *frequency = qn_statistics_vector(s, QN_STATISTIC_TOKEN_FREQUENCY, embed);
    for (int32_t v = 0; v < 257; v++) {
        int64_t count = 0;
        for (int64_t t = 0; t < text.n * CONTEXT; t++) count += text.ids[t] == v;
        assert_true(frequency[v] == (float)((double)count / (double)(text.n * CONTEXT)));
    }
    qn_fisher_release(&fisher);
    qn_statistics_close(s);
    qn_calibration_text_release(&text);
    qn_calibration_text_release(&part);
    close_fixture(&f);
}

/* ---- whole files ---- */

static void test_threads_change_no_byte(void **state) {
    (void)state;
    fixture f = open_fixture((tiny_options){0});
    qn_calibration_text text = whole_text(&f);
    const qn_calibrate_options o = qn_calibrate_options_default();
    size_t n_one = 0, n_three = 0;
    assert_int_equal(calibrate(&f, &text, &o, 1).n_fisher_tokens, 25 * CONTEXT); /* all there is */
    char *one = load_file(f.path, &n_one);
    (void)calibrate(&f, &text, &o, 3);
    char *three = load_file(f.path, &n_three);
    assert_int_equal(n_one, n_three);
    assert_memory_equal(one, three, n_one);
    free(one);
    free(three);
    qn_calibration_text_release(&text);
    close_fixture(&f);
}

static void test_two_halves_merge_into_the_whole(void **state) {
    (void)state;
    fixture f = open_fixture((tiny_options){.tied = true});
    qn_calibration_text whole = whole_text(&f);
    const qn_calibration_text first = {.ids = whole.ids, .starts = whole.starts, .n = 9, .context = CONTEXT};
    const qn_calibration_text second = {
        .ids = whole.ids + 9 * CONTEXT, .starts = whole.starts, .n = 16, .context = CONTEXT};
    const qn_calibrate_options o = {0};
    char *all = f.path, *a = path_in(f.folder, "a"), *b = path_in(f.folder, "b"),
         *sum = path_in(f.folder, "sum");
    (void)calibrate(&f, &whole, &o, 2);
    f.path = a;
    (void)calibrate(&f, &first, &o, 2);
    f.path = b;
    (void)calibrate(&f, &second, &o, 2);
    assert_ok(qn_statistics_merge((const char *[]){a, b}, 2, sum, NULL, err));
    f.path = sum;
    assert_true(expect_inputs(&f, &whole) > 0);
    qn_statistics *s = NULL, *direct = NULL;
    assert_ok(qn_statistics_open(sum, f.layout, &s, err));
    assert_ok(qn_statistics_open(all, f.layout, &direct, err));
    const float *got = qn_statistics_vector(s, QN_STATISTIC_TOKEN_FREQUENCY, 0);
    const float *want = qn_statistics_vector(direct, QN_STATISTIC_TOKEN_FREQUENCY, 0);
    for (int v = 0; v < 257; v++) assert_true(fabs((double)got[v] - (double)want[v]) < 1e-8);
    assert_int_equal(qn_statistics_info_of(s).n_tokens, 25 * CONTEXT);
    qn_statistics_close(s);
    qn_statistics_close(direct);
    f.path = all;
    free(a);
    free(b);
    free(sum);
    qn_calibration_text_release(&whole);
    close_fixture(&f);
}

/* ---- text, warnings, errors ---- */

static void keep_warning(void *user, qn_log_level level, const char *message) {
    char *kept = user;
    if (level == QN_LOG_WARNING) snprintf(kept, 1024, "%s", message);
}

static void test_too_little_text(void **state) {
    (void)state;
    fixture f = open_fixture((tiny_options){0});
    qn_calibration_text text = {0};
    char warning[1024] = "";
    const qn_context ctx = {.on_log = keep_warning, .user = warning};
    const qn_calibrate_options o = {0};
    qn_calibrate_result r;
    assert_error(make_text(&f, 0, 2, CONTEXT - 1, &ctx, &text, err), QN_E_ARGUMENT, "23 tokens|24");
    assert_error(make_text(&f, 0, 0, CONTEXT, &ctx, &text, err), QN_E_VALUE, "texts|fewer than one context");
    assert_string_equal(warning, "");
    assert_ok(make_text(&f, 0, 1, 100 * CONTEXT, &ctx, &text, err));
    assert_int_equal(text.n, 3);
    assert_non_null(strstr(warning, "72 tokens"));
    assert_ok(qn_calibrate(f.model, &text, &o, f.path, &ctx, &r, err));
    assert_int_equal(r.rank_bound, 72);
    assert_non_null(strstr(warning, "rank 72 at most for a width of 80"));
    qn_calibration_text_release(&text);
    qn_calibration_text_release(&text);
    close_fixture(&f);
}

static void test_dead_inputs_are_counted(void **state) {
    (void)state;
    char *folder = make_temporary_folder(), warning[1024] = "";
    tiny_model *tiny = tiny_model_make(&(tiny_options){.tied = true});
    tiny_tensor *norm = tiny_model_find(tiny, "model.layers.1.input_layernorm.weight");
    norm->values[5] = norm->values[40] = 0;
    tiny_model_write(tiny, folder, "F32", 1);
    fixture f = open_at(folder, folder);
    qn_calibration_text text = whole_text(&f);
    const qn_context ctx = {.on_log = keep_warning, .user = warning};
    const qn_calibrate_options o = {0};
    qn_calibrate_result r;
    assert_ok(qn_calibrate(f.model, &text, &o, f.path, &ctx, &r, err));
    assert_int_equal(r.n_dead_inputs, 2);
    assert_non_null(strstr(warning, "2 of 528 inputs"));
    qn_calibration_text_release(&text);
    tiny_model_free(tiny);
    close_fixture(&f);
}

static void test_failures_leave_nothing(void **state) {
    (void)state;
    char *folder = make_temporary_folder();
    tiny_model *tiny = tiny_model_make(&(tiny_options){.tied = true});
    tiny_model_find(tiny, "model.layers.1.mlp.up_proj.weight")->values[9] = NAN;
    tiny_model_write(tiny, folder, "F32", 1);
    fixture f = open_at(folder, folder);
    qn_calibration_text text = whole_text(&f);
    const qn_calibration_text none = {.context = CONTEXT};
    const qn_calibrate_options o = {0}, bad = {.n_fisher_tokens = -1};
    const int before = count_entries(folder);
    qn_calibrate_result r = {.n_tokens = 7};
    assert_error(qn_calibrate(f.model, &text, &o, f.path, NULL, &r, err), QN_E_VALUE,
                 "layer 1 mlp.up_proj|NaN");
    assert_error(qn_calibrate(f.model, &none, &o, f.path, NULL, &r, err), QN_E_ARGUMENT, "0 contexts");
    assert_error(qn_calibrate(f.model, &text, &bad, f.path, NULL, &r, err), QN_E_ARGUMENT, "-1");
    assert_error(qn_calibrate(f.model, &text, &o, "absent/folder/x", NULL, &r, err), QN_E_IO,
                 "absent/folder");
    assert_int_equal(r.n_tokens, 7);
    assert_int_equal(count_entries(folder), before);
    qn_calibration_text_release(&text);
    tiny_model_free(tiny);
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inputs_are_those_of_the_walk),
        cmocka_unit_test(test_golden_models),
        cmocka_unit_test(test_outputs_are_the_fisher_diagonals),
        cmocka_unit_test(test_threads_change_no_byte),
        cmocka_unit_test(test_two_halves_merge_into_the_whole),
        cmocka_unit_test(test_too_little_text),
        cmocka_unit_test(test_dead_inputs_are_counted),
        cmocka_unit_test(test_failures_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
