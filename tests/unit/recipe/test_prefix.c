/* The student's walk on a toy: every matrix is fitted to the inputs that the finished student gives it, the walk is the artifact, and
 * a run that was stopped goes on to the same bytes. */
#include "recipe/prefix.h"

#include "expect_error.h"
#include "tiny_model.h"

#include "quern/artifact/artifact.h"
#include "quern/fit/moments.h"
#include "quern/fit/statistics.h"
#include "recipe/loss_model.h"
#include "recipe/rotation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { T = 300, VOCAB = 61, MAX_ENTRIES = 64 };
static const int64_t k_starts[] = {0, 90, 200, T};

typedef struct variant {
    bool tied, teacher_inputs;
    int32_t hadamard; /* of the layers' matrices */
    qn_axis lines;
    qn_code native;
    double budget; /* of the least bytes */
} variant;

/* Every axis, code, kind of input and basis at least once. */
static const variant k_variants[] = {{true, false, 0, QN_AXIS_COLUMNS, QN_CODE_TERNARY, 1.5},
                                     {false, false, 16, QN_AXIS_COLUMNS, QN_CODE_SIGN, 1.7},
                                     {false, true, 0, QN_AXIS_ROWS, QN_CODE_TERNARY, 1.4}};
enum { N_VARIANTS = sizeof k_variants / sizeof k_variants[0] };

typedef struct fixture {
    char *root, *model, *folder; /* folder: the store's */
    variant v;
    int32_t ids[T];
    qn_sequences sequences;
    qn_model *teacher, *student;
    const qn_layout *layout;
    const qn_config *config;
    qni_loss_model loss;
    qni_plan_choice choices[MAX_ENTRIES];
    float *metric;
    qni_matrix_store store;
    qni_prefix_job job;
} fixture;

/* ------------------------------------------------------------------------------------------- fixture */

static void choose(fixture *f) {
    const qn_codec codec = {f->v.native, 16, QN_SCALE_LOG6}, q4 = {QN_CODE_Q4, 128, QN_SCALE_LOG6};
    const qni_band_codecs codecs = {{codec, codec, q4}};
    qni_plan_matrix matrices[MAX_ENTRIES];
    qni_plan_choice choices[MAX_ENTRIES];
    qni_plan_limits limits = {1, INT64_C(4000)};
    int64_t n = 0, least = 0;
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *e = &f->layout->entries[i];
        if (!e->is_matrix) continue;
        const qn_axis axis = e->layer < 0 ? QN_AXIS_ROWS : f->v.lines;
        const qni_line_losses *losses = &f->loss.matrices[i].bases[0];
        matrices[n++] = (qni_plan_matrix){.rows = e->rows,
                                          .cols = e->cols,
                                          .axis = axis,
                                          .n_bases = 1,
                                          .bases = {{losses->hadamard,
                                                     axis == QN_AXIS_ROWS ? losses->rows : losses->columns,
                                                     {0.36, 0.12, 0.0115}}}};
    }
    assert_int_equal(qni_plan(matrices, n, &codecs, &limits, choices, &least, NULL), QN_E_BUDGET);
    limits.max_bytes = (int64_t)(f->v.budget * (double)least);
    assert_ok(qni_plan(matrices, n, &codecs, &limits, choices, &least, err));
    for (int64_t i = 0, k = 0; i < f->layout->n; i++)
        if (f->layout->entries[i].is_matrix) f->choices[i] = choices[k++];
}

static void open_models(fixture *f) {
    f->model = path_in(f->root, "model");
    assert_int_equal(mkdir(f->model, 0777), 0);
    write_tiny_model(f->model, &(tiny_options){.tied = f->v.tied, .vocab = VOCAB});
    assert_ok(qn_model_open(f->model, &f->teacher, err));
    assert_ok(qn_model_open(f->model, &f->student, err));
    f->layout = qn_checkpoint_layout(qn_model_checkpoint(f->teacher));
    f->config = qn_model_config(f->teacher);
    assert_true(f->layout->n <= MAX_ENTRIES);
}

/* An empty store NAME. */
static void use_store(fixture *f, const char *name) {
    free(f->folder);
    f->folder = path_in(f->root, name);
    assert_int_equal(mkdir(f->folder, 0777), 0);
    f->store = (qni_matrix_store){.folder = f->folder, .keys = {"a run", "a run", "a run"}};
}

