/* What several commands read: documents cut into windows, and the track with its rules. */
#ifndef QUERN_SRC_CLI_INPUTS_H
#define QUERN_SRC_CLI_INPUTS_H

#include "args.h"
#include "quern/quern.h"

typedef struct cli_text_input {
    qn_tokenizer *tokenizer;
    qn_documents documents;
    qn_windows windows;
    qn_protocol protocol;
} cli_text_input;

/* The options it is made from, for a command's table. */
#define CLI_TEXT_INPUT_OPTIONS                                                                               \
    {"docs", CLI_TEXT, "FILE", "documents: .jsonl, .txt, or a folder of .txt", true},                        \
        {"protocol", CLI_TEXT, "P", "heldout (default), llama-512, window:N or stride:N:S", false},          \
        {"max-tokens", CLI_INTEGER, "N", "heldout: ids of a document that are scored (default 512)", false}, \
        {"join", CLI_TEXT, "TOKEN", "joined protocols: put TOKEN after each document", false},               \
        {"max-windows", CLI_INTEGER, "N", "joined protocols: stop after N windows", false}, {                \
        "tokenizer", CLI_TEXT, "DIR|byte", "instead of the model's own", false                               \
    }

/* Opens --docs with --protocol, --max-tokens, --join, --max-windows and --tokenizer (else MODEL's own). */
qn_status cli_text_input_open(const cli_args *args, const char *model, cli_text_input *out, qn_error *err);
void cli_text_input_release(cli_text_input *input);

/* --track and --profile. */
qn_status cli_profile(const cli_args *args, qn_profile *out, qn_error *err);

/* The same with the command line's budget put in: --bits-per-parameter, --bytes and --reference-params make sense. */
qn_status cli_budget_profile(const cli_args *args, qn_profile *out, qn_error *err);

/* --resume needs --work. */
qn_status cli_check_resume(const cli_args *args, qn_error *err);

/* A recipe by name: a file when it ends in .yaml or .yml, else a built-in one; NULL is the track's best. */
qn_status cli_recipe_named(const char *name, qn_track track, qn_recipe *out, qn_error *err);

/* --recipe */
qn_status cli_recipe(const cli_args *args, qn_track track, qn_recipe *out, qn_error *err);

/* After a failure with QN_E_VALUE: puts the tensor's name into *err where MODEL itself is not finite. */
void cli_blame_weights(qn_status status, const qn_model *model, const qn_context *ctx, qn_error *err);

/* --compute f32|bf16. */
qn_status cli_compute(const cli_args *args, qn_compute *out, qn_error *err);

#endif
