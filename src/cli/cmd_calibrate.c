#include "commands.h"
#include "console.h"
#include "inputs.h"

#include <stdio.h>

static const cli_option k_options[] = {
    {"text", CLI_TEXT, "FILE", "documents to calibrate on: .jsonl, .txt, or a folder of .txt", false},
    {"tokens", CLI_INTEGER, "N", "of the text, spread evenly over it (default 131072)", false},
    {"o", CLI_TEXT, "STATS", "file of statistics to write", false},
    {"context", CLI_INTEGER, "N", "tokens of a context (default 512)", false},
    {"fisher-tokens", CLI_INTEGER, "N", "tokens that are walked backwards too (default 16384; 0: none)",
     false},
    {"diagonal", CLI_FLAG, NULL, "second moments of the inputs only, no Hessians", false},
    {"docs", CLI_TEXT, "FILE", "evaluation documents that must not stand in the text", false},
    {"allow-leak", CLI_FLAG, NULL, "warn where they do, instead of refusing", false},
    {"tokenizer", CLI_TEXT, "DIR|byte", "instead of the model's own", false},
    {"compute", CLI_TEXT, "TYPE", "f32 (default) or bf16", false},
    {"merge", CLI_FLAG, NULL, "add up the files STATS, weighted by their tokens, into -o", false},
    {"inspect", CLI_FLAG, NULL, "print what STATS holds", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

/* ---- measuring ---- */

typedef struct measure_run {
    const char *out;
    qn_calibrate_options options;
    int64_t context, n_tokens;
    qn_model *model;
    qn_tokenizer *tokenizer;
    qn_documents documents, evaluation;
    qn_calibration_text text;
    qn_leak_report leak;
    qn_calibrate_result result;
    double seconds;
} measure_run;

static void release(measure_run *r) {
    qn_calibration_text_release(&r->text);
    qn_documents_release(&r->documents);
    qn_documents_release(&r->evaluation);
    qn_tokenizer_free(r->tokenizer);
    qn_model_close(r->model);
}

static qn_status read_options(const cli_args *args, measure_run *r, qn_error *err) {
    r->out = cli_text(args, "o", NULL);
    r->options = qn_calibrate_options_default();
    r->options.n_fisher_tokens = cli_integer(args, "fisher-tokens", r->options.n_fisher_tokens);
    r->options.diagonal = cli_flag(args, "diagonal");
    r->options.seed = (uint64_t)cli_integer(args, "seed", 0);
    r->context = cli_integer(args, "context", 512);
    r->n_tokens = cli_integer(args, "tokens", 131072);
    if (r->options.n_fisher_tokens < 0)
        return qn_fail(err, QN_E_ARGUMENT, "--fisher-tokens %lld: expected 0 or more",
                       (long long)r->options.n_fisher_tokens);
    return cli_compute(args, &r->options.compute, err);
}

static qn_status check_leak(const cli_args *args, const qn_context *ctx, measure_run *r, qn_error *err) {
    const char *docs = cli_text(args, "docs", NULL);
    if (!docs) return QN_OK;
    QN_TRY(qn_documents_open(docs, &r->evaluation, err));
    QN_TRY(qn_leak_check(&r->documents, &r->evaluation, r->tokenizer, QN_LEAK_NGRAM, &r->leak, err));
    return qn_leak_judge(&r->leak, cli_flag(args, "allow-leak"), ctx, err);
}

static qn_status measure(const cli_args *args, const qn_context *ctx, measure_run *r, qn_error *err) {
    const char *model = args->positionals[0], *text = cli_text(args, "text", NULL);
    QN_TRY(read_options(args, r, err));
    QN_TRY(qn_tokenizer_open(cli_text(args, "tokenizer", model), &r->tokenizer, err));
    QN_TRY(qn_documents_open(text, &r->documents, err));
    QN_TRY(check_leak(args, ctx, r, err));
    QN_TRY(qn_model_open(model, &r->model, err));
    QN_TRY(qn_calibration_text_make(&r->documents, text, r->tokenizer, qn_model_config(r->model), r->context,
                                    r->n_tokens, ctx, &r->text, err));
    return qn_calibrate(r->model, &r->text, &r->options, r->out, ctx, &r->result, err);
}

static json_t *leak_object(const qn_leak_report *l) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:f, s:s}", "n", (json_int_t)l->n, "documents",
                     (json_int_t)l->n_documents, "documents_found", (json_int_t)l->n_documents_found,
                     "documents_leaked", (json_int_t)l->n_documents_leaked, "ngrams", (json_int_t)l->n_ngrams,
                     "ngrams_found", (json_int_t)l->n_found, "share", l->share, "worst_document",
                     (json_int_t)l->worst_document, "worst_share", l->worst_share, "example", l->example);
}