static fixture *open_fixture(const variant *v) {
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->v = *v;
    f->root = make_temporary_folder();
    for (int i = 0; i < T; i++) f->ids[i] = (i * i + i / 7) % VOCAB;
    f->sequences = (qn_sequences){f->ids, k_starts, 3};
    open_models(f);
    use_store(f, "store");
    const qni_loss_model_options options = {
        .fit = qn_hessian_fit_defaults(), .hadamard = v->hadamard, .seed = 1};
    assert_ok(
        qni_loss_model_measure(f->teacher, &f->sequences, &f->sequences, &options, NULL, &f->loss, err));
    choose(f);
    const int64_t h = f->config->hidden_size;
    f->metric = malloc((size_t)(h * h) * sizeof *f->metric);
    qni_loss_model_embedding_metric(&f->loss, v->tied, f->metric);
    f->job = (qni_prefix_job){.teacher = f->teacher,
                              .student = f->student,
                              .sequences = &f->sequences,
                              .choices = f->choices,
                              .embedding_metric = f->metric,
                              .store = &f->store,
                              .options = {.fit = qn_hessian_fit_defaults(),
                                          .student_inputs = !v->teacher_inputs,
                                          .target_blend = 0.5,
                                          .target_ridge = 0.03}};
    return f;
}

static void close_fixture(fixture *f) {
    for (int64_t i = 0; i < f->layout->n; i++) qni_plan_choice_release(&f->choices[i]);
    qni_loss_model_release(&f->loss);
    qn_model_close(f->student);
    qn_model_close(f->teacher);
    remove_tree(f->root);
    free(f->metric);
    free(f->model);
    free(f->folder);
    free(f->root);
    free(f);
}

static void run_walk(const fixture *f, int n_threads, double *relative_errors) {
    const qn_context ctx = {.n_threads = n_threads};
    assert_ok(qni_prefix_run(&f->job, &ctx, relative_errors, NULL, err));
}

static void name_of(int64_t entry, char name[40]) {
    snprintf(name, 40, "matrix-%05d.safetensors", (int)entry);
}

/* The whole file of a matrix, NULL when there is none; owned. */
static char *file_of(const fixture *f, const char *folder, int64_t entry, size_t *n_bytes) {
    char name[40];
    name_of(entry, name);
    char *root = path_in(f->root, folder), *path = path_in(root, name);
    char *data = access(path, F_OK) == 0 ? load_file(path, n_bytes) : NULL;
    free(path);
    free(root);
    return data;
}

static void remove_matrix(const fixture *f, int64_t entry) {
    char name[40];
    name_of(entry, name);
    char *path = path_in(f->folder, name);
    assert_int_equal(unlink(path), 0);
    free(path);
}

/* Both stores hold every matrix, in the same bytes. */
static void expect_same_stores(const fixture *f, const char *a, const char *b) {
    for (int64_t i = 0; i < f->layout->n; i++) {
        size_t n_a = 0, n_b = 0;
        if (!f->layout->entries[i].is_matrix) continue;
        char *x = file_of(f, a, i, &n_a), *y = file_of(f, b, i, &n_b);
        assert_true(x && y);
        if (n_a != n_b || memcmp(x, y, n_a) != 0)
            fail_msg("%s differs between %s and %s", f->layout->entries[i].name, a, b);
        free(x);
        free(y);
    }
}

static qn_status load_stored(void *user, int64_t entry, qn_encoded *out, qn_error *err) {
    const fixture *f = user;
    bool found = false;
    QN_TRY(qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, entry, f->layout->entries[entry].name,
                                 &f->choices[entry].shape, &found, out, NULL, err));
    assert_true(found);
    return QN_OK;
}

static void expect_given_back(const fixture *f) {
    for (int64_t i = 0; i < f->layout->n; i++)
        assert_ptr_equal(qn_model_weight(f->student, i),
                         qn_checkpoint_weight(qn_model_checkpoint(f->student), i));
}

/* ------------------------------------------------------------------------------------------- walk and artifact */

/* Sums of -log p of every next token, in nats. */
static double score(const fixture *f, const qn_model *model) {
    const int64_t h = f->config->hidden_size;
    const qn_walk_options options = {0};
    float *hidden = malloc((size_t)(T * h) * sizeof *hidden);
    double nll[T], sum = 0.0;
    assert_ok(qn_walk(model, &f->sequences, &options, NULL, hidden, NULL, err));
    for (int s = 0; s < 3; s++) {
        const int64_t first = k_starts[s], n = k_starts[s + 1] - first - 1;
        assert_ok(qn_head_nll(model, hidden + first * h, f->ids + first + 1, n, QN_COMPUTE_F32, NULL, nll,
                              NULL, err));
        for (int64_t t = 0; t < n; t++) sum += nll[t];
    }
    free(hidden);
    return sum;
}

