/* Training on the walk, and the whole model after it: what is in the store is what the walk went on with, traps are left, and runs
 * that were stopped or lost files end with the same bytes. */
#include "recipe/model_tuning.h"
#include "recipe/prefix.h"

#include "expect_error.h"
#include "tiny_model.h"

#include "quern/model/compare.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    N = 104,
    N_PROBE = 8,
    LENGTH = 16,
    VOCAB = 61,
    H = 32,
    N_LAYERS = 3,
    MAX_ENTRIES = 64,
    MAX_LINES = 128
};

typedef struct fixture {
    char *root, *folder; /* folder: the store's */
    int32_t ids[N * LENGTH];
    int64_t starts[N + 1];
    qn_sequences text, probe;
    qn_model *teacher, *student;
    const qn_layout *layout;
    qni_plan_choice choices[MAX_ENTRIES];
    qn_encoded shapes[MAX_ENTRIES];
    float metric[H * H];
    qn_fisher fisher;
    qni_matrix_store store;
    qni_prefix_job job;
    qni_block_report reports[N_LAYERS];
} fixture;

/* ------------------------------------------------------------------------------------------- fixture */

static void choose(fixture *f, qn_code native) {
    const qn_codec codec = {native, 16, QN_SCALE_LOG6}, q4 = {QN_CODE_Q4, 128, QN_SCALE_LOG6};
    const qni_band_codecs codecs = {{codec, codec, q4}};
    static double sensitivity[MAX_LINES];
    qni_plan_matrix matrices[MAX_ENTRIES];
    qni_plan_choice choices[MAX_ENTRIES];
    qni_plan_limits limits = {1, INT64_C(2000)};
    int64_t n = 0, least = 0;
    for (int i = 0; i < MAX_LINES; i++) sensitivity[i] = 1.0 + i % 7;
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *e = &f->layout->entries[i];
        if (!e->is_matrix) continue;
        assert_true(e->rows <= MAX_LINES && e->cols <= MAX_LINES);
        matrices[n++] = (qni_plan_matrix){.rows = e->rows,
                                          .cols = e->cols,
                                          .axis = e->layer < 0 ? QN_AXIS_ROWS : QN_AXIS_COLUMNS,
                                          .n_bases = 1,
                                          .bases = {{0, sensitivity, {0.36, 0.12, 0.0115}}}};
    }
    assert_int_equal(qni_plan(matrices, n, &codecs, &limits, choices, &least, NULL), QN_E_BUDGET);
    limits.max_bytes = least + least / 4;
    assert_ok(qni_plan(matrices, n, &codecs, &limits, choices, &least, err));
    for (int64_t i = 0, k = 0; i < f->layout->n; i++) {
        if (!f->layout->entries[i].is_matrix) continue;
        f->choices[i] = choices[k++];
        f->shapes[i] = f->choices[i].shape;
    }
}

/* An empty store NAME. */
static void use_store(fixture *f, const char *name) {
    free(f->folder);
    f->folder = path_in(f->root, name);
    assert_int_equal(mkdir(f->folder, 0777), 0);
    f->store = (qni_matrix_store){.folder = f->folder, .keys = {"fits", "blocks", "whole"}};
}

static void open_models(fixture *f) {
    char *path = path_in(f->root, "model");
    assert_int_equal(mkdir(path, 0777), 0);
    write_tiny_model(path, &(tiny_options){.vocab = VOCAB,
                                           .hidden = H,
                                           .intermediate = 48,
                                           .heads = 2,
                                           .kv_heads = 1,
                                           .layers = N_LAYERS,
                                           .seed = 3});
    assert_ok(qn_model_open(path, &f->teacher, err));
    assert_ok(qn_model_open(path, &f->student, err));
    f->layout = qn_checkpoint_layout(qn_model_checkpoint(f->teacher));
    assert_true(f->layout->n <= MAX_ENTRIES);
    free(path);
}

