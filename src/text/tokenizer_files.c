#include "text/tokenizer_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/mapping.h"
#include "quern/base/sha256.h"
#include "text/char_class.h"

#include "base/banned.h"

#define TOKENIZER_FILE "tokenizer.json"
#define VOCAB_FILE     "vocab.json"
#define MERGES_FILE    "merges.txt"
#define CONFIG_FILE    "tokenizer_config.json"
#define END_OF_TEXT    "<|endoftext|>"

enum { NAME_DIGITS = 12 };

/* A file of the tokenizer in memory; absent: n_bytes 0 and data NULL. */
typedef struct source_file {
    const uint8_t *data; /* borrowed */
    size_t n_bytes;
    char name[512]; /* for messages: "STORE/MEMBER" */
} source_file;

static qn_status open_source(qn_store *store, const char *member, source_file *out, qn_error *err) {
    size_t index;
    *out = (source_file){0};
    (void)snprintf(out->name, sizeof out->name, "%s/%s", qn_store_path(store), member);
    if (!qn_store_find(store, member, &index)) return QN_OK;
    return qn_store_map(store, member, &out->data, &out->n_bytes, err);
}

static qn_status name_after(qn_tokenizer *tokenizer, const source_file *files, size_t n, qn_error *err) {
    qn_sha256 *hash = NULL;
    char hex[QN_SHA256_HEX];
    QN_TRY(qn_sha256_new(&hash, err));
    for (size_t i = 0; i < n; i++) {
        if (files[i].n_bytes > 0) qn_sha256_update(hash, files[i].data, files[i].n_bytes);
    }
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    (void)snprintf(tokenizer->name, sizeof tokenizer->name, "bpe:%.*s", NAME_DIGITS, hex);
    return QN_OK;
}

static qn_status make_classes(qn_tokenizer *tokenizer, qn_error *err) {
    tokenizer->classes = qni_char_classes_new();
    return tokenizer->classes ? QN_OK : qni_fail_nomem(err, "character classes");
}

/* ---- tokenizer_config.json ---- */

typedef struct numbered_token {
    int64_t id;
    const json_t *object; /* borrowed */
} numbered_token;

static int compare_ids(const void *left, const void *right) {
    const numbered_token *a = left, *b = right;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* A decimal number below QNI_MAX_VOCAB_SIZE, or -1. */
static int64_t parse_id(const char *text) {
    int64_t id = 0;
    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9') return -1;
        id = 10 * id + (*c - '0');
        if (id >= QNI_MAX_VOCAB_SIZE) return -1;
    }
    return *text ? id : -1;
}

static qn_status collect_decoder(const json_t *decoder, numbered_token *tokens, const char *name,
                                 qn_error *err) {
    const char *key;
    json_t *object;
    size_t n = 0;
    json_object_foreach((json_t *)(uintptr_t)decoder, key, object) {
        tokens[n] = (numbered_token){parse_id(key), object};
        if (tokens[n++].id < 0) {
            return qn_fail(err, QN_E_FORMAT, "%s: added_tokens_decoder: key \"%.100s\" is no token id", name,
                           key);
        }
    }
    qsort(tokens, n, sizeof *tokens, compare_ids);
    return QN_OK;
}

/* added_tokens_decoder: {"id": token}, added by ascending id. */
static qn_status add_decoder_tokens(qn_tokenizer *tokenizer, const json_t *config, const char *name,
                                    qn_error *err) {
    const json_t *decoder = json_object_get(config, "added_tokens_decoder");
    size_t n = json_object_size(decoder);
    if (n == 0) return QN_OK;
    numbered_token *tokens = qni_alloc_array((int64_t)n, sizeof *tokens);
    if (!tokens) return qni_fail_nomem(err, "added tokens");
    qn_status status = collect_decoder(decoder, tokens, name, err);
    for (size_t i = 0; i < n && status == QN_OK; i++) {
        status = qni_tokenizer_add_token_object(tokenizer, tokens[i].object, tokens[i].id, name, err);
    }
    free(tokens);
    return status;
}

/* A special token named by the configuration: a string, or an object with its content. */
static qn_status add_named_token(qn_tokenizer *tokenizer, const json_t *value, const char *name,
                                 qn_error *err) {
    if (!value || json_is_null(value)) return QN_OK;
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value)) return qn_fail(err, QN_E_FORMAT, "%s: a special token is no string", name);
    return qni_tokenizer_add_token(tokenizer, json_string_value(value), json_string_length(value), -1, true,
                                   name, err);
}

/* The named special tokens in the order of the reference. `has_defaults`: the reference's class for
 * vocab.json names
 * <|endoftext|> where the configuration does not say. */
