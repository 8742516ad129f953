/* Products, attention and losses of the CPU table against plain loops in double; the same bytes for any
 * threads. */
#include "quern/base/rng.h"
#include "quern/tensor/dtype.h"
#include "packed_plain.h"
#include "tensor/ops.h"
#include "random_values.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* f32 sums against double sums, of the sum of magnitudes: blocked summation of a few thousand terms. */
#define SUM_TOLERANCE 1e-6

/* Of attention whose products are in bf16: values of up to 4 are rounded by up to 0.008, weights and scores by as much again. */
#define BF16_TOLERANCE 0.015

static const int k_threads[] = {1, 2, 3, 5};
enum { N_THREADS = sizeof k_threads / sizeof *k_threads };

static qn_ops *open_ops(void) {
    qn_ops *ops = NULL;
    qn_error err = {0};
    if (qni_ops_open(&ops, &err) != QN_OK) fail_msg("%s", err.message);
    return ops;
}

static double rounded(float value, bool bf16) {
    return bf16 ? (double)qn_bf16_to_f32(qn_f32_to_bf16(value)) : (double)value;
}

static void expect_close(const char *what, double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s: got %.9g, want %.9g", what, got, want);
}

static void check_gemm(qn_ops *ops, qni_gemm_args args, const char *what) {
    const int64_t a_row = args.trans_a ? 1 : args.lda, a_col = args.trans_a ? args.lda : 1;
    const int64_t b_row = args.trans_b ? 1 : args.ldb, b_col = args.trans_b ? args.ldb : 1;
    float *start = random_values(args.m * args.ldc, 3), *first = NULL;
    for (int t = 0; t < N_THREADS; t++) {
        float *c = malloc((size_t)(args.m * args.ldc) * sizeof *c);
        memcpy(c, start, (size_t)(args.m * args.ldc) * sizeof *c);
        args.c = c;
        assert_int_equal(ops->gemm(ops, &args, k_threads[t], NULL), QN_OK);
        if (first) {
            assert_memory_equal(c, first, (size_t)(args.m * args.ldc) * sizeof *c);
            free(c);
        } else {
            first = c;
        }
    }
    for (int64_t i = 0; i < args.m; i++) {
        for (int64_t j = 0; j < args.ldc; j++) {
            double sum = args.accumulate ? (double)start[i * args.ldc + j] : 0.0, magnitude = fabs(sum);
            for (int64_t l = 0; l < args.k && j < args.n; l++) {
                const double product = rounded(args.a[i * a_row + l * a_col], args.bf16) *
                                       rounded(args.b[l * b_row + j * b_col], args.bf16);
                sum += product;
                magnitude += fabs(product);
            }
            if (j >= args.n) sum = (double)start[i * args.ldc + j]; /* beyond the product: untouched */
            expect_close(what, (double)first[i * args.ldc + j], sum, SUM_TOLERANCE * magnitude);
        }
    }
    free(start);
    free(first);
}

static void check_gemm_of(qn_ops *ops, int64_t m, int64_t n, int64_t k, int flags) {
    const bool trans_a = flags & 1, trans_b = flags & 2;
    float *a = random_values((m + 3) * (k + 3), 1), *b = random_values((n + 3) * (k + 3), 2);
    char what[80];
    snprintf(what, sizeof what, "gemm %lldx%lldx%lld flags %d", (long long)m, (long long)n, (long long)k,
             flags);
    check_gemm(ops,
               (qni_gemm_args){.trans_a = trans_a,
                               .trans_b = trans_b,
                               .accumulate = flags & 4,
                               .bf16 = flags & 8,
                               .m = m,
                               .n = n,
                               .k = k,
                               .a = a,
                               .lda = (trans_a ? m : k) + 3,
                               .b = b,
                               .ldb = (trans_b ? k : n) + 2,
                               .ldc = n + 1},
               what);
    free(a);
    free(b);
}

static void test_gemm(void **state) {
    static const int64_t shapes[][3] = {{1, 1, 1},      {3, 5, 7},      {64, 48, 33},
                                        {257, 300, 65}, {300, 17, 129}, {70, 40, 1100}};
    (void)state;
    qn_ops *ops = open_ops();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int flags = 0; flags < 16; flags++)
            check_gemm_of(ops, shapes[s][0], shapes[s][1], shapes[s][2], flags);
    qni_ops_close(ops);
}

static void decode_values(const void *source, int64_t row0, int64_t n_rows, float *out) {
    const qni_matrix *dense = source;
    memcpy(out, dense->f32 + row0 * dense->cols, (size_t)(n_rows * dense->cols) * sizeof *out);
}

