#include "gradient_support.h"

#include <math.h>
#include <stdlib.h>

int64_t entry_size(const qn_layout *layout, int64_t index) {
    return layout->entries[index].rows * layout->entries[index].cols;
}

static void copy_weight(float_model *m, int64_t i) {
    const qn_layout_entry *entry = &m->layout->entries[i];
    float *values = malloc((size_t)entry_size(m->layout, i) * sizeof *values);
    assert_non_null(values);
    qn_weight_decode_rows(qn_model_weight(m->model, i), 0, entry->rows, values);
    m->values[i] = values;
    m->weights[i] = (qn_weight){.kind = QN_WEIGHT_DENSE,
                                .dense = {.data = values,
                                          .dtype = QN_DTYPE_F32,
                                          .n_dims = entry->is_matrix ? 2 : 1,
                                          .shape = {entry->rows, entry->cols}}};
    if (!entry->is_matrix) m->weights[i].dense.shape[0] = entry->cols;
    assert_ok(qn_model_set_weight(m->model, i, &m->weights[i], err));
}

float_model float_model_open(const char *path) {
    float_model m = {0};
    assert_ok(qn_model_open(path, &m.model, err));
    m.layout = qn_checkpoint_layout(qn_model_checkpoint(m.model));
    m.weights = calloc((size_t)m.layout->n, sizeof *m.weights);
    m.values = calloc((size_t)m.layout->n, sizeof *m.values);
    assert_true(m.weights && m.values);
    for (int64_t i = 0; i < m.layout->n; i++) copy_weight(&m, i);
    return m;
}

void float_model_close(float_model *m) {
    for (int64_t i = 0; i < m->layout->n; i++) free(m->values[i]);
    free(m->values);
    free(m->weights);
    qn_model_close(m->model);
}

double relative_distance(const float *got, const float *want, int64_t n) {
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        difference += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        size += (double)want[i] * (double)want[i];
    }
    return size > 0.0 ? sqrt(difference / size) : sqrt(difference);
}
