#include "inputs.h"

#include <string.h>

qn_status cli_text_input_open(const cli_args *args, const char *model, cli_text_input *out, qn_error *err) {
    cli_text_input input = {.protocol = qn_protocol_default()};
    input.protocol.max_tokens = cli_integer(args, "max-tokens", input.protocol.max_tokens);
    input.protocol.max_windows = cli_integer(args, "max-windows", 0);
    input.protocol.join = cli_text(args, "join", NULL);
    QN_TRY(qn_protocol_parse(cli_text(args, "protocol", "heldout"), &input.protocol, err));
    qn_status st = qn_tokenizer_open(cli_text(args, "tokenizer", model), &input.tokenizer, err);
    if (st == QN_OK) st = qn_documents_open(cli_text(args, "docs", NULL), &input.documents, err);
    if (st == QN_OK)
        st = qn_windows_make(&input.documents, input.tokenizer, &input.protocol, &input.windows, err);
    if (st == QN_OK)
        *out = input;
    else
        cli_text_input_release(&input);
    return st;
}

void cli_text_input_release(cli_text_input *input) {
    qn_windows_release(&input->windows);
    qn_documents_release(&input->documents);
    qn_tokenizer_free(input->tokenizer);
    *input = (cli_text_input){0};
}

qn_status cli_profile(const cli_args *args, qn_profile *out, qn_error *err) {
    qn_track track;
    QN_TRY(qn_track_parse(cli_text(args, "track", NULL), &track, err));
    const char *path = cli_text(args, "profile", NULL);
    if (path && strcmp(path, "strict") != 0) return qn_profile_load(path, track, out, err);
    *out = path ? qn_profile_strict(track) : qn_profile_builtin(track);
    return QN_OK;
}

qn_status cli_compute(const cli_args *args, qn_compute *out, qn_error *err) {
    const char *text = cli_text(args, "compute", "f32");
    if (strcmp(text, "f32") == 0)
        *out = QN_COMPUTE_F32;
    else if (strcmp(text, "bf16") == 0)
        *out = QN_COMPUTE_BF16;
    else
        return qn_fail(err, QN_E_ARGUMENT, "--compute is f32 or bf16, not '%s'", text);
    return QN_OK;
}

void cli_blame_weights(qn_status status, const qn_model *model, const qn_context *ctx, qn_error *err) {
    qn_error named = {0};
    if (status == QN_E_VALUE && model &&
        qn_checkpoint_check_finite(qn_model_checkpoint(model), ctx, &named) == QN_E_VALUE)
        *err = named;
}

static bool ends_with(const char *text, const char *tail) {
    size_t n = strlen(text), n_tail = strlen(tail);
    return n > n_tail && strcmp(text + n - n_tail, tail) == 0;
}

qn_status cli_budget_profile(const cli_args *args, qn_profile *out, qn_error *err) {
    QN_TRY(cli_profile(args, out, err));
    const double bits = cli_real(args, "bits-per-parameter", out->budget_bits);
    if (!(bits > 0 && bits <= 32))
        return qn_fail(err, QN_E_ARGUMENT, "--bits-per-parameter must be above 0 and at most 32");
    out->budget_bits = bits;
    if (cli_integer(args, "bytes", 1) < 1 || cli_integer(args, "reference-params", 1) < 1)
        return qn_fail(err, QN_E_ARGUMENT, "--bytes and --reference-params must be positive");
    return QN_OK;
}

qn_status cli_check_resume(const cli_args *args, qn_error *err) {
    if (!cli_flag(args, "resume") || cli_flag(args, "work")) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "--resume needs --work DIR, the folder of the run to go on with");
}

qn_status cli_recipe_named(const char *name, qn_track track, qn_recipe *out, qn_error *err) {
    if (name && (ends_with(name, ".yaml") || ends_with(name, ".yml")))
        return qn_recipe_load(name, track, out, err);
    return qn_recipe_builtin(name, track, out, err);
}

qn_status cli_recipe(const cli_args *args, qn_track track, qn_recipe *out, qn_error *err) {
    /* With calibration text, or what was measured on it, the best there is; without, what needs none. */
    const bool calibrates = cli_text(args, "text", NULL) || cli_text(args, "statistics", NULL);
    const char *best = calibrates ? qn_track_name(track) : NULL;
    return cli_recipe_named(cli_text(args, "recipe", best), track, out, err);
}
