/* Cross entropy and divergence of rows of logits, alone or with their gradients in place:
 *
 *   d ce / d s = p - onehot(target)        d KL(q || p) / d s = p - q        p = softmax(s), q = softmax(t)
 */
#include "tensor/ops_cpu.h"

#include <math.h>

#include "base/banned.h"

static double log_sum_exp(const qni_kernels *kernels, const float *s, int64_t n) {
    const float shift = kernels->max(s, n);
    return (double)shift + log(kernels->exp_sum(s, n, shift));
}

static void row_with_teacher(const qni_kernels *kernels, const qni_loss_args *args, int64_t row, float *s) {
    const float *t = args->teacher + row * args->n;
    const double log_sum = log_sum_exp(kernels, s, args->n);
    args->ce[row] = log_sum - (double)s[args->targets[row]];
    args->kl[row] = kernels->divergence(s, t, args->n, log_sum, log_sum_exp(kernels, t, args->n),
                                        (float)(args->ce_factor + args->kl_factor), (float)args->kl_factor);
}

static void row_alone(const qni_kernels *kernels, const qni_loss_args *args, int64_t row, float *s) {
    const double own = (double)s[args->targets[row]], shift = (double)kernels->max(s, args->n);
    const float sum = kernels->softmax(s, args->n, 1.0f);
    args->ce[row] = shift - own + log((double)sum);
    kernels->scale(s, (float)(args->ce_factor / (double)sum), args->n, s);
}

void qni_cpu_loss(qn_ops *ops, const qni_loss_args *args, int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < args->m; i++) {
        float *s = args->logits + i * args->n;
        if (args->teacher) {
            row_with_teacher(ops->kernels, args, i, s);
        } else if (args->top) {
            qni_loss_row_top(ops->kernels, args, i, s);
        } else {
            row_alone(ops->kernels, args, i, s);
        }
        s[args->targets[i]] -= (float)args->ce_factor;
    }
}

/* Index of the first of the largest. */
static int64_t top(const qni_kernels *kernels, const float *s, int64_t n) {
    const float largest = kernels->max(s, n);
    int64_t i = 0;
    while (i < n - 1 && s[i] != largest) i++;
    return i;
}

static qni_comparison_row compare_row(const qni_kernels *kernels, const float *base, float *candidate,
                                      int64_t n, int32_t target) {
    const double log_base = log_sum_exp(kernels, base, n), log_candidate = log_sum_exp(kernels, candidate, n);
    qni_comparison_row row = {.base_nats = log_base - (double)base[target],
                              .candidate_nats = log_candidate - (double)candidate[target],
                              .same_top = top(kernels, base, n) == top(kernels, candidate, n)};
    row.kl_nats = kernels->divergence(candidate, base, n, log_candidate, log_base, 0.0f, 0.0f);
    return row;
}

void qni_cpu_compare(qn_ops *ops, const qni_compare_args *args, int n_threads) {
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < args->m; i++)
        args->rows[i] = compare_row(ops->kernels, args->base + i * args->n, args->candidate + i * args->n,
                                    args->n, args->targets[i]);
}
