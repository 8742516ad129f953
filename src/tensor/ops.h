/* What a model asks of a device: one table of functions, so that another device is another table. The CPU
 * table (ops_cpu.c) works on OpenMP threads over tiles that depend on shapes only; results do not depend on
 * n_threads.
 *
 * Letters: M tokens, N outputs, K inputs of a linear layer; H heads of D values. Row-major f32 unless said.
 * `bf16` in the arguments of a product: both operands are rounded to bf16, sums are f32. */
#ifndef QUERN_SRC_TENSOR_OPS_H
#define QUERN_SRC_TENSOR_OPS_H

#include "tensor/kernels.h"

#include <stddef.h>

/* A matrix [rows, cols] as a source of rows: dense in memory (f32 or bf16), or whatever DECODE makes f32 rows
 * of. Exactly one of the three is set. Borrowed. decode is called by several threads at once. */
typedef struct qni_matrix {
    int64_t rows, cols;
    const float *f32;
    const uint16_t *bf16;
    void (*decode)(const void *source, int64_t row0, int64_t n_rows, float *out);
    const void *source;
    const qni_signs *signs; /* or NULL: the same values once more, for faster products in f32 */
} qni_matrix;

/* C [m, n] = op(A) [m, k] op(B) [k, n] (+ C when accumulate); leading dimensions as stored. */
typedef struct qni_gemm_args {
    bool bf16, trans_a, trans_b, accumulate;
    int64_t m, n, k;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
} qni_gemm_args;

/* y [M, N] = x [M, K] W^T + bias. */
typedef struct qni_linear_args {
    bool bf16;
    const float *x;
    int64_t m;
    const qni_matrix *w; /* [N, K] */
    const float *bias;   /* [N] or NULL */
    float *y;
} qni_linear_args;

/* cos and sin of every position's angles, times the attention scaling: row p holds half values each. */
typedef struct qni_rope_table {
    int64_t n_positions, half;
    float *cosine, *sine; /* [n_positions, half]; owned, one block behind cosine */
} qni_rope_table;

/* Queries [first_query, + n_queries) attend to keys [first_key, + n_keys); the last query sees the last key.
 */
typedef struct qni_span {
    int64_t first_query, n_queries, first_key, n_keys;
} qni_span;

/* out = softmax(q k^T / sqrt D) v, causal, each group of n_heads / n_kv_heads query heads sharing a key head.
 */
typedef struct qni_attention_args {
    bool bf16;          /* products may be in bf16: those on a matrix unit are */
    const float *q;     /* [M, n_heads * D] */
    const float *k, *v; /* [keys, n_kv_heads * D] */
    float *out;         /* [M, n_heads * D]; may be q */
    int64_t n_heads, n_kv_heads, head_dim;
    int64_t window; /* keys a query sees, itself included; 0: all before it */
    const qni_span *spans;
    int64_t n_spans;
} qni_attention_args;

/* nll[i] = logsumexp(W x_i) - (W x_i)[targets[i]]. */
typedef struct qni_nll_args {
    bool bf16;
    const float *x; /* [M, K] */
    int64_t m;
    const qni_matrix *w; /* [V, K] */
    const int32_t *targets;
    double *nll;
} qni_nll_args;

/* Gradients of y = x W^T + bias. Wanted are those that are not NULL; dbias is added to, dw unless set_dw, dx where add_dx says
 * so. */
typedef struct qni_linear_backward_args {
    bool bf16, add_dx, set_dw;
    int64_t m, n, k;
    const float *dy;        /* [M, N] */
    const float *x;         /* [M, K]; for dw */
    const float *w;         /* [N, K]; for dx */
    const qni_signs *signs; /* as in qni_matrix */
    float *dx;              /* [M, K] */
    float *dw;              /* [N, K] */
    float *dbias;           /* [N] */
} qni_linear_backward_args;

/* Gradients of y [rows, n] = w * x / rms(x). dw [n] is added to unless NULL, dx where ADD_DX says so; dx may be dy. */
typedef struct qni_rms_norm_backward_args {
    const float *x, *w, *dy;
    double eps;
    int64_t rows, n;
    bool add_dx;
    float *dx, *dw;
} qni_rms_norm_backward_args;

/* Gradients of attention over whole sequences: every span has n_queries == n_keys. Probabilities are computed
 * again, a tile of queries at a time. */
typedef struct qni_attention_backward_args {
    qni_attention_args forward; /* out is not read */
    const float *dout;          /* [M, n_heads * D] */
    float *dq;                  /* [M, n_heads * D]; may be dout */
    float *dk, *dv;             /* [M, n_kv_heads * D] */
} qni_attention_backward_args;

/* A teacher's distribution of each row as its K largest log-probabilities and the mass of all other ids: of a row, the sum
 * of exp(log_probs) and exp(tail_log_prob) is 1. Without samples the others are one more outcome; S samples of them stand
 * for an equal share of their mass each. */
typedef struct qni_loss_top {
    const int32_t *ids;         /* [M, K] ascending */
    const float *log_probs;     /* [M, K] finite */
    const float *tail_log_prob; /* [M]; -INFINITY: no mass, and not read where K = V */
    int64_t k, n_samples;
    const int32_t *sample_ids;    /* [M, S], some perhaps more than once */
    const float *sample_log_prob; /* [M] mean over the samples; not read where the others have no mass */
} qni_loss_top;