static const qni_block_tuning k_tuning = {.tune = {.steps = 40,
                                                   .batch = 4,
                                                   .lr = 0.02,
                                                   .min_lr_ratio = 0.05,
                                                   .soft_part = 0.5,
                                                   .validation_part = 0.125,
                                                   .validations = 4,
                                                   .seed = 5,
                                                   .save_every = 7},
                                          .rates = {1.0, 0.5, 0.0, 0.25},
                                          .window = 1,
                                          .student_inputs = true};

static fixture *open_fixture(qn_code native) {
    fixture *f = calloc(1, sizeof *f);
    uint64_t state = 5;
    assert_non_null(f);
    f->root = make_temporary_folder();
    for (int i = 0; i < N * LENGTH; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        f->ids[i] = (int32_t)((state >> 40) % VOCAB);
    }
    for (int i = 0; i <= N; i++) f->starts[i] = i * LENGTH;
    f->text = (qn_sequences){f->ids, f->starts, N - N_PROBE};
    f->probe = (qn_sequences){f->ids + (N - N_PROBE) * LENGTH, f->starts, N_PROBE};
    open_models(f);
    use_store(f, "store");
    choose(f, native);
    for (int i = 0; i < H; i++) f->metric[i * (H + 1)] = 1.0f;
    const qn_fisher_options options = {0};
    assert_ok(qn_fisher_measure(f->teacher, &f->text, &options, NULL, &f->fisher, err));
    f->job = (qni_prefix_job){.teacher = f->teacher,
                              .student = f->student,
                              .sequences = &f->text,
                              .choices = f->choices,
                              .embedding_metric = f->metric,
                              .store = &f->store,
                              .probe = &f->probe,
                              .fisher = &f->fisher,
                              .options = {.fit = qn_hessian_fit_defaults(),
                                          .student_inputs = true,
                                          .target_blend = 0.5,
                                          .target_ridge = 0.03,
                                          .tuning = k_tuning}};
    return f;
}

static void close_fixture(fixture *f) {
    for (int64_t i = 0; i < f->layout->n; i++) qni_plan_choice_release(&f->choices[i]);
    qn_fisher_release(&f->fisher);
    qn_model_close(f->student);
    qn_model_close(f->teacher);
    remove_tree(f->root);
    free(f->folder);
    free(f->root);
    free(f);
}

static void run_walk(fixture *f, int n_threads) {
    const qn_context ctx = {.n_threads = n_threads};
    assert_ok(qni_prefix_run(&f->job, &ctx, NULL, f->reports, err));
}

static void expect_given_back(const fixture *f) {
    for (int64_t i = 0; i < f->layout->n; i++)
        assert_ptr_equal(qn_model_weight(f->student, i),
                         qn_checkpoint_weight(qn_model_checkpoint(f->student), i));
}

/* ------------------------------------------------------------------------------------------- the store's student */

/* The student with what the last stages left in the store: BLOCKS of layers, REST of all else. */
typedef struct stored {
    qn_weight weights[MAX_ENTRIES];
    float *vectors[MAX_ENTRIES];
} stored;

static void lend_stored(fixture *f, qni_run_stage blocks, qni_run_stage rest, stored *s) {
    *s = (stored){0};
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *e = &f->layout->entries[i];
        const qni_run_stage stage = e->layer < 0 ? rest : blocks;
        bool found = false;
        if (e->is_matrix) {
            s->weights[i].kind = QN_WEIGHT_ENCODED;
            assert_ok(qni_matrix_store_load(&f->store, stage, i, e->name, &f->shapes[i], &found,
                                            &s->weights[i].encoded, NULL, err));
        } else if (stage != QNI_STAGE_FITTED) {
            s->vectors[i] = calloc((size_t)e->cols, sizeof(float));
            assert_ok(
                qni_vector_store_load(&f->store, stage, i, e->name, e->cols, &found, s->vectors[i], err));
            s->weights[i] = (qn_weight){
                .kind = QN_WEIGHT_DENSE,
                .dense = {.data = s->vectors[i], .dtype = QN_DTYPE_F32, .n_dims = 1, .shape = {e->cols}}};
        } else {
            continue;
        }
        assert_true(found);
        assert_ok(qn_model_set_weight(f->student, i, &s->weights[i], err));
    }
}