/* The same weights as f32 rows in place, as bf16 rows in place, and behind a decoder. They are exact in bf16.
 */
typedef struct sources {
    float *f32;
    uint16_t *bf16;
    qni_matrix matrix[3];
} sources;

static void sources_make(sources *s, int64_t rows, int64_t cols, uint64_t seed) {
    const int64_t n = rows * cols;
    s->f32 = random_values(n, seed);
    s->bf16 = malloc((size_t)n * sizeof *s->bf16);
    for (int64_t i = 0; i < n; i++) {
        s->bf16[i] = qn_f32_to_bf16(s->f32[i]);
        s->f32[i] = qn_bf16_to_f32(s->bf16[i]);
    }
    for (int i = 0; i < 3; i++) s->matrix[i] = (qni_matrix){.rows = rows, .cols = cols};
    s->matrix[0].f32 = s->f32;
    s->matrix[1].bf16 = s->bf16;
    s->matrix[2].decode = decode_values;
    s->matrix[2].source = &s->matrix[0];
}

static void sources_release(sources *s) {
    free(s->f32);
    free(s->bf16);
}

static void check_linear(qn_ops *ops, int64_t m, int64_t n, int64_t k, bool bf16, bool with_bias) {
    sources w;
    sources_make(&w, n, k, 11);
    float *x = random_values(m * k, 12), *bias = random_values(n, 13), *first = NULL, largest = 0.0f;
    const size_t bytes = (size_t)(m * n) * sizeof(float);
    for (int variant = 0; variant < 3 * N_THREADS; variant++) {
        float *y = malloc(bytes + 1);
        const qni_linear_args args = {.bf16 = bf16,
                                      .x = x,
                                      .m = m,
                                      .w = &w.matrix[variant / N_THREADS],
                                      .bias = with_bias ? bias : NULL,
                                      .y = y};
        assert_int_equal(ops->linear(ops, &args, k_threads[variant % N_THREADS], &largest, NULL), QN_OK);
        if (first) {
            assert_memory_equal(y, first, bytes);
            free(y);
        } else {
            first = y;
        }
    }
    double most = 0.0;
    for (int64_t i = 0; i < m * n; i++) {
        double sum = with_bias ? (double)bias[i % n] : 0.0, magnitude = fabs(sum);
        for (int64_t l = 0; l < k; l++) {
            const double product = rounded(x[i / n * k + l], bf16) * (double)w.f32[i % n * k + l];
            sum += product;
            magnitude += fabs(product);
        }
        expect_close("linear", (double)first[i], sum, SUM_TOLERANCE * magnitude);
        most = fmax(most, fabs((double)first[i]));
    }
    assert_true((double)largest == most);
    sources_release(&w);
    free(x);
    free(bias);
    free(first);
}

static void test_linear_from_every_source(void **state) {
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},      {1, 300, 70},   {4, 257, 33},   {5, 257, 33},
                                        {600, 300, 70}, {1025, 40, 48}, {2201, 1100, 9}};
    qn_ops *ops = open_ops();
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int flags = 0; flags < 4; flags++)
            check_linear(ops, shapes[s][0], shapes[s][1], shapes[s][2], flags & 1, flags & 2);
    qni_ops_close(ops);
}

/* A matrix of several panels: 5 000 rows of 1 100 values, checked against the sum of its columns. */
static void test_linear_over_panels(void **state) {
    (void)state;
    enum { N = 5000, K = 1100, M = 6 };
    qn_ops *ops = open_ops();
    sources w;
    sources_make(&w, N, K, 21);
    float *x = random_values(M * K, 22), *y = malloc(sizeof(float) * M * N), largest;
    const qni_linear_args args = {.x = x, .m = M, .w = &w.matrix[2], .y = y};
    assert_int_equal(ops->linear(ops, &args, 2, &largest, NULL), QN_OK);
    for (int64_t r = 0; r < N; r += 37) {
        double sum = 0.0;
        for (int64_t l = 0; l < K; l++) sum += (double)x[2 * K + l] * (double)w.f32[r * K + l];
        expect_close("panel", (double)y[2 * N + r], sum, SUM_TOLERANCE * K);
    }
    sources_release(&w);
    free(x);
    free(y);
    qni_ops_close(ops);
}

typedef struct attention_case {
    int64_t heads, kv_heads, head_dim, window, n_spans;
    qni_span spans[3];
} attention_case;

