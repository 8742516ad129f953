/* Gradients of all parameters against those of the reference stack in float64. */
#include "gradient_support.h"
#include "quern/checkpoint/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GRADIENT_TOLERANCE 1e-5 /* relative L2 of one tensor; the reference's own f32 is within 2e-6 */

static const char *const k_models[] = {"qwen3-tied", "qwen3-untied-sharded", "qwen3-attention-bias",
                                       "qwen2-bias", "qwen3-yarn",           "qwen3-byte"};

typedef struct golden_file {
    char *bytes;
    qn_safetensors *file;
} golden_file;

static golden_file golden_open(const char *root) {
    golden_file g = {0};
    size_t n_bytes;
    char *path = path_in(root, "golden.safetensors");
    g.bytes = load_file(path, &n_bytes);
    assert_ok(qn_safetensors_parse((const uint8_t *)g.bytes, n_bytes, path, &g.file, err));
    free(path);
    return g;
}

static const qn_view *find(const golden_file *g, const char *name) {
    size_t index;
    return qn_safetensors_find(g->file, name, &index) ? qn_safetensors_view(g->file, index) : NULL;
}

static int64_t load_ids(const golden_file *g, int32_t *ids) {
    const qn_view *view = find(g, "seq33.ids");
    assert_non_null(view);
    for (int64_t i = 0; i < view->shape[0]; i++) {
        int64_t id;
        memcpy(&id, (const char *)view->data + i * 8, sizeof id);
        ids[i] = (int32_t)id;
    }
    return view->shape[0];
}

static double compare(const golden_file *g, const char *model, const qn_layout *layout, int64_t index,
                      const float *got) {
    char name[160];
    snprintf(name, sizeof name, "grad.%s", layout->entries[index].name);
    const qn_view *view = find(g, name);
    const int64_t n = entry_size(layout, index);
    float *want = malloc((size_t)n * sizeof *want);
    if (!view) fail_msg("%s: no %s", model, name);
    assert_ok(qn_view_to_f32(view, 0, n, want, err));
    const double distance = relative_distance(got, want, n);
    if (!(distance <= GRADIENT_TOLERANCE)) fail_msg("%s %s: off by %g", model, name, distance);
    free(want);
    return distance;
}

static void check_model(const char *name) {
    char folder[128];
    snprintf(folder, sizeof folder, "golden/models/%s", name);
    char *root = require_test_data(folder);
    float_model m = float_model_open(root);
    golden_file g = golden_open(root);
    int32_t ids[64], targets[64];
    const int64_t n = load_ids(&g, ids), starts[2] = {0, n};
    const qn_sequences sequences = {.ids = ids, .starts = starts, .n = 1};
    const qn_loss_options options = {.ce_weight = 1.0, .scale = 1.0 / (double)(n - 1)};
    qn_gradients gradients = {0};
    qn_loss loss = {0};
    double worst = 0.0;
    for (int64_t i = 0; i < n; i++) targets[i] = i + 1 < n ? ids[i + 1] : -1;
    assert_ok(qn_gradients_alloc(m.layout, &gradients, err));
    assert_ok(qn_loss_gradient(m.model, &sequences, targets, &options, NULL, &gradients, &loss, err));
    assert_int_equal(loss.n_targets, n - 1);
    for (int64_t i = 0; i < m.layout->n; i++)
        worst = fmax(worst, compare(&g, name, m.layout, i, gradients.per_entry[i]));
    printf("%s: largest relative distance of a gradient %.1e\n", name, worst);
    qn_gradients_release(&gradients);
    qn_safetensors_free(g.file);
    free(g.bytes);
    float_model_close(&m);
    free(root);
}

static void test_gradients_match_the_reference(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof k_models / sizeof *k_models; i++) check_model(k_models[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients_match_the_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
