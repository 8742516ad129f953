#include "commands.h"
#include "console.h"
#include "gates.h"
#include "inputs.h"
#include "tuning.h"

#include <stdio.h>

static const cli_option k_options[] = {
    {"teacher", CLI_TEXT, "MODEL", "the model that STUDENT is an artifact of", true},
    {"track", CLI_TEXT, "T", "binary or ternary", true},
    {"text", CLI_TEXT, "FILE", "text to train on", true},
    {"o", CLI_TEXT, "OUT.zip|DIR", "the artifact to write", true},
    {"recipe", CLI_TEXT, "FILE.yaml|NAME",
     "its stages distill and finetune (default: those of the track's best built-in recipe)", false},
    {"effort", CLI_TEXT, "fast|default|max", "how long: fast trains nothing", false},
    {"docs", CLI_TEXT, "FILE", "dev documents: scored before and after, and never trained on", false},
    CLI_DEV_EVERY_OPTION,
    {"allow-leak", CLI_FLAG, NULL, "train on text that holds the dev documents too", false},
    {"tokenizer", CLI_TEXT, "DIR|byte", "instead of the teacher's own", false},
    {"bits-per-parameter", CLI_REAL, "X", "budget instead of the track's", false},
    {"bytes", CLI_INTEGER, "N", "budget for the whole file, in bytes", false},
    {"reference-params", CLI_INTEGER, "N", "parameters the budget is for (default: the teacher's own)",
     false},
    {"profile", CLI_TEXT, "FILE", "rules of the track as JSON, instead of the built-in ones", false},
    {"no-tokenizer", CLI_FLAG, NULL, "leave the tokenizer files out", false},
    {"control", CLI_FLAG, NULL,
     "tune the unquantised teacher with the stage finetune instead, into a checkpoint folder", false},
    {"work", CLI_TEXT, "DIR", "where the run keeps what it needs to go on", false},
    {"resume", CLI_FLAG, NULL, "go on with the run in --work", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

static json_t *result_object(const cli_args *args, const qn_recipe *recipe, const qn_compress_result *r,
                             double seconds) {
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:f, s:I, s:o, s:f, s:I, s:s, s:s}", "artifact", cli_text(args, "o", ""),
                  "sha256", r->sha256, "bytes", (json_int_t)r->bytes, "bits_per_parameter",
                  8.0 * (double)r->bytes / (double)r->parameters, "parameters", (json_int_t)r->parameters,
                  "gates", cli_gates_object(&r->verified), "seconds", seconds, "peak_rss_bytes",
                  (json_int_t)cli_peak_rss(), "recipe", recipe->name, "recipe_sha256", recipe->sha256);
    if (!object) return NULL;
    cli_add_tuning(object, r);
    cli_add_perplexities(object, r);
    return object;
}

static void print_text(const cli_args *args, const qn_compress_result *r, double seconds) {
    printf("artifact      %s\nsha256        %s\n", cli_text(args, "o", ""), r->sha256);
    printf("bytes         %s  (%.4f bits per parameter)\n", cli_thousands(r->bytes),
           8.0 * (double)r->bytes / (double)r->parameters);
    cli_print_tuning(r);
    cli_print_gates(&r->verified);
    if (r->scored)
        printf("perplexity    %.4f of the teacher, %.4f after: %.4f nats lost on these documents\n",
               r->teacher.perplexity, r->student.perplexity, r->student.nats - r->teacher.nats);
    printf("seconds       %.1f\n", seconds);
}

static qn_status read_rules(const cli_args *args, qn_profile *profile, qn_recipe *recipe, qn_error *err) {
    QN_TRY(cli_budget_profile(args, profile, err));
    QN_TRY(cli_recipe(args, profile->track, recipe, err));
    QN_TRY(cli_effort(args, recipe, err));
    if (qn_recipe_calibrates(recipe)) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT, "recipe '%s' is data-free and trains nothing", recipe->name);
}

/* A model in no code: tuned as the artifacts of it are, to compare them with. */
static int run_control(const cli_args *args, const qn_compress_options *options) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    qn_tuning_row row;
    const double began = cli_seconds();
    const qn_status st = qn_tune_control(options, &ctx, &row, &err);
    cli_clear_progress(&console);
    if (st != QN_OK) return cli_fail(&err);
    if (cli_flag(args, "json"))
        return cli_print_json(json_pack("{s:s, s:o, s:f, s:s}", "checkpoint", options->output, "finetuned",
                                        cli_tuning_object(&row), "seconds", cli_seconds() - began,
                                        "recipe_sha256", options->recipe->sha256));
    printf("checkpoint    %s: the unquantised model, tuned\n", options->output);
    printf("whole model   %.5f -> %.5f nats on held-back text, step %lld of %lld\n", row.first_loss,
           row.best_loss, (long long)row.best_step, (long long)row.steps);
    return cli_finish();
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    qn_profile profile;
    qn_recipe recipe;
    qn_compress_result result = {0};
    int64_t dev_every = 0;
    if (cli_check_resume(args, &err) != QN_OK || cli_dev_every(args, &dev_every, &err) != QN_OK ||
        read_rules(args, &profile, &recipe, &err) != QN_OK)
        return cli_fail(&err);
    const qn_compress_options options = {.model = cli_text(args, "teacher", NULL),
                                         .start = args->positionals[0],
                                         .output = cli_text(args, "o", NULL),
                                         .profile = &profile,
                                         .recipe = &recipe,
                                         .reference_parameters = cli_integer(args, "reference-params", 0),
                                         .budget_bytes = cli_integer(args, "bytes", 0),
                                         .without_tokenizer = cli_flag(args, "no-tokenizer"),
                                         .text = cli_text(args, "text", NULL),
                                         .allow_leak = cli_flag(args, "allow-leak"),
                                         .documents = cli_text(args, "docs", NULL),
                                         .dev_every = dev_every,
                                         .tokenizer = cli_text(args, "tokenizer", NULL),
                                         .work = cli_text(args, "work", NULL),
                                         .resume = cli_flag(args, "resume"),
                                         .seed = (uint64_t)cli_integer(args, "seed", 0)};
    if (cli_flag(args, "control")) return run_control(args, &options);
    const double began = cli_seconds();
    const qn_status st = qn_compress(&options, &ctx, &result, &err);
    const double seconds = cli_seconds() - began;
    int status = CLI_OK;
    cli_clear_progress(&console);
    if (st != QN_OK) return cli_fail(&err);
    if (cli_flag(args, "json")) {
        status = cli_print_json(result_object(args, &recipe, &result, seconds));
    } else {
        print_text(args, &result, seconds);
        status = cli_finish();
    }
    qn_compress_result_release(&result);
    return status;
}

const cli_command cli_cmd_distill = {
    "distill",
    {"STUDENT"},
    "train an artifact towards its teacher, in its own codes",
    "STUDENT is an artifact that `quern compress` made of the teacher. Each block is trained to give the "
    "teacher's output from the student's own input, then the whole model, as the recipe's stages distill and "
    "finetune say; the codes keep their shapes and places, so that the new artifact is as large as the old "
    "one. "
    "`quern compress` does the same right after its fits and knows a little more then: where each weight "
    "would "
    "rather be. Use this for artifacts that are there already. With --control the teacher itself is tuned "
    "with "
    "the same loss on the same text: a loss below the teacher's can come from more training alone, and what "
    "compression cost is the distance from the control.",
    k_options,
    run};
