/* Loss and gradients of whole models made here: against central differences of a naive forward pass in double;
 * the same bytes for any threads and any memory; sums, scales, errors. */
#include "gradient_support.h"
#include "naive_forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the tensor's largest gradient seen: f32 activations through two blocks. The difference quotient, in double
 * with a step of 2^-12, is good to about 1e-7. */
#define DIFFERENCE_TOLERANCE 2e-5
#define STEP                 (1.0f / 4096.0f)
#define LOSS_TOLERANCE       1e-6 /* relative; f32 logits, double sums */
/* Relative L2 of a tensor: operands rounded by up to 2^-9, and the errors of some layers add up. */
#define BF16_TOLERANCE 0.05
#define BF16_LEAST     1e-4 /* an unrounded pass gives 1e-6 */

static const int64_t k_starts[] = {0, 1, 8, 8, 13, 15}; /* lengths 1, 7, 0, 5, 2 */
enum { N_SEQUENCES = 5, N_TOKENS = 15, VOCAB = 61 };

typedef struct fixture {
    char *folder;
    tiny_model *tiny;
    float_model m;
} fixture;

static fixture make_fixture(tiny_options options, int64_t window) {
    fixture f = {.folder = make_temporary_folder()};
    options.vocab = VOCAB;
    if (!options.hidden) options.hidden = 24;
    options.intermediate = 40;
    f.tiny = tiny_model_make(&options);
    if (window) {
        json_object_set_new(f.tiny->config, "use_sliding_window", json_true());
        json_object_set_new(f.tiny->config, "sliding_window", json_integer(window));
        json_object_set_new(f.tiny->config, "max_window_layers", json_integer(1));
    }
    tiny_model_write(f.tiny, f.folder, "F32", 1);
    f.m = float_model_open(f.folder);
    return f;
}

static void release(fixture *f) {
    float_model_close(&f->m);
    tiny_model_free(f->tiny);
    remove_tree(f->folder);
    free(f->folder);
}

/* Ids, and the next one as target but at each sequence's end and at one position inside. */
typedef struct batch {
    int32_t ids[N_TOKENS], targets[N_TOKENS];
    int64_t n_targets;
    qn_sequences sequences;
} batch;

static void make_batch(batch *b) {
    *b = (batch){.sequences = {.ids = b->ids, .starts = k_starts, .n = N_SEQUENCES}};
    for (int i = 0; i < N_TOKENS; i++) b->ids[i] = (i * i * 7 + 3 * i + 2) % VOCAB;
    for (int i = 0; i < N_TOKENS; i++) b->targets[i] = i + 1 < N_TOKENS ? b->ids[i + 1] : -1;
    for (int s = 0; s < N_SEQUENCES; s++)
        if (k_starts[s + 1] > 0) b->targets[k_starts[s + 1] - 1] = -1;
    b->targets[4] = -1;
    for (int i = 0; i < N_TOKENS; i++) b->n_targets += b->targets[i] >= 0;
}

/* ---- the loss in double ---- */

static double log_sum(const double *s) {
    double sum = 0.0;
    for (int i = 0; i < VOCAB; i++) sum += exp(s[i]);
    return log(sum);
}

static double naive_loss(const tiny_model *student, const tiny_model *teacher, const batch *b,
                         double ce_weight, double kl_weight, double *ce, double *kl) {
    *ce = *kl = 0.0;
    for (int s = 0; s < N_SEQUENCES; s++) {
        const int64_t first = k_starts[s], n = k_starts[s + 1] - first;
        if (n == 0) continue;
        double *logits = naive_logits(student, b->ids + first, n);
        double *other = teacher ? naive_logits(teacher, b->ids + first, n) : NULL;
        for (int64_t t = 0; t < n; t++) {
            if (b->targets[first + t] < 0) continue;
            const double *p = logits + t * VOCAB, *q = other ? other + t * VOCAB : NULL;
            *ce += log_sum(p) - p[b->targets[first + t]];
            for (int i = 0; q && i < VOCAB; i++)
                *kl += exp(q[i] - log_sum(q)) * (q[i] - log_sum(q) - p[i] + log_sum(p));
        }
        free(logits);
        free(other);
    }
    return ce_weight * *ce + kl_weight * *kl;
}