static int print_measured(const cli_args *args, const measure_run *r) {
    const qn_calibrate_result *m = &r->result;
    if (cli_flag(args, "json")) {
        json_t *object =
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:f, s:I}", "statistics",
                      r->out, "tokens", (json_int_t)m->n_tokens, "fisher_tokens",
                      (json_int_t)m->n_fisher_tokens, "context", (json_int_t)r->context, "inputs",
                      (json_int_t)m->n_inputs, "dead_inputs", (json_int_t)m->n_dead_inputs, "widest_input",
                      (json_int_t)m->widest_input, "rank_bound", (json_int_t)m->rank_bound, "tokenizer",
                      qn_tokenizer_name(r->tokenizer), "text_sha256", r->text.sha256, "model_sha256",
                      m->model_sha256, "seconds", r->seconds, "peak_rss_bytes", (json_int_t)cli_peak_rss());
        if (object && r->leak.n) json_object_set_new(object, "leak", leak_object(&r->leak));
        return cli_print_json(object);
    }
    printf("%s: %s tokens in contexts of %s, %s of them walked backwards\n", r->out,
           cli_thousands(m->n_tokens), cli_thousands(r->context), cli_thousands(m->n_fisher_tokens));
    printf("inputs      %s, %s dead; rank at most %s of %s\n", cli_thousands(m->n_inputs),
           cli_thousands(m->n_dead_inputs), cli_thousands(m->rank_bound), cli_thousands(m->widest_input));
    if (r->leak.n)
        printf("leak check  %.3f %% of the %s %lld-grams of %s documents stand in the text\n",
               100 * r->leak.share, cli_thousands(r->leak.n_ngrams), (long long)r->leak.n,
               cli_thousands(r->leak.n_documents));
    printf("text        sha256 %s\n", r->text.sha256);
    printf("model       sha256 %s\n", m->model_sha256);
    return cli_finish();
}

static int run_measure(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    measure_run r = {0};
    const double began = cli_seconds();
    const qn_status st = measure(args, &ctx, &r, &err);
    r.seconds = cli_seconds() - began;
    cli_clear_progress(&console);
    int status = CLI_OK;
    if (st == QN_OK) {
        status = print_measured(args, &r);
    } else {
        cli_blame_weights(st, r.model, &ctx, &err);
        status = cli_fail(&err);
    }
    release(&r);
    return status;
}

/* ---- files ---- */

static int print_items(const qn_statistics *s, qn_error *err) {
    const qn_statistics_info info = qn_statistics_info_of(s);
    printf("tokens   %s, %s of them walked backwards; contexts of %s, seed %s\n",
           cli_thousands(info.n_tokens), cli_thousands(info.n_fisher_tokens),
           info.context ? info.context : "?", info.seed ? info.seed : "?");
    printf("text     sha256 %s\n", info.text_sha256 ? info.text_sha256 : "unknown");
    printf("model    sha256 %s\n\n", info.model_sha256 ? info.model_sha256 : "unknown");
    printf("%-58s %8s %8s %12s %12s\n", "tensor (of a Hessian its diagonal)", "values", "zero", "mean",
           "largest");
    for (int64_t i = 0; i < qn_statistics_count(s); i++) {
        qn_statistics_item item;
        if (qn_statistics_item_at(s, i, &item, err) != QN_OK) return cli_fail(err);
        printf("%-58s %8lld %8lld %12.5g %12.5g\n", item.name, (long long)item.n_values,
               (long long)item.n_zero, item.mean, item.largest);
    }
    return cli_finish();
}

