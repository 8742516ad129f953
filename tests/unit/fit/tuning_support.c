#include "tuning_support.h"

#include "quern/fit/hessian_fit.h"
#include "quern/fit/moments.h"
#include "quern/model/compare.h"
#include "quern/model/stepper.h"
#include "tiny_model.h"

#include <stdlib.h>
#include <string.h>

const qn_trainable_rates k_toy_rates = {1.0, 1.0, 0.0, 1.0};

static void *take(int64_t n, size_t size) {
    void *p = calloc((size_t)n, size);
    assert_non_null(p);
    return p;
}

/* ---- teacher and text ---- */

static qn_status add_inputs(void *user, int64_t index, const float *x, int64_t first, int64_t n, int64_t cols,
                            qn_error *err) {
    qn_moment *moments = user;
    (void)first;
    if (moments[index].cols == 0) QN_TRY(qn_moment_init(&moments[index], QN_MOMENT_SYMMETRIC, cols, err));
    return qn_moment_add(&moments[index], x, x, n, NULL, err);
}

static void measure_inputs(tuning_toy *toy) {
    qn_moment *moments = take(toy->layout->n, sizeof *moments);
    const qn_walk_observer observer = {.on_linear_input = add_inputs, .user = moments};
    const qn_walk_options options = {.observer = &observer};
    float *hidden = take(toy->text.starts[toy->text.n] * toy->config->hidden_size, sizeof *hidden);
    toy->metrics = take(toy->layout->n, sizeof *toy->metrics);
    assert_ok(qn_walk(toy->teacher, &toy->text, &options, NULL, hidden, NULL, err));
    for (int64_t i = 0; i < toy->layout->n; i++) {
        if (moments[i].cols == 0) continue;
        toy->metrics[i] = take(moments[i].cols * moments[i].cols, sizeof(float));
        qn_moment_mean(&moments[i], toy->metrics[i]);
        qn_moment_release(&moments[i]);
    }
    free(moments);
    free(hidden);
}

tuning_toy *tuning_toy_open(const char *path, const int32_t *ids, int64_t n, int64_t n_fresh,
                            int64_t length) {
    tuning_toy *toy = take(1, sizeof *toy);
    assert_ok(qn_model_open(path, &toy->teacher, err));
    assert_ok(qn_model_open(path, &toy->student, err));
    toy->layout = qn_checkpoint_layout(qn_model_checkpoint(toy->teacher));
    toy->config = qn_model_config(toy->teacher);
    toy->ids = take(n * length, sizeof *toy->ids);
    memcpy(toy->ids, ids, (size_t)(n * length) * sizeof *ids);
    toy->starts = take(n + 1, sizeof *toy->starts);
    for (int64_t i = 0; i <= n; i++) toy->starts[i] = i * length;
    toy->text = (qn_sequences){.ids = toy->ids, .starts = toy->starts, .n = n - n_fresh};
    toy->fresh = (qn_sequences){
        .ids = toy->ids + (n - n_fresh) * length, .starts = toy->starts, .n = n_fresh}; /* of equal lengths */
    measure_inputs(toy);
    return toy;
}

tuning_toy *tuning_toy_random(int64_t n_layers) {
    enum { N = 136, LENGTH = 16, VOCAB = 61 };
    int32_t ids[N * LENGTH];
    uint64_t state = 7;
    char *folder = make_temporary_folder();
    write_tiny_model(folder, &(tiny_options){.vocab = VOCAB,
                                             .hidden = 32,
                                             .intermediate = 48,
                                             .heads = 2,
                                             .kv_heads = 1,
                                             .layers = n_layers,
                                             .seed = 3});
    for (int i = 0; i < N * LENGTH; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((state >> 40) % VOCAB);
    }
    tuning_toy *toy = tuning_toy_open(folder, ids, N, 8, LENGTH);
    remove_tree(folder); /* mapped */
    free(folder);
    return toy;
}

void tuning_toy_close(tuning_toy *toy) {
    for (int64_t i = 0; i < toy->layout->n; i++) free(toy->metrics[i]);
    qn_model_close(toy->student);
    qn_model_close(toy->teacher);
    free(toy->metrics);
    free(toy->ids);
    free(toy->starts);
    free(toy);
}