/* The student with every stored matrix as plain f32 numbers. */
static double score_fake_quantised(fixture *f) {
    qn_weight weights[MAX_ENTRIES] = {{.kind = QN_WEIGHT_NONE}};
    float *dense[MAX_ENTRIES] = {NULL};
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *e = &f->layout->entries[i];
        qn_encoded encoded = {0};
        if (!e->is_matrix) continue;
        assert_ok(load_stored(f, i, &encoded, err));
        dense[i] = malloc((size_t)(e->rows * e->cols) * sizeof(float));
        qn_encoded_decode_rows(&encoded, 0, e->rows, dense[i]);
        qn_encoded_release(&encoded);
        weights[i] = (qn_weight){
            .kind = QN_WEIGHT_DENSE,
            .dense = {.data = dense[i], .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {e->rows, e->cols}}};
        assert_ok(qn_model_set_weight(f->student, i, &weights[i], err));
    }
    const double nats = score(f, f->student);
    for (int64_t i = 0; i < f->layout->n; i++) {
        assert_ok(qn_model_set_weight(f->student, i, NULL, err));
        free(dense[i]);
    }
    return nats;
}

static double score_artifact(fixture *f) {
    const qn_profile profile =
        qn_profile_builtin(f->v.native == QN_CODE_SIGN ? QN_TRACK_BINARY : QN_TRACK_TERNARY);
    const qn_artifact_options options = {.profile = &profile, .as_archive = true};
    qn_artifact_plan *plan = NULL;
    qn_encoded shapes[MAX_ENTRIES] = {{.rows = 0}};
    qn_artifact_result written;
    qn_model *model = NULL;
    int64_t need = 0;
    char *path = path_in(f->root, "a.zip");
    for (int64_t i = 0; i < f->layout->n; i++) shapes[i] = f->choices[i].shape;
    assert_ok(qn_artifact_plan_new(qn_model_checkpoint(f->teacher), &options, &plan, err));
    assert_ok(qn_artifact_plan_need(plan, shapes, &need, err));
    assert_ok(qn_artifact_plan_fix(plan, shapes, need, err));
    assert_ok(qn_artifact_write(plan, path, load_stored, f, NULL, &written, err));
    assert_ok(qn_model_open(path, &model, err));
    const double nats = score(f, model);
    qn_model_close(model);
    qn_artifact_plan_free(plan);
    free(path);
    return nats;
}

/* The same decoded numbers and the same walk: only the way they are fetched differs. */
static const double k_score_tolerance = 1e-9;

static void test_the_walk_is_the_artifact(void **state) {
    (void)state;
    for (int i = 0; i < N_VARIANTS; i++) {
        fixture *f = open_fixture(&k_variants[i]);
        double errors[MAX_ENTRIES] = {0};
        run_walk(f, 2, errors);
        expect_given_back(f);
        const double teacher = score(f, f->teacher), student = score_fake_quantised(f),
                     artifact = score_artifact(f);
        print_message("variant %d: teacher %.6f, student %.6f, artifact %.6f nats\n", i, teacher, student,
                      artifact);
        assert_true(fabs(student / artifact - 1.0) <= k_score_tolerance);
        assert_true(fabs(student / teacher - 1.0) > 1e-4); /* it is another model */
        for (int64_t k = 0; k < f->layout->n; k++)
            if (f->layout->entries[k].is_matrix) assert_true(errors[k] > 0.0 && errors[k] < 0.5);
        close_fixture(f);
    }
}

/* ------------------------------------------------------------------------------------------- each fit again */

typedef struct inputs {
    const qn_layout *layout;
    float *x[MAX_ENTRIES]; /* owned [T, C] of each linear layer */
} inputs;

static qn_status on_input(void *user, int64_t index, const float *x, int64_t first, int64_t n, int64_t cols,
                          qn_error *err) {
    inputs *in = user;
    (void)err;
    if (!in->x[index]) in->x[index] = malloc((size_t)(T * cols) * sizeof(float));
    memcpy(in->x[index] + first * cols, x, (size_t)(n * cols) * sizeof *x);
    return QN_OK;
}

