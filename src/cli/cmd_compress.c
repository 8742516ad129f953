#include "commands.h"
#include "console.h"
#include "gates.h"
#include "inputs.h"
#include "tuning.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define BUDGET_OPTIONS                                                                                       \
    {"recipe", CLI_TEXT, "FILE.yaml|NAME",                                                                   \
     "what to do (default: the track's best built-in recipe with --text, `fast` without)", false},           \
        {"effort", CLI_TEXT, "fast|default|max",                                                             \
         "how long to train after the fits: not at all, as the recipe says, longer", false},                 \
        {"text", CLI_TEXT, "FILE", "calibration text, for recipes that calibrate", false},                   \
        {"statistics", CLI_TEXT, "STATS",                                                                    \
         "of `quern calibrate`, for a calibrated recipe's plan; a plan alone needs no --text then", false},  \
        {"docs", CLI_TEXT, "FILE", "dev documents: scored before and after, and never calibrated on",        \
         false},                                                                                             \
        {"allow-leak", CLI_FLAG, NULL, "calibrate on text that holds the dev documents too", false},         \
        {"tokenizer", CLI_TEXT, "DIR|byte", "instead of the model's own", false},                            \
        {"bits-per-parameter", CLI_REAL, "X", "budget instead of the track's", false},                       \
        {"bytes", CLI_INTEGER, "N", "budget for the whole file, in bytes", false},                           \
        {"reference-params", CLI_INTEGER, "N", "parameters the budget is for (default: the teacher's own)",  \
         false},                                                                                             \
        {"profile", CLI_TEXT, "FILE", "rules of the track as JSON, instead of the built-in ones", false}, {  \
        "no-tokenizer", CLI_FLAG, NULL, "leave the tokenizer files out", false                               \
    }