/* ---- students ---- */

static float *metric_of(const tuning_toy *toy, int64_t entry, int32_t hadamard) {
    const int64_t cols = toy->layout->entries[entry].cols;
    float *metric = take(cols * cols, sizeof *metric);
    for (int64_t i = 0; i < cols; i++) metric[i * (cols + 1)] = 1.0f; /* embedding and head */
    if (toy->metrics[entry]) memcpy(metric, toy->metrics[entry], (size_t)(cols * cols) * sizeof *metric);
    if (!hadamard) return metric;
    qn_hadamard_rows(metric, cols, cols, hadamard, false);
    for (int64_t i = 0; i < cols; i++) { /* symmetric: the other side as the first */
        for (int64_t j = i + 1; j < cols; j++) {
            const float kept = metric[i * cols + j];
            metric[i * cols + j] = metric[j * cols + i];
            metric[j * cols + i] = kept;
        }
    }
    qn_hadamard_rows(metric, cols, cols, hadamard, false);
    for (int64_t i = 0; i < cols; i++) /* but for roundings */
        for (int64_t j = 0; j < i; j++) metric[i * cols + j] = metric[j * cols + i];
    return metric;
}

static qn_band_shape shape_of(const qn_layout_entry *e, const toy_code *code, uint8_t *lines) {
    const qn_band_spec single = {code->code, 1, 16, code->log6};
    qn_band_shape shape = {
        .rows = e->rows, .cols = e->cols, .axis = QN_AXIS_ROWS, .n_bands = 1, .bands = {single}};
    if (!code->has_three_bands) return shape;
    for (int64_t c = 0; c < e->cols; c++) lines[c] = (uint8_t)(c % 8 == 3 ? 1 : c % 8 == 6 ? 2 : 0);
    shape.axis = QN_AXIS_COLUMNS;
    shape.n_bands = 3;
    shape.bands[1] = (qn_band_spec){code->code, 2, 16, code->log6};
    shape.bands[2] = (qn_band_spec){QN_CODE_Q4, 1, 128, false};
    shape.line_band = lines;
    return shape;
}

static qn_latents fit_latents(const tuning_toy *toy, int64_t entry, const toy_code *code) {
    const qn_layout_entry *e = &toy->layout->entries[entry];
    const int32_t hadamard = code->hadamard && e->cols % code->hadamard == 0 ? code->hadamard : 0;
    const qn_hessian_fit_options options = qn_hessian_fit_defaults();
    float *metric = metric_of(toy, entry, hadamard), *w = take(e->rows * e->cols, sizeof *w),
          *q = take(e->rows * e->cols, sizeof *q);
    uint8_t *lines = take(e->cols, 1);
    const qn_band_shape shape = shape_of(e, code, lines);
    qn_banded banded = {0};
    qn_latents latents = {0};
    qn_weight_decode_rows(qn_model_weight(toy->teacher, entry), 0, e->rows, w);
    if (hadamard) qn_hadamard_rows(w, e->rows, e->cols, hadamard, false);
    assert_ok(qn_hessian_fit(w, metric, &shape, &options, NULL, &banded, NULL, err));
    qn_banded_decode(&banded, q);
    assert_ok(qn_descent_values(w, q, metric, e->rows, e->cols, NULL, w, err));
    assert_ok(qn_latents_init(&banded, hadamard, code->at_levels ? NULL : w, NULL, &latents, err));
    free(lines);
    free(metric);
    free(w);
    free(q);
    return latents;
}

qn_trainable toy_set(const tuning_toy *toy, const toy_code *code, int64_t first_layer, int64_t n_layers,
                     const qn_trainable_rates *rates) {
    qn_trainable t = {0};
    assert_ok(qn_trainable_init(toy->layout, &t, err));
    for (int64_t i = 0; i < toy->layout->n; i++) {
        const qn_layout_entry *e = &toy->layout->entries[i];
        if (e->layer < first_layer || e->layer >= first_layer + n_layers) continue;
        if (e->is_matrix) {
            qn_latents latents = fit_latents(toy, i, code);
            assert_ok(qn_trainable_add_matrix(&t, i, &latents, err));
        } else {
            assert_ok(qn_trainable_add_vector(&t, i, qn_model_weight(toy->teacher, i), err));
        }
    }
    assert_ok(qn_trainable_seal(&t, rates, err));
    return t;
}