static double score(const attention_case *c, const float *q, const float *k, int64_t query, int64_t key,
                    int64_t head) {
    const int64_t d = c->head_dim, kv_head = head / (c->heads / c->kv_heads);
    double sum = 0.0;
    for (int64_t i = 0; i < d; i++)
        sum +=
            (double)q[(query * c->heads + head) * d + i] * (double)k[(key * c->kv_heads + kv_head) * d + i];
    return sum / sqrt((double)d);
}

/* One query and head of span S, in double. */
static void naive_attention(const attention_case *c, const qni_span *s, const float *q, const float *k,
                            const float *v, int64_t i, int64_t head, double *out) {
    const int64_t position = s->n_keys - s->n_queries + i, d = c->head_dim;
    const int64_t low = c->window && position >= c->window ? position - c->window + 1 : 0;
    double total = 0.0, most = (double)-INFINITY;
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t j = low; j <= position; j++)
        most = fmax(most, score(c, q, k, s->first_query + i, s->first_key + j, head));
    for (int64_t j = low; j <= position; j++) {
        const double p = exp(score(c, q, k, s->first_query + i, s->first_key + j, head) - most);
        const float *value = v + ((s->first_key + j) * c->kv_heads + head / (c->heads / c->kv_heads)) * d;
        total += p;
        for (int64_t l = 0; l < d; l++) out[l] += p * (double)value[l];
    }
    for (int64_t l = 0; l < d; l++) out[l] /= total;
}

static void check_attention(qn_ops *ops, const attention_case *c, bool bf16) {
    enum { TOKENS = 400 };
    const int64_t width = c->heads * c->head_dim;
    float *q = random_values(TOKENS * width, 31), *k = random_values(TOKENS * c->kv_heads * c->head_dim, 32);
    float *v = random_values(TOKENS * c->kv_heads * c->head_dim, 33), *first = NULL;
    double *want = malloc((size_t)c->head_dim * sizeof *want);
    for (int t = 0; t < N_THREADS; t++) {
        float *out = malloc((size_t)(TOKENS * width) * sizeof *out);
        memcpy(out, q, (size_t)(TOKENS * width) * sizeof *out); /* in place */
        const qni_attention_args args = {.bf16 = bf16,
                                         .q = out,
                                         .k = k,
                                         .v = v,
                                         .out = out,
                                         .n_heads = c->heads,
                                         .n_kv_heads = c->kv_heads,
                                         .head_dim = c->head_dim,
                                         .window = c->window,
                                         .spans = c->spans,
                                         .n_spans = c->n_spans};
        assert_int_equal(ops->attention(ops, &args, k_threads[t], NULL), QN_OK);
        if (first) {
            assert_memory_equal(out, first, (size_t)(TOKENS * width) * sizeof *out);
            free(out);
        } else {
            first = out;
        }
    }
    for (int64_t s = 0; s < c->n_spans; s++) {
        for (int64_t i = 0; i < c->spans[s].n_queries; i++) {
            for (int64_t head = 0; head < c->heads; head++) {
                naive_attention(c, &c->spans[s], q, k, v, i, head, want);
                const float *got = first + (c->spans[s].first_query + i) * width + head * c->head_dim;
                for (int64_t l = 0; l < c->head_dim; l++)
                    expect_close("attention", (double)got[l], want[l], bf16 ? BF16_TOLERANCE : 3e-6);
            }
        }
    }
    free(q);
    free(k);
    free(v);
    free(first);
    free(want);
}

static void test_attention(void **state) {
    (void)state;
    static const attention_case cases[] = {
        {.heads = 4, .kv_heads = 2, .head_dim = 16, .n_spans = 1, .spans = {{0, 65, 0, 65}}},
        {.heads = 4,
         .kv_heads = 4,
         .head_dim = 9,
         .n_spans = 3,
         .spans = {{0, 1, 0, 1}, {1, 130, 1, 130}, {131, 7, 131, 7}}},
        {.heads = 6,
         .kv_heads = 1,
         .head_dim = 32,
         .window = 20,
         .n_spans = 2,
         .spans = {{0, 19, 0, 19}, {19, 100, 19, 100}}},
        {.heads = 4, .kv_heads = 2, .head_dim = 16, .window = 1, .n_spans = 1, .spans = {{0, 70, 0, 70}}},
        {.heads = 8,
         .kv_heads = 2,
         .head_dim = 16,
         .n_spans = 1,
         .spans = {{0, 1, 0, 300}}}, /* a cached step */
        {.heads = 8, .kv_heads = 2, .head_dim = 16, .window = 64, .n_spans = 1, .spans = {{0, 40, 0, 300}}},
        {.heads = 130, .kv_heads = 1, .head_dim = 4, .n_spans = 1, .spans = {{0, 3, 0, 3}}},
        {.heads = 4, .kv_heads = 2, .head_dim = 40, .n_spans = 1, .spans = {{0, 140, 0, 140}}},
        {.heads = 4, .kv_heads = 2, .head_dim = 40, .window = 50, .n_spans = 1, .spans = {{0, 140, 0, 140}}},
    };
    qn_ops *ops = open_ops();
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        check_attention(ops, &cases[c], false);
        check_attention(ops, &cases[c], true);
    }
    qni_ops_close(ops);
}