static void give_back_stored(fixture *f, stored *s) {
    for (int64_t i = 0; i < f->layout->n; i++) {
        assert_ok(qn_model_set_weight(f->student, i, NULL, err));
        if (s->weights[i].kind == QN_WEIGHT_ENCODED) qn_encoded_release(&s->weights[i].encoded);
        free(s->vectors[i]);
    }
}

/* KL at the teacher's head, on the probe. */
static double probe_kl(fixture *f) {
    const qn_context ctx = {.n_threads = 1};
    qni_probe probe = {0};
    double kl = -1.0;
    assert_ok(qni_probe_open(f->teacher, f->student, &f->probe, QN_COMPUTE_F32, &ctx, &probe, err));
    assert_ok(qni_probe_kl(&probe, 0, &kl, err));
    qni_probe_close(&probe);
    return kl;
}

/* The walk measured the divergence with the weights it went on with: the store's give the same, to the last bit, block after block. */
static void check_walk_is_store(qn_code native, int64_t window, bool soft) {
    fixture *f = open_fixture(native);
    stored s;
    f->job.options.tuning.window = window;
    f->job.options.tuning.tune.temperature = soft ? 0.4 : 0.0;
    run_walk(f, 1);
    expect_given_back(f);
    lend_stored(f, QNI_STAGE_TRAINED, QNI_STAGE_FITTED, &s);
    for (int64_t layer = N_LAYERS - 1; layer >= 0; layer--) {
        const qni_block_report *r = &f->reports[layer];
        print_message("block %d: %.4f -> %.4f, at the head %.4f -> %.4f%s\n", (int)layer, r->tune.first_loss,
                      r->tune.best_loss, r->fitted_kl, r->trained_kl, r->was_trap ? ", a trap" : "");
        assert_true(probe_kl(f) == (r->was_trap ? r->fitted_kl : r->trained_kl));
        assert_true(r->tune.best_loss <= r->tune.first_loss && !r->was_stored);
        for (int64_t i = 0; i < f->layout->n; i++) /* the blocks behind were the teacher's */
            if (f->layout->entries[i].layer == layer)
                assert_ok(qn_model_set_weight(f->student, i, NULL, err));
    }
    give_back_stored(f, &s);
    close_fixture(f);
}

static void test_the_walk_goes_on_with_what_is_stored(void **state) {
    (void)state;
    check_walk_is_store(QN_CODE_TERNARY, 1, false);
    check_walk_is_store(QN_CODE_SIGN, 2, true);
}

