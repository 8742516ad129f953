/* A window of blocks against a target stream: the loss is that of the stepper's outputs, gradients are its slopes, and neither
 * threads nor kept activations change a byte. */
#include "gradient_support.h"
#include "quern/model/stepper.h"
#include "quern/model/window_gradient.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t k_starts[] = {0, 1, 8, 8, 21, 30}; /* lengths 1, 7, 0, 13, 9 */
enum { N_SEQUENCES = 5, T = 30, VOCAB = 61, H = 24, N_LAYERS = 3 };

/* Both sums are in double over the same f32 outputs; kernels of one walk and the other add up alike. */
#define LOSS_TOLERANCE 1e-6

/* Central differences along a direction that holds the gradient, at two steps, their third order taken out: with the longer step the
 * loss moves by about four thousandths, far above the 1e-7 or so to which f32 activations leave it sure. */
#define SLOPE_TOLERANCE 5e-4
#define LOSS_MOVES      0.004

/* Two orders of some 2000 products in f32. */
#define GAIN_TOLERANCE 1e-5

typedef struct fixture {
    char *folder;
    float_model m;
    int32_t ids[T];
    qn_sequences sequences;
    float stream[T * H], target[T * H], weights[H];
    qn_window_options options;
} fixture;

static qn_stepper *open_stepper(fixture *f, float *stream) {
    qn_stepper *stepper = NULL;
    assert_ok(qn_stepper_open(f->m.model, &f->sequences, QN_COMPUTE_F32, NULL, &stepper, err));
    assert_ok(qn_stepper_embed(stepper, stream, err));
    return stepper;
}

/* The stream in front of the window, and one that its output misses by a tenth of its size, at some places by much more. */
static void make_streams(fixture *f) {
    qn_stepper *stepper = open_stepper(f, f->stream);
    for (int64_t l = 0; l < f->options.first_layer; l++)
        assert_ok(qn_stepper_block(stepper, l, f->stream, err));
    memcpy(f->target, f->stream, sizeof f->target);
    for (int64_t l = 0; l < f->options.n_layers; l++)
        assert_ok(qn_stepper_block(stepper, f->options.first_layer + l, f->target, err));
    qn_stepper_close(stepper);
    double sum = 0.0;
    for (int i = 0; i < T * H; i++) sum += (double)f->target[i] * (double)f->target[i];
    const double size = sqrt(sum / (T * H));
    for (int i = 0; i < T * H; i++)
        f->target[i] += (float)(size * (i % 37 == 5 ? 1.5 : 0.1) * sin(1.3 * i + 0.001 * i * i));
    f->options.huber_delta = 0.0;
    for (int j = 0; j < H; j++) f->weights[j] = 0.25f + (float)(j % 5);
}

static fixture *open_fixture(int64_t first_layer, int64_t n_layers) {
    fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->folder = make_temporary_folder();
    write_tiny_model(f->folder, &(tiny_options){.vocab = VOCAB,
                                                .hidden = H,
                                                .intermediate = 40,
                                                .layers = N_LAYERS,
                                                .attention_bias = true,
                                                .dtype = "F32"});
    f->m = float_model_open(f->folder);
    for (int i = 0; i < T; i++) f->ids[i] = (i * i * 7 + 3 * i + 2) % VOCAB;
    f->sequences = (qn_sequences){.ids = f->ids, .starts = k_starts, .n = N_SEQUENCES};
    f->options = (qn_window_options){.first_layer = first_layer, .n_layers = n_layers, .scale = 1.0};
    make_streams(f);
    return f;
}

static void close_fixture(fixture *f) {
    float_model_close(&f->m);
    remove_tree(f->folder);
    free(f->folder);
    free(f);
}

static double loss_of(const fixture *f, int n_threads, qn_gradients *gradients) {
    const qn_context ctx = {.n_threads = n_threads};
    double loss = -1.0;
    assert_ok(qn_window_gradient(f->m.model, &f->sequences, f->stream, f->target, &f->options, &ctx,
                                 gradients, &loss, err));
    return loss;
}

static qn_gradients zero_gradients(const fixture *f) {
    qn_gradients gradients = {0};
    assert_ok(qn_gradients_alloc(f->m.layout, &gradients, err));
    return gradients;
}

