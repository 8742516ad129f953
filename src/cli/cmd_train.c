#include "commands.h"
#include "console.h"
#include "inputs.h"

#include <stdio.h>

static const cli_option k_options[] = {
    {"config", CLI_TEXT, "FILE|DIR", "config.json of the model, or a folder with one", false},
    {"init-from", CLI_TEXT, "DIR", "start from the weights of this checkpoint or artifact", false},
    {"text", CLI_TEXT, "FILE", "documents to train on: .jsonl, .txt, or a folder of .txt", true},
    {"dev", CLI_TEXT, "FILE", "documents to measure the loss on", false},
    {"tokenizer", CLI_TEXT, "DIR|byte", "instead of the one beside the weights or the config", false},
    {"separator", CLI_TEXT, "TOKEN", "between documents (default: the config's eos_token_id)", false},
    {"o", CLI_TEXT, "DIR", "folder of the run and, at its end, of the model", true},
    {"steps", CLI_INTEGER, "N", "optimiser steps (default 1000)", false},
    {"context", CLI_INTEGER, "N", "tokens of a context (default 512)", false},
    {"batch", CLI_INTEGER, "N", "contexts that pass the model together (default 8)", false},
    {"accumulate", CLI_INTEGER, "N", "batches a step (default 1)", false},
    {"lr", CLI_REAL, "X", "learning rate at the top (default 0.001)", false},
    {"schedule", CLI_TEXT, "NAME", "cosine (default) or constant", false},
    {"warmup", CLI_INTEGER, "N", "steps of linear warm-up (default 50)", false},
    {"min-lr-ratio", CLI_REAL, "X", "cosine: the last rate as a share of the top (default 0.1)", false},
    {"weight-decay", CLI_REAL, "X", "of matrices and embedding (default 0.1)", false},
    {"beta1", CLI_REAL, "X", "AdamW (default 0.9)", false},
    {"beta2", CLI_REAL, "X", "AdamW (default 0.95)", false},
    {"eps", CLI_REAL, "X", "AdamW (default 1e-8)", false},
    {"clip", CLI_REAL, "X", "largest norm of the gradient (default 1; 0: no limit)", false},
    {"compute", CLI_TEXT, "TYPE", "f32 (default) or bf16", false},
    {"dtype", CLI_TEXT, "TYPE", "of the trained weights: BF16 (default), F16 or F32", false},
    {"save-every", CLI_INTEGER, "N", "steps between saved states (default 200; 0: at the end only)", false},
    {"eval-every", CLI_INTEGER, "N", "steps between dev losses (default 0: at the end only)", false},
    {"keep-mib", CLI_INTEGER, "N",
     "activations kept for the backward walk (default: a quarter of the free memory)", false},
    {"resume", CLI_FLAG, NULL, "take up the run in -o DIR from its last saved state", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

static qn_status read_keep(const cli_args *args, int64_t *bytes, qn_error *err) {
    const int64_t mib = cli_integer(args, "keep-mib", 0);
    if (!cli_text(args, "keep-mib", NULL)) return QN_OK;
    if (mib < 0 || mib > INT64_MAX >> 20)
        return qn_fail(err, QN_E_ARGUMENT, "--keep-mib %lld: expected 0 or more", (long long)mib);
    *bytes = mib << 20;
    return QN_OK;
}

static qn_status read_options(const cli_args *args, qn_train_options *out, qn_error *err) {
    qn_train_options o = qn_train_options_default();
    o.config = cli_text(args, "config", NULL);
    o.init_from = cli_text(args, "init-from", NULL);
    o.text = cli_text(args, "text", NULL);
    o.dev = cli_text(args, "dev", NULL);
    o.tokenizer = cli_text(args, "tokenizer", NULL);
    o.separator = cli_text(args, "separator", NULL);
    o.out = cli_text(args, "o", NULL);
    o.context = cli_integer(args, "context", o.context);
    o.batch = cli_integer(args, "batch", o.batch);
    o.accumulate = cli_integer(args, "accumulate", o.accumulate);
    o.schedule.total_steps = cli_integer(args, "steps", o.schedule.total_steps);
    o.schedule.peak = cli_real(args, "lr", o.schedule.peak);
    o.schedule.min_ratio = cli_real(args, "min-lr-ratio", o.schedule.min_ratio);
    if (o.schedule.warmup_steps > o.schedule.total_steps) o.schedule.warmup_steps = o.schedule.total_steps;
    o.schedule.warmup_steps = cli_integer(args, "warmup", o.schedule.warmup_steps);
    o.roles[QN_TRAIN_MATRICES].weight_decay = o.roles[QN_TRAIN_EMBEDDING].weight_decay =
        cli_real(args, "weight-decay", o.roles[QN_TRAIN_MATRICES].weight_decay);
    o.adamw.beta1 = cli_real(args, "beta1", o.adamw.beta1);
    o.adamw.beta2 = cli_real(args, "beta2", o.adamw.beta2);
    o.adamw.eps = cli_real(args, "eps", o.adamw.eps);
    o.adamw.clip = cli_real(args, "clip", o.adamw.clip);
    o.seed = (uint64_t)cli_integer(args, "seed", 0);
    o.dtype = qn_dtype_from_name(cli_text(args, "dtype", "BF16"));
    o.save_every = cli_integer(args, "save-every", o.save_every);
    o.eval_every = cli_integer(args, "eval-every", o.eval_every);
    QN_TRY(read_keep(args, &o.keep_bytes, err));
    o.resume = cli_flag(args, "resume");
    QN_TRY(cli_compute(args, &o.compute, err));
    QN_TRY(qn_schedule_from_name(cli_text(args, "schedule", "cosine"), &o.schedule.kind, err));
    *out = o;
    return QN_OK;
}

static int print(const cli_args *args, const qn_train_options *o, const qn_train_result *r) {
    const double rate = r->seconds > 0 ? (double)r->tokens / r->seconds : 0.0;
    if (cli_flag(args, "json"))
        return cli_print_json(
            json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:f, s:f, s:I}", "checkpoint", o->out,
                      "parameters", (json_int_t)r->n_parameters, "steps", (json_int_t)r->steps, "first_step",
                      (json_int_t)r->first_step, "tokens", (json_int_t)r->tokens, "train_loss", r->train_loss,
                      "dev_loss", r->dev_loss, "dev_tokens", (json_int_t)r->dev_targets, "tokens_per_second",
                      rate, "seconds", r->seconds, "peak_rss_bytes", (json_int_t)cli_peak_rss()));
    printf("%s: %s parameters as %s\n", o->out, cli_thousands(r->n_parameters), qn_dtype_name(o->dtype));
    if (r->tokens > 0)
        printf("steps       %s to %s, %s tokens, %s a second\n", cli_thousands(r->first_step + 1),
               cli_thousands(r->steps), cli_thousands(r->tokens), cli_thousands((int64_t)rate));
    else
        printf("steps       %s, all done before\n", cli_thousands(r->steps));
    if (r->tokens > 0) printf("train loss  %.6f nats per token, mean of the last steps\n", r->train_loss);
    if (r->dev_targets > 0)
        printf("dev loss    %.6f nats per token over %s tokens\n", r->dev_loss,
               cli_thousands(r->dev_targets));
    return cli_finish();
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    qn_train_options options;
    qn_train_result result;
    qn_status st = read_options(args, &options, &err);
    if (st == QN_OK) st = qn_train(&options, &ctx, &result, &err);
    cli_clear_progress(&console);
    return st == QN_OK ? print(args, &options, &result) : cli_fail(&err);
}

const cli_command cli_cmd_train = {"train",
                                   {NULL},
                                   "train a small Qwen model on text",
                                   "From random weights of --config, or from the weights of --init-from. "
                                   "Each document is encoded by itself and followed "
                                   "by a separator; the documents are joined in a new order each epoch and "
                                   "cut into contexts. The folder -o receives "
                                   "train.json, metrics.jsonl (one line a step) and the last saved state; at "
                                   "the end the model, as an ordinary checkpoint. "
                                   "Ctrl-C saves the state; --resume with the same options takes it up, and "
                                   "the result has the same bytes as that of a run "
                                   "that was never stopped. Results do not depend on the number of threads.",
                                   k_options,
                                   run};
