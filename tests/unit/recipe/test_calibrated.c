/* The calibrated path without the walk: its text, what it takes codes to lose, and the plan against the size of the whole file. */
#include "recipe/calibrated.h"

#include "expect_error.h"
#include "tiny_model.h"

#include "quern/fit/hessian_fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct bench {
    char *root, *model, *text;
    qn_profile profile;
    qn_recipe recipe;
    qn_compress_options options; /* points into this struct */
    qn_model *teacher;
} bench;

static uint64_t random_state;

static double random_uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static double random_normal(void) {
    const double radius = sqrt(-2.0 * log(1.0 - random_uniform()));
    return radius * cos(6.283185307179586 * random_uniform());
}

/* Random words: byte tokens of all lower-case letters. */
static void write_text_file(bench *b) {
    char text[4001];
    for (int i = 0; i < 4000; i++) {
        const int letter = (int)(random_uniform() * 32);
        text[i] = letter < 26 ? (char)('a' + letter) : ' ';
    }
    text[3999] = '\n';
    write_test_file(b->root, "text.txt", text, 4000);
    b->text = path_in(b->root, "text.txt");
}

static void bench_open(bench *b, qn_track track) {
    *b = (bench){.root = make_temporary_folder()};
    random_state = 5;
    b->model = path_in(b->root, "model");
    assert_int_equal(mkdir(b->model, 0777), 0);
    write_tiny_model(b->model, &(tiny_options){.tied = true});
    write_text_file(b);
    b->profile = qn_profile_builtin(track);
    b->profile.budget_bits = 32; /* a tiny model's loader outweighs its codes */
    assert_ok(qn_recipe_builtin(qn_track_name(track), track, &b->recipe, err));
    b->recipe.tokens = 1024;
    b->recipe.context = 64;
    b->recipe.fisher_tokens = 256;
    b->recipe.group_size = 16;
    b->recipe.distill.steps = b->recipe.finetune.steps = 0;
    b->options = (qn_compress_options){.model = b->model,
                                       .output = "a.zip",
                                       .profile = &b->profile,
                                       .recipe = &b->recipe,
                                       .text = b->text,
                                       .tokenizer = "byte"};
    assert_ok(qn_model_open(b->model, &b->teacher, err));
}

static void bench_close(bench *b) {
    qn_model_close(b->teacher);
    remove_tree(b->root);
    free(b->model);
    free(b->text);
    free(b->root);
}

static qni_calibrated opened(const bench *b) {
    qni_calibrated c = {0};
    assert_ok(qni_calibrated_open(&b->options, b->teacher, NULL, &c, err));
    return c;
}

static qn_artifact_plan *file_plan(const bench *b) {
    const qn_artifact_options options = {.profile = &b->profile,
                                         .as_archive = true,
                                         .recipe_name = "test",
                                         .recipe_sha256 = b->recipe.sha256,
                                         .isa = "ref"};
    qn_artifact_plan *plan = NULL;
    assert_ok(qn_artifact_plan_new(qn_model_checkpoint(b->teacher), &options, &plan, err));
    return plan;
}

/* ------------------------------------------------------------------------------------------- what codes lose */

/* What the planner takes a kind of band to lose: 2 * loss / sensitivity where every line of a matrix is of that kind. */
static double planned_error(qn_track track, qni_band_kind kind) {
    bench b;
    bench_open(&b, track);
    b.recipe.measured_errors = false;
    b.recipe.planes = kind == QNI_BAND_DOUBLE ? 2 : 1;
    b.recipe.max_rescue_fraction = kind == QNI_BAND_Q4 ? 1.0 : 0.0;
    qni_calibrated c = opened(&b);
    qn_artifact_plan *plan = file_plan(&b);
    int64_t minimum = 0;
    assert_ok(qni_calibrated_plan(&c, plan, INT64_C(1) << 30, INT64_C(1) << 30, &minimum, err));
    const int64_t entry = qn_layout_find(c.layout, QN_TENSOR_UP, 0);
    const qni_plan_choice *choice = &c.choices[entry];
    double sensitivity = 0.0;
    for (int64_t j = 0; j < c.layout->entries[entry].cols; j++)
        sensitivity += c.loss.matrices[entry].bases[0].columns[j];
    assert_int_equal(choice->n_lines[kind], c.layout->entries[entry].cols);
    const double error = 2.0 * choice->loss / sensitivity;
    qn_artifact_plan_free(plan);
    qni_calibrated_close(&c);
    bench_close(&b);
    return error;
}

