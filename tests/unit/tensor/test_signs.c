/* Products with matrices of signs, both ways, against loops in double over the numbers they stand for. */
#include "quern/base/rng.h"
#include "tensor/ops.h"
#include "random_values.h"
#include "usable_kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* f32 sums against double sums, of the sum of magnitudes. */
#define SUM_TOLERANCE 1e-6

static const qni_kernels *usable[MOST_USABLE];
static int n_usable;

static int find_usable(void **state) {
    (void)state;
    n_usable = find_usable_kernels(usable);
    return 0;
}

/* ---- a matrix, as signs and as numbers ---- */

enum { MOST_GROUPS = 8, REST_EVERY = 9 };

static const struct shape {
    int64_t rows, cols, group;
    int n_planes, n_layers;
    bool has_rest;
} k_shapes[] = {
    {64, 64, 64, 1, 1, false},  {1, 1, 64, 1, 1, false},     {70, 130, 128, 1, 1, false},
    {129, 200, 64, 2, 1, true}, {200, 333, 128, 1, 2, true}, {33, 100, 100, 2, 2, false},
};
enum { N_SHAPES = sizeof k_shapes / sizeof k_shapes[0] };

typedef struct matrix {
    const struct shape *shape;
    qni_signs signs;
    float *w; /* [rows, cols] */
} matrix;

/* Columns back to front, but for those of the rest. */
static int64_t list_columns(const struct shape *s, bool of_rest, int64_t *columns) {
    int64_t n = 0;
    for (int64_t c = s->cols - 1; c >= 0; c--)
        if ((s->has_rest && c % REST_EVERY == 0) == of_rest) columns[n++] = c;
    return n;
}

static void set_rest(matrix *m, qn_rng *rng) {
    for (int64_t r = 0; r < m->shape->rows; r++) {
        for (int64_t i = 0; i < m->signs.n_rest; i++) {
            const float value = (float)qn_rng_normal(rng);
            m->signs.dense[r * m->signs.n_rest + i] = value;
            m->signs.transposed[i * m->signs.padded_rows + r] = value;
            m->w[r * m->shape->cols + m->signs.rest[i]] = value;
        }
    }
}

/* Random codes of a plane, block after block of rows, and what they are worth. */
static void set_plane(matrix *m, const qni_sign_group *group, int plane, int64_t n, qn_rng *rng) {
    const int64_t rows = m->shape->rows, ld = n + 3;
    int8_t *q = calloc((size_t)(rows * ld), 1);
    float *scales = m->signs.scales + group->planes[plane].scales;
    for (int64_t r = 0; r < rows; r++) {
        scales[r] = (float)(0.1 + qn_rng_uniform(rng));
        for (int64_t i = 0; i < n; i++) {
            const double drawn = qn_rng_uniform(rng);
            const int layers = m->shape->n_layers;
            q[r * ld + i] = layers == 1 ? (drawn < 0.5 ? -1 : 1) : (int8_t)((int)(3 * drawn) - 1);
            m->w[r * m->shape->cols + m->signs.places[group->first + i]] +=
                scales[r] * (float)q[r * ld + i] * (float)layers;
        }
    }
    for (int64_t r = 0; r < rows; r += QNI_SIGN_BLOCK)
        qni_signs_set_codes(&m->signs, group, plane, r, q + r * ld, ld, n);
    free(q);
}

static matrix make_matrix(const struct shape *s) {
    matrix m = {.shape = s, .w = calloc((size_t)(s->rows * s->cols), sizeof *m.w)};
    int64_t *columns = malloc((size_t)s->cols * sizeof *columns);
    qn_rng rng;
    qn_rng_seed(&rng, 5);
    assert_int_equal(
        qni_signs_init(s->rows, s->cols, MOST_GROUPS, s->cols + MOST_GROUPS * QNI_SIGN_BLOCK, &m.signs, NULL),
        QN_OK);
    int64_t n = list_columns(s, true, columns);
    qni_signs_add_rest(&m.signs, columns, n);
    n = list_columns(s, false, columns);
    for (int64_t c = 0; c < n; c += s->group)
        qni_signs_add_group(&m.signs, columns, c, n - c < s->group ? n - c : s->group, s->n_planes,
                            s->n_layers);
    assert_int_equal(qni_signs_make(&m.signs, NULL), QN_OK);
    set_rest(&m, &rng);
    for (int64_t g = 0; g < m.signs.n_groups; g++)
        for (int p = 0; p < s->n_planes; p++)
            set_plane(&m, &m.signs.groups[g], p, n - g * s->group < s->group ? n - g * s->group : s->group,
                      &rng);
    free(columns);
    return m;
}