qn_trainable toy_student(const tuning_toy *toy, const toy_code *code, int64_t first_layer, int64_t n_layers,
                         const qn_trainable_rates *rates) {
    qn_trainable t = toy_set(toy, code, first_layer, n_layers, rates);
    assert_ok(qn_trainable_lend(&t, toy->student, err));
    qn_trainable_evaluate(&t, 0.0, NULL);
    return t;
}

void toy_student_release(const tuning_toy *toy, qn_trainable *t) {
    qn_trainable_give_back(t, toy->student);
    qn_trainable_release(t);
}

float *parameters_of(const qn_trainable *t) {
    float *values = take(t->n_floats, sizeof *values);
    qn_trainable_copy(t, values);
    return values;
}

bool same_parameters(const qn_trainable *t, const float *values) {
    float *own = parameters_of(t);
    const bool same = memcmp(own, values, (size_t)t->n_floats * sizeof *own) == 0;
    free(own);
    return same;
}

/* ---- measures ---- */

float *stream_of(qn_model *model, const qn_sequences *sequences, int64_t depth) {
    qn_stepper *stepper = NULL;
    float *stream =
        take(sequences->starts[sequences->n] * qn_model_config(model)->hidden_size, sizeof *stream);
    assert_ok(qn_stepper_open(model, sequences, QN_COMPUTE_F32, NULL, &stepper, err));
    assert_ok(qn_stepper_embed(stepper, stream, err));
    for (int64_t l = 0; l < depth; l++) assert_ok(qn_stepper_block(stepper, l, stream, err));
    qn_stepper_close(stepper);
    return stream;
}

double window_error(const tuning_toy *toy, const qn_sequences *sequences, int64_t first_layer,
                    int64_t n_layers) {
    const qn_window_options options = {.first_layer = first_layer, .n_layers = n_layers, .scale = 1.0};
    float *stream = stream_of(toy->teacher, sequences, first_layer),
          *target = stream_of(toy->teacher, sequences, first_layer + n_layers);
    double loss = 0.0;
    assert_ok(qn_window_gradient(toy->student, sequences, stream, target, &options, NULL, NULL, &loss, err));
    free(stream);
    free(target);
    return loss / (double)(sequences->starts[sequences->n] * toy->config->hidden_size);
}

double mean_nll(const tuning_toy *toy, const qn_model *model, const qn_sequences *sequences, double *kl) {
    const int64_t n = sequences->starts[sequences->n], h = toy->config->hidden_size;
    const qn_walk_options options = {.compute = QN_COMPUTE_F32};
    float *hidden = take(n * h, sizeof *hidden), *teacher = take(n * h, sizeof *teacher);
    double *nll = take(n, sizeof *nll), sum = 0.0;
    int64_t n_targets = 0;
    assert_ok(qn_walk(model, sequences, &options, NULL, hidden, NULL, err));
    assert_ok(qn_walk(toy->teacher, sequences, &options, NULL, teacher, NULL, err));
    if (kl) assert_ok(qn_head_kl(toy->teacher, teacher, model, hidden, n, QN_COMPUTE_F32, NULL, kl, err));
    for (int64_t s = 0; s < sequences->n; s++) {
        const int64_t first = sequences->starts[s], length = sequences->starts[s + 1] - first - 1;
        assert_ok(qn_head_nll(model, hidden + first * h, sequences->ids + first + 1, length, QN_COMPUTE_F32,
                              NULL, nll, NULL, err));
        for (int64_t i = 0; i < length; i++, n_targets++) sum += nll[i];
    }
    free(hidden);
    free(teacher);
    free(nll);
    return sum / (double)n_targets;
}

/* ---- stopping ---- */

static void on_progress(void *user, const qn_progress *progress) {
    ((toy_stop *)user)->done = progress->done;
}

static bool is_cancelled(void *user) {
    const toy_stop *stop = user;
    return stop->done >= stop->step;
}

qn_context stopping_context(toy_stop *stop, int n_threads) {
    return (qn_context){
        .n_threads = n_threads, .on_progress = on_progress, .is_cancelled = is_cancelled, .user = stop};
}