/* E (w - q)^2 / E w^2 of N_ROWS * COLS normal weights, whose inputs are independent and of equal size. */
static double fitted_error(qn_code code, int n_planes, int32_t group_size) {
    enum { ROWS = 512, COLS = 256 };
    float *w = malloc((size_t)ROWS * COLS * sizeof *w), *h = calloc((size_t)COLS * COLS, sizeof *h);
    for (int i = 0; i < ROWS * COLS; i++) w[i] = (float)random_normal();
    for (int j = 0; j < COLS; j++) h[j * COLS + j] = 1.0f;
    const qn_band_shape shape = {
        .rows = ROWS, .cols = COLS, .n_bands = 1, .bands = {{code, n_planes, group_size, false}}};
    const qn_hessian_fit_options options = qn_hessian_fit_defaults();
    qn_banded banded = {0};
    qn_hessian_fit_report report;
    assert_ok(qn_hessian_fit(w, h, &shape, &options, NULL, &banded, &report, err));
    qn_banded_release(&banded);
    free(w);
    free(h);
    return report.relative_error;
}

/* The planner's numbers are for scales that serve a whole row; groups as small as the recipes' follow their weights and lose up
 * to 4.5 % less. The samples add half a percent. */
static const double k_error_tolerance = 0.05;

static void test_what_codes_lose(void **state) {
    (void)state;
    static const struct {
        qn_track track;
        qni_band_kind kind;
        qn_code code;
        int n_planes;
        int32_t group_size;
    } cases[] = {{QN_TRACK_BINARY, QNI_BAND_SINGLE, QN_CODE_SIGN, 1, 128},
                 {QN_TRACK_BINARY, QNI_BAND_DOUBLE, QN_CODE_SIGN, 2, 128},
                 {QN_TRACK_TERNARY, QNI_BAND_SINGLE, QN_CODE_TERNARY, 1, 64},
                 {QN_TRACK_TERNARY, QNI_BAND_DOUBLE, QN_CODE_TERNARY, 2, 64},
                 {QN_TRACK_TERNARY, QNI_BAND_Q4, QN_CODE_Q4, 1, 128},
                 {QN_TRACK_BINARY, QNI_BAND_Q4, QN_CODE_Q4, 1, 128}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const double planned = planned_error(cases[i].track, cases[i].kind);
        const double fitted = fitted_error(cases[i].code, cases[i].n_planes, cases[i].group_size);
        print_message("%s in %d planes: planned %.4f, fitted %.4f\n", qn_code_name(cases[i].code),
                      cases[i].n_planes, planned, fitted);
        assert_true(fabs(fitted / planned - 1.0) <= k_error_tolerance);
    }
}

/* ------------------------------------------------------------------------------------------- plans of whole files */

typedef struct outcome {
    qn_status status;
    int64_t minimum, need, file_bytes, q4_weights;
    double loss;
} outcome;

static int64_t q4_weights_of(const qni_calibrated *c) {
    int64_t n = 0;
    for (int64_t i = 0; i < c->layout->n; i++) {
        qn_part parts[QN_MAX_PARTS];
        const int n_parts = c->layout->entries[i].is_matrix ? qn_encoded_parts(&c->shapes[i], parts) : 0;
        for (int k = 0; k < n_parts; k++)
            if (parts[k].role == QN_ROLE_RESCUE) n += parts[k].n_weights;
    }
    return n;
}