typedef struct difference_case {
    const fixture *student, *teacher;
    const batch *b;
    double ce_weight, kl_weight;
} difference_case;

static double slope(const difference_case *c, float *value) {
    const tiny_model *teacher = c->teacher ? c->teacher->tiny : NULL;
    const float kept = *value;
    double ce, kl;
    *value = kept + STEP;
    const double high = (double)*value;
    const double above = naive_loss(c->student->tiny, teacher, c->b, c->ce_weight, c->kl_weight, &ce, &kl);
    *value = kept - STEP;
    const double below = naive_loss(c->student->tiny, teacher, c->b, c->ce_weight, c->kl_weight, &ce, &kl);
    const double width = high - (double)*value;
    *value = kept;
    return (above - below) / width;
}

/* A few elements of each tensor, its largest gradient among them. */
static void compare_slopes(const difference_case *c, const qn_gradients *gradients, double scale) {
    const qn_layout *layout = c->student->m.layout;
    for (int64_t e = 0; e < layout->n; e++) {
        tiny_tensor *tensor = tiny_model_find(c->student->tiny, layout->entries[e].name);
        const float *got = gradients->per_entry[e];
        const int64_t n = entry_size(layout, e);
        int64_t largest = 0;
        for (int64_t i = 0; i < n; i++)
            if (fabsf(got[i]) > fabsf(got[largest])) largest = i;
        assert_true(got[largest] != 0.0f);
        for (int i = 0; i < 4; i++) {
            const int64_t at = i ? (largest + i * 5 * n / 13) % n : largest;
            const double want = scale * slope(c, &tensor->values[at]);
            if (!(fabs(want - (double)got[at]) <= DIFFERENCE_TOLERANCE * fabs((double)got[largest])))
                fail_msg("%s[%lld]: got %.9g, want %.9g", tensor->name, (long long)at, (double)got[at], want);
        }
    }
}

static float *teacher_hidden(const fixture *teacher, const batch *b) {
    float *hidden =
        malloc(sizeof *hidden * (size_t)(N_TOKENS * qn_model_config(teacher->m.model)->hidden_size));
    const qn_walk_options options = {.compute = QN_COMPUTE_F32};
    assert_ok(qn_walk(teacher->m.model, &b->sequences, &options, NULL, hidden, NULL, err));
    return hidden;
}

static void check_differences(const fixture *f, const fixture *teacher, double ce_weight, double kl_weight) {
    batch b;
    make_batch(&b);
    const difference_case c = {f, teacher, &b, ce_weight, kl_weight};
    float *hidden = teacher ? teacher_hidden(teacher, &b) : NULL;
    const qn_loss_options options = {.ce_weight = ce_weight,
                                     .kl_weight = kl_weight,
                                     .teacher = teacher ? teacher->m.model : NULL,
                                     .teacher_hidden = hidden,
                                     .scale = 0.125};
    qn_gradients gradients = {0};
    qn_loss loss = {0};
    double ce, kl;
    assert_ok(qn_gradients_alloc(f->m.layout, &gradients, err));
    assert_ok(qn_loss_gradient(f->m.model, &b.sequences, b.targets, &options, NULL, &gradients, &loss, err));
    (void)naive_loss(f->tiny, teacher ? teacher->tiny : NULL, &b, 1.0, 1.0, &ce, &kl);
    assert_int_equal(loss.n_targets, b.n_targets);
    assert_true(fabs(loss.ce_nats - ce) <= LOSS_TOLERANCE * ce);
    assert_true(fabs(loss.kl_nats - kl) <= LOSS_TOLERANCE * (kl + 1.0));
    compare_slopes(&c, &gradients, options.scale);
    qn_gradients_release(&gradients);
    free(hidden);
}

static void check_model(tiny_options options, int64_t window) {
    fixture f = make_fixture(options, window);
    check_differences(&f, NULL, 1.0, 0.0);
    release(&f);
}

