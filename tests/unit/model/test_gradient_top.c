/* qn_loss_gradient with a teacher given by its largest log-probabilities: the whole teacher at k = V, slopes of the loss at
 * k < V, rows that are not read, errors. */
#include "gradient_support.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 61, T = 12, SAMPLES = 4 };
static const int64_t k_starts[] = {0, 5, 12};

#define SAME_TOLERANCE 2e-5 /* relative L2; f32 log-probabilities in place of f32 logits */
#define SLOPE_TOLERANCE                                                                                      \
    2e-3 /* relative; the loss of f32 logits, differenced at a step that moves it by 2e-4 */

typedef struct fixture {
    char *folders[2];
    float_model student;
    qn_model *teacher;
    int32_t ids[T], targets[T];
    qn_sequences sequences;
    float *hidden; /* [T, h] of the teacher */
} fixture;

static void make_fixture(fixture *f) {
    *f = (fixture){.folders = {make_temporary_folder(), make_temporary_folder()},
                   .sequences = {.ids = f->ids, .starts = k_starts, .n = 2}};
    write_tiny_model(f->folders[0], &(tiny_options){.vocab = VOCAB, .tied = true});
    write_tiny_model(f->folders[1], &(tiny_options){.vocab = VOCAB, .hidden = 32, .layers = 1, .seed = 5});
    f->student = float_model_open(f->folders[0]);
    assert_ok(qn_model_open(f->folders[1], &f->teacher, err));
    for (int i = 0; i < T; i++) f->ids[i] = (i * i * 7 + 3 * i + 2) % VOCAB;
    for (int i = 0; i < T; i++) f->targets[i] = i == 4 || i == 8 || i == T - 1 ? -1 : f->ids[i + 1];
    const int64_t h = qn_model_config(f->teacher)->hidden_size;
    const qn_walk_options options = {.compute = QN_COMPUTE_F32};
    f->hidden = malloc(sizeof(float) * (size_t)(T * h));
    assert_ok(qn_walk(f->teacher, &f->sequences, &options, NULL, f->hidden, NULL, err));
}

static void release(fixture *f) {
    float_model_close(&f->student);
    qn_model_close(f->teacher);
    for (int i = 0; i < 2; i++) {
        remove_tree(f->folders[i]);
        free(f->folders[i]);
    }
    free(f->hidden);
}

/* The teacher's k largest, in memory of the caller; rows without a target hold rubbish. */
typedef struct top_arrays {
    int32_t ids[T * VOCAB], samples[T * SAMPLES];
    float log_probs[T * VOCAB], tail[T], sample_log_prob[T];
} top_arrays;

static qn_teacher_top make_top(const fixture *f, int64_t k, top_arrays *a) {
    static float logits[T * VOCAB];
    assert_ok(qn_head_logits(f->teacher, f->hidden, T, QN_COMPUTE_F32, NULL, logits, NULL, err));
    for (int64_t t = 0; t < T; t++) {
        const float *s = logits + t * VOCAB;
        int64_t n = 0;
        double sum = 0.0, rest = 0.0;
        for (int i = 0; i < VOCAB; i++) sum += exp((double)s[i]);
        for (int32_t i = 0; i < VOCAB; i++) {
            int64_t larger = 0;
            for (int j = 0; j < VOCAB; j++) larger += s[j] > s[i];
            if (larger >= k) {
                rest += exp((double)s[i]) / sum;
                continue;
            }
            a->ids[t * k + n] = f->targets[t] < 0 ? -7 : i;
            a->log_probs[t * k + n++] = (float)((double)s[i] - log(sum));
        }
        a->tail[t] = f->targets[t] < 0 ? NAN : (float)log(rest);
    }
    return (qn_teacher_top){.ids = a->ids, .log_probs = a->log_probs, .tail_log_prob = a->tail, .k = k};
}

