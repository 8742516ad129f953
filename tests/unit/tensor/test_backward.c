/* The backward operations against central differences of plain forward loops in double, and the same bytes for
 * any number of threads.
 *
 * Every check differentiates loss = sum_i c[i] y[i] for random c, which is what dy = c means. */
#include "expect_error.h"
#include "quern/base/rng.h"
#include "quern/tensor/dtype.h"
#include "packed_plain.h"
#include "tensor/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of the gradient array's largest value: f32 sums of up to a thousand terms; the difference quotient itself, in
 * double with step 1e-5, is good to 1e-9. */
#define TOLERANCE            5e-6
#define STEP                 1e-5
#define COMPARISON_TOLERANCE 2e-6 /* nats; exponentials in f32, of logits of a few units */

static const int k_threads[] = {1, 2, 3, 5};
enum { N_THREADS = sizeof k_threads / sizeof *k_threads };

static qn_ops *g_ops;

static int open_ops(void **state) {
    (void)state;
    assert_ok(qni_ops_open(&g_ops, err));
    return 0;
}

static int close_ops(void **state) {
    (void)state;
    qni_ops_close(g_ops);
    return 0;
}

/* The same values for the operation (f32) and for the loops (double). */
typedef struct values {
    int64_t n;
    float *f;
    double *d;
} values;

static values random_values(int64_t n, uint64_t seed) {
    qn_rng rng;
    values v = {.n = n, .f = calloc((size_t)n + 1, sizeof *v.f), .d = calloc((size_t)n + 1, sizeof *v.d)};
    assert_true(v.f && v.d);
    qn_rng_seed(&rng, seed);
    for (int64_t i = 0; i < n; i++) v.d[i] = (double)(v.f[i] = (float)qn_rng_normal(&rng));
    return v;
}

static void release(values *v) {
    free(v->f);
    free(v->d);
}

static double largest_of(const float *x, int64_t n) {
    double largest = 0.0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)x[i]));
    return largest;
}

/* Compares GOT [v->n] with central differences of loss(user) in up to about 200 of the values. */
static void check_gradient(const char *what, values *v, const float *got, double (*loss)(void *),
                           void *user) {
    const int64_t stride = v->n / 200 + 1;
    const double largest = largest_of(got, v->n);
    assert_true(largest > 0.0);
    for (int64_t i = 0; i < v->n; i += stride) {
        const double kept = v->d[i];
        v->d[i] = kept + STEP;
        const double above = loss(user);
        v->d[i] = kept - STEP;
        const double want = (above - loss(user)) / (2.0 * STEP);
        v->d[i] = kept;
        if (!(fabs((double)got[i] - want) <= TOLERANCE * largest))
            fail_msg("%s [%lld]: got %.9g, want %.9g (largest %.3g)", what, (long long)i, (double)got[i],
                     want, largest);
    }
}

/* ---- linear ---- */

typedef struct linear_case {
    int64_t m, n, k;
    values x, w, bias, dy;
} linear_case;

static linear_case linear_make(int64_t m, int64_t n, int64_t k) {
    return (linear_case){.m = m,
                         .n = n,
                         .k = k,
                         .x = random_values(m * k, 1),
                         .w = random_values(n * k, 2),
                         .bias = random_values(n, 3),
                         .dy = random_values(m * n, 4)};
}

static void linear_release(linear_case *c) {
    release(&c->x);
    release(&c->w);
    release(&c->bias);
    release(&c->dy);
}

static double linear_loss(void *user) {
    const linear_case *c = user;
    double sum = 0.0;
    for (int64_t t = 0; t < c->m; t++) {
        for (int64_t r = 0; r < c->n; r++) {
            double y = c->bias.d[r];
            for (int64_t i = 0; i < c->k; i++) y += c->x.d[t * c->k + i] * c->w.d[r * c->k + i];
            sum += y * c->dy.d[t * c->n + r];
        }
    }
    return sum;
}

static qni_linear_backward_args linear_args(const linear_case *c, float *dx, float *dw, float *dbias) {
    return (qni_linear_backward_args){.m = c->m,
                                      .n = c->n,
                                      .k = c->k,
                                      .dy = c->dy.f,
                                      .x = c->x.f,
                                      .w = c->w.f,
                                      .dx = dx,
                                      .dw = dw,
                                      .dbias = dbias};
}

