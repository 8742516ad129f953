/* The loss of a row whose teacher is known by its largest probabilities q_i and the mass q_rest of all other ids. These are one
 * outcome,
 *
 *   KL = sum_top q_i log(q_i / p_i) + q_rest log(q_rest / p_rest)        p_rest = sum of p_j over the others
 *   d KL / d s_j = p_j - q_j on the top, p_j (1 - q_rest / p_rest) elsewhere
 *
 * p_rest is summed over the others themselves, the stretches between two ids of the top, with their own largest logit as
 * shift: neither 1 - sum_top p_i, which cancels, nor a quotient that overflows where the student leaves them no mass.
 *
 * Or samples s_1 .. s_m stand for them, and with the top are targets t_j of the whole softmax:
 *
 *   KL = sum_top q_i log(q_i / p_i) + q_rest mean(log q_s - log p_s)     d KL / d s_j = p_j sum t - t_j */
#include "tensor/ops_cpu.h"

#include <math.h>

#include "base/banned.h"

enum { BLOCK = 256 }; /* ids of the top that are gathered at a time */

typedef struct top_row {
    const qni_kernels *kernels;
    const int32_t *ids; /* [k] */
    const float *log_probs;
    int64_t k, n;
    float *s; /* [n] */
} top_row;

/* What the sums over a row come to. Sums of the top are those of exp(s - shift), of the rest of exp(s - rest_shift). */
typedef struct top_sums {
    float shift, rest_shift;
    double top, rest;
    double mass;  /* sum q_i */
    double cross; /* sum q_i (log q_i - (s_i - shift)) */
} top_sums;

/* The stretch in front of the top's id I, behind the last one where I = K. Returns its length. */
static int64_t stretch(const top_row *r, int64_t i, float **first) {
    const int64_t begin = i > 0 ? r->ids[i - 1] + 1 : 0, end = i < r->k ? r->ids[i] : r->n;
    *first = r->s + begin;
    return end - begin;
}

static float largest_of_rest(const top_row *r) {
    float largest = -INFINITY, *first;
    for (int64_t i = 0; i <= r->k; i++) {
        const int64_t n = stretch(r, i, &first);
        const float here = n > 0 ? r->kernels->max(first, n) : -INFINITY;
        if (here > largest) largest = here;
    }
    return largest;
}

/* Logits become exponentials. */
static void sum_rest(const top_row *r, top_sums *sums) {
    float *first;
    for (int64_t i = 0; i <= r->k; i++) {
        const int64_t n = stretch(r, i, &first);
        if (n > 0) sums->rest += r->kernels->exp_in_place(first, n, sums->rest_shift);
    }
}

/* Of the top, while s holds logits. */
static void compare_top(const top_row *r, top_sums *sums) {
    float q[BLOCK];
    for (int64_t first = 0; first < r->k; first += BLOCK) {
        const int64_t n = qni_min(r->k - first, BLOCK);
        const int32_t *ids = r->ids + first;
        for (int64_t i = 0; i < n; i++) q[i] = r->log_probs[first + i];
        sums->mass += r->kernels->exp_in_place(q, n, 0.0f);
        for (int64_t i = 0; i < n; i++)
            sums->cross += (double)q[i] *
                           ((double)r->log_probs[first + i] - ((double)r->s[ids[i]] - (double)sums->shift));
    }
}

static void sum_top(const top_row *r, top_sums *sums) {
    float e[BLOCK];
    for (int64_t first = 0; first < r->k; first += BLOCK) {
        const int64_t n = qni_min(r->k - first, BLOCK);
        const int32_t *ids = r->ids + first;
        for (int64_t i = 0; i < n; i++) e[i] = r->s[ids[i]];
        sums->top += r->kernels->exp_in_place(e, n, sums->shift);
        for (int64_t i = 0; i < n; i++) r->s[ids[i]] = e[i];
    }
}