/* Evaluated parameters of each block and the bytes in the store: one and the same weights. */
static void test_trained_matrices_decode_to_what_was_evaluated(void **state) {
    (void)state;
    fixture *f = open_fixture(QN_CODE_TERNARY);
    run_walk(f, 1);
    for (int64_t layer = 0; layer < N_LAYERS; layer++) {
        const qn_encoded *fitted[MAX_ENTRIES];
        float *targets[MAX_ENTRIES] = {NULL};
        qn_encoded encoded[MAX_ENTRIES] = {{.rows = 0}};
        qn_trainable t;
        qn_trainable_mark mark;
        bool found = false;
        for (int64_t i = 0; i < f->layout->n; i++) {
            fitted[i] = &encoded[i];
            if (f->layout->entries[i].is_matrix)
                assert_ok(qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, i, f->layout->entries[i].name,
                                                &f->shapes[i], &found, &encoded[i], &targets[i], err));
        }
        assert_ok(qni_layer_trainable(f->teacher, layer, fitted, targets, &k_tuning.rates, NULL, &t, err));
        assert_ok(qni_trained_block_load(&f->store, layer, &t, &mark, &found, err));
        assert_true(found);
        qn_trainable_evaluate(&t, 0.0, NULL);
        for (int64_t p = 0; p < t.n_parts; p++) {
            const int64_t i = t.parts[p].entry;
            const qn_layout_entry *e = &f->layout->entries[i];
            const size_t n_bytes = (size_t)(e->rows * e->cols) * sizeof(float);
            float *w = malloc(n_bytes);
            qn_encoded packed = {0};
            if (e->is_matrix) {
                assert_ok(qni_matrix_store_load(&f->store, QNI_STAGE_TRAINED, i, e->name, &f->shapes[i],
                                                &found, &packed, NULL, err));
                qn_encoded_decode_rows(&packed, 0, e->rows, w);
            } else {
                assert_ok(
                    qni_vector_store_load(&f->store, QNI_STAGE_TRAINED, i, e->name, e->cols, &found, w, err));
            }
            assert_true(found);
            assert_memory_equal(w, t.parts[p].dense, n_bytes);
            qn_encoded_release(&packed);
            free(w);
        }
        qn_trainable_release(&t);
        for (int64_t i = 0; i < f->layout->n; i++) {
            qn_encoded_release(&encoded[i]);
            free(targets[i]);
        }
    }
    close_fixture(f);
}

/* ------------------------------------------------------------------------------------------- the same bytes */

static char **list_files(const char *folder, int *n) {
    char **names = NULL;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    *n = 0;
    for (const struct dirent *d = readdir(dir); d; d = readdir(dir)) {
        if (d->d_name[0] == '.') continue;
        names = realloc(names, (size_t)(*n + 1) * sizeof *names);
        assert_non_null(names);
        names[(*n)++] = strdup(d->d_name);
    }
    closedir(dir);
    return names;
}

static void free_names(char **names, int n) {
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}

/* Store B has the files of A, in the same bytes, and no other. */
static void expect_same_stores(const fixture *f, const char *a, const char *b) {
    char *folder_a = path_in(f->root, a), *folder_b = path_in(f->root, b);
    int n = 0;
    char **names = list_files(folder_a, &n);
    assert_int_equal(count_entries(folder_b), n);
    for (int i = 0; i < n; i++) {
        size_t n_x = 0, n_y = 0;
        char *path_x = path_in(folder_a, names[i]), *path_y = path_in(folder_b, names[i]);
        char *x = load_file(path_x, &n_x), *y = load_file(path_y, &n_y);
        if (n_x != n_y || memcmp(x, y, n_x) != 0) fail_msg("%s differs between %s and %s", names[i], a, b);
        free(x);
        free(y);
        free(path_x);
        free(path_y);
    }
    free_names(names, n);
    free(folder_a);
    free(folder_b);
}

/* Removes each STEPth file from the FIRSTth on whose name begins with PREFIX. */
static int remove_some(const fixture *f, const char *prefix, int first, int step) {
    int n = 0, n_matching = 0, n_removed = 0;
    char **names = list_files(f->folder, &n);
    for (int i = 0; i < n; i++) {
        if (strncmp(names[i], prefix, strlen(prefix)) != 0 || n_matching++ % step != first) continue;
        char *path = path_in(f->folder, names[i]);
        assert_int_equal(unlink(path), 0);
        free(path);
        n_removed++;
    }
    free_names(names, n);
    return n_removed;
}

static void test_threads_change_nothing(void **state) {
    (void)state;
    fixture *f = open_fixture(QN_CODE_SIGN);
    f->job.options.tuning.fisher_weights = true;
    f->job.options.tuning.huber = 3.0;
    f->job.options.tuning.student_inputs = false;
    run_walk(f, 1);
    use_store(f, "three");
    run_walk(f, 3);
    expect_same_stores(f, "store", "three");
    close_fixture(f);
}

