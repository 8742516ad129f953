#include "quern/model/gradient.h"

#include "base/alloc.h"
#include "model/backward.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

qn_status qn_gradients_alloc(const qn_layout *layout, qn_gradients *out, qn_error *err) {
    return qn_gradients_alloc_some(layout, NULL, out, err);
}

qn_status qn_gradients_alloc_some(const qn_layout *layout, const bool *wanted, qn_gradients *out,
                                  qn_error *err) {
    qn_gradients gradients = {.per_entry = qni_alloc_array(layout->n, sizeof *gradients.per_entry),
                              .is_renewed = qni_alloc_array(layout->n, sizeof *gradients.is_renewed),
                              .n = layout->n,
                              .memory = qni_alloc_array(1, sizeof *gradients.memory)};
    if (!gradients.per_entry || !gradients.is_renewed || !gradients.memory) {
        qn_gradients_release(&gradients);
        return qni_fail_nomem(err, "gradients");
    }
    for (int64_t i = 0; i < layout->n; i++) {
        const qn_layout_entry *entry = &layout->entries[i];
        int64_t n;
        if (wanted && !wanted[i]) continue;
        if (qni_multiply_i64(entry->rows, entry->cols, &n))
            gradients.per_entry[i] = qni_alloc_aligned(n, sizeof **gradients.per_entry);
        if (!gradients.per_entry[i]) {
            qn_gradients_release(&gradients);
            return qn_fail(err, QN_E_NOMEM, "out of memory: gradient of %s", entry->name);
        }
    }
    qn_gradients_clear(&gradients, layout);
    *out = gradients;
    return QN_OK;
}

static void clear_entry(qn_gradients *gradients, const qn_layout *layout, int64_t i) {
    const qn_layout_entry *entry = &layout->entries[i];
    if (gradients->per_entry[i])
        memset(gradients->per_entry[i], 0,
               (size_t)(entry->rows * entry->cols) * sizeof **gradients->per_entry);
    gradients->is_renewed[i] = false;
}

void qn_gradients_clear(qn_gradients *gradients, const qn_layout *layout) {
    for (int64_t i = 0; i < gradients->n; i++) clear_entry(gradients, layout, i);
}

void qn_gradients_renew(qn_gradients *gradients) {
    for (int64_t i = 0; i < gradients->n; i++) gradients->is_renewed[i] = true;
}

void qni_gradients_settle(qn_gradients *gradients, const qn_layout *layout, int64_t index) {
    if (gradients->is_renewed[index]) clear_entry(gradients, layout, index);
}

void qn_gradients_release(qn_gradients *gradients) {
    for (int64_t i = 0; gradients->per_entry && i < gradients->n; i++) free(gradients->per_entry[i]);
    free(gradients->per_entry);
    free(gradients->is_renewed);
    if (gradients->memory) qni_memory_release(gradients->memory);
    free(gradients->memory);
    *gradients = (qn_gradients){0};
}