static void test_linear(void **state) {
    static const int64_t shapes[][3] = {{1, 5, 7}, {2, 1, 3}, {3, 33, 17}, {13, 20, 1}, {130, 40, 35}};
    (void)state;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        linear_case c = linear_make(shapes[s][0], shapes[s][1], shapes[s][2]);
        float *dx = calloc((size_t)c.x.n, 4), *dw = calloc((size_t)c.w.n, 4), *dbias = calloc((size_t)c.n, 4);
        const qni_linear_backward_args args = linear_args(&c, dx, dw, dbias);
        assert_ok(g_ops->linear_backward(g_ops, &args, 2, err));
        check_gradient("linear dx", &c.x, dx, linear_loss, &c);
        check_gradient("linear dw", &c.w, dw, linear_loss, &c);
        check_gradient("linear dbias", &c.bias, dbias, linear_loss, &c);
        free(dx);
        free(dw);
        free(dbias);
        linear_release(&c);
    }
}

static double rounded(float x, bool bf16) {
    return (double)(bf16 ? qn_bf16_to_f32(qn_f32_to_bf16(x)) : x);
}

/* Shapes beyond a tile on every side; some elements of each result against double sums. */
static void check_large_linear(bool bf16, bool add) {
    linear_case c = linear_make(1041, 900, 1100);
    float *first = NULL;
    for (int t = 0; t < N_THREADS; t++) {
        values out = random_values(c.x.n + c.w.n + c.n, 9);
        float *dx = out.f, *dw = dx + c.x.n, *dbias = dw + c.w.n;
        qni_linear_backward_args args = linear_args(&c, dx, dw, dbias);
        args.bf16 = bf16;
        args.add_dx = add;
        assert_ok(g_ops->linear_backward(g_ops, &args, k_threads[t], err));
        if (first) assert_memory_equal(out.f, first, (size_t)out.n * sizeof *out.f);
        for (int64_t i = 0; i < c.x.n && !first; i += 997) {
            double want = add ? out.d[i] : 0.0;
            for (int64_t r = 0; r < c.n; r++)
                want += rounded(c.dy.f[i / c.k * c.n + r], bf16) * rounded(c.w.f[r * c.k + i % c.k], bf16);
            assert_true(fabs((double)dx[i] - want) <= TOLERANCE * 100.0); /* of the largest, 100 here */
        }
        for (int64_t i = 0; i < c.w.n && !first; i += 997) {
            double want = out.d[c.x.n + i];
            for (int64_t m = 0; m < c.m; m++)
                want += rounded(c.dy.f[m * c.n + i / c.k], bf16) * rounded(c.x.f[m * c.k + i % c.k], bf16);
            assert_true(fabs((double)dw[i] - want) <= TOLERANCE * 100.0);
        }
        if (first) {
            release(&out);
        } else {
            first = out.f;
            free(out.d);
        }
    }
    free(first);
    linear_release(&c);
}

static void test_linear_beyond_a_tile(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) check_large_linear(i & 1, i & 2);
}

/* ---- norm ---- */

typedef struct norm_case {
    int64_t rows, n;
    values x, w, dy;
} norm_case;

static double norm_loss(void *user) {
    const norm_case *c = user;
    double sum = 0.0;
    for (int64_t r = 0; r < c->rows; r++) {
        double squares = 0.0;
        for (int64_t i = 0; i < c->n; i++) squares += c->x.d[r * c->n + i] * c->x.d[r * c->n + i];
        const double scale = 1.0 / sqrt(squares / (double)c->n + 1e-3);
        for (int64_t i = 0; i < c->n; i++)
            sum += c->dy.d[r * c->n + i] * c->w.d[i] * c->x.d[r * c->n + i] * scale;
    }
    return sum;
}