/* A stored block's report is that of the run that trained it. */
static void expect_stored_report(const qni_block_report *r, const qni_block_report *first) {
    assert_true(r->was_stored && r->was_trap == first->was_trap && r->tune.diverged == first->tune.diverged);
    assert_true(r->tune.steps == first->tune.steps && r->tune.best_step == first->tune.best_step);
    assert_true(r->tune.first_loss == first->tune.first_loss && r->tune.best_loss == first->tune.best_loss);
    assert_true(r->fitted_kl == first->fitted_kl && r->trained_kl == first->trained_kl);
}

/* Files of any stage may go: what is left is taken, the rest is made again. */
static void test_lost_files_are_made_again(void **state) {
    (void)state;
    static const char *const prefixes[] = {"trained-", "block-", "matrix-", ""};
    fixture *f = open_fixture(QN_CODE_TERNARY);
    run_walk(f, 1);
    qni_block_report first[N_LAYERS];
    memcpy(first, f->reports, sizeof first);
    use_store(f, "again");
    run_walk(f, 1);
    expect_same_stores(f, "store", "again");
    for (int k = 0; k < 4; k++) {
        assert_true(remove_some(f, prefixes[k], k % 2, 3) > 0);
        run_walk(f, 2);
        expect_same_stores(f, "store", "again");
    }
    f->ids[0] = -1; /* nobody walks any more */
    run_walk(f, 1);
    for (int l = 0; l < N_LAYERS; l++) expect_stored_report(&f->reports[l], &first[l]);
    close_fixture(f);
}

typedef struct patience {
    int left;
} patience;

static bool is_cancelled(void *user) {
    patience *p = user;
    return p->left-- <= 0;
}

/* Stopped at more and more polls, within fits and within training. */
static void test_stopped_and_taken_up(void **state) {
    (void)state;
    fixture *f = open_fixture(QN_CODE_TERNARY);
    run_walk(f, 1);
    use_store(f, "stopped");
    int n_stops = 0, n_in_training = 0;
    for (int checks = 9;; checks += 9) {
        patience p = {checks};
        const qn_context ctx = {.n_threads = 1, .is_cancelled = is_cancelled, .user = &p};
        const qn_status status = qni_prefix_run(&f->job, &ctx, NULL, NULL, NULL);
        expect_given_back(f);
        if (status == QN_OK) break;
        assert_int_equal(status, QN_E_CANCELLED);
        int n = 0;
        char **names = list_files(f->folder, &n);
        for (int i = 0; i < n; i++) n_in_training += strncmp(names[i], "training-", 9) == 0;
        free_names(names, n);
        n_stops++;
    }
    assert_true(n_stops > 3 && n_in_training > 1);
    expect_same_stores(f, "store", "stopped");
    close_fixture(f);
}

static void test_files_of_another_run(void **state) {
    (void)state;
    fixture *f = open_fixture(QN_CODE_TERNARY);
    run_walk(f, 1);
    char *path = path_in(f->folder, "block-blocks-00001.safetensors");
    assert_int_equal(access(path, F_OK), 0);
    write_test_file(f->folder, "block-blocks-00001.safetensors", "damaged", 7);
    assert_error(qni_prefix_run(&f->job, NULL, NULL, NULL, err), QN_E_FORMAT, "block-blocks-00001");
    expect_given_back(f);
    /* Another run of this stage in the same folder: other files, the same fits. */
    snprintf(f->store.keys[QNI_STAGE_TRAINED], QN_SHA256_HEX, "other");
    f->job.options.tuning.tune.seed++;
    run_walk(f, 1);
    for (int l = 0; l < N_LAYERS; l++) assert_false(f->reports[l].was_stored);
    free(path);
    close_fixture(f);
}

/* ------------------------------------------------------------------------------------------- traps */