static void release_matrix(matrix *m) {
    qni_signs_release(&m->signs);
    free(m->w);
}

/* ---- products ---- */

static void expect_sum(const char *what, double got, double want, double magnitude) {
    if (!(fabs(got - want) <= SUM_TOLERANCE * magnitude))
        fail_msg("%s: got %.9g, want %.9g", what, got, want);
}

/* y = x W^T + bias, with one thread and with three. */
static void check_forward(qn_ops *ops, const matrix *m, int64_t n_tokens) {
    const int64_t rows = m->shape->rows, cols = m->shape->cols;
    const qni_matrix w = {.rows = rows, .cols = cols, .f32 = m->w, .signs = &m->signs};
    float *x = random_values(n_tokens * cols, 1), *bias = random_values(rows, 2);
    float *y = random_values(n_tokens * rows, 3), *again = random_values(n_tokens * rows, 4);
    float largest, largest_again, top = 0;
    qni_linear_args args = {.x = x, .m = n_tokens, .w = &w, .bias = bias, .y = y};
    assert_int_equal(ops->linear(ops, &args, 1, &largest, NULL), QN_OK);
    args.y = again;
    assert_int_equal(ops->linear(ops, &args, 3, &largest_again, NULL), QN_OK);
    assert_memory_equal(y, again, (size_t)(n_tokens * rows) * sizeof *y);
    for (int64_t t = 0; t < n_tokens; t++) {
        for (int64_t r = 0; r < rows; r++) {
            double sum = (double)bias[r], magnitude = fabs(sum);
            for (int64_t c = 0; c < cols; c++) {
                const double product = (double)x[t * cols + c] * (double)m->w[r * cols + c];
                sum += product;
                magnitude += fabs(product);
            }
            expect_sum("forward", (double)y[t * rows + r], sum, magnitude);
            top = fmaxf(top, fabsf(y[t * rows + r]));
        }
    }
    assert_true(largest == top && largest_again == top);
    free(x);
    free(bias);
    free(y);
    free(again);
}

/* dx (+)= dy W, and dw beside it. */
static void check_backward(qn_ops *ops, const matrix *m, int64_t n_tokens, bool add) {
    const int64_t rows = m->shape->rows, cols = m->shape->cols;
    float *dy = random_values(n_tokens * rows, 1), *x = random_values(n_tokens * cols, 2);
    float *start = random_values(n_tokens * cols, 3), *dw[2], *dx[2];
    for (int i = 0; i < 2; i++) {
        dw[i] = calloc((size_t)(rows * cols), sizeof **dw);
        dx[i] = random_values(n_tokens * cols, 3);
        const qni_linear_backward_args args = {.add_dx = add,
                                               .m = n_tokens,
                                               .n = rows,
                                               .k = cols,
                                               .dy = dy,
                                               .x = x,
                                               .w = m->w,
                                               .signs = &m->signs,
                                               .dx = dx[i],
                                               .dw = dw[i]};
        assert_int_equal(ops->linear_backward(ops, &args, i == 0 ? 1 : 3, NULL), QN_OK);
    }
    assert_memory_equal(dx[0], dx[1], (size_t)(n_tokens * cols) * sizeof **dx);
    assert_memory_equal(dw[0], dw[1], (size_t)(rows * cols) * sizeof **dw);
    for (int64_t t = 0; t < n_tokens; t++) {
        for (int64_t c = 0; c < cols; c++) {
            double sum = add ? (double)start[t * cols + c] : 0.0, magnitude = fabs(sum);
            for (int64_t r = 0; r < rows; r++) {
                const double product = (double)dy[t * rows + r] * (double)m->w[r * cols + c];
                sum += product;
                magnitude += fabs(product);
            }
            expect_sum("backward", (double)dx[0][t * cols + c], sum, magnitude);
        }
    }
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0.0, magnitude = 0.0;
        for (int64_t t = 0; t < n_tokens; t++) {
            sum += (double)dy[t * rows + r] * (double)x[t * cols];
            magnitude += fabs((double)dy[t * rows + r] * (double)x[t * cols]);
        }
        expect_sum("gradient of weights", (double)dw[0][r * cols], sum, magnitude);
    }
    for (int i = 0; i < 2; i++) free(dw[i]), free(dx[i]);
    free(dy);
    free(x);
    free(start);
}