static void check_norm(int64_t rows, int64_t n) {
    norm_case c = {.rows = rows,
                   .n = n,
                   .x = random_values(rows * n, 1),
                   .w = random_values(n, 2),
                   .dy = random_values(rows * n, 3)};
    float *first = NULL;
    for (int t = 0; t < N_THREADS; t++) {
        float *d = calloc((size_t)(c.x.n + n), sizeof *d);
        const qni_rms_norm_backward_args args = {.x = c.x.f,
                                                 .w = c.w.f,
                                                 .dy = c.dy.f,
                                                 .eps = 1e-3,
                                                 .rows = rows,
                                                 .n = n,
                                                 .add_dx = true,
                                                 .dx = d,
                                                 .dw = d + c.x.n};
        assert_ok(g_ops->rms_norm_backward(g_ops, &args, k_threads[t], err));
        if (first) {
            assert_memory_equal(d, first, (size_t)(c.x.n + n) * sizeof *d);
            free(d);
        } else {
            first = d;
        }
    }
    check_gradient("norm dx", &c.x, first, norm_loss, &c);
    check_gradient("norm dw", &c.w, first + c.x.n, norm_loss, &c);
    free(first);
    release(&c.x);
    release(&c.w);
    release(&c.dy);
}

static void test_norm(void **state) {
    (void)state;
    check_norm(1, 2);
    check_norm(3, 16);
    check_norm(7, 50);
    check_norm(131, 33); /* more rows than blocks, and not a multiple */
}

/* ---- gate product ---- */

typedef struct gate_case {
    values gate, up, dy;
} gate_case;

static double gate_loss(void *user) {
    const gate_case *c = user;
    double sum = 0.0;
    for (int64_t i = 0; i < c->gate.n; i++)
        sum += c->dy.d[i] * c->gate.d[i] / (1.0 + exp(-c->gate.d[i])) * c->up.d[i];
    return sum;
}

static void test_swiglu(void **state) {
    const int64_t n = 40001; /* more than one task, with a tail */
    gate_case c = {.gate = random_values(n, 1), .up = random_values(n, 2), .dy = random_values(n, 3)};
    gate_case d = {.gate = random_values(n, 1), .up = random_values(n, 2), .dy = random_values(n, 3)};
    float *product = malloc((size_t)n * sizeof *product);
    (void)state;
    g_ops->swiglu_into(g_ops, c.gate.f, c.up.f, n, product, 2);
    g_ops->swiglu_backward(g_ops, d.gate.f, d.up.f, d.dy.f, n, 3);
    check_gradient("swiglu dgate", &c.gate, d.gate.f, gate_loss, &c);
    check_gradient("swiglu dup", &c.up, d.up.f, gate_loss, &c);
    for (int64_t i = 0; i < n; i++)
        assert_true(fabsf(product[i] - d.dy.f[i]) <= 1e-6f * fabsf(product[i]) + 1e-12f);
    free(product);
    values *all[] = {&c.gate, &c.up, &c.dy, &d.gate, &d.up, &d.dy};
    for (int i = 0; i < 6; i++) release(all[i]);
}

/* ---- rotation ---- */

static void test_rope_by_negated_frequencies_is_the_transpose(void **state) {
    enum { HALF = 9, ROWS = 5, HEADS = 3, N = ROWS * HEADS * 2 * HALF };
    const int64_t positions[ROWS] = {0, 1, 7, 40, 3};
    float frequencies[2][HALF];
    qni_rope_table table[2];
    values x = random_values(N, 1), y = random_values(N, 2);
    values rotated = random_values(N, 1), back = random_values(N, 2);
    double left = 0.0, right = 0.0;
    (void)state;
    for (int i = 0; i < HALF; i++) frequencies[1][i] = -(frequencies[0][i] = 1.0f / (float)(1 + i * i));
    for (int i = 0; i < 2; i++)
        assert_ok(qni_rope_table_make(frequencies[i], HALF, 1.25, 41, 2, &table[i], err));
    g_ops->rope(g_ops, rotated.f, &table[0], positions, ROWS, HEADS, 2 * HALF, 2);
    g_ops->rope(g_ops, back.f, &table[1], positions, ROWS, HEADS, 2 * HALF, 2);
    for (int i = 0; i < N; i++) { /* <y, R x> = <R^T y, x>, element by element pair */
        left += y.d[i] * (double)rotated.f[i];
        right += (double)back.f[i] * x.d[i];
    }
    assert_true(fabs(left - right) <= 1e-5 * fabs(left));
    for (int i = 0; i < 2; i++) qni_rope_table_release(&table[i]);
    values *all[] = {&x, &y, &rotated, &back};
    for (int i = 0; i < 4; i++) release(all[i]);
}