static bool is_inside(const fixture *f, int64_t entry) {
    const int64_t layer = f->m.layout->entries[entry].layer;
    return layer >= f->options.first_layer && layer < f->options.first_layer + f->options.n_layers;
}

/* The kinds of loss, by number. */
enum { N_KINDS = 4 };
static void set_kind(fixture *f, int kind) {
    double sum = 0.0;
    for (int i = 0; i < T * H; i++) sum += (double)f->target[i] * (double)f->target[i];
    f->options.huber_delta = kind & 1 ? 0.15 * sqrt(sum / (T * H)) : 0.0; /* some errors on either side */
    f->options.channel_weights = kind & 2 ? f->weights : NULL;
}

/* ---- the loss ---- */

static double stepper_loss(fixture *f, int *n_far) {
    static float y[T * H], unused[T * H];
    const double delta = f->options.huber_delta;
    double sum = 0.0;
    qn_stepper *stepper = open_stepper(f, unused);
    memcpy(y, f->stream, sizeof y);
    for (int64_t l = 0; l < f->options.n_layers; l++)
        assert_ok(qn_stepper_block(stepper, f->options.first_layer + l, y, err));
    qn_stepper_close(stepper);
    *n_far = 0;
    for (int i = 0; i < T * H; i++) {
        const double e = fabs((double)y[i] - (double)f->target[i]);
        const double w = f->options.channel_weights ? (double)f->weights[i % H] : 1.0;
        const bool is_far = delta > 0.0 && e > delta;
        *n_far += is_far;
        sum += w * (is_far ? 2.0 * delta * e - delta * delta : e * e);
    }
    return sum;
}

static void test_the_loss_is_that_of_the_steppers_outputs(void **state) {
    (void)state;
    for (int64_t n = 1; n <= N_LAYERS; n++) {
        fixture *f = open_fixture(N_LAYERS - n, n);
        for (int kind = 0; kind < N_KINDS; kind++) {
            int n_far;
            set_kind(f, kind);
            const double want = stepper_loss(f, &n_far), got = loss_of(f, 1, NULL);
            assert_true(kind & 1 ? n_far > 10 && n_far < T * H / 2 : n_far == 0);
            assert_true(fabs(got / want - 1.0) <= LOSS_TOLERANCE);
        }
        close_fixture(f);
    }
}

static void test_without_gradients_the_same_loss(void **state) {
    (void)state;
    fixture *f = open_fixture(1, 2);
    qn_gradients gradients = zero_gradients(f);
    for (int kind = 0; kind < N_KINDS; kind++) {
        set_kind(f, kind);
        assert_true(loss_of(f, 1, NULL) == loss_of(f, 1, &gradients));
    }
    qn_gradients_release(&gradients);
    close_fixture(f);
}

/* ---- gradients ---- */

/* A direction for one tensor: its gradient and as much of something else. Returns the slope that the gradient promises. */
static double make_direction(const float *g, int64_t n, double *direction) {
    double size = 0.0, other = 0.0, slope = 0.0;
    for (int64_t i = 0; i < n; i++) {
        size += (double)g[i] * (double)g[i];
        other += sin(2.1 * (double)i + 0.7) * sin(2.1 * (double)i + 0.7);
    }
    assert_true(size > 0.0);
    for (int64_t i = 0; i < n; i++) {
        direction[i] = (double)g[i] / sqrt(size) + sin(2.1 * (double)i + 0.7) / sqrt(other);
        slope += (double)g[i] * direction[i];
    }
    return slope;
}

static double loss_along(const fixture *f, int64_t entry, const double *direction, const float *kept,
                         double step) {
    float *values = f->m.values[entry];
    const int64_t n = entry_size(f->m.layout, entry);
    for (int64_t i = 0; i < n; i++) values[i] = (float)((double)kept[i] + step * direction[i]);
    const double loss = loss_of(f, 1, NULL);
    memcpy(values, kept, (size_t)n * sizeof *kept);
    return loss;
}

static double slope_along(const fixture *f, int64_t entry, const double *direction, const float *kept,
                          double step) {
    return (loss_along(f, entry, direction, kept, step) - loss_along(f, entry, direction, kept, -step)) /
           (2.0 * step);
}