/* Numbers of tokens: fewer than a tile (which takes the dense product), whole tiles, and a part of one. */
static void test_products(void **state) {
    (void)state;
    static const int64_t n_tokens[] = {5, 32, 64, 77};
    for (int k = 0; k < n_usable; k++) {
        qn_ops *ops = NULL;
        assert_int_equal(qni_ops_open_cpu(usable[k], &ops, NULL), QN_OK);
        printf("instruction set under test: %s\n", qn_isa_name(usable[k]->isa));
        for (int s = 0; s < N_SHAPES; s++) {
            matrix m = make_matrix(&k_shapes[s]);
            for (size_t t = 0; t < sizeof n_tokens / sizeof *n_tokens; t++) {
                check_forward(ops, &m, n_tokens[t]);
                check_backward(ops, &m, n_tokens[t], false);
                check_backward(ops, &m, n_tokens[t], true);
            }
            release_matrix(&m);
        }
        qni_ops_close(ops);
    }
}

/* A product that nobody could have made of the dense matrix: it is the signs that are multiplied, in f32 and from a tile of tokens
 * on; else the dense matrix. */
static void test_signs_are_used_where_they_pay(void **state) {
    (void)state;
    matrix m = make_matrix(&k_shapes[0]);
    const int64_t cols = m.shape->cols, rows = m.shape->rows;
    float *zeros = calloc((size_t)(rows * cols), sizeof *zeros), *x = random_values(64 * cols, 1);
    float *y = random_values(64 * rows, 2), largest;
    const qni_matrix w = {.rows = rows, .cols = cols, .f32 = zeros, .signs = &m.signs};
    for (int k = 0; k < n_usable; k++) {
        qn_ops *ops = NULL;
        assert_int_equal(qni_ops_open_cpu(usable[k], &ops, NULL), QN_OK);
        qni_linear_args args = {.x = x, .m = 64, .w = &w, .y = y};
        assert_int_equal(ops->linear(ops, &args, 1, &largest, NULL), QN_OK);
        assert_true(largest > 0.0f);
        args.m = usable[k]->signs->n_tokens - 1;
        assert_int_equal(ops->linear(ops, &args, 1, &largest, NULL), QN_OK);
        assert_true(largest == 0.0f);
        args.m = 64;
        args.bf16 = true;
        assert_int_equal(ops->linear(ops, &args, 1, &largest, NULL), QN_OK);
        assert_true(largest == 0.0f);
        qni_ops_close(ops);
    }
    release_matrix(&m);
    free(zeros);
    free(x);
    free(y);
}

/* What is not finite reaches the outputs of its own token, and no others. */
static void test_infinite_inputs_are_seen(void **state) {
    (void)state;
    matrix m = make_matrix(&k_shapes[2]);
    const int64_t cols = m.shape->cols, rows = m.shape->rows;
    const qni_matrix w = {.rows = rows, .cols = cols, .f32 = m.w, .signs = &m.signs};
    float *x = random_values(40 * cols, 1), *y = random_values(40 * rows, 2), largest;
    x[7 * cols + 11] = INFINITY;
    for (int k = 0; k < n_usable; k++) {
        qn_ops *ops = NULL;
        const qni_linear_args args = {.x = x, .m = 40, .w = &w, .y = y};
        assert_int_equal(qni_ops_open_cpu(usable[k], &ops, NULL), QN_OK);
        assert_int_equal(ops->linear(ops, &args, 1, &largest, NULL), QN_OK);
        assert_true(!isfinite(largest));
        for (int64_t i = 0; i < 40 * rows; i++) assert_true((isfinite(y[i]) != 0) == (i / rows != 7));
        qni_ops_close(ops);
    }
    release_matrix(&m);
    free(x);
    free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_signs_are_used_where_they_pay),
        cmocka_unit_test(test_infinite_inputs_are_seen),
    };
    return cmocka_run_group_tests(tests, find_usable, NULL);
}