static void test_gradients_are_the_slopes_of_the_loss(void **state) {
    (void)state;
    check_model((tiny_options){.tied = true}, 0);
    check_model((tiny_options){.kv_heads = 1, .layers = 1}, 0);
    check_model((tiny_options){.kv_heads = 4, .attention_bias = true}, 0);
    check_model((tiny_options){.model_type = "qwen2"}, 0);
}

static void test_sliding_window(void **state) {
    (void)state;
    check_model((tiny_options){.tied = true}, 2);
    check_model((tiny_options){.attention_bias = true}, 3);
}

static void test_divergence_from_a_teacher(void **state) {
    (void)state;
    fixture f = make_fixture((tiny_options){.tied = true}, 0);
    fixture teacher = make_fixture((tiny_options){.hidden = 32, .layers = 1, .seed = 5}, 0);
    check_differences(&f, &teacher, 0.0, 1.0);
    check_differences(&f, &teacher, 0.75, 0.5);
    release(&f);
    release(&teacher);
}

/* ---- equal bytes ---- */

static void assert_same_gradients(const qn_layout *layout, const qn_gradients *a, const qn_gradients *b) {
    for (int64_t i = 0; i < layout->n; i++)
        assert_memory_equal(a->per_entry[i], b->per_entry[i], (size_t)entry_size(layout, i) * sizeof(float));
}

/* Sequences of several chunks, one longer than a chunk; runs with other threads, memory and a file for the streams equal the first. */
static void check_same_bytes(qn_compute compute) {
    static const int64_t starts[] = {0, 700, 1401, 3500, 3507};
    enum { T = 3507 };
    static int32_t ids[T], targets[T];
    static const struct {
        int threads;
        int64_t keep_bytes;
        bool spill;
    } runs[] = {{1, 0, false}, {2, 0, false},     {3, 6000000, false}, {5, INT64_C(1) << 40, false},
                {2, 0, true},  {1, 6000000, true}};
    fixture f = make_fixture((tiny_options){.attention_bias = true}, 0);
    const qn_sequences sequences = {.ids = ids, .starts = starts, .n = 4};
    qn_gradients first = {0};
    qn_loss first_loss = {0};
    for (int i = 0; i < T; i++) ids[i] = (i * 13 + i / 7) % VOCAB;
    for (int i = 0; i < T; i++) targets[i] = ids[(i + 1) % T];
    for (size_t r = 0; r < sizeof runs / sizeof *runs; r++) {
        const qn_context ctx = {.n_threads = runs[r].threads};
        const qn_loss_options options = {.compute = compute,
                                         .ce_weight = 1.0,
                                         .scale = 1.0 / T,
                                         .keep_bytes = runs[r].keep_bytes,
                                         .spill = runs[r].spill};
        qn_gradients g = {0};
        qn_loss loss = {0};
        assert_ok(qn_gradients_alloc(f.m.layout, &g, err));
        assert_ok(qn_loss_gradient(f.m.model, &sequences, targets, &options, &ctx, &g, &loss, err));
        if (r == 0) {
            first = g;
            first_loss = loss;
            continue;
        }
        assert_same_gradients(f.m.layout, &first, &g);
        assert_true(loss.ce_nats == first_loss.ce_nats);
        qn_gradients_release(&g);
    }
    qn_gradients_release(&first);
    release(&f);
}

static void test_threads_and_memory_change_no_byte(void **state) {
    (void)state;
    check_same_bytes(QN_COMPUTE_F32);
    check_same_bytes(QN_COMPUTE_BF16);
}

/* ---- one run against another ---- */

static qn_gradients gradients_of(const fixture *f, const qn_sequences *sequences, const int32_t *targets,
                                 qn_compute compute, double scale, qn_loss *loss) {
    const qn_loss_options options = {.compute = compute, .ce_weight = 1.0, .scale = scale};
    qn_gradients g = {0};
    assert_ok(qn_gradients_alloc(f->m.layout, &g, err));
    assert_ok(qn_loss_gradient(f->m.model, sequences, targets, &options, NULL, &g, loss, err));
    return g;
}

