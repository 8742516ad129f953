#include "commands.h"
#include "console.h"
#include "inputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const cli_option k_options[] = {
    {"prompt", CLI_TEXT, "TEXT", "what the text starts with", true},
    {"max-new-tokens", CLI_INTEGER, "N", "tokens to add (default 64)", false},
    {"temperature", CLI_REAL, "X", "0: always the likeliest token (default 0.8)", false},
    {"top-k", CLI_INTEGER, "N", "sample among the N likeliest (default 50; 0: all)", false},
    {"top-p", CLI_REAL, "X", "sample among the likeliest that hold this probability (default 0.95)", false},
    {"tokenizer", CLI_TEXT, "DIR|byte", "instead of the model's own", false},
    {"compute", CLI_TEXT, "TYPE", "f32 (default) or bf16", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

typedef struct generation {
    qn_model *model;
    qn_tokenizer *tokenizer;
    qn_session *session;
    qn_ids ids; /* prompt, then what was drawn */
    int64_t n_prompt;
    float *logits;
} generation;

static void release(generation *g) {
    free(g->logits);
    qn_ids_release(&g->ids);
    qn_session_free(g->session);
    qn_tokenizer_free(g->tokenizer);
    qn_model_close(g->model);
}

static qn_status prepare(const cli_args *args, const qn_context *ctx, generation *g, qn_error *err) {
    const char *path = args->positionals[0];
    const char *prompt = cli_text(args, "prompt", "");
    qn_compute compute;
    QN_TRY(cli_compute(args, &compute, err));
    QN_TRY(qn_tokenizer_open(cli_text(args, "tokenizer", path), &g->tokenizer, err));
    QN_TRY(qn_tokenizer_encode(g->tokenizer, prompt, strlen(prompt), &g->ids, err));
    if (g->ids.n == 0) return qn_fail(err, QN_E_ARGUMENT, "--prompt is empty: give at least one character");
    g->n_prompt = g->ids.n;
    QN_TRY(qn_model_open(path, &g->model, err));
    int64_t n_new = cli_integer(args, "max-new-tokens", 64);
    if (n_new < 1 || n_new > 1 << 20)
        return qn_fail(err, QN_E_ARGUMENT, "--max-new-tokens must be 1 to %d", 1 << 20);
    g->logits = calloc((size_t)qn_model_config(g->model)->vocab_size, sizeof *g->logits);
    if (!g->logits) return qn_fail(err, QN_E_NOMEM, "out of memory: logits");
    int32_t *grown = realloc(g->ids.ids, (size_t)(g->ids.n + n_new) * sizeof *grown);
    if (!grown) return qn_fail(err, QN_E_NOMEM, "out of memory: generation");
    g->ids.ids = grown;
    g->ids.capacity = g->ids.n + n_new;
    return qn_session_new(g->model, g->ids.capacity, compute, ctx, &g->session, err);
}

/* Prints what is complete of the text after the first *shown bytes; half a character waits for its other
 * half. */
static qn_status print_new_text(const generation *g, size_t *shown, bool last, qn_error *err) {
    char *text = NULL;
    size_t n_bytes = 0;
    QN_TRY(qn_tokenizer_decode(g->tokenizer, g->ids.ids, g->ids.n, true, &text, &n_bytes, err));
    static const char replacement[] = "\xEF\xBF\xBD";
    size_t end = n_bytes;
    while (!last && end >= 3 && memcmp(text + end - 3, replacement, 3) == 0) end -= 3;
    if (end > *shown) {
        (void)fwrite(text + *shown, 1, end - *shown, stdout); /* cli_finish looks at stdout's error flag */
        *shown = end;
        (void)fflush(stdout);
    }
    free(text);
    return QN_OK;
}

static qn_status generate(const cli_args *args, const qn_context *ctx, generation *g, qn_error *err) {
    const qn_config *config = qn_model_config(g->model);
    const qn_sampling sampling = {.temperature = cli_real(args, "temperature", 0.8),
                                  .top_k = cli_integer(args, "top-k", 50),
                                  .top_p = cli_real(args, "top-p", 0.95)};
    qn_rng rng;
    qn_rng_seed(&rng, (uint64_t)cli_integer(args, "seed", 0));
    size_t shown = 0;
    QN_TRY(qn_session_feed(g->session, g->ids.ids, g->ids.n, g->logits, err));
    while (g->ids.n < g->ids.capacity) {
        int32_t id = 0;
        QN_TRY(qn_check_cancelled(ctx, err));
        QN_TRY(qn_sample(g->logits, config->vocab_size, &sampling, &rng, &id, err));
        const uint8_t *bytes;
        size_t n_bytes;
        /* Vocabularies are padded: an id without a token ends the text as the end token does. */
        if (id == config->eos_token_id || !qn_tokenizer_token_bytes(g->tokenizer, id, &bytes, &n_bytes))
            break;
        g->ids.ids[g->ids.n++] = id;
        if (!cli_flag(args, "json")) QN_TRY(print_new_text(g, &shown, false, err));
        if (g->ids.n < g->ids.capacity) QN_TRY(qn_session_feed(g->session, &id, 1, g->logits, err));
    }
    return cli_flag(args, "json") ? QN_OK : print_new_text(g, &shown, true, err);
}

static int print_json(const generation *g) {
    qn_error err = {0};
    char *text = NULL;
    size_t n_bytes = 0;
    if (qn_tokenizer_decode(g->tokenizer, g->ids.ids, g->ids.n, true, &text, &n_bytes, &err) != QN_OK)
        return cli_fail(&err);
    json_t *ids = json_array();
    for (int64_t i = g->n_prompt; i < g->ids.n; i++) json_array_append_new(ids, json_integer(g->ids.ids[i]));
    json_t *object = json_pack("{s:s%, s:o}", "text", text, n_bytes, "ids", ids);
    free(text);
    return cli_print_json(object);
}

static int run(const cli_args *args) {
    qn_error err = {0};
    cli_console console;
    qn_context ctx = cli_context(args, &console);
    generation g = {0};
    qn_status st = prepare(args, &ctx, &g, &err);
    if (st == QN_OK) st = generate(args, &ctx, &g, &err);
    int status = CLI_OK;
    if (st != QN_OK) {
        cli_blame_weights(st, g.model, &ctx, &err);
        status = cli_fail(&err);
    } else if (cli_flag(args, "json")) {
        status = print_json(&g);
    } else {
        putchar('\n');
        status = cli_finish();
    }
    release(&g);
    return status;
}

const cli_command cli_cmd_generate = {
    "generate",
    {"MODEL"},
    "a few sentences, to look at",
    "Continues a prompt token by token with a key-value cache. The same seed gives the same text.",
    k_options,
    run};
