#include "commands.h"
#include "console.h"
#include "inputs.h"

#include <stdio.h>

static const cli_option k_options[] = {CLI_TEXT_INPUT_OPTIONS,
                                       {"compute", CLI_TEXT, "TYPE", "f32 (default) or bf16", false},
                                       {NULL, CLI_FLAG, NULL, NULL, false}};

typedef struct score_run {
    qn_model *model;
    cli_text_input text;
    qn_score_result result;
    double seconds;
} score_run;

static int print(const cli_args *args, const score_run *r) {
    char protocol[64];
    qn_protocol_format(&r->text.protocol, protocol, sizeof protocol);
    int64_t parameters = qn_checkpoint_layout(qn_model_checkpoint(r->model))->n_parameters;
    const qn_score_result *s = &r->result;
    const qn_windows *w = &r->text.windows;
    if (cli_flag(args, "json"))
        return cli_print_json(json_pack(
            "{s:f, s:f, s:f, s:I, s:I, s:I, s:f, s:s, s:s, s:s, s:I, s:I, s:f, s:s, s:f, s:I}", "ppl",
            s->perplexity, "nats", s->nats, "bits_per_byte", s->bits_per_byte, "tokens",
            (json_int_t)s->n_targets, "docs_scored", (json_int_t)w->docs_scored, "docs_skipped",
            (json_int_t)w->docs_skipped, "std_error", s->std_error, "protocol", protocol, "tokenizer",
            qn_tokenizer_name(r->text.tokenizer), "document_sha256", r->text.documents.sha256, "windows",
            (json_int_t)w->n_windows, "parameters", (json_int_t)parameters, "largest_activation",
            s->stats.largest_activation, "largest_activation_at", s->stats.largest_where, "seconds",
            r->seconds, "peak_rss_bytes", (json_int_t)cli_peak_rss()));
    printf("perplexity      %.6f\n", s->perplexity);
    printf("nats per token  %.6f +- %.6f\n", s->nats, s->std_error);
    printf("bits per byte   %.6f\n", s->bits_per_byte);
    printf("tokens scored   %s in %s windows; %s documents scored, %s skipped\n", cli_thousands(s->n_targets),
           cli_thousands(w->n_windows), cli_thousands(w->docs_scored), cli_thousands(w->docs_skipped));
    printf("protocol        %s, tokenizer %s\n", protocol, qn_tokenizer_name(r->text.tokenizer));
    printf("documents       sha256 %s\n", r->text.documents.sha256);
    return cli_finish();
}

static void warn_overflow(const qn_score_result *s, const qn_context *ctx) {
    if (s->stats.largest_activation > QN_F16_MAX)
        qn_log(ctx, QN_LOG_WARNING,
               "the largest activation is %.6g (%s): above fp16's %.0f, so a scorer running in fp16 on a GPU "
               "would overflow",
               s->stats.largest_activation, s->stats.largest_where, QN_F16_MAX);
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    score_run r = {0};
    qn_compute compute;
    double began = cli_seconds();
    qn_status st = cli_compute(args, &compute, &err);
    if (st == QN_OK) st = cli_text_input_open(args, args->positionals[0], &r.text, &err);
    if (st == QN_OK) st = qn_model_open(args->positionals[0], &r.model, &err);
    if (st == QN_OK) st = qn_score(r.model, &r.text.windows, compute, &ctx, NULL, &r.result, &err);
    r.seconds = cli_seconds() - began;
    cli_clear_progress(&console);
    int status = CLI_OK;
    if (st != QN_OK) {
        cli_blame_weights(st, r.model, &ctx, &err);
        status = cli_fail(&err);
    } else {
        warn_overflow(&r.result, &ctx);
        status = print(args, &r);
    }
    cli_text_input_release(&r.text);
    qn_model_close(r.model);
    return status;
}

const cli_command cli_cmd_score = {"score",
                                   {"MODEL"},
                                   "perplexity on documents, as the validator computes it",
                                   "MODEL is a Hugging Face checkpoint, an artifact folder or an artifact "
                                   "zip. The result is a development figure on the "
                                   "text you give it: an estimate of the held-out score, never a promise. "
                                   "Loss is summed in double; the numbers do "
                                   "not depend on the number of threads.",
                                   k_options,
                                   run};
