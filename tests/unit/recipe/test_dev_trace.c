/* Perplexity on dev as a run goes on: what it is kept to, whose blocks it is of, and when. */
#include "expect_error.h"
#include "tiny_model.h"

#include "quern/checkpoint/layout.h"
#include "quern/model/score.h"
#include "recipe/dev_trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, VOCAB = 257, N_IDS = 600, WINDOW = 50, N_WINDOWS = N_IDS / WINDOW };
/* Sums in other orders: the same f32 losses, added in double. */
static const double k_tolerance = 1e-9;

typedef struct fixture {
    char *folder;
    qn_model *teacher, *student;
    qn_weight weight; /* lent to the student */
    float *zeros;
} fixture;

static int set_up(void **state) {
    fixture *f = calloc(1, sizeof *f);
    f->folder = make_temporary_folder();
    write_tiny_model(f->folder, &(tiny_options){.layers = LAYERS, .vocab = VOCAB, .tied = true});
    assert_ok(qn_model_open(f->folder, &f->teacher, err));
    assert_ok(qn_model_open(f->folder, &f->student, err));
    *state = f;
    return 0;
}

static int tear_down(void **state) {
    fixture *f = *state;
    qn_model_close(f->teacher);
    qn_model_close(f->student);
    remove_tree(f->folder);
    free(f->folder);
    free(f->zeros);
    free(f);
    return 0;
}

/* LENGTH ids each; all but the first of a window are targets. */
static qn_windows make_windows(int64_t n_windows, int64_t length) {
    qn_windows w = {
        .n_ids = n_windows * length, .n_windows = n_windows, .n_targets = n_windows * (length - 1)};
    w.ids = malloc(sizeof *w.ids * (size_t)w.n_ids);
    w.windows = malloc(sizeof *w.windows * (size_t)n_windows);
    for (int64_t i = 0; i < w.n_ids; i++) w.ids[i] = (int32_t)((i * 37 + i / 5) % VOCAB);
    for (int64_t i = 0; i < n_windows; i++) w.windows[i] = (qn_window){i * length, length, 1};
    w.target_bytes = w.n_targets;
    return w;
}

static qni_dev_trace *open_trace(const fixture *f, int64_t n_windows, int64_t length, int64_t every) {
    qn_windows windows = make_windows(n_windows, length);
    qni_dev_trace *trace = NULL;
    assert_ok(qni_dev_trace_open(f->teacher, &windows, every, NULL, &trace, err));
    assert_null(windows.ids); /* taken */
    return trace;
}

static double score(const qn_model *model, int64_t n_windows, int64_t length) {
    qn_windows windows = make_windows(n_windows, length);
    qn_score_result result;
    assert_ok(qn_score(model, &windows, QN_COMPUTE_F32, NULL, NULL, &result, err));
    qn_windows_release(&windows);
    return result.perplexity;
}

static void expect_near(double a, double b) {
    if (!(fabs(a - b) <= k_tolerance * b)) fail_msg("%.12g, want %.12g", a, b);
}

/* The student loses the output of block LAYER's MLP. */
static void damage(fixture *f, int64_t layer) {
    const qn_layout *layout = qn_checkpoint_layout(qn_model_checkpoint(f->student));
    const int64_t entry = qn_layout_find(layout, QN_TENSOR_DOWN, layer);
    const int64_t rows = layout->entries[entry].rows, cols = layout->entries[entry].cols;
    free(f->zeros);
    f->zeros = calloc((size_t)(rows * cols), sizeof *f->zeros);
    f->weight =
        (qn_weight){.kind = QN_WEIGHT_DENSE,
                    .dense = {.data = f->zeros, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {rows, cols}}};
    assert_ok(qn_model_set_weight(f->student, entry, &f->weight, err));
}

static void walk(fixture *f, qni_dev_trace *trace) {
    const qn_context ctx = {.n_threads = 2};
    const qn_sequences sequences = qni_window_batch_sequences(&trace->batch);
    qni_probe probe = {0};
    assert_ok(qni_probe_open(f->teacher, f->student, &sequences, QN_COMPUTE_F32, &ctx, &probe, err));
    for (int64_t l = 0; l < LAYERS; l++) {
        assert_ok(qni_probe_pass(&probe, l, err));
        assert_ok(qni_dev_trace_block(trace, &probe, l, &ctx, err));
    }
    qni_probe_close(&probe);
}

/* Of the teacher's own blocks nothing but the teacher's perplexity can come, of a changed one that of the model that has it. */
static void test_blocks_are_those_of_the_student_so_far(void **state) {
    fixture *f = *state;
    const double own = score(f->teacher, N_WINDOWS, WINDOW);
    damage(f, 1);
    const double damaged = score(f->student, N_WINDOWS, WINDOW);
    assert_true(fabs(damaged / own - 1.0) > 1e-4); /* there is something to see */
    qni_dev_trace *trace = open_trace(f, N_WINDOWS, WINDOW, 1);
    double model = 0.0;
    expect_near(trace->report.teacher, own);
    walk(f, trace);
    assert_int_equal(trace->report.n_blocks, LAYERS);
    expect_near(trace->report.blocks[LAYERS - 1], damaged);
    expect_near(trace->report.blocks[1], damaged);
    assert_ok(qni_dev_trace_model(trace, f->student, NULL, &model, err));
    expect_near(model, damaged);
    qni_dev_trace_close(trace);
}

static void test_every_other_block(void **state) {
    fixture *f = *state;
    qni_dev_trace *trace = open_trace(f, N_WINDOWS, WINDOW, 2);
    walk(f, trace);
    assert_true(trace->report.blocks[0] == 0.0 && trace->report.blocks[2] == 0.0);
    expect_near(trace->report.blocks[1], trace->report.teacher);
    qni_dev_trace_close(trace);
}

/* As many whole windows as fit, one at least. */
static void test_some_windows_are_enough(void **state) {
    enum { LENGTH = 500, KEPT = QN_DEV_TOKENS / LENGTH };
    fixture *f = *state;
    qni_dev_trace *trace = open_trace(f, KEPT + 3, LENGTH, 1);
    assert_int_equal(trace->report.n_tokens, KEPT * LENGTH);
    assert_int_equal(trace->report.n_targets, KEPT * (LENGTH - 1));
    expect_near(trace->report.teacher, score(f->teacher, KEPT, LENGTH));
    qni_dev_trace_close(trace);
    trace = open_trace(f, 1, QN_DEV_TOKENS + 8, 1);
    assert_int_equal(trace->report.n_tokens, QN_DEV_TOKENS + 8);
    qni_dev_trace_close(trace);
    qni_dev_trace_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_blocks_are_those_of_the_student_so_far, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_every_other_block, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_some_windows_are_enough, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
