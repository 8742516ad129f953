/* The greedy choice of rows, on tables made by hand. */
#include "quern/fit/rowmix.h"

#include "test_data.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 16 };

/* A table of up to three tensors whose arrays live here. */
typedef struct table {
    qn_row_errors errors[3][MAX_ROWS];
    qn_sensitivity_tensor tensors[3];
    qn_sensitivity s;
} table;

static void add_tensor(table *t, int64_t rows, int64_t cols, int64_t extra_bytes, const float *gains) {
    int64_t k = t->s.n++;
    for (int64_t row = 0; row < rows; row++) t->errors[k][row] = (qn_row_errors){.native = gains[row]};
    t->tensors[k] = (qn_sensitivity_tensor){
        .entry = k, .rows = rows, .cols = cols, .extra_bytes = extra_bytes, .errors = t->errors[k]};
    t->s.tensors = t->tensors;
}

static qn_rescue_choice choose(const table *t, int64_t max_weights, int64_t max_extra_bytes) {
    qn_rescue_choice choice = {0};
    qn_rescue_limits limits = {max_weights, max_extra_bytes};
    assert_int_equal(qn_rescue_choose(&t->s, &limits, &choice, NULL), QN_OK);
    return choice;
}

/* "0110 10" for two tensors of four and two rows. */
static void expect_choice(const table *t, int64_t max_weights, int64_t max_extra_bytes,
                          const char *expected) {
    char found[64];
    size_t n = 0;
    int64_t n_weights = 0, extra_bytes = 0;
    qn_rescue_choice choice = choose(t, max_weights, max_extra_bytes);
    for (int64_t k = 0; k < t->s.n; k++) {
        int64_t n_rows = 0;
        if (k) found[n++] = ' ';
        for (int64_t row = 0; row < t->tensors[k].rows; row++) {
            found[n++] = choice.rescued[k][row] ? '1' : '0';
            n_rows += choice.rescued[k][row];
        }
        assert_int_equal(choice.n_rescued_rows[k], n_rows);
        n_weights += n_rows * t->tensors[k].cols;
        extra_bytes += n_rows * t->tensors[k].extra_bytes;
    }
    found[n] = 0;
    assert_string_equal(found, expected);
    assert_int_equal(choice.n_weights, n_weights);
    assert_int_equal(choice.extra_bytes, extra_bytes);
    assert_true(n_weights <= max_weights && extra_bytes <= max_extra_bytes);
    qn_rescue_choice_release(&choice);
    qn_rescue_choice_release(&choice);
}

static void test_limits_bind_exactly(void **state) {
    (void)state;
    table t = {0};
    add_tensor(&t, 4, 100, 40, (const float[]){1, 5, 3, 4});
    expect_choice(&t, 1000, 1000, "1111");
    expect_choice(&t, 300, 1000, "0111"); /* exactly three rows of weights */
    expect_choice(&t, 299, 1000, "0101");
    expect_choice(&t, 1000, 80, "0101"); /* exactly two rows of bytes */
    expect_choice(&t, 1000, 79, "0100");
    expect_choice(&t, 0, 1000, "0000");
    expect_choice(&t, 1000, 0, "0000");
}

static void test_ties_go_to_the_earlier_tensor_and_row(void **state) {
    (void)state;
    table t = {0};
    add_tensor(&t, 3, 10, 4, (const float[]){2, 2, 2});
    add_tensor(&t, 2, 20, 8, (const float[]){4, 4}); /* the same gain per byte */
    expect_choice(&t, 1000, 4, "100 00");
    expect_choice(&t, 1000, 12, "111 00");
    expect_choice(&t, 1000, 20, "111 10");
}

static void test_a_row_that_does_not_fit_is_passed_over(void **state) {
    (void)state;
    table t = {0};
    add_tensor(&t, 2, 100, 50, (const float[]){100, 90});
    add_tensor(&t, 2, 10, 5, (const float[]){8, 1});
    expect_choice(&t, 1000, 60, "10 11");
    expect_choice(&t, 115, 1000, "10 10");
}

static void test_rows_without_gain_are_left(void **state) {
    (void)state;
    table t = {0};
    add_tensor(&t, 4, 10, 4, (const float[]){0, -1, 2, 0});
    expect_choice(&t, 1000, 1000, "0010");
}

static void test_rows_that_cost_nothing_come_first(void **state) {
    (void)state;
    table t = {0};
    add_tensor(&t, 2, 10, 4, (const float[]){1000, 1000});
    add_tensor(&t, 2, 10, -1, (const float[]){1, 1});
    expect_choice(&t, 20, 1000, "00 11");
    expect_choice(&t, 1000, 1, "00 11");
    expect_choice(&t, 1000, 2, "10 11"); /* what they save may be spent */
    expect_choice(&t, 1000, 6, "11 11");
}

static void test_weighted_errors_decide_when_there_are_weights(void **state) {
    (void)state;
    table t = {0};
    add_tensor(&t, 2, 10, 4, (const float[]){2, 1});
    t.errors[0][0].native_weighted = 1;
    t.errors[0][1].native_weighted = 2;
    expect_choice(&t, 10, 1000, "10");
    t.s.weighted = true;
    expect_choice(&t, 10, 1000, "01");
}