static const cli_option k_options[] = {
    {"track", CLI_TEXT, "T", "binary or ternary", true},
    {"o", CLI_TEXT, "OUT.zip|DIR", "the artifact to write", true},
    BUDGET_OPTIONS,
    {"second-moments", CLI_TEXT, "FILE",
     "input second moments for a data-free recipe's fits and choice of rows", false},
    CLI_DEV_EVERY_OPTION,
    {"dry-run", CLI_FLAG, NULL, "print the plan and the exact size of the file it would write", false},
    {"work", CLI_TEXT, "DIR", "where a long run keeps what it needs to go on", false},
    {"resume", CLI_FLAG, NULL, "go on with the run in --work", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

static const cli_option k_plan_options[] = {
    {"track", CLI_TEXT, "T", "binary or ternary", true},
    {"o", CLI_TEXT, "OUT.zip|DIR", "the artifact to plan (default: a zip); nothing is written", false},
    BUDGET_OPTIONS,
    {NULL, CLI_FLAG, NULL, NULL, false}};

static json_t *native_object(const qn_compress_result *r) {
    return json_pack("{s:s, s:i}", "code", qn_code_name(r->native.code), "group_size", r->native.group_size);
}

static void print_native(const qn_compress_result *r) {
    printf("native        %s codes, one %s scale per ", qn_code_name(r->native.code),
           r->native.scale == QN_SCALE_LOG6 ? "6-bit" : "fp16");
    if (r->native.group_size)
        printf("%d columns\n", r->native.group_size);
    else
        printf("row\n");
}

static json_t *plan_array(const qn_compress_result *r) {
    json_t *array = json_array();
    for (int64_t i = 0; i < r->n_plan; i++) {
        const qn_plan_row *row = &r->plan[i];
        json_array_append_new(array, json_pack("{s:s, s:s, s:I, s:f, s:f}", "name", row->name, "spec",
                                               row->spec, "bytes", (json_int_t)row->n_bytes, "predicted_loss",
                                               row->predicted_loss, "relative_error", row->relative_error));
    }
    return array;
}

/* Matrix, code, bytes, and its share of the loss that the plan predicts. */
static void print_plan_rows(const qn_compress_result *r) {
    double loss = 0.0;
    for (int64_t i = 0; i < r->n_plan; i++) loss += r->plan[i].predicted_loss;
    if (r->n_plan == 0) return;
    printf("\n%-44s %12s %7s  %s\n", "matrix", "bytes", "loss", "code");
    for (int64_t i = 0; i < r->n_plan; i++) {
        const qn_plan_row *row = &r->plan[i];
        printf("%-44s %12s %5.1f %%  %s\n", row->name, cli_thousands(row->n_bytes),
               loss > 0.0 ? 100.0 * row->predicted_loss / loss : 0.0, row->spec);
    }
    printf("predicted loss: %.4f nats a token, to second order\n", loss);
}

static int print_plan(const cli_args *args, const qn_recipe *recipe, const qn_compress_result *r) {
    double bits = 8.0 * (double)r->bytes / (double)r->parameters;
    if (cli_flag(args, "json"))
        return cli_print_json(json_pack(
            "{s:b, s:f, s:o, s:o, s:s, s:I, s:I, s:I, s:f, s:f, s:I, s:f, s:s}", "dry_run", 1,
            "estimated_seconds", r->estimated_seconds, "native", native_object(r), "plan", plan_array(r),
            "artifact", cli_text(args, "o", ""), "bytes", (json_int_t)r->bytes, "minimum_bytes",
            (json_int_t)r->minimum_bytes, "budget_bytes", (json_int_t)r->budget_bytes, "bits_per_parameter",
            bits, "budget_bits_per_parameter", 8.0 * (double)r->budget_bytes / (double)r->parameters,
            "parameters", (json_int_t)r->parameters, "max_rescue_fraction",
            (double)r->rescued_parameters / (double)r->parameters, "recipe_sha256", recipe->sha256));
    printf("would write   %s\n", cli_text(args, "o", "a zip archive"));
    printf("bytes         %s  (%.4f bits per parameter)\n", cli_thousands(r->bytes), bits);
    print_native(r);
    printf("minimum       %s  without any rescued row\n", cli_thousands(r->minimum_bytes));
    printf("budget        %s\n", cli_thousands(r->budget_bytes));
    printf("rescue        at most %.2f %% of %s parameters\n",
           100.0 * (double)r->rescued_parameters / (double)r->parameters, cli_thousands(r->parameters));
    print_plan_rows(r);
    if (r->estimated_seconds > 0) {
        char duration[32];
        cli_format_duration(r->estimated_seconds, duration, sizeof duration);
        printf("time          about %s for the fits and what is trained after them\n", duration);
    }
    return cli_finish();
}

static json_t *result_object(const cli_args *args, const qn_recipe *recipe, const qn_profile *profile,
                             const qn_compress_result *r, double seconds) {
    qn_isa isa = QN_ISA_REF;
    (void)!qn_isa_select(&isa, NULL);
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:f, s:f, s:I, s:I, s:I, s:f, s:o, s:o, s:f, s:I, s:s, s:s, s:s}", "artifact",
        cli_text(args, "o", ""), "sha256", r->sha256, "bytes", (json_int_t)r->bytes, "bits_per_parameter",
        8.0 * (double)r->bytes / (double)r->parameters, "budget_bits_per_parameter", profile->budget_bits,
        "budget_bytes", (json_int_t)r->budget_bytes, "minimum_bytes", (json_int_t)r->minimum_bytes,
        "parameters", (json_int_t)r->parameters, "rescue_fraction",
        (double)r->rescued_parameters / (double)r->parameters, "roles", cli_roles_object(r->role_bytes),
        "gates", cli_gates_object(&r->verified), "seconds", seconds, "peak_rss_bytes",
        (json_int_t)cli_peak_rss(), "recipe", recipe->name, "recipe_sha256", recipe->sha256, "isa",
        qn_isa_name(isa));
    if (!object) return NULL;
    json_object_set_new(object, "native", native_object(r));
    json_object_set_new(object, "plan", plan_array(r));
    cli_add_tuning(object, r);
    cli_add_perplexities(object, r);
    return object;
}

static void print_text(const cli_args *args, const qn_compress_result *r, double seconds) {
    printf("artifact      %s\nsha256        %s\n", cli_text(args, "o", ""), r->sha256);
    printf("bytes         %s of %s allowed  (%.4f bits per parameter)\n", cli_thousands(r->bytes),
           cli_thousands(r->budget_bytes), 8.0 * (double)r->bytes / (double)r->parameters);
    for (int role = 0; role < QN_ROLE_COUNT; role++)
        if (r->role_bytes[role])
            printf("  %-12s%14s bytes\n", qn_role_name((qn_role)role), cli_thousands(r->role_bytes[role]));
    print_native(r);
    printf("rescued       %.2f %% of %s parameters\n",
           100.0 * (double)r->rescued_parameters / (double)r->parameters, cli_thousands(r->parameters));
    cli_print_tuning(r);
    cli_print_gates(&r->verified);
    if (r->scored)
        printf("perplexity    %.4f before, %.4f after: %.4f nats lost on these documents\n",
               r->teacher.perplexity, r->student.perplexity, r->student.nats - r->teacher.nats);
    printf("seconds       %.1f\n", seconds);
}