/* Plans a file of C's model within BUDGET; C keeps what it has measured. */
static outcome plan_file(const bench *b, const qni_calibrated *c, int64_t budget, int64_t max_q4) {
    outcome o = {0};
    qn_artifact_plan *plan = file_plan(b);
    qni_calibrated copy = *c;
    o.status = qni_calibrated_plan(&copy, plan, budget, max_q4, &o.minimum, NULL);
    if (o.status == QN_OK) {
        assert_ok(qn_artifact_plan_need(plan, copy.shapes, &o.need, err));
        o.file_bytes = copy.file_bytes;
        assert_ok(qn_artifact_plan_fix(plan, copy.shapes, o.file_bytes, err));
        o.q4_weights = q4_weights_of(&copy);
    }
    for (int64_t i = 0; i < c->layout->n; i++) {
        if (o.status == QN_OK) o.loss += copy.choices[i].loss;
        qni_plan_choice_release(&copy.choices[i]);
    }
    free(copy.choices);
    free(copy.shapes);
    qn_artifact_plan_free(plan);
    return o;
}

/* From the minimum on every budget is kept, more bytes never predict more loss beyond the planner's own gaps, and hardly any is left. */
static void test_budgets(void **state) {
    (void)state;
    for (int track = 0; track < 2; track++) {
        bench b;
        bench_open(&b, (qn_track)track);
        qni_calibrated c = opened(&b);
        const int64_t max_q4 = c.layout->n_parameters / 10;
        const int64_t minimum = plan_file(&b, &c, INT64_C(1) << 30, max_q4).minimum;
        double loss = (double)INFINITY;
        int n_tight = 0;
        for (int step = 0; step < 10; step++) {
            const int64_t budget = minimum + step * 731;
            const outcome o = plan_file(&b, &c, budget, max_q4);
            assert_int_equal(o.status, QN_OK);
            assert_true(o.need <= budget);
            assert_true(o.q4_weights <= max_q4);
            assert_true(o.loss <= loss * 1.02);
            loss = o.loss;
            n_tight += o.need > budget - 300; /* some columns of the smallest matrix */
        }
        assert_true(n_tight >= 8);
        qni_calibrated_close(&c);
        bench_close(&b);
    }
}

/* A budget that no plan can use up is not padded: the file ends with the finest codes; one byte less is a budget like any other. */
static void test_generous_budget(void **state) {
    (void)state;
    for (int track = 0; track < 2; track++) {
        bench b;
        bench_open(&b, (qn_track)track);
        qni_calibrated c = opened(&b);
        const int64_t max_q4 = c.layout->n_parameters / 10;
        const outcome most = plan_file(&b, &c, INT64_C(1) << 30, max_q4);
        assert_int_equal(most.file_bytes, most.need);
        const int64_t budgets[] = {most.need, most.need + 1, 2 * most.need};
        for (int i = 0; i < 3; i++) {
            const outcome o = plan_file(&b, &c, budgets[i], max_q4);
            assert_int_equal(o.status, QN_OK);
            assert_int_equal(o.file_bytes, most.need);
            assert_true(o.loss == most.loss);
        }
        const outcome less = plan_file(&b, &c, most.need - 1, max_q4);
        assert_int_equal(less.file_bytes, most.need - 1);
        assert_true(less.loss >= most.loss);
        qni_calibrated_close(&c);
        bench_close(&b);
    }
}