static qn_status add_named_tokens(qn_tokenizer *tokenizer, const json_t *config, bool has_defaults,
                                  const char *name, qn_error *err) {
    static const struct {
        const char *key;
        bool is_end_of_text;
    } named[] = {{"bos_token", false}, {"eos_token", true},  {"unk_token", true},  {"sep_token", false},
                 {"pad_token", true},  {"cls_token", false}, {"mask_token", false}};
    static const char *const lists[] = {"extra_special_tokens", "additional_special_tokens"};
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        const json_t *value = json_object_get(config, named[i].key);
        if (!value && has_defaults && named[i].is_end_of_text) {
            QN_TRY(qni_tokenizer_add_token(tokenizer, END_OF_TEXT, strlen(END_OF_TEXT), -1, true, name, err));
        }
        QN_TRY(add_named_token(tokenizer, value, name, err));
    }
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        const json_t *list = json_object_get(config, lists[i]);
        for (size_t k = 0; k < json_array_size(list); k++) {
            QN_TRY(add_named_token(tokenizer, json_array_get(list, k), name, err));
        }
    }
    return QN_OK;
}

static qn_status check_config(const json_t *config, const char *name, qn_error *err) {
    static const struct {
        const char *key, *needs; /* needs: matters only when this token is set */
    } refused[] = {{"add_prefix_space", NULL},
                   {"split_special_tokens", NULL},
                   {"add_bos_token", "bos_token"},
                   {"add_eos_token", "eos_token"}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        bool value = false;
        const json_t *token = refused[i].needs ? json_object_get(config, refused[i].needs) : NULL;
        QN_TRY(qni_json_get_bool(config, refused[i].key, false, name, &value, err));
        if (value && (!refused[i].needs || (token && !json_is_null(token)))) {
            return qn_fail(err, QN_E_UNSUPPORTED, "%s: \"%s\": true is not supported", name, refused[i].key);
        }
    }
    return QN_OK;
}

/* CONFIG may be NULL: absent. */
static qn_status apply_config(qn_tokenizer *tokenizer, const json_t *config, bool has_defaults,
                              const char *name, qn_error *err) {
    if (config) {
        QN_TRY(check_config(config, name, err));
        QN_TRY(add_decoder_tokens(tokenizer, config, name, err));
    }
    return add_named_tokens(tokenizer, config, has_defaults, name, err);
}

/* ---- tokenizer.json ---- */

static qn_status load_json(qn_tokenizer *tokenizer, const source_file *file, qn_error *err) {
    json_t *root = NULL;
    QN_TRY(make_classes(tokenizer, err));
    QN_TRY(qni_json_parse(file->data, file->n_bytes, file->name, &root, err));
    qn_status status = qni_tokenizer_load_json(tokenizer, root, file->name, err);
    json_decref(root);
    return status;
}

/* ---- vocab.json and merges.txt ---- */

static qn_status load_vocab(qn_tokenizer *tokenizer, const source_file *file, qn_error *err) {
    json_t *vocab = NULL;
    QN_TRY(qni_json_parse(file->data, file->n_bytes, file->name, &vocab, err));
    qn_status status = qni_tokenizer_load_vocab(tokenizer, vocab, file->name, err);
    json_decref(vocab);
    tokenizer->n_base_tokens = tokenizer->vocabulary.n_tokens;
    return status;
}

/* The next line of TEXT at *position, without its LF or CRLF; false at the end. */
static bool next_line(const source_file *file, size_t *position, const char **line, size_t *n_bytes) {
    if (*position >= file->n_bytes) return false;
    const uint8_t *start = file->data + *position;
    const uint8_t *end = memchr(start, '\n', file->n_bytes - *position);
    size_t n = end ? (size_t)(end - start) : file->n_bytes - *position;
    *position += n + (end ? 1 : 0);
    if (n > 0 && start[n - 1] == '\r') n--;
    *line = (const char *)start;
    *n_bytes = n;
    return true;
}

static bool is_version_line(const char *line, size_t n_bytes) {
    static const char prefix[] = "#version";
    return n_bytes >= sizeof prefix - 1 && memcmp(line, prefix, sizeof prefix - 1) == 0;
}

static qn_status load_merges(qn_tokenizer *tokenizer, const source_file *file, qn_error *err) {
    const char *line;
    size_t n_bytes, position = 0;
    int64_t n_merges = 0;
    uint32_t rank = 0;
    while (next_line(file, &position, &line, &n_bytes)) n_merges += !is_version_line(line, n_bytes);
    if (n_merges > QNI_MAX_VOCAB_SIZE)
        return qn_fail(err, QN_E_FORMAT, "%s: %lld merges", file->name, (long long)n_merges);
    QN_TRY(qni_bpe_init(&tokenizer->bpe, &tokenizer->vocabulary, n_merges, err));
    for (position = 0; next_line(file, &position, &line, &n_bytes);) {
        if (is_version_line(line, n_bytes)) continue;
        QN_TRY(qni_tokenizer_add_merge_line(tokenizer, rank++, line, n_bytes, file->name, err));
    }
    return QN_OK;
}