/* ---- attention ---- */

typedef struct attention_case {
    int64_t heads, kv_heads, d, window, n_spans;
    qni_span spans[4];
    int64_t n_tokens;
    values q, k, v, dout;
} attention_case;

static double attention_row(const attention_case *c, const qni_span *span, int64_t t, int64_t head,
                            double *p) {
    const int64_t kv = head / (c->heads / c->kv_heads),
                  low = c->window && t + 1 > c->window ? t + 1 - c->window : 0;
    const double *q = c->q.d + ((span->first_query + t) * c->heads + head) * c->d;
    const double *dout = c->dout.d + (q - c->q.d);
    double sum = 0.0, loss = 0.0, shift = -(double)INFINITY;
    for (int64_t j = low; j <= t; j++) {
        const double *k = c->k.d + ((span->first_key + j) * c->kv_heads + kv) * c->d;
        p[j] = 0.0;
        for (int64_t i = 0; i < c->d; i++) p[j] += q[i] * k[i] / sqrt((double)c->d);
        shift = fmax(shift, p[j]);
    }
    for (int64_t j = low; j <= t; j++) sum += p[j] = exp(p[j] - shift);
    for (int64_t j = low; j <= t; j++) {
        const double *v = c->v.d + ((span->first_key + j) * c->kv_heads + kv) * c->d;
        for (int64_t i = 0; i < c->d; i++) loss += p[j] / sum * v[i] * dout[i];
    }
    return loss;
}

static double attention_loss(void *user) {
    const attention_case *c = user;
    double p[600], loss = 0.0;
    for (int64_t s = 0; s < c->n_spans; s++)
        for (int64_t t = 0; t < c->spans[s].n_queries; t++)
            for (int64_t head = 0; head < c->heads; head++)
                loss += attention_row(c, &c->spans[s], t, head, p);
    return loss;
}

/* Products in bf16 lose a part or two of 256 of the largest gradient. */
static void check_rounded_attention(const float *got, const float *want, int64_t n) {
    const double tolerance = 0.006 * largest_of(want, n);
    for (int64_t i = 0; i < n; i++) assert_true(fabs((double)got[i] - (double)want[i]) <= tolerance);
}

static void check_attention(int64_t heads, int64_t kv_heads, int64_t d, int64_t window,
                            const int64_t *lengths, int64_t n_spans) {
    attention_case c = {.heads = heads, .kv_heads = kv_heads, .d = d, .window = window, .n_spans = n_spans};
    for (int64_t s = 0; s < n_spans; s++) {
        c.spans[s] = (qni_span){c.n_tokens, lengths[s], c.n_tokens, lengths[s]};
        c.n_tokens += lengths[s];
    }
    const int64_t nq = c.n_tokens * heads * d, nk = c.n_tokens * kv_heads * d;
    c.q = random_values(nq, 1);
    c.k = random_values(nk, 2);
    c.v = random_values(nk, 3);
    c.dout = random_values(nq, 4);
    float *first = NULL;
    for (int t = 0; t <= N_THREADS; t++) {
        const bool bf16 = t == N_THREADS;
        float *g = malloc((size_t)(nq + 2 * nk) * sizeof *g);
        memcpy(g, c.dout.f, (size_t)nq * sizeof *g); /* dq in the place of dout */
        const qni_attention_backward_args args = {.forward = {.bf16 = bf16,
                                                              .q = c.q.f,
                                                              .k = c.k.f,
                                                              .v = c.v.f,
                                                              .n_heads = heads,
                                                              .n_kv_heads = kv_heads,
                                                              .head_dim = d,
                                                              .window = window,
                                                              .spans = c.spans,
                                                              .n_spans = n_spans},
                                                  .dout = g,
                                                  .dq = g,
                                                  .dk = g + nq,
                                                  .dv = g + nq + nk};
        assert_ok(g_ops->attention_backward(g_ops, &args, bf16 ? 1 : k_threads[t], err));
        if (bf16) {
            check_rounded_attention(g, first, nq + 2 * nk);
            free(g);
        } else if (first) {
            assert_memory_equal(g, first, (size_t)(nq + 2 * nk) * sizeof *g);
            free(g);
        } else {
            first = g;
        }
    }
    if (c.n_tokens > n_spans && window != 1) { /* one key alone has p = 1, whatever q and k are */
        check_gradient("attention dq", &c.q, first, attention_loss, &c);
        check_gradient("attention dk", &c.k, first + nq, attention_loss, &c);
    }
    check_gradient("attention dv", &c.v, first + nq + nk, attention_loss, &c);
    free(first);
    values *all[] = {&c.q, &c.k, &c.v, &c.dout};
    for (int i = 0; i < 4; i++) release(all[i]);
}