/* However far below it a budget lies, the minimum that is told is one that works. */
static void test_minimum(void **state) {
    (void)state;
    for (int track = 0; track < 2; track++) {
        bench b;
        bench_open(&b, (qn_track)track);
        qni_calibrated c = opened(&b);
        const int64_t minimum = plan_file(&b, &c, INT64_C(1) << 30, 0).minimum;
        const int64_t budgets[] = {minimum - 1, minimum - 100, minimum - 3000, minimum / 2, 1000, 1};
        for (size_t i = 0; i < sizeof budgets / sizeof budgets[0]; i++) {
            const outcome o = plan_file(&b, &c, budgets[i], 0);
            if (o.status == QN_OK) continue; /* the minimum allows a little for the names of bands */
            assert_int_equal(o.status, QN_E_BUDGET);
            if (llabs((long long)(o.minimum - minimum)) > 500)
                fail_msg("budget %lld: at least %lld, or %lld", (long long)budgets[i], (long long)o.minimum,
                         (long long)minimum);
            assert_int_equal(plan_file(&b, &c, o.minimum, 0).status, QN_OK);
        }
        assert_int_equal(plan_file(&b, &c, minimum / 2, 0).status, QN_E_BUDGET);
        qni_calibrated_close(&c);
        bench_close(&b);
    }
}

/* ------------------------------------------------------------------------------------------- recipes */

static void override(bench *b, const char *match, qn_override_code code) {
    qn_recipe_override *o = &b->recipe.overrides[b->recipe.n_overrides++];
    snprintf(o->match, sizeof o->match, "%s", match);
    o->code = code;
}

/* The first match of a name counts, and nothing else of the matrix is left to the planner. */
static void test_overrides(void **state) {
    (void)state;
    bench b;
    bench_open(&b, QN_TRACK_TERNARY);
    override(&b, "v_proj", QN_OVERRIDE_DOUBLE);
    override(&b, "layers\\.1\\.self_attn\\.[kv]", QN_OVERRIDE_Q4);
    override(&b, "(up|gate)_proj", QN_OVERRIDE_SINGLE);
    qni_calibrated c = opened(&b);
    qn_artifact_plan *plan = file_plan(&b);
    int64_t minimum = 0;
    assert_ok(qni_calibrated_plan(&c, plan, INT64_C(1) << 30, 1 << 14, &minimum, err));
    for (int64_t layer = 0; layer < 2; layer++) {
        const struct {
            qn_tensor_kind kind;
            qni_band_kind band;
        } expected[] = {{QN_TENSOR_V, QNI_BAND_DOUBLE},
                        {QN_TENSOR_UP, QNI_BAND_SINGLE},
                        {QN_TENSOR_GATE, QNI_BAND_SINGLE},
                        {QN_TENSOR_K, layer == 1 ? QNI_BAND_Q4 : QNI_BAND_KIND_COUNT}};
        for (int i = 0; i < 4; i++) {
            const int64_t entry = qn_layout_find(c.layout, expected[i].kind, layer);
            if (expected[i].band == QNI_BAND_KIND_COUNT) continue;
            assert_int_equal(c.choices[entry].n_lines[expected[i].band], c.layout->entries[entry].cols);
            assert_int_equal(c.shapes[entry].n_bands, 1);
        }
    }
    qn_artifact_plan_free(plan);
    qni_calibrated_close(&c);
    bench_close(&b);
}

/* Statistics of the run's own text plan what a walk would, without text where nothing else is done. */
static void test_statistics(void **state) {
    (void)state;
    bench b;
    bench_open(&b, QN_TRACK_TERNARY);
    char *path = path_in(b.root, "s.stats");
    qni_calibrated walked = opened(&b);
    qn_calibrate_options options = qn_calibrate_options_default();
    qn_calibrate_result result;
    options.n_fisher_tokens = b.recipe.fisher_tokens;
    assert_ok(qn_calibrate(b.teacher, &walked.text, &options, path, NULL, &result, err));
    const outcome expected = plan_file(&b, &walked, 40000, 1 << 12);
    b.options.statistics = path;
    b.options.dry_run = true;
    for (int without_text = 0; without_text < 2; without_text++) {
        if (without_text) b.options.text = NULL;
        qni_calibrated read = opened(&b);
        const outcome o = plan_file(&b, &read, 40000, 1 << 12);
        assert_memory_equal(&o, &expected, sizeof o);
        assert_int_equal(strlen(read.statistics_sha256), 64);
        assert_int_equal(read.text.n == 0, without_text);
        qni_calibrated_close(&read);
    }
    qni_calibrated c = {0};
    b.recipe.measured_sensitivity = true;
    assert_error(qni_calibrated_open(&b.options, b.teacher, NULL, &c, err), QN_E_ARGUMENT,
                 "plan.sensitivity|--text FILE");
    b.options.dry_run = false;
    assert_error(qni_calibrated_open(&b.options, b.teacher, NULL, &c, err), QN_E_ARGUMENT, "--text FILE");
    qni_calibrated_close(&walked);
    free(path);
    bench_close(&b);
}

