/* The method end to end on a trained teacher, in seconds: distilled blocks and then the tuned whole bring error, divergence and perplexity
 * of held-out text down from those of the direct fit. */
#include "train_support.h"
#include "tuning_support.h"

#include "quern/fit/teacher_cache.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_BYTES = 12288, LENGTH = 32, N_LAYERS = 2 };

static const qn_tune_options k_options = {.steps = 60,
                                          .batch = 8,
                                          .lr = 0.02,
                                          .min_lr_ratio = 0.05,
                                          .warmup_steps = 4,
                                          .validation_part = 0.125,
                                          .validations = 5,
                                          .seed = 11,
                                          .key = "a run"};

/* A language of 24 words in which a word decides which four may follow it. */
static void write_language(char *text) {
    static const char *const words[] = {"ab",  "ace", "bad",  "bee",  "cab", "cad", "dab",  "deaf",
                                        "ebb", "egg", "fad",  "fee",  "gab", "gag", "had",  "heed",
                                        "ice", "jab", "keel", "lace", "mad", "nag", "oboe", "pea"};
    uint64_t state = 9;
    int word = 0;
    for (size_t n = 0; n < TEXT_BYTES;) {
        const char *w = words[word];
        for (; *w && n < TEXT_BYTES; w++) text[n++] = *w;
        if (n < TEXT_BYTES) text[n++] = ' ';
        state = state * 6364136223846793005u + 1442695040888963407u;
        word = (5 * word + 7 * (int)((state >> 40) % 4) + 3) % 24;
    }
}

/* A teacher that has learned the language, and the language as its text. */
static tuning_toy *trained_toy(void) {
    static char text[TEXT_BYTES];
    static int32_t ids[TEXT_BYTES];
    toy t = toy_make();
    write_language(text);
    write_test_file(t.folder, "text.txt", text, TEXT_BYTES);
    t.options.schedule.total_steps = 150;
    t.options.schedule.peak = 1e-2;
    t.options.batch = 8;
    t.options.context = LENGTH;
    const qn_train_result result = toy_train(&t.options, 1);
    print_message("the teacher reaches %.3f nats a byte\n", result.train_loss);
    for (int i = 0; i < TEXT_BYTES; i++) ids[i] = (uint8_t)text[i] + 1; /* the byte tokenizer's */
    tuning_toy *pair = tuning_toy_open(t.out, ids, TEXT_BYTES / LENGTH, 48, LENGTH);
    toy_free(&t);
    return pair;
}

/* Blocks are trained one after another on the student's own stream; SETS stay lent. */
static void distill_blocks(const tuning_toy *pair, const toy_code *code, qn_trainable *sets) {
    for (int64_t l = 0; l < N_LAYERS; l++) {
        sets[l] = toy_student(pair, code, l, 1, &k_toy_rates);
        float *stream = stream_of(pair->student, &pair->text, l),
              *target = stream_of(pair->teacher, &pair->text, l + 1);
        const qn_distill_window window = {
            .first_layer = l, .n_layers = 1, .stream = stream, .target = target};
        qn_tune_report r;
        assert_ok(qn_distill(&sets[l], pair->student, &pair->text, &window, &k_options, NULL, &r, err));
        assert_true(r.best_step > 0);
        free(stream);
        free(target);
    }
}

/* The sets of the blocks become one, lent to the student. */
static qn_trainable join(const tuning_toy *pair, qn_trainable *sets) {
    qn_trainable whole = {0};
    assert_ok(qn_trainable_init(pair->layout, &whole, err));
    for (int64_t l = 0; l < N_LAYERS; l++) {
        qn_trainable_give_back(&sets[l], pair->student);
        assert_ok(qn_trainable_take(&whole, &sets[l], err));
        qn_trainable_release(&sets[l]);
    }
    assert_ok(qn_trainable_seal(&whole, &k_toy_rates, err));
    assert_ok(qn_trainable_lend(&whole, pair->student, err));
    qn_trainable_evaluate(&whole, 0.0, NULL);
    return whole;
}

static void tune_model(const tuning_toy *pair, qn_trainable *whole) {
    const qn_teacher_cache_options options = {.k = 16};
    char *folder = make_temporary_folder(), *path = path_in(folder, "teacher.cache");
    qn_finetune_loss loss = {.kl_weight = 1.0};
    qn_tune_options gentle = k_options; /* the blocks are near already */
    qn_tune_report r;
    assert_ok(qn_teacher_cache_make(pair->teacher, &pair->text, &options, path, NULL, NULL, err));
    assert_ok(qn_teacher_cache_open(path, NULL, NULL, &loss.cache, err));
    gentle.lr = 0.005;
    assert_ok(qn_finetune(whole, pair->student, &pair->text, &loss, &gentle, NULL, &r, err));
    qn_teacher_cache_close(loss.cache);
    remove_tree(folder);
    free(path);
    free(folder);
}

/* Of the student as it is, on text that no stage saw. */
typedef struct marks {
    double error, nats, kl; /* of block 0, mean squared; a byte */
} marks;

static marks measure(const tuning_toy *pair) {
    marks m = {.error = window_error(pair, &pair->fresh, 0, 1)};
    m.nats = mean_nll(pair, pair->student, &pair->fresh, &m.kl);
    return m;
}

static void check_method(const tuning_toy *pair, const toy_code *code) {
    qn_trainable sets[N_LAYERS];
    qn_trainable fit = toy_student(pair, code, 0, N_LAYERS, &k_toy_rates);
    const marks direct = measure(pair);
    toy_student_release(pair, &fit);
    distill_blocks(pair, code, sets);
    const marks distilled = measure(pair);
    qn_trainable whole = join(pair, sets);
    const marks joined = measure(pair);
    tune_model(pair, &whole);
    const marks tuned = measure(pair);
    toy_student_release(pair, &whole);
    print_message(
        "teacher %.4f nats; direct %.4f (KL %.4f), distilled %.4f (%.4f), tuned %.4f (%.4f); error of "
        "block 0: %.3g -> %.3g\n",
        mean_nll(pair, pair->teacher, &pair->fresh, NULL), direct.nats, direct.kl, distilled.nats,
        distilled.kl, tuned.nats, tuned.kl, direct.error, distilled.error);
    assert_true(distilled.error <= 0.6 * direct.error);
    assert_true(distilled.kl <= 0.5 * direct.kl && distilled.nats < direct.nats);
    assert_memory_equal(&joined, &distilled, sizeof joined); /* to join changes nothing */
    assert_true(tuned.kl <= 0.9 * distilled.kl && tuned.nats < direct.nats);
}

static void test_the_method_on_a_trained_teacher(void **state) {
    (void)state;
    static const toy_code ternary = {QN_CODE_TERNARY, false, true, 0, false},
                          sign = {QN_CODE_SIGN, false, false, 0, false};
    tuning_toy *pair = trained_toy();
    check_method(pair, &ternary);
    check_method(pair, &sign);
    tuning_toy_close(pair);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_method_on_a_trained_teacher),
    };
    return cmocka_run_group_tests_name("fit method", tests, NULL, NULL);
}
