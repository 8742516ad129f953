/* What the benchmarks make for themselves: a folder, and a checkpoint of random weights of some shape in it. */
#include "bench.h"
#include "inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

qn_status bench_path(const char *folder, const char *name, char **out, qn_error *err) {
    const size_t n_bytes = strlen(folder) + strlen(name) + 2;
    char *path = malloc(n_bytes);
    if (!path) return qn_fail(err, QN_E_NOMEM, "bench: no memory for a path");
    snprintf(path, n_bytes, "%s/%s", folder, name);
    *out = path;
    return QN_OK;
}

const char *bench_scratch_place(void) {
    const char *place = getenv("TMPDIR");
    return place && place[0] ? place : "/tmp";
}

qn_status bench_scratch(char **out, qn_error *err) {
    char *path = NULL;
    QN_TRY(bench_path(bench_scratch_place(), "quern-bench", &path, err));
    qn_status st = qn_folder_begin(path, out, err);
    free(path);
    return st;
}

static const char k_config[] = "{\"architectures\": [\"Qwen3ForCausalLM\"], \"attention_bias\": false, "
                               "\"head_dim\": %d, \"hidden_act\": \"silu\", "
                               "\"hidden_size\": %d, \"intermediate_size\": %d, "
                               "\"max_position_embeddings\": 4096, \"model_type\": \"qwen3\", "
                               "\"num_attention_heads\": %d, \"num_hidden_layers\": %d, "
                               "\"num_key_value_heads\": %d, \"rms_norm_eps\": 1e-06, "
                               "\"rope_theta\": 1000000.0, \"tie_word_embeddings\": true, \"torch_dtype\": "
                               "\"bfloat16\", \"vocab_size\": %d}\n";

/* Uniform on [-1/16, 1/16): finite, and of the size of real weights. */
static void fill(uint16_t *values, int64_t n, qn_rng *rng) {
    for (int64_t i = 0; i < n; i++) values[i] = qn_f32_to_bf16((float)(qn_rng_uniform(rng) - 0.5) / 8);
}

static qn_status save_weights(const qn_layout *layout, const char *path, qn_error *err) {
    qn_rng rng;
    qn_rng_seed(&rng, 0);
    qn_status st = QN_OK;
    qn_safetensors_item *items = calloc((size_t)layout->n, sizeof *items);
    uint16_t *values = calloc((size_t)layout->n_parameters, sizeof *values);
    if (!items || !values)
        st = qn_fail(err, QN_E_NOMEM, "bench: no memory for %lld random weights",
                     (long long)layout->n_parameters);
    int64_t at = 0;
    for (int64_t i = 0; i < layout->n && st == QN_OK; i++) {
        const qn_layout_entry *e = &layout->entries[i];
        items[i] =
            (qn_safetensors_item){.name = e->name, .view = {.data = values + at, .dtype = QN_DTYPE_BF16}};
        items[i].view.n_dims = e->is_matrix ? 2 : 1;
        items[i].view.shape[0] = e->is_matrix ? e->rows : e->cols;
        items[i].view.shape[1] = e->is_matrix ? e->cols : 0;
        at += e->rows * e->cols;
    }
    if (st == QN_OK) {
        fill(values, at, &rng);
        st = qn_safetensors_save(path, items, (size_t)layout->n, NULL, 0, NULL, err);
    }
    free(items);
    free(values);
    return st;
}

const bench_dims bench_head_dims = {BENCH_HIDDEN, 1, 2, 1, 128, 256, BENCH_VOCAB};

qn_status bench_synthetic(const char *folder, const bench_dims *d, qn_error *err) {
    char text[sizeof k_config + 64];
    qn_config config = {0};
    qn_layout layout = {0};
    char *config_path = NULL, *weights_path = NULL;
    snprintf(text, sizeof text, k_config, d->head_dim, d->hidden, d->intermediate, d->heads, d->layers,
             d->kv_heads, d->vocab);
    qn_status st = qn_config_parse(text, strlen(text), "config.json", &config, err);
    if (st == QN_OK) st = qn_layout_make(&config, &layout, err);
    if (st == QN_OK) st = bench_path(folder, "config.json", &config_path, err);
    if (st == QN_OK) st = bench_path(folder, "model.safetensors", &weights_path, err);
    if (st == QN_OK) st = qn_write_file(config_path, text, strlen(text), err);
    if (st == QN_OK) st = save_weights(&layout, weights_path, err);
    free(config_path);
    free(weights_path);
    qn_layout_release(&layout);
    qn_config_release(&config);
    return st;
}

static const bench_shape k_shapes[] = {
    {"demo", "demo", {256, 4, 4, 2, 64, 384, 2048}, 8, 512},
    {"1024", "hidden 1024", {1024, 4, 16, 8, 64, 3072, 4096}, 2, 512},
    {"2048", "hidden 2048", {2048, 2, 16, 8, 128, 6144, 4096}, 2, 512},
};
enum { N_SHAPES = sizeof k_shapes / sizeof k_shapes[0] };

qn_status bench_find_shape(const cli_args *args, const bench_shape **out, qn_error *err) {
    const char *name = cli_text(args, "shape", "demo");
    qn_compute compute;
    QN_TRY(cli_compute(args, &compute, err));
    for (int i = 0; i < N_SHAPES; i++) {
        if (strcmp(k_shapes[i].name, name) != 0) continue;
        *out = &k_shapes[i];
        return QN_OK;
    }
    return qn_fail(err, QN_E_ARGUMENT, "--shape %s: demo, 1024 or 2048", name);
}

bool bench_computes(const cli_args *args, qn_compute compute) {
    const char *name = cli_text(args, "compute", NULL);
    return !name || strcmp(name, compute == QN_COMPUTE_F32 ? "f32" : "bf16") == 0;
}