/* Those of another model are refused. */
static void test_foreign_statistics(void **state) {
    (void)state;
    bench a, b;
    bench_open(&a, QN_TRACK_TERNARY);
    char *path = path_in(a.root, "s.stats");
    qni_calibrated c = opened(&a);
    qn_calibrate_options options = qn_calibrate_options_default();
    qn_calibrate_result result;
    assert_ok(qn_calibrate(a.teacher, &c.text, &options, path, NULL, &result, err));
    qni_calibrated_close(&c);
    bench_open(&b, QN_TRACK_TERNARY);
    remove_tree(b.model);
    assert_int_equal(mkdir(b.model, 0777), 0);
    write_tiny_model(b.model, &(tiny_options){.tied = true, .seed = 2});
    qn_model_close(b.teacher);
    assert_ok(qn_model_open(b.model, &b.teacher, err));
    b.options.statistics = path;
    assert_error(qni_calibrated_open(&b.options, b.teacher, NULL, &c, err), QN_E_ARGUMENT, "model");
    free(path);
    bench_close(&a);
    bench_close(&b);
}

static void test_refused(void **state) {
    (void)state;
    bench b;
    qni_calibrated c = {0};
    bench_open(&b, QN_TRACK_BINARY);
    b.options.text = NULL;
    assert_error(qni_calibrated_open(&b.options, b.teacher, NULL, &c, err), QN_E_ARGUMENT,
                 "'binary' calibrates|--text FILE|--recipe fast");
    b.options.text = "/nonexistent/text.txt";
    assert_error(qni_calibrated_open(&b.options, b.teacher, NULL, &c, err), QN_E_IO, "text.txt");
    b.options.text = b.text;
    b.recipe.hadamard = 12;
    assert_error(qni_calibrated_open(&b.options, b.teacher, NULL, &c, err), QN_E_ARGUMENT,
                 "hadamard is 12|power of two");
    b.recipe.hadamard = 0;
    b.recipe.context = 100000;
    assert_int_not_equal(qni_calibrated_open(&b.options, b.teacher, NULL, &c, NULL), QN_OK);
    b.recipe.context = 64;
    b.recipe.planes = 1;
    override(&b, "v_proj", QN_OVERRIDE_DOUBLE);
    assert_error(qni_calibrated_open(&b.options, b.teacher, NULL, &c, err), QN_E_ARGUMENT,
                 "override of 'v_proj'|rules out");
    b.recipe.n_overrides = 0;
    override(&b, "k_proj", QN_OVERRIDE_Q4);
    b.recipe.max_rescue_fraction = 0.0;
    assert_error(qni_calibrated_open(&b.options, b.teacher, NULL, &c, err), QN_E_ARGUMENT,
                 "override of 'k_proj'|rules out");
    assert_null(c.layout);
    qni_calibrated_close(&c);
    bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_codes_lose),    cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_generous_budget),    cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_foreign_statistics), cmocka_unit_test(test_minimum),
        cmocka_unit_test(test_overrides),          cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("recipe calibrated", tests, NULL, NULL);
}