static void test_attention(void **state) {
    (void)state;
    check_attention(1, 1, 4, 0, (int64_t[]){1}, 1);
    check_attention(4, 2, 6, 0, (int64_t[]){5, 1, 9}, 3);
    check_attention(4, 4, 8, 0, (int64_t[]){17}, 1);
    check_attention(6, 1, 3, 0, (int64_t[]){7, 8}, 2);
}

static void test_attention_sliding_window(void **state) {
    (void)state;
    check_attention(4, 2, 6, 1, (int64_t[]){3, 2}, 2);
    check_attention(4, 2, 6, 3, (int64_t[]){12, 2, 3}, 3);
    check_attention(2, 1, 4, 50, (int64_t[]){150, 20}, 2);
}

static void test_attention_beyond_a_tile(void **state) {
    (void)state;
    check_attention(2, 1, 4, 0, (int64_t[]){133, 64}, 2);
    check_attention(1, 1, 4, 0, (int64_t[]){300}, 1);
    check_attention(2, 1, 32, 0, (int64_t[]){100}, 1); /* wide enough for a matrix unit */
}

/* ---- losses ---- */

typedef struct loss_case {
    int64_t m, n;
    values s, t;
    int32_t targets[8];
    double ce_factor, kl_factor, ce, kl;
} loss_case;

static double log_sum(const double *s, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += exp(s[i]);
    return log(sum);
}

static double entropies(void *user) {
    loss_case *c = user;
    c->ce = c->kl = 0.0;
    for (int64_t r = 0; r < c->m; r++) {
        const double *s = c->s.d + r * c->n, *t = c->t.d + r * c->n;
        const double ls = log_sum(s, c->n), lt = log_sum(t, c->n);
        c->ce += ls - s[c->targets[r]];
        for (int64_t i = 0; i < c->n; i++) c->kl += exp(t[i] - lt) * ((t[i] - lt) - (s[i] - ls));
    }
    return c->ce_factor * c->ce + c->kl_factor * c->kl;
}

static void check_loss(int64_t n, double ce_factor, double kl_factor) {
    loss_case c = {.m = 5,
                   .n = n,
                   .s = random_values(5 * n, 1),
                   .t = random_values(5 * n, 2),
                   .ce_factor = ce_factor,
                   .kl_factor = kl_factor};
    double ce[5], kl[5], ce_sum = 0.0, kl_sum = 0.0;
    for (int64_t r = 0; r < c.m; r++) c.targets[r] = (int32_t)(r * 31 % n);
    values logits = random_values(5 * n, 1);
    const qni_loss_args args = {.logits = logits.f,
                                .teacher = kl_factor != 0.0 ? c.t.f : NULL,
                                .m = c.m,
                                .n = n,
                                .targets = c.targets,
                                .ce_factor = ce_factor,
                                .kl_factor = kl_factor,
                                .ce = ce,
                                .kl = kl};
    g_ops->loss(g_ops, &args, 3);
    check_gradient("losses", &c.s, logits.f, entropies, &c);
    (void)entropies(&c);
    for (int64_t r = 0; r < c.m; r++) {
        ce_sum += ce[r];
        if (args.teacher) kl_sum += kl[r];
    }
    assert_true(fabs(ce_sum - c.ce) <= 1e-6 * c.ce);
    if (args.teacher) assert_true(fabs(kl_sum - c.kl) <= 1e-6 * c.kl);
    release(&c.s);
    release(&c.t);
    release(&logits);
}

static void test_losses(void **state) {
    static const int64_t widths[] = {2, 16, 37, 1100};
    (void)state;
    for (int i = 0; i < 4; i++) {
        check_loss(widths[i], 0.5, 0.0);
        check_loss(widths[i], 0.0, 0.25);
        check_loss(widths[i], 0.7, 0.3);
    }
}

