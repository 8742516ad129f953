#include "commands.h"
#include "console.h"
#include "inputs.h"

#include <stdio.h>
#include <stdlib.h>

static const cli_option k_options[] = {
    {"ids", CLI_TEXT, "FILE.json", "a JSON list of token ids, or an object with the list under \"ids\"",
     true},
    {"o", CLI_TEXT, "OUT.safetensors", "the file to write: one F32 tensor `logits` [T, V]", true},
    {"compute", CLI_TEXT, "TYPE", "f32 (default) or bf16", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

/* *ids is owned. */
static qn_status read_ids(const char *path, int32_t **ids, int64_t *n, qn_error *err) {
    json_error_t where;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &where);
    if (!root) return qn_fail(err, QN_E_FORMAT, "%s:%d: %s", path, where.line, where.text);
    const json_t *list = json_is_object(root) ? json_object_get(root, "ids") : root;
    qn_status st = QN_OK;
    size_t count = json_array_size(list);
    int32_t *out = calloc(count ? count : 1, sizeof *out);
    if (!out)
        st = qn_fail(err, QN_E_NOMEM, "out of memory: ids");
    else if (count == 0)
        st = qn_fail(err, QN_E_FORMAT, "%s: expected a non-empty list of token ids", path);
    for (size_t i = 0; st == QN_OK && i < count; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value > INT32_MAX)
            st = qn_fail(err, QN_E_FORMAT, "%s: item %zu is no token id", path, i);
        else
            out[i] = (int32_t)value;
    }
    json_decref(root);
    if (st != QN_OK) {
        free(out);
        return st;
    }
    *ids = out;
    *n = (int64_t)count;
    return QN_OK;
}

static qn_status compute_logits(const qn_model *model, const int32_t *ids, int64_t n, qn_compute compute,
                                const qn_context *ctx, float *hidden, float *logits, qn_error *err) {
    const int64_t starts[] = {0, n};
    const qn_sequences sequences = {.ids = ids, .starts = starts, .n = 1};
    const qn_walk_options options = {.compute = compute};
    QN_TRY(qn_walk(model, &sequences, &options, ctx, hidden, NULL, err));
    return qn_head_logits(model, hidden, n, compute, ctx, logits, NULL, err);
}

static qn_status write_logits(const qn_model *model, const int32_t *ids, int64_t n, qn_compute compute,
                              const qn_context *ctx, const char *path, qn_error *err) {
    const qn_config *config = qn_model_config(model);
    float *hidden = calloc((size_t)n * (size_t)config->hidden_size, sizeof *hidden);
    float *logits = calloc((size_t)n * (size_t)config->vocab_size, sizeof *logits);
    qn_status st = hidden && logits
                       ? QN_OK
                       : qn_fail(err, QN_E_NOMEM, "out of memory: logits of %lld tokens", (long long)n);
    if (st == QN_OK) st = compute_logits(model, ids, n, compute, ctx, hidden, logits, err);
    const qn_safetensors_item item = {
        "logits", {.data = logits, .dtype = QN_DTYPE_F32, .n_dims = 2, .shape = {n, config->vocab_size}}};
    if (st == QN_OK) st = qn_safetensors_save(path, &item, 1, NULL, 0, NULL, err);
    free(hidden);
    free(logits);
    return st;
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    qn_compute compute;
    qn_model *model = NULL;
    int32_t *ids = NULL;
    int64_t n = 0;
    const char *path = cli_text(args, "o", NULL);
    qn_status st = cli_compute(args, &compute, &err);
    if (st == QN_OK) st = read_ids(cli_text(args, "ids", NULL), &ids, &n, &err);
    if (st == QN_OK) st = qn_model_open(args->positionals[0], &model, &err);
    if (st == QN_OK) st = write_logits(model, ids, n, compute, &ctx, path, &err);
    cli_clear_progress(&console);
    cli_blame_weights(st, model, &ctx, &err);
    int64_t vocab_size = st == QN_OK ? qn_model_config(model)->vocab_size : 0;
    qn_model_close(model);
    free(ids);
    if (st != QN_OK) return cli_fail(&err);
    if (cli_flag(args, "json"))
        return cli_print_json(json_pack("{s:s, s:I, s:I}", "logits", path, "tokens", (json_int_t)n,
                                        "vocab_size", (json_int_t)vocab_size));
    printf("%s: logits [%lld, %lld]\n", path, (long long)n, (long long)vocab_size);
    return cli_finish();
}

const cli_command cli_cmd_logits = {"logits",
                                    {"MODEL"},
                                    "f32 logits of one list of ids",
                                    "One forward pass from an empty context; the whole [T, V] array is kept "
                                    "in memory. For comparing with other "
                                    "implementations.",
                                    k_options,
                                    run};