static qn_status read_rules(const cli_args *args, qn_profile *profile, qn_recipe *recipe, qn_error *err) {
    QN_TRY(cli_budget_profile(args, profile, err));
    QN_TRY(cli_recipe(args, profile->track, recipe, err));
    return cli_effort(args, recipe, err);
}

/* What plan and compress have in common; EXTRA holds the options that only one of them has. */
static int compress(const cli_args *args, const qn_compress_options *extra) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    qn_profile profile;
    qn_recipe recipe;
    if (read_rules(args, &profile, &recipe, &err) != QN_OK) return cli_fail(&err);
    if (cli_text(args, "text", NULL) && !qn_recipe_calibrates(&recipe))
        qn_log(&ctx, QN_LOG_INFO, "recipe '%s' is data-free: the calibration text is not read", recipe.name);
    qn_compress_options options = *extra;
    options.model = args->positionals[0];
    options.profile = &profile;
    options.recipe = &recipe;
    options.reference_parameters = cli_integer(args, "reference-params", 0);
    options.budget_bytes = cli_integer(args, "bytes", 0);
    options.without_tokenizer = cli_flag(args, "no-tokenizer");
    options.text = cli_text(args, "text", NULL);
    options.statistics = cli_text(args, "statistics", NULL);
    options.allow_leak = cli_flag(args, "allow-leak");
    options.documents = cli_text(args, "docs", NULL);
    options.tokenizer = cli_text(args, "tokenizer", NULL);
    options.seed = (uint64_t)cli_integer(args, "seed", 0);
    qn_compress_result result = {0};
    double began = cli_seconds();
    qn_status st = qn_compress(&options, &ctx, &result, &err);
    double seconds = cli_seconds() - began;
    cli_clear_progress(&console);
    if (st != QN_OK) return cli_fail(&err);
    int status;
    if (options.dry_run) {
        status = print_plan(args, &recipe, &result);
    } else if (cli_flag(args, "json")) {
        status = cli_print_json(result_object(args, &recipe, &profile, &result, seconds));
    } else {
        print_text(args, &result, seconds);
        status = cli_finish();
    }
    for (int64_t i = 0; i < result.verified.n_lint; i++)
        qn_log(&ctx, QN_LOG_WARNING, "%s", result.verified.lint[i]);
    qn_compress_result_release(&result);
    return status;
}

static int run(const cli_args *args) {
    qn_error err = {0};
    qn_compress_options options = {.output = cli_text(args, "o", NULL),
                                   .dry_run = cli_flag(args, "dry-run"),
                                   .second_moments = cli_text(args, "second-moments", NULL),
                                   .work = cli_text(args, "work", NULL),
                                   .resume = cli_flag(args, "resume")};
    if (cli_check_resume(args, &err) != QN_OK || cli_dev_every(args, &options.dev_every, &err) != QN_OK)
        return cli_fail(&err);
    return compress(args, &options);
}

static int run_plan(const cli_args *args) {
    const qn_compress_options options = {.output = cli_text(args, "o", "plan.zip"), .dry_run = true};
    return compress(args, &options);
}

const cli_command cli_cmd_compress = {"compress",
                                      {"MODEL"},
                                      "the main job: teacher in, verified artifact out",
                                      "Fits every matrix to the track's code, spends the byte budget on "
                                      "4-bit rescue rows where they gain most, writes the "
                                      "artifact to exactly the planned size, runs every gate on the finished "
                                      "file, and only then puts it in place. The same "
                                      "input, recipe and seed give the same bytes.",
                                      k_options,
                                      run};

const cli_command cli_cmd_plan = {
    "plan",
    {"MODEL"},
    "how a byte budget would be spent",
    "Measures what an error in each line of each matrix costs, and prints how many "
    "columns or rows of each get one plane of codes, two planes or 4 bits, with exact "
    "bytes and the share of the predicted loss. The same as compress --dry-run.",
    k_plan_options,
    run_plan};