/* Row by row against sums in double. The last row of both is the same, the one before has two largest logits. */
static void check_comparison(int64_t n) {
    enum { M = 6 };
    const int32_t targets[M] = {0, 1, 0, (int32_t)n - 1, (int32_t)n / 2, 1};
    qni_comparison_row rows[M];
    values base = random_values(M * n, 1), candidate = random_values(M * n, 2),
           used = random_values(M * n, 2);
    double *b = base.d, *c = candidate.d;
    for (int64_t i = (M - 1) * n; i < M * n; i++) {
        used.f[i] = base.f[i];
        c[i] = b[i];
    }
    const int64_t tied = (M - 2) * n;
    base.f[tied] = base.f[tied + n - 1] = used.f[tied + n - 1] = 9.0f;
    b[tied] = b[tied + n - 1] = c[tied + n - 1] = 9.0;
    g_ops->compare(g_ops,
                   &(qni_compare_args){
                       .base = base.f, .candidate = used.f, .m = M, .n = n, .targets = targets, .rows = rows},
                   3);
    for (int64_t r = 0; r < M; r++, b += n, c += n) {
        const double log_b = log_sum(b, n), log_c = log_sum(c, n);
        double kl = 0.0;
        int64_t top_b = 0, top_c = 0;
        for (int64_t i = 0; i < n; i++) {
            kl += exp(b[i] - log_b) * ((b[i] - log_b) - (c[i] - log_c));
            if (b[i] > b[top_b]) top_b = i;
            if (c[i] > c[top_c]) top_c = i;
        }
        assert_true(fabs(rows[r].base_nats - (log_b - b[targets[r]])) <= COMPARISON_TOLERANCE);
        assert_true(fabs(rows[r].candidate_nats - (log_c - c[targets[r]])) <= COMPARISON_TOLERANCE);
        assert_true(fabs(rows[r].kl_nats - kl) <= COMPARISON_TOLERANCE);
        assert_int_equal(rows[r].same_top, top_b == top_c);
    }
    assert_false(rows[M - 2].same_top);
    assert_true(rows[M - 1].same_top && rows[M - 1].kl_nats == 0.0);
    release(&base);
    release(&candidate);
    release(&used);
}

static void test_comparison(void **state) {
    static const int64_t widths[] = {2, 16, 37, 1100};
    (void)state;
    for (int i = 0; i < 4; i++) check_comparison(widths[i]);
}

/* ---- embedding ---- */

static void test_scatter_add(void **state) {
    enum { ROWS = 40, N = 130, V = 7 };
    int32_t ids[ROWS];
    values dy = random_values(ROWS * N, 1);
    float dw[V * N], want[V * N];
    (void)state;
    for (int i = 0; i < V * N; i++) want[i] = 1.0f;
    for (int r = 0; r < ROWS; r++) {
        ids[r] = r * r % (V - 1);
        for (int i = 0; i < N; i++) want[ids[r] * N + i] += dy.f[r * N + i];
    }
    for (int t = 0; t < N_THREADS; t++) {
        for (int i = 0; i < V * N; i++) dw[i] = 1.0f;
        g_ops->scatter_add(g_ops, ids, dy.f, ROWS, N, dw, k_threads[t]);
        assert_memory_equal(dw, want, sizeof want);
    }
    release(&dy);
}

/* The same with products that are packed, on any machine. */
static void test_packed_products(void **state) {
    qn_ops *own = g_ops, *packed = NULL;
    qni_kernels kernels = *own->kernels;
    kernels.packed = &k_packed_plain;
    assert_ok(qni_ops_open_cpu(&kernels, &packed, err));
    g_ops = packed;
    test_linear(state);
    check_attention(2, 1, 32, 0, (int64_t[]){100}, 1);
    g_ops = own;
    qni_ops_close(packed);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_linear_beyond_a_tile),
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_rope_by_negated_frequencies_is_the_transpose),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_sliding_window),
        cmocka_unit_test(test_attention_beyond_a_tile),
        cmocka_unit_test(test_packed_products),
        cmocka_unit_test(test_losses),
        cmocka_unit_test(test_comparison),
        cmocka_unit_test(test_scatter_add),
    };
    return cmocka_run_group_tests(tests, open_ops, close_ops);
}