/* The last ids of the vocabulary, the first of them twice, stand for what is outside the top; which they are makes no matter here. */
static void add_samples(const fixture *f, top_arrays *a, qn_teacher_top *top) {
    for (int64_t t = 0; t < T; t++) {
        for (int32_t i = 0; i < SAMPLES; i++)
            a->samples[t * SAMPLES + i] = f->targets[t] < 0 ? -7 : VOCAB - SAMPLES + (i > 0 ? i : 1);
        a->sample_log_prob[t] = f->targets[t] < 0 ? NAN : -3.5f - 0.1f * (float)t;
    }
    top->n_samples = SAMPLES;
    top->sample_ids = a->samples;
    top->sample_log_prob = a->sample_log_prob;
}

static qn_loss_options top_options(const qn_teacher_top *top) {
    return (qn_loss_options){.ce_weight = 0.5, .kl_weight = 0.25, .scale = 0.125, .teacher_top = top};
}

static qn_loss run(const fixture *f, const qn_loss_options *options, qn_gradients *g) {
    qn_loss loss;
    if (g) assert_ok(qn_gradients_alloc(f->student.layout, g, err));
    assert_ok(qn_loss_gradient(f->student.model, &f->sequences, f->targets, options, NULL, g, &loss, err));
    return loss;
}

static void test_all_ids_are_the_whole_teacher(void **state) {
    static top_arrays arrays;
    fixture f;
    (void)state;
    make_fixture(&f);
    const qn_teacher_top top = make_top(&f, VOCAB, &arrays);
    const qn_loss_options with_top = top_options(&top);
    qn_loss_options with_model = top_options(NULL);
    with_model.teacher = f.teacher;
    with_model.teacher_hidden = f.hidden;
    qn_gradients a, b;
    const qn_loss got = run(&f, &with_top, &a), want = run(&f, &with_model, &b);
    assert_int_equal(got.n_targets, want.n_targets);
    assert_true(want.kl_nats > 0.1 && fabs(got.kl_nats - want.kl_nats) <= 1e-6 * want.kl_nats);
    assert_true(fabs(got.ce_nats - want.ce_nats) <= 1e-6 * want.ce_nats);
    for (int64_t i = 0; i < f.student.layout->n; i++)
        assert_true(relative_distance(a.per_entry[i], b.per_entry[i], entry_size(f.student.layout, i)) <=
                    SAME_TOLERANCE);
    qn_gradients_release(&a);
    qn_gradients_release(&b);
    release(&f);
}

/* The student's loss with entry INDEX moved by STEP along DIRECTION. */
static double moved_loss(const fixture *f, const qn_loss_options *options, int64_t index,
                         const float *direction, float step) {
    const int64_t n = entry_size(f->student.layout, index);
    float *values = f->student.values[index], *kept = malloc(sizeof *kept * (size_t)n);
    memcpy(kept, values, sizeof *kept * (size_t)n);
    for (int64_t i = 0; i < n; i++) values[i] += step * direction[i];
    const qn_loss loss = run(f, options, NULL);
    memcpy(values, kept, sizeof *kept * (size_t)n);
    free(kept);
    return options->scale * (options->ce_weight * loss.ce_nats + options->kl_weight * loss.kl_nats);
}

static void check_slopes(int64_t k, bool with_samples) {
    static top_arrays arrays;
    fixture f;
    qn_gradients g;
    make_fixture(&f);
    qn_teacher_top top = make_top(&f, k, &arrays);
    if (with_samples) add_samples(&f, &arrays, &top);
    qn_loss_options options = top_options(&top);
    options.ce_weight = 0.0;
    (void)run(&f, &options, &g);
    for (int64_t i = 0; i < f.student.layout->n; i++) {
        const float *d = g.per_entry[i];
        double squares = 0.0;
        for (int64_t j = 0; j < entry_size(f.student.layout, i); j++) squares += (double)d[j] * (double)d[j];
        const float step = (float)(2e-4 / squares);
        const double quotient =
            (moved_loss(&f, &options, i, d, step) - moved_loss(&f, &options, i, d, -step)) /
            (2.0 * (double)step);
        if (!(fabs(quotient / squares - 1.0) <= SLOPE_TOLERANCE))
            fail_msg("k %lld, %s: slope %.9g, gradient says %.9g", (long long)k,
                     f.student.layout->entries[i].name, quotient, squares);
    }
    qn_gradients_release(&g);
    release(&f);
}