/* A block that is led astray: its target is not the teacher's stream, so that the nearer it comes the farther the head is. */
static void test_a_trap_is_left(void **state) {
    (void)state;
    fixture *f = open_fixture(QN_CODE_TERNARY);
    const qn_context ctx = {.n_threads = 1};
    qni_block_report report;
    qni_probe probe = {0};
    qn_trainable t;
    bool found = false;
    const qn_encoded *fitted[MAX_ENTRIES];
    float *targets[MAX_ENTRIES] = {NULL}, *stream = malloc(sizeof f->ids * H),
          *astray = malloc(sizeof f->ids * H);
    qn_encoded encoded[MAX_ENTRIES] = {{.rows = 0}};
    run_walk(f, 1); /* the fits of block 0 */
    assert_true(remove_some(f, "block-", 0, 1) == N_LAYERS && remove_some(f, "trained-", 0, 1) > 0);
    for (int64_t i = 0; i < f->layout->n; i++) {
        fitted[i] = &encoded[i];
        if (f->layout->entries[i].is_matrix)
            assert_ok(qni_matrix_store_load(&f->store, QNI_STAGE_FITTED, i, f->layout->entries[i].name,
                                            &f->shapes[i], &found, &encoded[i], &targets[i], err));
    }
    qn_stepper *stepper = NULL;
    assert_ok(qn_stepper_open(f->teacher, &f->text, QN_COMPUTE_F32, NULL, &stepper, err));
    assert_ok(qn_stepper_embed(stepper, stream, err));
    qn_stepper_close(stepper);
    for (int i = 0; i < N * LENGTH * H; i++)
        astray[i] = i < (N - N_PROBE) * LENGTH * H ? -2.0f * stream[i] : 0.0f;
    assert_ok(qni_layer_trainable(f->teacher, 0, fitted, targets, &k_tuning.rates, NULL, &t, err));
    float *begin = malloc((size_t)t.n_floats * sizeof *begin),
          *end = malloc((size_t)t.n_floats * sizeof *end);
    qn_trainable_copy(&t, begin);
    assert_ok(qni_probe_open(f->teacher, f->student, &f->probe, QN_COMPUTE_F32, &ctx, &probe, err));
    qni_block_tuning tuning = k_tuning;
    tuning.tune.lr = 0.1;
    const qni_block_job job = {.tuning = &tuning,
                               .store = &f->store,
                               .sequences = &f->text,
                               .teacher = f->teacher,
                               .student = f->student,
                               .probe = &probe,
                               .stream = stream,
                               .target = astray};
    assert_ok(qni_tune_block(&job, &t, &ctx, &report, err));
    print_message("distance %.4f -> %.4f, at the head %.4f -> %.4f\n", report.tune.first_loss,
                  report.tune.best_loss, report.fitted_kl, report.trained_kl);
    assert_true(report.tune.best_loss < report.tune.first_loss && report.trained_kl > report.fitted_kl);
    assert_true(report.was_trap);
    expect_given_back(f);
    qn_trainable_copy(&t, end);
    assert_memory_equal(begin, end, (size_t)t.n_floats * sizeof *end);
    for (int64_t i = 0; i < f->layout->n; i++) { /* and its codes are those of the fit */
        const qn_layout_entry *e = &f->layout->entries[i];
        qn_encoded packed = {0};
        if (!e->is_matrix || e->layer != 0) continue;
        assert_ok(qni_matrix_store_load(&f->store, QNI_STAGE_TRAINED, i, e->name, &f->shapes[i], &found,
                                        &packed, NULL, err));
        assert_true(found);
        assert_memory_equal(packed.data, encoded[i].data, (size_t)qn_encoded_bytes(&packed));
        qn_encoded_release(&packed);
    }
    assert_ok(qni_tune_block(&job, &t, &ctx, &report, err)); /* it stays judged */
    assert_true(report.was_stored && report.was_trap && report.trained_kl > report.fitted_kl);
    qn_trainable_copy(&t, end);
    assert_memory_equal(begin, end, (size_t)t.n_floats * sizeof *end);
    for (int64_t i = 0; i < f->layout->n; i++) {
        qn_encoded_release(&encoded[i]);
        free(targets[i]);
    }
    qni_probe_close(&probe);
    qn_trainable_release(&t);
    free(begin);
    free(end);
    free(stream);
    free(astray);
    close_fixture(f);
}

