#include "commands.h"
#include "console.h"
#include "gates.h"
#include "inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const cli_option k_options[] = {
    {"track", CLI_TEXT, "T", "binary or ternary", true},
    {"sha256", CLI_TEXT, "HEX", "the digest the file must have", false},
    {"size", CLI_INTEGER, "N", "the bytes the file must have", false},
    {"url", CLI_TEXT, "URL", "stream it, hash it, and compare with the file", false},
    {"docs", CLI_TEXT, "FILE", "documents for the perplexity gate", false},
    {"tokenizer", CLI_TEXT, "DIR|byte", "instead of the artifact's own", false},
    {"max-tokens", CLI_INTEGER, "N", "ids of a document that are scored (default 512)", false},
    {"reference-params", CLI_INTEGER, "N", "parameters the file size is held against (default: the track's)",
     false},
    {"profile", CLI_TEXT, "FILE|strict",
     "rules of the track as JSON, or the built-in ones without planes, log6, column bands, rotation and zlib",
     false},
    {"rebuild", CLI_TEXT, "RECIPE", "compress --model again and compare the bytes", false},
    {"model", CLI_TEXT, "DIR", "the teacher for --rebuild", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

static json_t *report_object(const qn_verify_report *r) {
    json_t *lint = json_array();
    for (int64_t i = 0; i < r->n_lint; i++) json_array_append_new(lint, json_string(r->lint[i]));
    json_t *object =
        json_pack("{s:o, s:s, s:I, s:I, s:f, s:f, s:o, s:o}", "gates", cli_gates_object(r), "sha256",
                  r->sha256, "bytes", (json_int_t)r->bytes, "parameters", (json_int_t)r->parameters,
                  "bits_per_parameter", r->bits_per_parameter, "rescue_fraction", r->rescue_fraction, "roles",
                  cli_roles_object(r->role_bytes), "lint", lint);
    if (object && r->scored) {
        json_object_set_new(object, "ppl", json_real(r->score.perplexity));
        json_object_set_new(object, "nats", json_real(r->score.nats));
        json_object_set_new(object, "tokens", json_integer(r->score.n_targets));
    }
    return object;
}

static void print_report(const char *path, const qn_verify_report *r) {
    printf("%s\nsha256        %s\n", path, r->sha256);
    printf("bytes         %s  (%.4f bits per parameter, %s parameters, %.2f %% rescued)\n",
           cli_thousands(r->bytes), r->bits_per_parameter, cli_thousands(r->parameters),
           100 * r->rescue_fraction);
    cli_print_gates(r);
    if (r->scored)
        printf("perplexity    %.6f over %s tokens of the documents given (a development figure)\n",
               r->score.perplexity, cli_thousands(r->score.n_targets));
    for (int64_t i = 0; i < r->n_lint; i++) printf("lint          %s\n", r->lint[i]);
}

static bool has_tokenizer(const char *path, qn_error *err, qn_status *st) {
    qn_store *store = NULL;
    size_t index;
    *st = qn_store_open(path, &store, err);
    if (*st != QN_OK) return false;
    bool found = qn_store_find(store, "tokenizer.json", &index) || qn_store_find(store, "vocab.json", &index);
    qn_store_close(store);
    return found;
}

/* A folder is rebuilt as a folder, an archive as an archive. */
static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static qn_status compress_again(const cli_args *args, const char *copy, const qn_verify_report *original,
                                const qn_context *ctx, qn_compress_result *out, qn_error *err) {
    qn_profile profile;
    qn_recipe recipe;
    qn_status st;
    QN_TRY(cli_profile(args, &profile, err));
    QN_TRY(cli_recipe_named(cli_text(args, "rebuild", NULL), profile.track, &recipe, err));
    bool with_tokenizer = has_tokenizer(args->positionals[0], err, &st);
    QN_TRY(st);
    const qn_compress_options options = {.model = cli_text(args, "model", NULL),
                                         .output = copy,
                                         .profile = &profile,
                                         .recipe = &recipe,
                                         .reference_parameters = cli_integer(args, "reference-params", 0),
                                         .budget_bytes = original->bytes,
                                         .without_tokenizer = !with_tokenizer,
                                         .seed = (uint64_t)cli_integer(args, "seed", 0)};
    return qn_compress(&options, ctx, out, err);
}

/* Compresses the model again within the artifact's own size and compares the digests. */
static qn_status rebuild(const cli_args *args, const qn_verify_report *original, const qn_context *ctx,
                         qn_error *err) {
    const char *base = getenv("TMPDIR");
    char folder[4096];
    snprintf(folder, sizeof folder, "%s/quern-rebuild-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder)) return qn_fail_errno(err, "cannot make a temporary folder %s", folder);
    char copy[4200];
    snprintf(copy, sizeof copy, "%s/rebuilt%s", folder, is_folder(args->positionals[0]) ? "" : ".zip");
    qn_compress_result result = {0};
    qn_status st = compress_again(args, copy, original, ctx, &result, err);
    if (st == QN_OK && strcmp(result.sha256, original->sha256) != 0)
        st = qn_fail(err, QN_E_REJECTED,
                     "validator_rejection=rebuild reason=different_bytes expected=%s got=%s",
                     original->sha256, result.sha256);
    qn_compress_result_release(&result);
    qn_folder_abandon(folder);
    return st;
}

/* Counts that would otherwise stand for "not given". */
static int check_counts(const cli_args *args) {
    static const char *const names[] = {"size", "max-tokens", "reference-params"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (cli_integer(args, names[i], 1) < 1)
            return cli_usage_error(args->command, "--%s must be positive", names[i]);
    return CLI_OK;
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    qn_profile profile;
    qn_verify_report report = {0};
    if (!cli_text(args, "rebuild", NULL) != !cli_text(args, "model", NULL))
        return cli_usage_error(args->command, "--rebuild RECIPE and --model DIR go together");
    if (check_counts(args) != CLI_OK) return CLI_USAGE;
    qn_status st = cli_profile(args, &profile, &err);
    if (st != QN_OK) return cli_fail(&err);
    const qn_verify_options options = {.profile = &profile,
                                       .reference_parameters = cli_integer(args, "reference-params", 0),
                                       .expected_sha256 = cli_text(args, "sha256", NULL),
                                       .expected_bytes = cli_integer(args, "size", 0),
                                       .url = cli_text(args, "url", NULL),
                                       .documents = cli_text(args, "docs", NULL),
                                       .tokenizer = cli_text(args, "tokenizer", NULL),
                                       .max_tokens = cli_integer(args, "max-tokens", 0)};
    st = qn_verify(args->positionals[0], &options, &ctx, &report, &err);
    if (st == QN_OK && cli_text(args, "rebuild", NULL)) st = rebuild(args, &report, &ctx, &err);
    cli_clear_progress(&console);
    int status = CLI_OK;
    if (cli_flag(args, "json"))
        status = cli_print_json(report_object(&report));
    else if (st == QN_OK)
        print_report(args->positionals[0], &report);
    qn_verify_report_release(&report);
    if (st != QN_OK) return cli_fail(&err);
    return status == CLI_OK ? cli_finish() : status;
}

const cli_command cli_cmd_verify = {
    "verify",
    {"ARTIFACT"},
    "every gate of the contract, with the validator's names",
    "Runs the gates in the scorer's order. The first that fails ends the run with a line "
    "`validator_rejection=<gate> key=value ...` on stderr and exit status 1. Without --docs the perplexity "
    "gate is "
    "skipped and says so.",
    k_options,
    run};