static void test_gradients_are_the_slopes_of_the_loss(void **state) {
    (void)state;
    check_slopes(1, false);
    check_slopes(5, false);
    check_slopes(1, true);
    check_slopes(5, true);
}

static void test_less_is_known_of_fewer_ids(void **state) {
    static const int64_t k[] = {1, 4, 16, 60, VOCAB};
    static top_arrays arrays;
    double before = 0.0;
    fixture f;
    (void)state;
    make_fixture(&f);
    for (int i = 0; i < 5; i++) {
        const qn_teacher_top top = make_top(&f, k[i], &arrays);
        const qn_loss_options options = top_options(&top);
        const double kl = run(&f, &options, NULL).kl_nats;
        assert_true(kl > before);
        before = kl + (i == 3 ? -1e-9 : 0.0); /* one id is left: its mass is known either way */
    }
    release(&f);
}

static void test_errors_name_their_cause(void **state) {
    static top_arrays arrays;
    fixture f;
    qn_loss loss = {.ce_nats = 7.0};
    (void)state;
    make_fixture(&f);
    qn_teacher_top top = make_top(&f, 3, &arrays);
    qn_loss_options options = top_options(&top);
#define RUN() qn_loss_gradient(f.student.model, &f.sequences, f.targets, &options, NULL, NULL, &loss, err)
    const int32_t kept = arrays.ids[7];
    arrays.ids[7] = VOCAB;
    assert_error(RUN(), QN_E_VALUE, "id 61|position 2|vocabulary of 61");
    arrays.ids[7] = -1;
    assert_error(RUN(), QN_E_VALUE, "id -1|position 2");
    arrays.ids[7] = arrays.ids[6];
    assert_error(RUN(), QN_E_VALUE, "position 2|ascend");
    arrays.ids[7] = kept;
    arrays.log_probs[6] = -INFINITY;
    assert_error(RUN(), QN_E_VALUE, "position 2|inf");
    arrays.log_probs[6] = 0.0f;
    assert_error(RUN(), QN_E_VALUE, "position 2|sum to");
    top = make_top(&f, 3, &arrays);
    arrays.tail[2] = NAN;
    assert_error(RUN(), QN_E_VALUE, "position 2|nan");
    top = make_top(&f, 3, &arrays);
    add_samples(&f, &arrays, &top);
    arrays.samples[2 * SAMPLES] = VOCAB;
    assert_error(RUN(), QN_E_VALUE, "id 61|position 2|vocabulary of 61");
    arrays.samples[2 * SAMPLES] = VOCAB - 1;
    assert_error(RUN(), QN_E_VALUE, "position 2|ascend");
    add_samples(&f, &arrays, &top);
    arrays.sample_log_prob[2] = -INFINITY;
    assert_error(RUN(), QN_E_VALUE, "position 2|mean|inf");
    top.n_samples = -1;
    assert_error(RUN(), QN_E_ARGUMENT, "-1 samples|58");
    top = make_top(&f, VOCAB, &arrays);
    add_samples(&f, &arrays, &top);
    assert_error(RUN(), QN_E_ARGUMENT, "4 samples|0 ids");
    top = make_top(&f, 3, &arrays);
    top.k = 0;
    assert_error(RUN(), QN_E_ARGUMENT, "0 ids");
    top.k = VOCAB + 1;
    assert_error(RUN(), QN_E_ARGUMENT, "62 ids|61");
    options.teacher = f.teacher;
    assert_error(RUN(), QN_E_ARGUMENT, "at once|teacher_top");
    options.teacher = NULL;
    options.teacher_top = NULL;
    assert_error(RUN(), QN_E_ARGUMENT, "teacher_top");
    options.kl_weight = 0.0;
    options.teacher_top = &top; /* without kl it is not looked at */
    assert_ok(RUN());
    assert_true(loss.kl_nats == 0.0);
#undef RUN
    release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_ids_are_the_whole_teacher),
        cmocka_unit_test(test_gradients_are_the_slopes_of_the_loss),
        cmocka_unit_test(test_less_is_known_of_fewer_ids),
        cmocka_unit_test(test_errors_name_their_cause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