/* ------------------------------------------------------------------------------------------- the whole model */

static const qni_model_tuning k_model_tuning = {.tune = {.steps = 40,
                                                         .batch = 8,
                                                         .lr = 0.004,
                                                         .min_lr_ratio = 0.05,
                                                         .validation_part = 0.125,
                                                         .validations = 4,
                                                         .seed = 5,
                                                         .save_every = 5},
                                                .rates = {1.0, 0.5, 0.0, 0.25},
                                                .trained_codes = true,
                                                .kl_weight = 1.0,
                                                .top_k = 16};

static qni_model_job model_job(fixture *f, const qni_model_tuning *tuning) {
    return (qni_model_job){.tuning = tuning,
                           .teacher = f->teacher,
                           .student = f->student,
                           .sequences = &f->text,
                           .shapes = f->shapes,
                           .store = &f->store,
                           .blocks_are_trained = f->job.options.tuning.tune.steps > 0};
}

static qn_tune_report tune_model(fixture *f, const qni_model_tuning *tuning, int n_threads) {
    const qni_model_job job = model_job(f, tuning);
    const qn_context ctx = {.n_threads = n_threads};
    qn_tune_report report;
    assert_ok(qni_tune_model(&job, &ctx, &report, err));
    expect_given_back(f);
    return report;
}

/* KL at each model's own head, on the text: how much of it is kept on other text is a matter of much text (test_finetune.c). */
static double whole_kl(const fixture *f) {
    const qn_walk_options options = {.compute = QN_COMPUTE_F32};
    float *teacher = malloc(sizeof(float) * (N - N_PROBE) * LENGTH * H),
          *student = malloc(sizeof(float) * (N - N_PROBE) * LENGTH * H);
    double kl = -1.0;
    assert_ok(qn_walk(f->teacher, &f->text, &options, NULL, teacher, NULL, err));
    assert_ok(qn_walk(f->student, &f->text, &options, NULL, student, NULL, err));
    assert_ok(qn_head_kl(f->teacher, teacher, f->student, student, (N - N_PROBE) * LENGTH, QN_COMPUTE_F32,
                         NULL, &kl, err));
    free(teacher);
    free(student);
    return kl;
}

/* The student as stored diverges less from the teacher than that of the stage before; and again to the same bytes. */
static void check_model(bool are_blocks_trained) {
    fixture *f = open_fixture(QN_CODE_TERNARY);
    const qni_run_stage before = are_blocks_trained ? QNI_STAGE_TRAINED : QNI_STAGE_FITTED;
    double kl[2];
    stored s;
    if (!are_blocks_trained) f->job.options.tuning.tune.steps = 0;
    f->job.options.keep_targets = true;
    run_walk(f, 1);
    const qn_tune_report r = tune_model(f, &k_model_tuning, 1);
    assert_true(r.best_step > 0 && r.best_loss < r.first_loss);
    lend_stored(f, before, QNI_STAGE_FITTED, &s);
    kl[0] = whole_kl(f);
    give_back_stored(f, &s);
    lend_stored(f, QNI_STAGE_TUNED, QNI_STAGE_TUNED, &s);
    kl[1] = whole_kl(f);
    give_back_stored(f, &s);
    print_message("whole model: %.4f -> %.4f, on all text %.4f -> %.4f\n", r.first_loss, r.best_loss, kl[0],
                  kl[1]);
    assert_true(kl[1] < kl[0]);

    use_store(f, "again");
    run_walk(f, 1);
    (void)tune_model(f, &k_model_tuning, 3);
    expect_same_stores(f, "store", "again");
    assert_true(remove_some(f, "tuned-", 1, 2) > 0);
    const qn_tune_report again = tune_model(f, &k_model_tuning, 1); /* what was said when it was tuned */
    assert_true(again.steps == r.steps && again.best_step == r.best_step);
    assert_true(again.first_loss == r.first_loss && again.best_loss == r.best_loss);
    expect_same_stores(f, "store", "again");
    close_fixture(f);
}