static void observe(const fixture *f, const qn_model *model, inputs *in) {
    const qn_walk_observer observer = {.on_linear_input = on_input, .user = in};
    const qn_walk_options options = {.observer = &observer};
    const int64_t h = f->config->hidden_size, head = qn_layout_find(f->layout, QN_TENSOR_HEAD, -1);
    float *hidden = malloc((size_t)(T * h) * sizeof *hidden);
    assert_ok(qn_walk(model, &f->sequences, &options, NULL, hidden, NULL, err));
    if (head >= 0)
        in->x[head] = hidden;
    else
        free(hidden);
}

static float *mean_product(const float *a, const float *b, int64_t cols) {
    qn_moment moment = {0};
    float *out = malloc((size_t)(cols * cols) * sizeof *out);
    assert_ok(qn_moment_init(&moment, a == b ? QN_MOMENT_SYMMETRIC : QN_MOMENT_CROSS, cols, err));
    assert_ok(qn_moment_add(&moment, a, b, T, NULL, err));
    qn_moment_mean(&moment, out);
    qn_moment_release(&moment);
    return out;
}

/* What the header says of one matrix, from the inputs of both whole models. */
static qn_encoded fit_again(const fixture *f, int64_t entry, const inputs *teacher, const inputs *student) {
    const qn_layout_entry *e = &f->layout->entries[entry];
    const qni_plan_choice *choice = &f->choices[entry];
    const qn_band_shape shape = qn_band_shape_of(&choice->shape, choice->line_band);
    const inputs *own = f->v.teacher_inputs ? teacher : student;
    float *w = malloc((size_t)(e->rows * e->cols) * sizeof *w), *h;
    qn_weight_decode_rows(qn_model_weight(f->teacher, entry), 0, e->rows, w);
    if (e->kind == QN_TENSOR_EMBED) {
        h = malloc((size_t)(e->cols * e->cols) * sizeof *h);
        memcpy(h, f->metric, (size_t)(e->cols * e->cols) * sizeof *h);
    } else {
        h = mean_product(own->x[entry], own->x[entry], e->cols);
        if (!f->v.teacher_inputs) {
            float *cross = mean_product(teacher->x[entry], own->x[entry], e->cols);
            assert_ok(qn_asymmetric_target(w, h, cross, e->rows, e->cols, 0.5, 0.03, NULL, w, err));
            free(cross);
        }
    }
    if (choice->shape.hadamard) {
        qn_hadamard_rows(w, e->rows, e->cols, choice->shape.hadamard, false);
        qni_rotate_metric(h, e->cols, choice->shape.hadamard);
    }
    qn_banded banded = {0};
    qn_encoded out = {0};
    assert_ok(qn_hessian_fit(w, h, &shape, &f->job.options.fit, NULL, &banded, NULL, err));
    assert_ok(qn_banded_encode(&banded, choice->shape.hadamard, e->name, &out, err));
    qn_banded_release(&banded);
    free(w);
    free(h);
    return out;
}

/* A matrix was fitted when only those before it stood in their codes; those behind it change none of its inputs, so that the
 * finished student shows them all. */
static void test_each_fit_saw_the_students_inputs(void **state) {
    (void)state;
    for (int v = 0; v < N_VARIANTS; v++) {
        fixture *f = open_fixture(&k_variants[v]);
        qn_weight weights[MAX_ENTRIES] = {{.kind = QN_WEIGHT_NONE}};
        inputs teacher = {.layout = f->layout}, student = {.layout = f->layout};
        run_walk(f, 2, NULL);
        observe(f, f->teacher, &teacher);
        for (int64_t i = 0; i < f->layout->n; i++) {
            if (!f->layout->entries[i].is_matrix) continue;
            weights[i].kind = QN_WEIGHT_ENCODED;
            assert_ok(load_stored(f, i, &weights[i].encoded, err));
            assert_ok(qn_model_set_weight(f->student, i, &weights[i], err));
        }
        observe(f, f->student, &student);
        for (int64_t i = 0; i < f->layout->n; i++) {
            if (!f->layout->entries[i].is_matrix) continue;
            qn_encoded again = fit_again(f, i, &teacher, &student);
            assert_true(qn_encoded_same_shape(&again, &weights[i].encoded));
            if (memcmp(again.data, weights[i].encoded.data, (size_t)qn_encoded_bytes(&again)) != 0)
                fail_msg("variant %d: %s was fitted to other inputs", v, f->layout->entries[i].name);
            qn_encoded_release(&again);
            qn_encoded_release(&weights[i].encoded);
        }
        for (int64_t i = 0; i < f->layout->n; i++) {
            free(teacher.x[i]);
            free(student.x[i]);
        }
        close_fixture(f);
    }
}

/* ------------------------------------------------------------------------------------------- the same bytes */