/* A long call, then a short one in the same work space, as a fresh one. */
static void test_kept_work_space_changes_no_byte(void **state) {
    fixture f = make_fixture((tiny_options){.tied = true}, 0);
    batch b;
    qn_loss fresh_loss, loss;
    const int64_t starts[] = {0, 5};
    const qn_loss_options options = {.ce_weight = 1.0, .scale = 1.0, .keep_bytes = INT64_MAX};
    (void)state;
    make_batch(&b);
    const qn_sequences short_one = {.ids = b.ids, .starts = starts, .n = 1};
    qn_gradients fresh = gradients_of(&f, &short_one, b.targets, QN_COMPUTE_F32, 1.0, &fresh_loss);
    qn_gradients g = gradients_of(&f, &b.sequences, b.targets, QN_COMPUTE_BF16, 1.0, &loss);
    for (int i = 0; i < 3; i++) {
        const qn_sequences *sequences = i == 1 ? &b.sequences : &short_one;
        qn_gradients_clear(&g, f.m.layout);
        assert_ok(qn_loss_gradient(f.m.model, sequences, b.targets, &options, NULL, &g, &loss, err));
    }
    assert_same_gradients(f.m.layout, &fresh, &g);
    assert_true(loss.ce_nats == fresh_loss.ce_nats);
    qn_gradients_release(&fresh);
    qn_gradients_release(&g);
    release(&f);
}

/* Renewed gradients are those of cleared ones, whatever stood there before; the call after adds. */
static void test_renewed_gradients_are_set(void **state) {
    fixture f = make_fixture((tiny_options){.tied = true, .attention_bias = true}, 0);
    batch b;
    qn_loss loss;
    const qn_loss_options options = {.ce_weight = 1.0, .scale = 1.0, .keep_bytes = INT64_MAX};
    (void)state;
    make_batch(&b);
    const qn_sequences none = {.ids = b.ids, .starts = k_starts, .n = 0};
    qn_gradients cleared = gradients_of(&f, &b.sequences, b.targets, QN_COMPUTE_F32, 1.0, &loss);
    qn_gradients renewed = gradients_of(&f, &b.sequences, b.targets, QN_COMPUTE_F32, 1.0, &loss);
    for (int call = 0; call < 3; call++) {
        for (int64_t i = 0; i < f.m.layout->n; i++) renewed.per_entry[i][0] = NAN;
        qn_gradients_renew(&renewed);
        qn_gradients_clear(&cleared, f.m.layout);
        for (int n = 0; n <= call; n++) { /* no text leaves zeros; once sets; the second time adds */
            const qn_sequences *sequences = call == 0 ? &none : &b.sequences;
            assert_ok(
                qn_loss_gradient(f.m.model, sequences, b.targets, &options, NULL, &cleared, &loss, err));
            assert_ok(
                qn_loss_gradient(f.m.model, sequences, b.targets, &options, NULL, &renewed, &loss, err));
        }
        assert_same_gradients(f.m.layout, &cleared, &renewed);
    }
    qn_gradients_release(&cleared);
    qn_gradients_release(&renewed);
    release(&f);
}

static void test_bf16_is_close_and_rounded(void **state) {
    fixture f = make_fixture((tiny_options){.attention_bias = true}, 0);
    batch b;
    qn_loss loss[2];
    double worst = 0.0;
    (void)state;
    make_batch(&b);
    qn_gradients exact = gradients_of(&f, &b.sequences, b.targets, QN_COMPUTE_F32, 1.0, &loss[0]);
    qn_gradients rounded = gradients_of(&f, &b.sequences, b.targets, QN_COMPUTE_BF16, 1.0, &loss[1]);
    for (int64_t i = 0; i < f.m.layout->n; i++) {
        if (f.m.layout->entries[i].kind == QN_TENSOR_K_BIAS)
            continue; /* nearly cancels: softmax ignores a shift */
        const double distance =
            relative_distance(rounded.per_entry[i], exact.per_entry[i], entry_size(f.m.layout, i));
        if (!(distance <= BF16_TOLERANCE)) fail_msg("%s: off by %g", f.m.layout->entries[i].name, distance);
        worst = fmax(worst, distance);
    }
    assert_true(worst >= BF16_LEAST);
    assert_true(fabs(loss[1].ce_nats / loss[0].ce_nats - 1.0) <= 0.01);
    qn_gradients_release(&exact);
    qn_gradients_release(&rounded);
    release(&f);
}