static void check_slope(const fixture *f, int64_t entry, const float *g, double loss) {
    const int64_t n = entry_size(f->m.layout, entry);
    double *direction = malloc((size_t)n * sizeof *direction);
    float *kept = malloc((size_t)n * sizeof *kept);
    assert_true(direction && kept);
    memcpy(kept, f->m.values[entry], (size_t)n * sizeof *kept);
    const double want = make_direction(g, n, direction), step = LOSS_MOVES * loss / want;
    const double got = (4.0 * slope_along(f, entry, direction, kept, step / 2) -
                        slope_along(f, entry, direction, kept, step)) /
                       3.0;
    if (!(fabs(got / want - 1.0) <= SLOPE_TOLERANCE))
        fail_msg("%s: the loss rises by %.9g, its gradient says %.9g", f->m.layout->entries[entry].name, got,
                 want);
    free(direction);
    free(kept);
}

static void check_slopes(int64_t first_layer, int64_t n_layers) {
    fixture *f = open_fixture(first_layer, n_layers);
    for (int kind = 0; kind < N_KINDS; kind++) {
        qn_gradients gradients = zero_gradients(f);
        set_kind(f, kind);
        const double loss = loss_of(f, 1, &gradients);
        for (int64_t e = 0; e < f->m.layout->n; e++)
            if (is_inside(f, e)) check_slope(f, e, gradients.per_entry[e], loss);
        qn_gradients_release(&gradients);
    }
    close_fixture(f);
}

static void test_gradients_are_the_slopes_of_the_loss(void **state) {
    (void)state;
    check_slopes(0, 1);
    check_slopes(2, 1);
    check_slopes(0, 2);
    check_slopes(1, 2);
}

static void test_entries_outside_of_the_window_are_not_touched(void **state) {
    (void)state;
    fixture *f = open_fixture(1, 1);
    qn_gradients gradients = zero_gradients(f);
    const float mark = 7.0f;
    int n_outside = 0;
    for (int64_t e = 0; e < f->m.layout->n; e++)
        for (int64_t i = 0; i < entry_size(f->m.layout, e); i++) gradients.per_entry[e][i] = mark;
    (void)loss_of(f, 2, &gradients);
    for (int64_t e = 0; e < f->m.layout->n; e++) {
        bool is_marked = true;
        for (int64_t i = 0; i < entry_size(f->m.layout, e); i++)
            is_marked &= gradients.per_entry[e][i] == mark;
        assert_true(is_marked == !is_inside(f, e));
        n_outside += is_marked;
    }
    assert_true(n_outside > 3); /* both other blocks, embedding, head, norm */
    qn_gradients_release(&gradients);
    close_fixture(f);
}

/* A second call adds; a power of two as scale changes exponents alone. */
static void test_gradients_add_up_and_scale(void **state) {
    (void)state;
    fixture *f = open_fixture(0, 2);
    qn_gradients once = zero_gradients(f), twice = zero_gradients(f), scaled = zero_gradients(f);
    (void)loss_of(f, 1, &once);
    (void)loss_of(f, 1, &twice);
    (void)loss_of(f, 1, &twice);
    f->options.scale = 0.25;
    (void)loss_of(f, 1, &scaled);
    for (int64_t e = 0; e < f->m.layout->n; e++) {
        const int64_t n = entry_size(f->m.layout, e);
        for (int64_t i = 0; i < n; i++) {
            assert_true(scaled.per_entry[e][i] == 0.25f * once.per_entry[e][i]);
            once.per_entry[e][i] *= 2.0f;
        }
        if (is_inside(f, e))
            assert_true(relative_distance(twice.per_entry[e], once.per_entry[e], n) <= LOSS_TOLERANCE);
    }
    qn_gradients_release(&once);
    qn_gradients_release(&twice);
    qn_gradients_release(&scaled);
    close_fixture(f);
}

/* The gradients without that of the window's first k_proj: its input norm's gain then needs the gradient in front of the projections. */
static qn_gradients gradients_the_plain_way(const fixture *f) {
    qn_gradients gradients = {0};
    bool *wanted = calloc((size_t)f->m.layout->n, sizeof *wanted);
    assert_non_null(wanted);
    for (int64_t e = 0; e < f->m.layout->n; e++) wanted[e] = true;
    wanted[qn_layout_find(f->m.layout, QN_TENSOR_K, f->options.first_layer)] = false;
    assert_ok(qn_gradients_alloc_some(f->m.layout, wanted, &gradients, err));
    free(wanted);
    (void)loss_of(f, 1, &gradients);
    return gradients;
}