/* Losses of rows of logits, and their gradients in place: ce[i] = -log p(targets[i]), kl[i] = KL(q || p),
 * with p the softmax of LOGITS, q that of TEACHER or TOP; logits become ce_factor d ce + kl_factor d kl. */
typedef struct qni_loss_args {
    float *logits;           /* [M, V] */
    const float *teacher;    /* [M, V], or NULL */
    const qni_loss_top *top; /* or NULL; without either of the two there is no kl */
    int64_t m, n;            /* n = V */
    const int32_t *targets;
    double ce_factor, kl_factor;
    double *ce, *kl; /* [M]; kl unused without a teacher */
} qni_loss_args;

typedef struct qni_comparison_row {
    double base_nats, candidate_nats; /* -log of the probability of the target */
    double kl_nats;                   /* KL(base || candidate) */
    bool same_top; /* the largest logit of both, the first one of equals, has the same index */
} qni_comparison_row;

/* Rows of logits of two models over one vocabulary. Those of the candidate are used up. */
typedef struct qni_compare_args {
    const float *base;        /* [M, V] */
    float *candidate;         /* [M, V] */
    int64_t m, n;             /* n = V */
    const int32_t *targets;   /* [M] */
    qni_comparison_row *rows; /* [M] */
} qni_compare_args;

/* One instance serves one caller at a time and keeps its work space between calls. `largest` receives the
 * largest |value| written; NaN or infinity when one of them is. */
typedef struct qn_ops qn_ops;
struct qn_ops {
    qn_status (*gemm)(qn_ops *ops, const qni_gemm_args *args, int n_threads, qn_error *err);
    qn_status (*linear)(qn_ops *ops, const qni_linear_args *args, int n_threads, float *largest,
                        qn_error *err);
    /* y [rows, n] = w * x / rms(x), each row by itself; y may be x. */
    void (*rms_norm)(qn_ops *ops, const float *x, const float *w, double eps, int64_t rows, int64_t n,
                     float *y, int n_threads);
    /* Rotates x [rows, heads * D] in place; row r stands at positions[r]. */
    void (*rope)(qn_ops *ops, float *x, const qni_rope_table *table, const int64_t *positions, int64_t rows,
                 int64_t heads, int64_t head_dim, int n_threads);
    /* gate = silu(gate) * up, n values. */
    void (*swiglu)(qn_ops *ops, float *gate, const float *up, int64_t n, int n_threads, float *largest);
    /* x += y, n values. */
    void (*add)(qn_ops *ops, float *x, const float *y, int64_t n, int n_threads, float *largest);
    qn_status (*attention)(qn_ops *ops, const qni_attention_args *args, int n_threads, qn_error *err);
    qn_status (*nll)(qn_ops *ops, const qni_nll_args *args, int n_threads, float *largest, qn_error *err);

    qn_status (*linear_backward)(qn_ops *ops, const qni_linear_backward_args *args, int n_threads,
                                 qn_error *err);
    qn_status (*rms_norm_backward)(qn_ops *ops, const qni_rms_norm_backward_args *args, int n_threads,
                                   qn_error *err);
    /* y = silu(gate) * up, n values. */
    void (*swiglu_into)(qn_ops *ops, const float *gate, const float *up, int64_t n, float *y, int n_threads);
    /* Of y = silu(gate) * up, n values: gate and up become their gradients, dy becomes y. */
    void (*swiglu_backward)(qn_ops *ops, float *gate, float *up, float *dy, int64_t n, int n_threads);
    qn_status (*attention_backward)(qn_ops *ops, const qni_attention_backward_args *args, int n_threads,
                                    qn_error *err);
    void (*loss)(qn_ops *ops, const qni_loss_args *args, int n_threads);
    void (*compare)(qn_ops *ops, const qni_compare_args *args, int n_threads);
    /* dw[ids[i]] += dy[i], in the order of i: the gradient of looking up ids [rows] in w [V, n]. */
    void (*scatter_add)(qn_ops *ops, const int32_t *ids, const float *dy, int64_t rows, int64_t n, float *dw,
                        int n_threads);

    const qni_kernels *kernels; /* serial pieces for odd jobs */
    void *work;                 /* owned */
    size_t work_bytes;
};

/* The CPU table on the kernels of the selected instruction set, or on KERNELS (how tests reach the others).
 */
QN_NODISCARD qn_status qni_ops_open(qn_ops **out, qn_error *err);
QN_NODISCARD qn_status qni_ops_open_cpu(const qni_kernels *kernels, qn_ops **out, qn_error *err);
void qni_ops_close(qn_ops *ops);

/* inv_freq [half] -> angles p * inv_freq as f32 products, their cos and sin in double, times SCALING,
 * rounded, for positions [0, n_positions). */
QN_NODISCARD qn_status qni_rope_table_make(const float *inv_freq, int64_t half, double scaling,
                                           int64_t n_positions, int n_threads, qni_rope_table *out,
                                           qn_error *err);
void qni_rope_table_release(qni_rope_table *table);

#endif
