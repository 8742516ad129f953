#include "recipe/row_budget.h"

#include "base/alloc.h"

#include <stdlib.h>

qn_status qni_row_budget_need(const qni_row_budget *budget, const int64_t *n_rescued_rows, int64_t *n_bytes,
                              qn_error *err) {
    for (int64_t i = 0; i < budget->layout->n; i++) {
        const qn_layout_entry *t = &budget->layout->entries[i];
        const int64_t n = n_rescued_rows ? n_rescued_rows[i] : 0;
        if (t->is_matrix) budget->shapes[i] = qn_rowmix_shape(budget->rowmix, t->rows, t->cols, n);
    }
    return qn_artifact_plan_need(budget->plan, budget->shapes, n_bytes, err);
}

/* ------------------------------------------------------------------------------------------- size */

typedef struct price {
    int64_t bytes, cols, rows;
} price;

static int64_t row_price(const qni_row_budget *budget, int64_t cols) {
    return qn_codec_row_bytes(budget->rowmix->rescue, cols) -
           qn_codec_row_bytes(budget->rowmix->native, cols);
}

/* Dearest per weight first; ties in a fixed order. */
static int compare_prices(const void *a, const void *b) {
    const price *x = a, *y = b;
    const double left = (double)x->bytes * (double)y->cols, right = (double)y->bytes * (double)x->cols;
    if (left != right) return left < right ? 1 : -1;
    return (x->cols < y->cols) - (x->cols > y->cols);
}

/* The linear relaxation of choosing rows: whole rows, dearest first, then one more row in place of a fraction. */
static int64_t spend(const price *prices, int64_t n, int64_t max_weights) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < n && max_weights > 0; i++) {
        const int64_t rows = max_weights / prices[i].cols;
        if (rows >= prices[i].rows) {
            bytes += prices[i].rows * prices[i].bytes;
            max_weights -= prices[i].rows * prices[i].cols;
            continue;
        }
        bytes += (rows + 1) * prices[i].bytes;
        max_weights = 0;
    }
    return bytes;
}

/* The most that rows of max_weights weights can cost more than their native form. */
static qn_status most_extra_bytes(const qni_row_budget *budget, int64_t *out, qn_error *err) {
    price *prices = qni_alloc_array(budget->layout->n, sizeof *prices);
    int64_t n = 0;

    if (!prices) return qni_fail_nomem(err, "row prices");
    for (int64_t i = 0; i < budget->layout->n; i++) {
        const qn_layout_entry *t = &budget->layout->entries[i];
        if (t->is_matrix) prices[n++] = (price){row_price(budget, t->cols), t->cols, t->rows};
    }
    qsort(prices, (size_t)n, sizeof *prices, compare_prices);
    *out = spend(prices, n, budget->max_weights);
    free(prices);
    return QN_OK;
}

/* Bytes of a file in which every matrix could have rescued rows: masks, and numbers of their usual length, but not the
 * rows themselves. */
static qn_status base_bytes(const qni_row_budget *budget, int64_t *out, qn_error *err) {
    const qn_layout *layout = budget->layout;
    const double fraction = (double)budget->max_weights / (double)layout->n_parameters;
    int64_t *n_rows = qni_alloc_array(layout->n, sizeof *n_rows), extra = 0;

    if (!n_rows) return qni_fail_nomem(err, "row counts");
    for (int64_t i = 0; i < layout->n; i++) {
        if (!layout->entries[i].is_matrix) continue;
        n_rows[i] = 1 + (int64_t)(fraction * (double)(layout->entries[i].rows - 1));
        extra += n_rows[i] * row_price(budget, layout->entries[i].cols);
    }
    qn_status status = qni_row_budget_need(budget, n_rows, out, err);
    *out -= extra;
    free(n_rows);
    return status;
}

static qn_status check_prices(const qni_row_budget *budget, qn_error *err) {
    for (int64_t i = 0; i < budget->layout->n; i++) {
        const qn_layout_entry *t = &budget->layout->entries[i];
        if (!t->is_matrix || row_price(budget, t->cols) >= 0) continue;
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s: a rescued row is smaller than a native row; use larger native groups", t->name);
    }
    return QN_OK;
}

qn_status qni_row_budget_size(qni_row_budget *budget, int64_t budget_bytes, qn_error *err) {
    int64_t base = 0, extra = 0;

    if (budget->max_weights > 0) {
        QN_TRY(check_prices(budget, err));
        QN_TRY(most_extra_bytes(budget, &extra, err));
        QN_TRY(base_bytes(budget, &base, err));
    }
    if (extra == 0 || budget_bytes <= base) {
        budget->max_weights = 0;
        return qni_row_budget_need(budget, NULL, &budget->file_bytes, err);
    }
    budget->file_bytes = budget_bytes < base + extra ? budget_bytes : base + extra;
    return QN_OK;
}

/* ------------------------------------------------------------------------------------------- rows */

/* The choice for MAX_EXTRA bytes of rows, and how far its file is from file_bytes. */
static qn_status try_choice(const qni_row_budget *budget, const qn_sensitivity *sensitivity,
                            int64_t max_extra, qn_rescue_choice *choice, int64_t *n_rows, int64_t *excess,
                            qn_error *err) {
    const qn_rescue_limits limits = {.max_weights = max_extra > 0 ? budget->max_weights : 0,
                                     .max_extra_bytes = max_extra};
    int64_t need = 0;

    QN_TRY(qn_rescue_choose(sensitivity, &limits, choice, err));
    for (int64_t t = 0; t < choice->n; t++) n_rows[sensitivity->tensors[t].entry] = choice->n_rescued_rows[t];
    qn_status status = qni_row_budget_need(budget, n_rows, &need, err);
    *excess = need - budget->file_bytes;
    if (status != QN_OK) qn_rescue_choice_release(choice);
    return status;
}

qn_status qni_row_budget_choose(const qni_row_budget *budget, const qn_sensitivity *sensitivity,
                                qn_rescue_choice *out, qn_error *err) {
    int64_t *n_rows = qni_alloc_array(budget->layout->n, sizeof *n_rows);
    int64_t extra = 0, excess = 0;
    qn_rescue_choice choice = {0};

    if (!n_rows) return qni_fail_nomem(err, "row counts");
    qn_status status = qni_row_budget_need(budget, NULL, &extra, err);
    extra = budget->file_bytes - extra;
    /* Masks and longer headers cost more than the rows alone: less for rows until everything fits, which at the latest it
     * does without any. */
    while (status == QN_OK) {
        status = try_choice(budget, sensitivity, extra, &choice, n_rows, &excess, err);
        if (status != QN_OK || excess <= 0 || extra <= 0) break;
        qn_rescue_choice_release(&choice);
        extra = extra > excess ? extra - excess : 0;
    }
    free(n_rows);
    if (status == QN_OK) *out = choice;
    return status;
}
