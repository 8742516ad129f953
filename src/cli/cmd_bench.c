#include "bench.h"
#include "commands.h"

#include <string.h>

static const cli_option k_options[] = {
    {"model", CLI_TEXT, "MODEL", "a dense checkpoint, for tokenizer, score, quantize and finetune", false},
    {"docs", CLI_TEXT, "FILE",
     "documents, for tokenizer, score and finetune: .jsonl, .txt, or a folder of .txt", false},
    {"tokenizer", CLI_TEXT, "DIR|byte", "instead of the model's own", false},
    {"protocol", CLI_TEXT, "P", "score: heldout (default), llama-512, window:N or stride:N:S", false},
    {"max-tokens", CLI_INTEGER, "N", "score: heldout: ids of a document that are scored (default 512)",
     false},
    {"join", CLI_TEXT, "TOKEN", "score: joined protocols: put TOKEN after each document", false},
    {"max-windows", CLI_INTEGER, "N", "score: joined protocols: stop after N windows", false},
    {"shape", CLI_TEXT, "NAME", "train, distill: demo (default), 1024 or 2048, the hidden size", false},
    {"compute", CLI_TEXT, "TYPE", "train, distill: f32 or bf16 (default: both)", false},
    {"recompute", CLI_FLAG, NULL,
     "training: keep no activations (the trainer keeps them where memory allows)", false},
    {"repeats", CLI_INTEGER, "N", "samples of each case, after one that is not counted (default 5)", false},
    {"csv", CLI_FLAG, NULL, "comma-separated values instead of a table", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

typedef struct suite {
    const char *name;
    qn_status (*run)(bench *b, qn_error *err);
    bool needs_model, needs_docs;
} suite;

static const suite k_suites[] = {
    {"kernels", bench_suite_kernels, false, false}, {"tokenizer", bench_suite_tokenizer, true, true},
    {"score", bench_suite_score, true, true},       {"quantize", bench_suite_quantize, true, false},
    {"fit", bench_suite_fit, false, false},         {"pack", bench_suite_pack, false, false},
    {"train", bench_suite_train, false, false},     {"distill", bench_suite_distill, false, false},
    {"finetune", bench_suite_finetune, true, true}};
enum { N_SUITES = sizeof k_suites / sizeof k_suites[0] };

static bool is_chosen(const suite *s, const char *name) {
    return !name || strcmp(s->name, name) == 0;
}

static int check_usage(const cli_args *args) {
    const char *name = args->positionals[0];
    const int64_t n_repeats = cli_integer(args, "repeats", 1);
    bool known = false;
    if (cli_flag(args, "csv") && cli_flag(args, "json"))
        return cli_usage_error(args->command, "--csv and --json exclude each other");
    if (n_repeats < 1 || n_repeats > BENCH_MAX_REPEATS)
        return cli_usage_error(args->command, "--repeats must be 1 to %d", BENCH_MAX_REPEATS);
    for (int i = 0; i < N_SUITES; i++) {
        const suite *s = &k_suites[i];
        if (!is_chosen(s, name)) continue;
        known = true;
        if (s->needs_model && !cli_text(args, "model", NULL))
            return cli_usage_error(args->command, "suite %s needs --model", s->name);
        if (s->needs_docs && !cli_text(args, "docs", NULL))
            return cli_usage_error(args->command, "suite %s needs --docs", s->name);
    }
    if (known) return CLI_OK;
    return cli_usage_error(
        args->command,
        "no suite '%s': kernels, tokenizer, score, quantize, fit, pack, train, distill or finetune", name);
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    int status = check_usage(args);
    if (status != CLI_OK) return status;
    bench b = {.args = args, .ctx = &ctx, .n_repeats = (int)cli_integer(args, "repeats", 5)};
    qn_status st = qn_isa_select(&b.isa, &err);
    for (int i = 0; i < N_SUITES && st == QN_OK; i++) {
        if (!is_chosen(&k_suites[i], args->positionals[0])) continue;
        qn_log(&ctx, QN_LOG_INFO, "bench: %s", k_suites[i].name);
        st = k_suites[i].run(&b, &err);
    }
    cli_clear_progress(&console);
    return st == QN_OK ? bench_print(&b) : cli_fail(&err);
}

static const char k_description[] =
    "Suites: kernels, tokenizer, score, quantize, fit, pack, train, distill, finetune; all of them by "
    "default. Each case runs once "
    "to warm "
    "up, then --repeats times. The table has the best and the median rate; the cores that the best run "
    "really had; the rate at which the machine could do the same work if only the named limit held, measured "
    "in the same run; the case's peak memory; and the start of the SHA-256 of what it made, which must not "
    "change between repeats, and between builds only where a change of the result is meant. A machine with "
    "other work to do gives low figures: compare shares and ratios of one run, not rates of two.";

const cli_command cli_cmd_bench = {
    "bench",       {"[SUITE]"}, "kernels and whole stages, with the physical limit beside each",
    k_description, k_options,   run};