/* Exponentials become p_factor p - q_factor q. */
static void finish_top(const top_row *r, float p_factor, float q_factor) {
    float q[BLOCK];
    for (int64_t first = 0; first < r->k; first += BLOCK) {
        const int64_t n = qni_min(r->k - first, BLOCK);
        for (int64_t i = 0; i < n; i++) q[i] = r->log_probs[first + i];
        (void)r->kernels->exp_in_place(q, n, 0.0f);
        for (int64_t i = 0; i < n; i++) {
            float *s = &r->s[r->ids[first + i]];
            *s = p_factor * *s - q_factor * q[i];
        }
    }
}

static void finish_rest(const top_row *r, float factor) {
    float *first;
    for (int64_t i = 0; i <= r->k; i++) {
        const int64_t n = stretch(r, i, &first);
        if (n > 0) r->kernels->scale(first, factor, n, first);
    }
}

/* ---- all others as one outcome ---- */

static void row_with_rest(const top_row *r, const qni_loss_args *args, int64_t row) {
    const bool has_rest = r->k < r->n;
    const double target = (double)r->s[args->targets[row]];
    const double rest_log_q = has_rest ? (double)args->top->tail_log_prob[row] : -HUGE_VAL,
                 rest_q = exp(rest_log_q);
    const float shift = r->kernels->max(r->s, r->n);
    top_sums sums = {.shift = shift, .rest_shift = has_rest ? largest_of_rest(r) : shift};
    if (has_rest) sum_rest(r, &sums);
    compare_top(r, &sums);
    sum_top(r, &sums);
    const double rest_scale = exp((double)sums.rest_shift - (double)shift); /* between the two shifts */
    const double log_sum = log(sums.top + rest_scale * sums.rest);          /* less shift */
    args->ce[row] = (double)shift + log_sum - target;
    args->kl[row] = sums.cross + sums.mass * log_sum;
    if (rest_q > 0.0)
        args->kl[row] +=
            rest_q * (rest_log_q - (log(sums.rest) + (double)sums.rest_shift - (double)shift - log_sum));
    const double p_factor = (args->ce_factor + args->kl_factor) * exp(-log_sum);
    finish_top(r, (float)p_factor, (float)args->kl_factor);
    if (has_rest) finish_rest(r, (float)(p_factor * rest_scale - args->kl_factor * rest_q / sums.rest));
}

/* ---- samples of the others ---- */

static void row_with_samples(const top_row *r, const qni_loss_args *args, int64_t row) {
    const qni_loss_top *top = args->top;
    const double target = (double)r->s[args->targets[row]], rest_q = exp((double)top->tail_log_prob[row]);
    const double share = rest_q / (double)top->n_samples;
    const int32_t *samples = top->sample_ids + row * top->n_samples;
    top_sums sums = {.shift = r->kernels->max(r->s, r->n)};
    compare_top(r, &sums);
    if (rest_q > 0.0) {
        sums.mass += rest_q;
        sums.cross += rest_q * (double)top->sample_log_prob[row];
        for (int64_t i = 0; i < top->n_samples; i++)
            sums.cross -= share * ((double)r->s[samples[i]] - (double)sums.shift);
    }
    const double log_sum = log(r->kernels->exp_in_place(r->s, r->n, sums.shift)); /* less shift */
    args->ce[row] = (double)sums.shift + log_sum - target;
    args->kl[row] = sums.cross + sums.mass * log_sum;
    const double p_factor = (args->ce_factor + args->kl_factor * sums.mass) * exp(-log_sum);
    r->kernels->scale(r->s, (float)p_factor, r->n, r->s);
    finish_top(r, 1.0f, (float)args->kl_factor);
    for (int64_t i = 0; i < top->n_samples; i++) r->s[samples[i]] -= (float)(args->kl_factor * share);
}

void qni_loss_row_top(const qni_kernels *kernels, const qni_loss_args *args, int64_t row, float *s) {
    const qni_loss_top *top = args->top;
    const top_row r = {.kernels = kernels,
                       .ids = top->ids + row * top->k,
                       .log_probs = top->log_probs + row * top->k,
                       .k = top->k,
                       .n = args->n,
                       .s = s};
    if (top->n_samples > 0)
        row_with_samples(&r, args, row);
    else
        row_with_rest(&r, args, row);
}
