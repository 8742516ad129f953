#include "commands.h"
#include "console.h"
#include "inputs.h"

#include <math.h>
#include <stdio.h>

static const cli_option k_options[] = {CLI_TEXT_INPUT_OPTIONS,
                                       {"compute", CLI_TEXT, "TYPE", "f32 (default) or bf16", false},
                                       {NULL, CLI_FLAG, NULL, NULL, false}};

typedef struct compare_run {
    qn_model *base, *candidate;
    cli_text_input text;
    qn_comparison result;
    double seconds;
} compare_run;

/* What is not known is null. */
static json_t *finite_or_null(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static int print_json(const compare_run *r, const char *protocol) {
    const qn_comparison *c = &r->result;
    const qn_windows *w = &r->text.windows;
    bool certain;
    const qn_verdict verdict = qn_comparison_verdict(c, &certain);
    return cli_print_json(json_pack(
        "{s:f, s:f, s:f, s:o, s:o, s:o, s:f, s:f, s:f, s:b, s:s, s:b, s:f, s:f, s:I, s:I, s:I, s:I, s:s, "
        "s:s, "
        "s:s, s:f, s:I}",
        "base_nats", c->base_nats, "candidate_nats", c->candidate_nats, "difference", c->difference,
        "std_error", finite_or_null(c->std_error), "low", finite_or_null(c->low), "high",
        finite_or_null(c->high), "kl", c->kl_nats, "agreement", c->agreement, "band_nats", QN_BAND_NATS,
        "within_band", verdict == QN_VERDICT_WITHIN, "verdict", qn_verdict_name(verdict), "verdict_certain",
        certain, "base_ppl", exp(fmin(c->base_nats, 700.0)), "candidate_ppl",
        exp(fmin(c->candidate_nats, 700.0)), "tokens", (json_int_t)c->n_targets, "windows",
        (json_int_t)c->n_windows, "docs_scored", (json_int_t)w->docs_scored, "docs_skipped",
        (json_int_t)w->docs_skipped, "protocol", protocol, "tokenizer", qn_tokenizer_name(r->text.tokenizer),
        "document_sha256", r->text.documents.sha256, "seconds", r->seconds, "peak_rss_bytes",
        (json_int_t)cli_peak_rss()));
}

static void print_band(const qn_comparison *c) {
    static const char *const k_words[] = {[QN_VERDICT_BETTER] = "better by more than",
                                          [QN_VERDICT_WITHIN] = "within",
                                          [QN_VERDICT_WORSE] = "worse by more than"};
    bool certain;
    const qn_verdict verdict = qn_comparison_verdict(c, &certain);
    printf("band            %s %.2f nats%s\n", k_words[verdict], QN_BAND_NATS,
           certain ? "" : ", but the interval reaches beyond");
}

static int print_text(const compare_run *r, const char *protocol) {
    const qn_comparison *c = &r->result;
    printf("base            %.6f nats per token\n", c->base_nats);
    printf("candidate       %.6f nats per token\n", c->candidate_nats);
    printf("difference      %+.6f nats, 95 %% interval ", c->difference);
    if (isfinite(c->std_error))
        printf("%+.6f to %+.6f\n", c->low, c->high);
    else
        printf("unknown: one window only\n");
    print_band(c);
    printf("divergence      %.6f nats, KL(base || candidate)\n", c->kl_nats);
    printf("agreement       %.2f %% of the most likely tokens\n", 100.0 * c->agreement);
    printf("tokens scored   %s in %s windows\n", cli_thousands(c->n_targets), cli_thousands(c->n_windows));
    printf("protocol        %s, tokenizer %s\n", protocol, qn_tokenizer_name(r->text.tokenizer));
    printf("documents       sha256 %s\n", r->text.documents.sha256);
    return cli_finish();
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    const qn_context ctx = cli_context(args, &console);
    compare_run r = {0};
    qn_compute compute;
    char protocol[64];
    const double began = cli_seconds();
    qn_status st = cli_compute(args, &compute, &err);
    if (st == QN_OK) st = cli_text_input_open(args, args->positionals[0], &r.text, &err);
    if (st == QN_OK) st = qn_model_open(args->positionals[0], &r.base, &err);
    if (st == QN_OK) st = qn_model_open(args->positionals[1], &r.candidate, &err);
    if (st == QN_OK)
        st = qn_compare(r.base, r.candidate, &r.text.windows, compute, &ctx, NULL, &r.result, &err);
    r.seconds = cli_seconds() - began;
    cli_clear_progress(&console);
    int status;
    if (st != QN_OK) {
        cli_blame_weights(st, r.candidate, &ctx, &err);
        cli_blame_weights(st, r.base, &ctx, &err);
        status = cli_fail(&err);
    } else {
        qn_protocol_format(&r.text.protocol, protocol, sizeof protocol);
        status = cli_flag(args, "json") ? print_json(&r, protocol) : print_text(&r, protocol);
    }
    cli_text_input_release(&r.text);
    qn_model_close(r.base);
    qn_model_close(r.candidate);
    return status;
}

const cli_command cli_cmd_compare = {
    "compare",
    {"BASE", "CANDIDATE"},
    "how many nats a candidate loses against a base, and how sure that is",
    "Both models, each a checkpoint or an artifact, see the same windows of text, cut by the base's "
    "tokenizer. The "
    "difference is positive where the candidate is worse. Its 95 % interval counts the tokens of one window "
    "(of one "
    "document, by the protocol heldout) as dependent. The band is that of the rules: a model is a new best "
    "when it is "
    "lower by more than 0.02 nats, or smaller within them. A development figure on the text you give it.",
    k_options,
    run};