static void test_sequences_add_up_and_scale(void **state) {
    fixture f = make_fixture((tiny_options){.tied = true}, 0);
    batch b;
    qn_loss all_loss, loss;
    double ce = 0.0;
    (void)state;
    make_batch(&b);
    qn_gradients all = gradients_of(&f, &b.sequences, b.targets, QN_COMPUTE_F32, 0.5, &all_loss), sum = {0};
    const qn_loss_options options = {.ce_weight = 2.0, .scale = 0.25};
    assert_ok(qn_gradients_alloc(f.m.layout, &sum, err));
    for (int s = 0; s < N_SEQUENCES; s++) {
        const int64_t first = k_starts[s], starts[2] = {0, k_starts[s + 1] - first};
        const qn_sequences one = {.ids = b.ids + first, .starts = starts, .n = 1};
        assert_ok(qn_loss_gradient(f.m.model, &one, b.targets + first, &options, NULL, &sum, &loss, err));
        ce += loss.ce_nats;
    }
    assert_true(fabs(ce - all_loss.ce_nats) <= LOSS_TOLERANCE * ce);
    for (int64_t i = 0; i < f.m.layout->n; i++) /* the same numbers in another order of sums */
        assert_true(relative_distance(sum.per_entry[i], all.per_entry[i], entry_size(f.m.layout, i)) <= 1e-5);
    qn_gradients_release(&all);
    qn_gradients_release(&sum);
    release(&f);
}

static void test_loss_alone_and_the_heads_sum(void **state) {
    fixture f = make_fixture((tiny_options){0}, 0);
    batch b;
    qn_loss with, alone;
    double nll[N_TOKENS], sum = 0.0;
    float *hidden;
    (void)state;
    make_batch(&b);
    qn_gradients g = gradients_of(&f, &b.sequences, b.targets, QN_COMPUTE_F32, 1.0, &with);
    const qn_loss_options options = {.ce_weight = 1.0, .scale = 1.0};
    assert_ok(qn_loss_gradient(f.m.model, &b.sequences, b.targets, &options, NULL, NULL, &alone, err));
    assert_true(alone.ce_nats == with.ce_nats && alone.n_targets == with.n_targets);
    hidden = teacher_hidden(&f, &b);
    const int64_t h = qn_model_config(f.m.model)->hidden_size;
    for (int i = 0; i < N_TOKENS; i++) {
        if (b.targets[i] < 0) continue;
        assert_ok(qn_head_nll(f.m.model, hidden + i * h, &b.targets[i], 1, QN_COMPUTE_F32, NULL, &nll[i],
                              NULL, err));
        sum += nll[i];
    }
    assert_true(fabs(sum - alone.ce_nats) <= LOSS_TOLERANCE * sum);
    free(hidden);
    qn_gradients_release(&g);
    release(&f);
}

static void test_no_target_no_gradient(void **state) {
    fixture f = make_fixture((tiny_options){0}, 0);
    batch b;
    qn_loss loss = {.ce_nats = 1.0};
    (void)state;
    make_batch(&b);
    for (int i = 0; i < N_TOKENS; i++) b.targets[i] = -1;
    qn_gradients g = gradients_of(&f, &b.sequences, b.targets, QN_COMPUTE_F32, 1.0, &loss);
    assert_true(loss.ce_nats == 0.0 && loss.n_targets == 0);
    for (int64_t i = 0; i < f.m.layout->n; i++)
        for (int64_t k = 0; k < entry_size(f.m.layout, i); k++) assert_true(g.per_entry[i][k] == 0.0f);
    const int64_t nothing[1] = {0};
    const qn_sequences empty = {.ids = b.ids, .starts = nothing, .n = 0};
    const qn_loss_options options = {.ce_weight = 1.0, .scale = 1.0};
    assert_ok(qn_loss_gradient(f.m.model, &empty, b.targets, &options, NULL, &g, &loss, err));
    assert_int_equal(loss.n_targets, 0);
    qn_gradients_release(&g);
    release(&f);
}