/* The split expression of the class that the configuration names. */
static qn_status expression_of_class(const json_t *config, const char *name, const char **expression,
                                     qn_error *err) {
    static const char *const classes[][2] = {{"Qwen2Tokenizer", QNI_QWEN2_EXPRESSION},
                                             {"Qwen2TokenizerFast", QNI_QWEN2_EXPRESSION},
                                             {"Qwen3_5Tokenizer", QNI_QWEN3_5_EXPRESSION},
                                             {"Qwen3_5TokenizerFast", QNI_QWEN3_5_EXPRESSION}};
    const char *found = classes[0][0];
    if (config) QN_TRY(qni_json_get_string(config, "tokenizer_class", false, name, &found, err));
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++) {
        if (strcmp(found, classes[i][0]) != 0) continue;
        *expression = classes[i][1];
        return QN_OK;
    }
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "%s: \"tokenizer_class\" \"%.100s\" without a tokenizer.json is not supported", name,
                   found);
}

static qn_status load_vocab_and_merges(qn_tokenizer *tokenizer, const source_file *vocab,
                                       const source_file *merges, const json_t *config,
                                       const char *config_name, qn_error *err) {
    const char *expression = NULL;
    QN_TRY(expression_of_class(config, config_name, &expression, err));
    QN_TRY(make_classes(tokenizer, err));
    QN_TRY(load_vocab(tokenizer, vocab, err));
    QN_TRY(load_merges(tokenizer, merges, err));
    tokenizer->normalizes = true;
    return qni_splitter_init(&tokenizer->splitter, tokenizer->classes, expression, true, config_name, err);
}

/* ---- entry points ---- */

enum { JSON_SOURCE, VOCAB_SOURCE, MERGES_SOURCE, CONFIG_SOURCE, N_SOURCES };

static qn_status load_sources(qn_tokenizer *tokenizer, const source_file sources[N_SOURCES],
                              const json_t *config, qn_error *err) {
    const char *config_name = sources[CONFIG_SOURCE].name;
    bool has_json = sources[JSON_SOURCE].data != NULL;
    if (has_json) {
        QN_TRY(load_json(tokenizer, &sources[JSON_SOURCE], err));
    } else {
        QN_TRY(load_vocab_and_merges(tokenizer, &sources[VOCAB_SOURCE], &sources[MERGES_SOURCE], config,
                                     config_name, err));
    }
    QN_TRY(apply_config(tokenizer, config, !has_json, config_name, err));
    qni_added_tokens_sort(&tokenizer->added);
    /* Where there is a tokenizer.json, vocab.json and merges.txt are not read and do not count. */
    if (has_json) QN_TRY(name_after(tokenizer, sources, 1, err));
    return has_json ? QN_OK : name_after(tokenizer, sources + VOCAB_SOURCE, N_SOURCES - VOCAB_SOURCE, err);
}

qn_status qni_tokenizer_load_store(qn_tokenizer *tokenizer, qn_store *store, qn_error *err) {
    static const char *const members[N_SOURCES] = {TOKENIZER_FILE, VOCAB_FILE, MERGES_FILE, CONFIG_FILE};
    source_file sources[N_SOURCES];
    json_t *config = NULL;
    for (int i = 0; i < N_SOURCES; i++) QN_TRY(open_source(store, members[i], &sources[i], err));
    if (!sources[JSON_SOURCE].data && (!sources[VOCAB_SOURCE].data || !sources[MERGES_SOURCE].data)) {
        return qn_fail(err, QN_E_IO, "%s: carries no tokenizer: there is neither %s nor both %s and %s",
                       qn_store_path(store), TOKENIZER_FILE, VOCAB_FILE, MERGES_FILE);
    }
    const source_file *file = &sources[CONFIG_SOURCE];
    if (file->data) {
        QN_TRY(qni_json_parse(file->data, file->n_bytes, file->name, &config, err));
    }
    qn_status status = load_sources(tokenizer, sources, config, err);
    json_decref(config);
    return status;
}

qn_status qni_tokenizer_load_file(qn_tokenizer *tokenizer, const char *path, qn_error *err) {
    qni_mapping mapping = {0};
    source_file file = {0};
    QN_TRY(qni_mapping_open(path, &mapping, err));
    file.data = mapping.data;
    file.n_bytes = mapping.n_bytes;
    (void)snprintf(file.name, sizeof file.name, "%s", path);
    qn_status status = load_json(tokenizer, &file, err);
    if (status == QN_OK) status = name_after(tokenizer, &file, 1, err);
    qni_mapping_release(&mapping);
    qni_added_tokens_sort(&tokenizer->added);
    return status;
}