static void test_the_whole_model(void **state) {
    (void)state;
    check_model(true);
    check_model(false);
}

static void test_a_stopped_model_goes_on(void **state) {
    (void)state;
    fixture *f = open_fixture(QN_CODE_TERNARY);
    const qni_model_job job = model_job(f, &k_model_tuning);
    int n_stops = 0;
    run_walk(f, 1);
    (void)tune_model(f, &k_model_tuning, 1);
    use_store(f, "stopped");
    run_walk(f, 1);
    for (int checks = 4;; checks += 19, n_stops++) {
        patience p = {checks};
        const qn_context ctx = {.n_threads = 1, .is_cancelled = is_cancelled, .user = &p};
        qn_tune_report report;
        const qn_status status = qni_tune_model(&job, &ctx, &report, NULL);
        expect_given_back(f);
        if (status == QN_OK) break;
        assert_int_equal(status, QN_E_CANCELLED);
    }
    assert_true(n_stops > 1);
    expect_same_stores(f, "store", "stopped");
    close_fixture(f);
}

/* Frozen codes are those of the blocks' training; scales and norms are not. */
static void test_frozen_codes(void **state) {
    (void)state;
    fixture *f = open_fixture(QN_CODE_TERNARY);
    qni_model_tuning tuning = k_model_tuning;
    tuning.rates.latent_rate = 0.0;
    tuning.rates.scale_rate = 1.0;
    tuning.trained_codes = false;
    run_walk(f, 1);
    assert_true(tune_model(f, &tuning, 1).best_step > 0);
    for (int64_t i = 0; i < f->layout->n; i++) {
        const qn_layout_entry *e = &f->layout->entries[i];
        qn_encoded packed[2] = {{.rows = 0}};
        qn_banded banded[2] = {{.rows = 0}};
        bool found = false;
        if (!e->is_matrix) continue;
        for (int k = 0; k < 2; k++) {
            const qni_run_stage stage = k              ? QNI_STAGE_TUNED
                                        : e->layer < 0 ? QNI_STAGE_FITTED
                                                       : QNI_STAGE_TRAINED;
            assert_ok(qni_matrix_store_load(&f->store, stage, i, e->name, &f->shapes[i], &found, &packed[k],
                                            NULL, err));
            assert_ok(qn_banded_unpack(&packed[k], &banded[k], err));
        }
        assert_memory_not_equal(packed[0].data, packed[1].data, (size_t)qn_encoded_bytes(&packed[0]));
        for (int b = 0; b < banded[0].n_bands; b++)
            for (int p = 0; p < banded[0].bands[b].spec.n_planes; p++)
                assert_memory_equal(banded[0].bands[b].planes[p].q, banded[1].bands[b].planes[p].q,
                                    (size_t)(banded[0].bands[b].rows * banded[0].bands[b].cols));
        for (int k = 0; k < 2; k++) {
            qn_encoded_release(&packed[k]);
            qn_banded_release(&banded[k]);
        }
    }
    close_fixture(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_walk_goes_on_with_what_is_stored),
        cmocka_unit_test(test_trained_matrices_decode_to_what_was_evaluated),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_lost_files_are_made_again),
        cmocka_unit_test(test_stopped_and_taken_up),
        cmocka_unit_test(test_files_of_another_run),
        cmocka_unit_test(test_a_trap_is_left),
        cmocka_unit_test(test_the_whole_model),
        cmocka_unit_test(test_a_stopped_model_goes_on),
        cmocka_unit_test(test_frozen_codes),
    };
    return cmocka_run_group_tests_name("recipe block tuning", tests, NULL, NULL);
}