/* ---- errors ---- */

static bool stop(void *user) {
    (void)user;
    return true;
}

static void test_errors_name_their_cause(void **state) {
    fixture f = make_fixture((tiny_options){0}, 0);
    batch b;
    qn_gradients g = {0}, none = {0};
    qn_loss loss = {.ce_nats = 7.0};
    qn_loss_options options = {.ce_weight = 1.0, .scale = 1.0};
    const qn_context cancelled = {.is_cancelled = stop};
    (void)state;
    make_batch(&b);
    assert_ok(qn_gradients_alloc(f.m.layout, &g, err));
#define RUN(ctx, gradients)                                                                                  \
    qn_loss_gradient(f.m.model, &b.sequences, b.targets, &options, (ctx), (gradients), &loss, err)
    assert_error(RUN(NULL, &none), QN_E_ARGUMENT, "0 gradients|layout");
    assert_error(RUN(&cancelled, &g), QN_E_CANCELLED, "");
    b.targets[3] = VOCAB;
    assert_error(RUN(NULL, &g), QN_E_VALUE, "target id 61|position 3|vocabulary of 61");
    b.targets[3] = -2;
    assert_error(RUN(NULL, &g), QN_E_VALUE, "target id -2");
    b.targets[3] = 0;
    b.ids[2] = VOCAB;
    assert_error(RUN(NULL, &g), QN_E_VALUE, "token id 61");
    b.ids[2] = 0;
    options.kl_weight = 1.0;
    assert_error(RUN(NULL, &g), QN_E_ARGUMENT, "teacher");
    options.kl_weight = 0.0;
    f.m.values[qn_layout_find(f.m.layout, QN_TENSOR_Q, 1)][5] = NAN;
    assert_error(RUN(NULL, &g), QN_E_VALUE, "layer 1|q_proj|NaN");
    assert_true(loss.ce_nats == 7.0); /* published on success only */
#undef RUN
    qn_gradients_release(&g);
    qn_gradients_release(&g);
    release(&f);
}

static void test_a_teacher_of_another_vocabulary_is_refused(void **state) {
    fixture f = make_fixture((tiny_options){0}, 0);
    char *folder = make_temporary_folder();
    qn_model *teacher = NULL;
    batch b;
    qn_loss loss;
    float hidden[1] = {0.0f};
    (void)state;
    make_batch(&b);
    write_tiny_model(folder, &(tiny_options){.vocab = 67});
    assert_ok(qn_model_open(folder, &teacher, err));
    const qn_loss_options options = {
        .kl_weight = 1.0, .scale = 1.0, .teacher = teacher, .teacher_hidden = hidden};
    assert_error(qn_loss_gradient(f.m.model, &b.sequences, b.targets, &options, NULL, NULL, &loss, err),
                 QN_E_SHAPE, "67|61");
    qn_model_close(teacher);
    remove_tree(folder);
    free(folder);
    release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(test_sliding_window),
        cmocka_unit_test(test_divergence_from_a_teacher),
        cmocka_unit_test(test_threads_and_memory_change_no_byte),
        cmocka_unit_test(test_kept_work_space_changes_no_byte),
        cmocka_unit_test(test_renewed_gradients_are_set),
        cmocka_unit_test(test_bf16_is_close_and_rounded),
        cmocka_unit_test(test_sequences_add_up_and_scale),
        cmocka_unit_test(test_loss_alone_and_the_heads_sum),
        cmocka_unit_test(test_no_target_no_gradient),
        cmocka_unit_test(test_errors_name_their_cause),
        cmocka_unit_test(test_a_teacher_of_another_vocabulary_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
