#include "fit/statistics_plan.h"

#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/banned.h"

int64_t qni_head_entry(const qn_layout *layout) {
    const int64_t head = qn_layout_find(layout, QN_TENSOR_HEAD, -1);
    return head >= 0 ? head : qn_layout_find(layout, QN_TENSOR_EMBED, -1);
}

static bool is_linear(const qn_layout *layout, int64_t entry) {
    const qn_layout_entry *e = &layout->entries[entry];
    return e->is_matrix && (e->layer >= 0 || entry == qni_head_entry(layout));
}

bool qni_has_own_input(const qn_layout *layout, int64_t entry) {
    return is_linear(layout, entry) && qn_statistics_shared_input(layout, entry) == entry;
}

int64_t qni_next_sharer(const qn_layout *layout, int64_t entry, int64_t after) {
    for (int64_t i = after + 1; i < layout->n; i++)
        if (is_linear(layout, i) && qn_statistics_shared_input(layout, i) == entry) return i;
    return -1;
}

char *qni_statistic_tensor(const qn_layout *layout, int64_t entry, qn_statistic statistic) {
    char *name = NULL;
    const int length = asprintf(&name, "%s.%s", layout->entries[entry].name, qn_statistic_name(statistic));
    return length < 0 ? NULL : name;
}

static qn_status add(qni_statistics_plan *plan, const qn_layout *layout, int64_t entry,
                     qn_statistic statistic, int64_t n, qn_error *err) {
    char *name = qni_statistic_tensor(layout, entry, statistic);
    if (!name) return qni_fail_nomem(err, "names of statistics");
    plan->names[plan->n] = name;
    plan->items[plan->n++] = (qn_safetensors_item){name, qni_statistic_view(statistic, n)};
    return QN_OK;
}

static qn_status add_input(qni_statistics_plan *plan, const qn_layout *layout, int64_t entry, bool diagonal,
                           qn_error *err) {
    const int64_t cols = layout->entries[entry].cols;
    if (!diagonal) QN_TRY(add(plan, layout, entry, QN_STATISTIC_HESSIAN, cols, err));
    for (int64_t i = -1; (i = qni_next_sharer(layout, entry, i)) >= 0;)
        QN_TRY(add(plan, layout, i, QN_STATISTIC_SECOND_MOMENT, cols, err));
    return QN_OK;
}

static qn_status add_all(qni_statistics_plan *plan, const qn_layout *layout, bool diagonal, bool fisher,
                         qn_error *err) {
    const int64_t head = qni_head_entry(layout), embed = qn_layout_find(layout, QN_TENSOR_EMBED, -1);
    const qn_layout_entry *table = &layout->entries[embed];
    for (int64_t i = 0; i < layout->n; i++)
        if (i != head && qni_has_own_input(layout, i)) QN_TRY(add_input(plan, layout, i, diagonal, err));
    QN_TRY(add_input(plan, layout, head, diagonal, err));
    QN_TRY(add(plan, layout, embed, QN_STATISTIC_TOKEN_FREQUENCY, table->rows, err));
    if (!fisher) return QN_OK;
    QN_TRY(add(plan, layout, embed, QN_STATISTIC_LOOKUP_GRADIENT, table->cols, err));
    for (int64_t i = 0; i < layout->n; i++)
        if (is_linear(layout, i))
            QN_TRY(add(plan, layout, i, QN_STATISTIC_OUTPUT_FISHER, layout->entries[i].rows, err));
    return QN_OK;
}

qn_status qni_statistics_plan_make(const qn_layout *layout, bool diagonal, bool fisher,
                                   qni_statistics_plan *out, qn_error *err) {
    /* At most a Hessian, a second moment and a Fisher diagonal an entry, and two of the embedding. */
    const int64_t most = 3 * layout->n + 2;
    qni_statistics_plan plan = {.items = qni_alloc_array(most, sizeof *plan.items),
                                .names = qni_alloc_array(most, sizeof *plan.names)};
    qn_status status = plan.items && plan.names ? add_all(&plan, layout, diagonal, fisher, err)
                                                : qni_fail_nomem(err, "list of statistics");
    if (status == QN_OK)
        *out = plan;
    else
        qni_statistics_plan_release(&plan);
    return status;
}

void qni_statistics_plan_release(qni_statistics_plan *plan) {
    for (size_t i = 0; i < plan->n; i++) free(plan->names[i]);
    free(plan->names);
    free(plan->items);
    *plan = (qni_statistics_plan){0};
}