/* Both ways to the gain's gradient lead there; where a gain is 0 there is only the plain one. */
static void test_the_gain_of_the_first_norm(void **state) {
    (void)state;
    fixture *f = open_fixture(1, 1);
    const int64_t norm = qn_layout_find(f->m.layout, QN_TENSOR_INPUT_NORM, 1);
    for (int zeros = 0; zeros < 2; zeros++) {
        if (zeros) f->m.values[norm][5] = 0.0f;
        qn_gradients gradients = zero_gradients(f), plain = gradients_the_plain_way(f);
        (void)loss_of(f, 1, &gradients);
        assert_true(relative_distance(gradients.per_entry[norm], plain.per_entry[norm], H) <= GAIN_TOLERANCE);
        const bool are_equal =
            memcmp(gradients.per_entry[norm], plain.per_entry[norm], H * sizeof(float)) == 0;
        assert_true(are_equal == (zeros == 1));
        qn_gradients_release(&gradients);
        qn_gradients_release(&plain);
    }
    close_fixture(f);
}

static void expect_same_gradients(const fixture *f, const qn_gradients *a, const qn_gradients *b) {
    for (int64_t e = 0; e < f->m.layout->n; e++)
        assert_memory_equal(a->per_entry[e], b->per_entry[e],
                            (size_t)entry_size(f->m.layout, e) * sizeof(float));
}

static void test_threads_and_memory_change_no_byte(void **state) {
    (void)state;
    fixture *f = open_fixture(0, 2);
    set_kind(f, 3);
    qn_gradients one = zero_gradients(f), three = zero_gradients(f), kept = zero_gradients(f);
    const double loss = loss_of(f, 1, &one);
    assert_true(loss_of(f, 3, &three) == loss);
    f->options.keep_bytes = INT64_MAX;
    assert_true(loss_of(f, 2, &kept) == loss);
    expect_same_gradients(f, &one, &three);
    expect_same_gradients(f, &one, &kept);
    qn_gradients_release(&one);
    qn_gradients_release(&three);
    qn_gradients_release(&kept);
    close_fixture(f);
}

/* ---- refusals ---- */

static void test_windows_outside_of_the_model(void **state) {
    (void)state;
    static const int64_t windows[][2] = {{-1, 1}, {0, 0}, {0, -1}, {0, 4}, {2, 2}, {3, 1}, {1, INT64_MAX}};
    fixture *f = open_fixture(0, 1);
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) {
        double loss = -1.0;
        f->options.first_layer = windows[i][0];
        f->options.n_layers = windows[i][1];
        assert_error(qn_window_gradient(f->m.model, &f->sequences, f->stream, f->target, &f->options, NULL,
                                        NULL, &loss, err),
                     QN_E_ARGUMENT, "window|model of 3");
        assert_true(loss == -1.0);
    }
    close_fixture(f);
}

static void test_targets_that_are_not_finite(void **state) {
    (void)state;
    static const float values[] = {NAN, INFINITY, -INFINITY};
    fixture *f = open_fixture(1, 1);
    qn_gradients gradients = zero_gradients(f);
    const float kept = f->target[T * H - 1];
    for (int i = 0; i < 6; i++) {
        double loss = -1.0;
        f->target[T * H - 1] = values[i % 3];
        assert_error(qn_window_gradient(f->m.model, &f->sequences, f->stream, f->target, &f->options, NULL,
                                        i < 3 ? &gradients : NULL, &loss, err),
                     QN_E_VALUE, "blocks 1 to 1|target");
        assert_true(loss == -1.0);
    }
    f->target[T * H - 1] = kept;
    assert_true(loss_of(f, 1, NULL) > 0.0);
    qn_gradients_release(&gradients);
    close_fixture(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_loss_is_that_of_the_steppers_outputs),
        cmocka_unit_test(test_without_gradients_the_same_loss),
        cmocka_unit_test(test_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(test_entries_outside_of_the_window_are_not_touched),
        cmocka_unit_test(test_gradients_add_up_and_scale),
        cmocka_unit_test(test_the_gain_of_the_first_norm),
        cmocka_unit_test(test_threads_and_memory_change_no_byte),
        cmocka_unit_test(test_windows_outside_of_the_model),
        cmocka_unit_test(test_targets_that_are_not_finite),
    };
    return cmocka_run_group_tests_name("model window gradient", tests, NULL, NULL);
}