static json_t *text_or_null(const char *text) {
    return text ? json_string(text) : json_null();
}

static int print_items_json(const qn_statistics *s, qn_error *err) {
    const qn_statistics_info info = qn_statistics_info_of(s);
    json_t *list = json_array();
    for (int64_t i = 0; i < qn_statistics_count(s); i++) {
        qn_statistics_item item;
        if (qn_statistics_item_at(s, i, &item, err) != QN_OK) {
            json_decref(list);
            return cli_fail(err);
        }
        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I, s:f, s:f}", "name", item.name,
                                              "statistic", qn_statistic_name(item.statistic), "values",
                                              (json_int_t)item.n_values, "zero", (json_int_t)item.n_zero,
                                              "mean", item.mean, "largest", item.largest));
    }
    return cli_print_json(
        json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "tokens", (json_int_t)info.n_tokens, "fisher_tokens",
                  (json_int_t)info.n_fisher_tokens, "context", text_or_null(info.context), "seed",
                  text_or_null(info.seed), "text_sha256", text_or_null(info.text_sha256), "model_sha256",
                  text_or_null(info.model_sha256), "tensors", list));
}

static int run_inspect(const cli_args *args) {
    qn_error err = {0};
    qn_statistics *statistics = NULL;
    if (qn_statistics_open(args->positionals[0], NULL, &statistics, &err) != QN_OK) return cli_fail(&err);
    const int status =
        cli_flag(args, "json") ? print_items_json(statistics, &err) : print_items(statistics, &err);
    qn_statistics_close(statistics);
    return status;
}

static int run_merge(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    const qn_context ctx = cli_context(args, &console);
    const char *out = cli_text(args, "o", NULL);
    int64_t n = 0;
    while (n < CLI_MAX_POSITIONALS && args->positionals[n]) n++;
    if (qn_statistics_merge(args->positionals, n, out, &ctx, &err) != QN_OK) return cli_fail(&err);
    if (cli_flag(args, "json"))
        return cli_print_json(json_pack("{s:s, s:I}", "statistics", out, "files", (json_int_t)n));
    printf("%s: %lld files\n", out, (long long)n);
    return cli_finish();
}

static int run(const cli_args *args) {
    const bool merge = cli_flag(args, "merge"), inspect = cli_flag(args, "inspect");
    if (merge && inspect) return cli_usage_error(args->command, "--merge and --inspect exclude each other");
    if ((merge || inspect) && cli_flag(args, "text"))
        return cli_usage_error(args->command, "--text does not go with --%s", merge ? "merge" : "inspect");
    if (!merge && args->positionals[1])
        return cli_usage_error(args->command, "unexpected argument '%s'", args->positionals[1]);
    if (!inspect && !cli_flag(args, "o"))
        return cli_usage_error(args->command, "option '-o STATS' is missing");
    if (merge) return run_merge(args);
    if (inspect) return run_inspect(args);
    if (!cli_flag(args, "text")) return cli_usage_error(args->command, "option '--text FILE' is missing");
    return run_measure(args);
}

const cli_command cli_cmd_calibrate = {
    "calibrate",
    {"MODEL|STATS", "[STATS...]"},
    "statistics of a model on text, for the fits: second moments, Hessians, Fisher diagonals",
    "The text's documents are joined, each followed by the model's end-of-text token, and cut into contexts; "
    "where there is "
    "more text than --tokens, the contexts are spread evenly over it. The walk measures E[x x^T] of the "
    "input of every linear "
    "layer, a part of the contexts is walked backwards for the mean squared gradient of every output, with "
    "labels drawn from "
    "the model itself. With --docs, the text is refused when 13-grams of these documents stand in it. "
    "`quern calibrate --merge A B -o OUT` adds files of one model up, `quern calibrate --inspect STATS` "
    "lists one.",
    k_options,
    run};
