#include "quern/fit/rowmix.h"

#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

typedef struct candidate {
    double gain_per_byte; /* infinite where a rescued row is no larger */
    int64_t tensor, row;
} candidate;

static int by_rank(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->gain_per_byte != y->gain_per_byte) return x->gain_per_byte > y->gain_per_byte ? -1 : 1;
    if (x->tensor != y->tensor) return x->tensor < y->tensor ? -1 : 1;
    return (x->row > y->row) - (x->row < y->row);
}

static int64_t total_rows(const qn_sensitivity *s) {
    int64_t rows = 0;
    for (int64_t t = 0; t < s->n; t++) rows += s->tensors[t].rows;
    return rows;
}

/* What a gain is divided by to compare it with gains in other tensors. Weighted errors are output errors as they are;
 * plain ones count relative to the tensor's energy per weight and to the share of tokens its rows work for. */
static double gain_unit(const qn_sensitivity *s, const qn_sensitivity_tensor *tensor) {
    if (s->weighted) return 1.0;
    double n_weights = (double)tensor->rows * (double)tensor->cols;
    double energy = tensor->energy > 0 && n_weights > 0 ? tensor->energy / n_weights : 1.0;
    return tensor->token_share > 0 ? energy / tensor->token_share : energy;
}

/* All rows with a gain, best first. */
static qn_status rank_rows(const qn_sensitivity *s, candidate **out, int64_t *n_out, qn_error *err) {
    candidate *candidates = qni_alloc_array(total_rows(s), sizeof *candidates);
    if (!candidates) return qni_fail_nomem(err, "the ranking of rows");
    int64_t n = 0;
    for (int64_t t = 0; t < s->n; t++) {
        double price = (double)s->tensors[t].extra_bytes * gain_unit(s, &s->tensors[t]);
        for (int64_t row = 0; row < s->tensors[t].rows; row++) {
            double gain = qn_sensitivity_gain(s, t, row);
            if (gain > 0) candidates[n++] = (candidate){price > 0 ? gain / price : HUGE_VAL, t, row};
        }
    }
    qsort(candidates, (size_t)n, sizeof *candidates, by_rank);
    *out = candidates;
    *n_out = n;
    return QN_OK;
}

static qn_status choice_alloc(const qn_sensitivity *s, qn_rescue_choice *choice, qn_error *err) {
    choice->rescued = qni_alloc_array(s->n, sizeof *choice->rescued);
    choice->n_rescued_rows = qni_alloc_array(s->n, sizeof *choice->n_rescued_rows);
    if (!choice->rescued || !choice->n_rescued_rows) return qni_fail_nomem(err, "a choice of rows");
    choice->n = s->n;
    for (int64_t t = 0; t < s->n; t++) {
        choice->rescued[t] = qni_alloc_array(s->tensors[t].rows, 1);
        if (!choice->rescued[t]) return qni_fail_nomem(err, "a choice of rows");
    }
    return QN_OK;
}

static void take_greedily(const qn_sensitivity *s, const qn_rescue_limits *limits,
                          const candidate *candidates, int64_t n, qn_rescue_choice *choice) {
    for (int64_t i = 0; i < n; i++) {
        const candidate *c = &candidates[i];
        const qn_sensitivity_tensor *tensor = &s->tensors[c->tensor];
        if (tensor->cols > limits->max_weights - choice->n_weights) continue;
        if (tensor->extra_bytes > limits->max_extra_bytes - choice->extra_bytes) continue;
        choice->rescued[c->tensor][c->row] = 1;
        choice->n_rescued_rows[c->tensor]++;
        choice->n_weights += tensor->cols;
        choice->extra_bytes += tensor->extra_bytes;
    }
}

qn_status qn_rescue_choose(const qn_sensitivity *sensitivity, const qn_rescue_limits *limits,
                           qn_rescue_choice *out, qn_error *err) {
    if (limits->max_weights < 0 || limits->max_extra_bytes < 0) {
        return qn_fail(err, QN_E_ARGUMENT,
                       "rescue limits of %lld weights and %lld bytes; expected none below 0",
                       (long long)limits->max_weights, (long long)limits->max_extra_bytes);
    }
    qn_rescue_choice choice = {0};
    candidate *candidates = NULL;
    int64_t n = 0;
    qn_status status = choice_alloc(sensitivity, &choice, err);
    if (status == QN_OK) status = rank_rows(sensitivity, &candidates, &n, err);
    if (status == QN_OK) {
        take_greedily(sensitivity, limits, candidates, n, &choice);
        *out = choice;
    } else {
        qn_rescue_choice_release(&choice);
    }
    free(candidates);
    return status;
}

void qn_rescue_choice_release(qn_rescue_choice *choice) {
    for (int64_t t = 0; t < choice->n; t++) free(choice->rescued[t]);
    free(choice->rescued);
    free(choice->n_rescued_rows);
    *choice = (qn_rescue_choice){0};
}