static void check_nll(qn_ops *ops, int64_t m, int64_t vocab, int64_t k, bool bf16, double gain) {
    sources w;
    sources_make(&w, vocab, k, 41);
    float *x = random_values(m * k, 42), largest = 0.0f;
    for (int64_t i = 0; i < m * k; i++) x[i] *= (float)gain;
    int32_t *targets = malloc((size_t)m * sizeof *targets);
    double *first = NULL, *logits = malloc((size_t)vocab * sizeof *logits);
    for (int64_t i = 0; i < m; i++) targets[i] = (int32_t)((i * 7919 + vocab - 1) % vocab);
    for (int variant = 0; variant < 3 * N_THREADS; variant++) {
        double *nll = malloc((size_t)m * sizeof *nll);
        const qni_nll_args args = {.bf16 = bf16,
                                   .x = x,
                                   .m = m,
                                   .w = &w.matrix[variant / N_THREADS],
                                   .targets = targets,
                                   .nll = nll};
        assert_int_equal(ops->nll(ops, &args, k_threads[variant % N_THREADS], &largest, NULL), QN_OK);
        if (first) {
            assert_memory_equal(nll, first, (size_t)m * sizeof *nll);
            free(nll);
        } else {
            first = nll;
        }
    }
    for (int64_t i = 0; i<m; i += m> 50 ? 97 : 1) {
        double most = (double)-INFINITY, sum = 0.0;
        for (int64_t r = 0; r < vocab; r++) {
            logits[r] = 0.0;
            for (int64_t l = 0; l < k; l++)
                logits[r] += rounded(x[i * k + l], bf16) * (double)w.f32[r * k + l];
            most = fmax(most, logits[r]);
        }
        for (int64_t r = 0; r < vocab; r++) sum += exp(logits[r] - most);
        expect_close("nll", first[i], most + log(sum) - logits[targets[i]], 1e-5 * gain);
    }
    sources_release(&w);
    free(x);
    free(targets);
    free(first);
    free(logits);
}

static void test_nll(void **state) {
    (void)state;
    qn_ops *ops = open_ops();
    for (int bf16 = 0; bf16 < 2; bf16++) {
        check_nll(ops, 1, 1, 5, bf16, 1.0);
        check_nll(ops, 30, 257, 48, bf16, 1.0);
        check_nll(ops, 600, 2500, 33, bf16, 1.0);
        check_nll(ops, 40, 1025, 16, bf16, 100.0); /* logits of hundreds: the running maximum matters */
    }
    check_nll(ops, 8200, 20, 4, false, 1.0); /* more than one round */
    qni_ops_close(ops);
}

static void test_work_space_survives_changing_sizes(void **state) {
    (void)state;
    qn_ops *ops = open_ops();
    check_linear(ops, 10, 20, 30, false, false);
    check_linear(ops, 700, 300, 200, true, true);
    check_linear(ops, 2, 20, 30, true, false);
    qni_ops_close(ops);
    qni_ops_close(NULL);
}

/* Every operation with products that are packed, on any machine. */
static void test_packed_products(void **state) {
    static const attention_case attention = {
        .heads = 4, .kv_heads = 2, .head_dim = 40, .window = 50, .n_spans = 1, .spans = {{0, 140, 0, 140}}};
    const qni_kernels *selected = NULL;
    qn_ops *ops = NULL;
    (void)state;
    assert_int_equal(qni_kernels_get(&selected, NULL), QN_OK);
    qni_kernels kernels = *selected;
    kernels.packed = &k_packed_plain;
    assert_int_equal(qni_ops_open_cpu(&kernels, &ops, NULL), QN_OK);
    for (int flags = 0; flags < 16; flags++) check_gemm_of(ops, 150, 70, 40, flags);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        check_linear(ops, 150, 300, 33, bf16, true);
        check_nll(ops, 200, 1100, 33, bf16, 1.0);
        check_attention(ops, &attention, bf16);
    }
    qni_ops_close(ops);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_linear_from_every_source),
        cmocka_unit_test(test_linear_over_panels),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_nll),
        cmocka_unit_test(test_packed_products),
        cmocka_unit_test(test_work_space_survives_changing_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