static void test_threads_change_nothing(void **state) {
    (void)state;
    for (int v = 0; v < N_VARIANTS; v++) {
        fixture *f = open_fixture(&k_variants[v]);
        run_walk(f, 1, NULL);
        use_store(f, "three");
        run_walk(f, 3, NULL);
        expect_same_stores(f, "store", "three");
        close_fixture(f);
    }
}

/* Taken up after any number of matrices, and with one of a group gone: the same bytes and the same errors of the fits. */
static void test_taken_up_again(void **state) {
    (void)state;
    for (int v = 0; v < N_VARIANTS; v++) {
        fixture *f = open_fixture(&k_variants[v]);
        double first_errors[MAX_ENTRIES] = {0};
        run_walk(f, 2, first_errors);
        use_store(f, "again");
        run_walk(f, 1, NULL);
        const int64_t n = f->layout->n, keys = qn_layout_find(f->layout, QN_TENSOR_K, 1);
        for (int64_t kept = 0; kept <= n; kept += 1 + n / 6) {
            double errors[MAX_ENTRIES] = {0};
            for (int64_t i = kept; i < n; i++)
                if (f->layout->entries[i].is_matrix) remove_matrix(f, i);
            run_walk(f, 2, errors);
            expect_same_stores(f, "store", "again");
            for (int64_t i = 0; i < n; i++)
                if (f->layout->entries[i].is_matrix) assert_true(errors[i] == first_errors[i]);
        }
        remove_matrix(f, keys);
        run_walk(f, 2, NULL);
        expect_same_stores(f, "store", "again");
        expect_given_back(f);
        close_fixture(f);
    }
}

/* With every matrix there, nobody walks: text that no walk could take is not looked at. With one gone it is. */
static void test_a_finished_run_does_not_walk(void **state) {
    (void)state;
    fixture *f = open_fixture(&k_variants[1]);
    run_walk(f, 1, NULL);
    f->ids[T / 2] = VOCAB;
    run_walk(f, 1, NULL);
    expect_given_back(f);
    remove_matrix(f, qn_layout_find(f->layout, QN_TENSOR_HEAD, -1));
    assert_error(qni_prefix_run(&f->job, NULL, NULL, NULL, err), QN_E_VALUE, "outside the vocabulary");
    expect_given_back(f);
    close_fixture(f);
}

typedef struct patience {
    int left;
} patience;

static bool is_cancelled(void *user) {
    patience *p = user;
    return p->left-- <= 0;
}

/* Stopped anywhere: nothing half done, the student has its own weights, and the next run goes on. */
static void test_stopped_and_taken_up(void **state) {
    (void)state;
    fixture *f = open_fixture(&k_variants[1]);
    run_walk(f, 2, NULL);
    use_store(f, "stopped");
    int n_stops = 0, n_files = 0;
    for (int checks = 1;; checks += 1 + checks / 3) {
        patience p = {checks};
        const qn_context ctx = {.n_threads = 1, .is_cancelled = is_cancelled, .user = &p};
        const qn_status status = qni_prefix_run(&f->job, &ctx, NULL, NULL, NULL);
        expect_given_back(f);
        assert_true(count_entries(f->folder) >= n_files);
        n_files = count_entries(f->folder);
        if (status == QN_OK) break;
        assert_int_equal(status, QN_E_CANCELLED);
        n_stops++;
    }
    assert_true(n_stops > 3);
    expect_same_stores(f, "store", "stopped");
    close_fixture(f);
}

/* A file of another run in the way stops the walk before it does anything with it. */
static void test_foreign_files(void **state) {
    (void)state;
    fixture *f = open_fixture(&k_variants[0]);
    run_walk(f, 2, NULL);
    remove_matrix(f, qn_layout_find(f->layout, QN_TENSOR_V, 1));
    snprintf(f->store.keys[QNI_STAGE_FITTED], QN_SHA256_HEX, "another");
    assert_error(qni_prefix_run(&f->job, NULL, NULL, NULL, err), QN_E_ARGUMENT,
                 "matrix-00000|another run|a run|--work");
    expect_given_back(f);
    close_fixture(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_walk_is_the_artifact),
        cmocka_unit_test(test_each_fit_saw_the_students_inputs),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_taken_up_again),
        cmocka_unit_test(test_a_finished_run_does_not_walk),
        cmocka_unit_test(test_stopped_and_taken_up),
        cmocka_unit_test(test_foreign_files),
    };
    return cmocka_run_group_tests_name("recipe prefix", tests, NULL, NULL);
}