static uint32_t random_state = 3;
static float random_gain(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 20) - 500;
}

/* The best total gain of any choice within the limits, by trying all. */
static double best_gain(const table *t, int64_t max_weights, int64_t max_extra_bytes) {
    double best = 0;
    int64_t n_first = t->tensors[0].rows, n_all = n_first + (t->s.n > 1 ? t->tensors[1].rows : 0);
    for (uint32_t set = 0; set < 1u << n_all; set++) {
        double gain = 0;
        int64_t weights = 0, bytes = 0;
        for (int64_t i = 0; i < n_all; i++) {
            if (!(set >> i & 1)) continue;
            int64_t k = i >= n_first, row = k ? i - n_first : i;
            gain += (double)t->errors[k][row].native;
            weights += t->tensors[k].cols;
            bytes += t->tensors[k].extra_bytes;
        }
        if (weights <= max_weights && bytes <= max_extra_bytes && gain > best) best = gain;
    }
    return best;
}

static double chosen_gain(const table *t, int64_t max_weights, int64_t max_extra_bytes,
                          double *largest_left) {
    qn_rescue_choice choice = choose(t, max_weights, max_extra_bytes);
    double gain = 0;
    *largest_left = 0;
    for (int64_t k = 0; k < t->s.n; k++) {
        for (int64_t row = 0; row < t->tensors[k].rows; row++) {
            double g = (double)t->errors[k][row].native;
            if (choice.rescued[k][row]) {
                gain += g;
            } else if (g > *largest_left) {
                *largest_left = g;
            }
        }
    }
    qn_rescue_choice_release(&choice);
    return gain;
}

static void test_greedy_against_all_choices(void **state) {
    (void)state;
    for (int trial = 0; trial < 40; trial++) {
        float gains[2][6];
        for (int i = 0; i < 12; i++) gains[i / 6][i % 6] = random_gain();
        double left;
        table same = {0}, mixed = {0};
        add_tensor(&same, 6, 16, 6, gains[0]);
        add_tensor(&same, 6, 16, 6, gains[1]);
        /* one price: greedy is optimal */
        assert_true(chosen_gain(&same, 90, 40, &left) == best_gain(&same, 90, 40));
        add_tensor(&mixed, 6, 16, 6, gains[0]);
        add_tensor(&mixed, 6, 40, 15, gains[1]);
        /* two prices: at most one row short of it (the knapsack bound of the greedy order) */
        double greedy = chosen_gain(&mixed, INT64_MAX, 40, &left), best = best_gain(&mixed, INT64_MAX, 40);
        assert_true(greedy <= best && greedy + left >= best);
    }
}

static void test_negative_limits_are_refused(void **state) {
    (void)state;
    table t = {0};
    add_tensor(&t, 1, 10, 4, (const float[]){1});
    qn_rescue_choice choice = {0};
    qn_rescue_limits limits = {-1, 10};
    assert_int_equal(qn_rescue_choose(&t.s, &limits, &choice, NULL), QN_E_ARGUMENT);
    assert_null(choice.rescued);
}

/* Two rows of equal gain and price: the one that works for every token is taken, not the embedding's. */
static void test_rows_of_the_embedding_come_last(void **state) {
    (void)state;
    const qn_layout_entry entries[] = {{.kind = QN_TENSOR_EMBED, .rows = 4},
                                       {.kind = QN_TENSOR_Q, .rows = 4}};
    qn_row_errors errors[2][1] = {{{2.0F, 1.0F, 2.0F, 1.0F}}, {{2.0F, 1.0F, 2.0F, 1.0F}}};
    qn_sensitivity_tensor tensors[2];
    for (int t = 0; t < 2; t++)
        tensors[t] = (qn_sensitivity_tensor){.entry = t,
                                             .rows = 1,
                                             .cols = 8,
                                             .extra_bytes = 4,
                                             .token_share = qn_row_token_share(&entries[t]),
                                             .energy = 8.0,
                                             .errors = errors[t]};
    const qn_sensitivity pair = {.tensors = tensors, .n = 2};
    const qn_rescue_limits limits = {.max_weights = 8, .max_extra_bytes = 8};
    qn_rescue_choice choice = {0};
    assert_int_equal(qn_rescue_choose(&pair, &limits, &choice, NULL), QN_OK);
    assert_int_equal(choice.n_rescued_rows[0], 0);
    assert_int_equal(choice.n_rescued_rows[1], 1);
    qn_rescue_choice_release(&choice);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_of_the_embedding_come_last),
        cmocka_unit_test(test_limits_bind_exactly),
        cmocka_unit_test(test_ties_go_to_the_earlier_tensor_and_row),
        cmocka_unit_test(test_a_row_that_does_not_fit_is_passed_over),
        cmocka_unit_test(test_rows_without_gain_are_left),
        cmocka_unit_test(test_rows_that_cost_nothing_come_first),
        cmocka_unit_test(test_weighted_errors_decide_when_there_are_weights),
        cmocka_unit_test(test_greedy_against_all_choices),
        cmocka_unit_test(test_negative_limits_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
