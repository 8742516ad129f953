#include "commands.h"
#include "console.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const cli_option k_options[] = {
    {"tokenizer", CLI_TEXT, "DIR|byte", "folder with tokenizer.json or vocab.json + merges.txt, or 'byte'",
     true},
    {"jsonl", CLI_TEXT, "FILE", "encode each {\"text\": ...} line as {\"ids\": [...]} instead of stdin",
     false},
    {"decode", CLI_FLAG, NULL, "the other way: ids on stdin, separated by spaces or commas, to text", false},
    {"skip-special", CLI_FLAG, NULL, "leave special tokens out of decoded text", false},
    {NULL, CLI_FLAG, NULL, NULL, false}};

static void print_ids(const qn_ids *ids, const char *separator) {
    for (int64_t i = 0; i < ids->n; i++) printf("%s%d", i ? separator : "", ids->ids[i]);
}

static qn_status read_stdin(char **text, size_t *n_bytes, qn_error *err) {
    size_t capacity = 1 << 16, n = 0;
    char *data = malloc(capacity);
    while (data) {
        n += fread(data + n, 1, capacity - n - 1, stdin);
        if (n < capacity - 1) break;
        char *grown = realloc(data, capacity *= 2);
        if (!grown) free(data);
        data = grown;
    }
    if (!data) return qn_fail(err, QN_E_NOMEM, "out of memory: standard input");
    if (ferror(stdin)) {
        free(data);
        return qn_fail(err, QN_E_IO, "cannot read standard input");
    }
    data[n] = 0;
    *text = data;
    *n_bytes = n;
    return QN_OK;
}

static qn_status encode_jsonl(const qn_tokenizer *tokenizer, const char *path, qn_error *err) {
    qn_documents documents = {0};
    qn_ids ids = {0};
    qn_status st = qn_documents_open(path, &documents, err);
    for (int64_t i = 0; st == QN_OK && i < documents.n; i++) {
        ids.n = 0;
        st = qn_tokenizer_encode(tokenizer, documents.documents[i].text, documents.documents[i].n_bytes, &ids,
                                 err);
        if (st != QN_OK) break;
        printf("{\"ids\": [");
        print_ids(&ids, ", ");
        printf("]}\n");
    }
    qn_ids_release(&ids);
    qn_documents_release(&documents);
    return st;
}

static qn_status encode_stdin(const qn_tokenizer *tokenizer, bool json, qn_error *err) {
    char *text = NULL;
    size_t n_bytes = 0;
    qn_ids ids = {0};
    QN_TRY(read_stdin(&text, &n_bytes, err));
    qn_status st = qn_tokenizer_encode(tokenizer, text, n_bytes, &ids, err);
    if (st == QN_OK) {
        printf(json ? "{\"ids\": [" : "");
        print_ids(&ids, json ? ", " : " ");
        printf(json ? "]}\n" : "\n");
    }
    qn_ids_release(&ids);
    free(text);
    return st;
}

/* Ids in TEXT; anything but digits, spaces, commas and brackets is refused. */
static qn_status parse_ids(const char *text, int32_t *ids, int64_t *n, qn_error *err) {
    *n = 0;
    for (const char *p = text + strspn(text, " \t\r\n,[]"); *p; p += strspn(p, " \t\r\n,[]")) {
        char *end = NULL;
        errno = 0;
        long long id = strtoll(p, &end, 10);
        if (end == p || errno != 0 || id < 0 || id > INT32_MAX)
            return qn_fail(err, QN_E_FORMAT, "standard input: '%.20s' is no token id", p);
        ids[(*n)++] = (int32_t)id;
        p = end;
    }
    return QN_OK;
}

static qn_status decode_stdin(const qn_tokenizer *tokenizer, const cli_args *args, qn_error *err) {
    char *input = NULL, *text = NULL;
    size_t n_bytes = 0;
    int64_t n = 0;
    QN_TRY(read_stdin(&input, &n_bytes, err));
    int32_t *ids = malloc((n_bytes + 1) * sizeof *ids);
    qn_status st = ids ? parse_ids(input, ids, &n, err) : qn_fail(err, QN_E_NOMEM, "out of memory: ids");
    if (st == QN_OK)
        st = qn_tokenizer_decode(tokenizer, ids, n, cli_flag(args, "skip-special"), &text, &n_bytes, err);
    if (st == QN_OK && cli_flag(args, "json")) {
        if (cli_print_json(json_pack("{s:s%}", "text", text, n_bytes)) != CLI_OK)
            st = qn_fail(err, QN_E_IO, "cannot print the decoded text");
    } else if (st == QN_OK) {
        (void)fwrite(text, 1, n_bytes, stdout); /* cli_finish looks at stdout's error flag */
    }
    free(text);
    free(ids);
    free(input);
    return st;
}

static int run(const cli_args *args) {
    qn_error err = {0};
    qn_tokenizer *tokenizer = NULL;
    const char *jsonl = cli_text(args, "jsonl", NULL);
    if (jsonl && cli_flag(args, "decode"))
        return cli_usage_error(args->command, "--decode reads ids from stdin only");
    qn_status st = qn_tokenizer_open(cli_text(args, "tokenizer", NULL), &tokenizer, &err);
    if (st == QN_OK)
        st = cli_flag(args, "decode") ? decode_stdin(tokenizer, args, &err)
             : jsonl                  ? encode_jsonl(tokenizer, jsonl, &err)
                                      : encode_stdin(tokenizer, cli_flag(args, "json"), &err);
    qn_tokenizer_free(tokenizer);
    if (st != QN_OK) return cli_fail(&err);
    return cli_finish();
}

const cli_command cli_cmd_tokenize = {
    "tokenize",
    {NULL},
    "ids of stdin, or of each line of a .jsonl file",
    "Encodes text exactly as the reference tokenizers do: no BOS or EOS is added, added tokens inside the "
    "text are "
    "recognised, each invalid UTF-8 sequence becomes U+FFFD. Ids go to stdout, separated by spaces.",
    k_options,
    run};
