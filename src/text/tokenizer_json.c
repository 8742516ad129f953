#include "text/tokenizer_private.h"

#include <string.h>

#include "base/json.h"
#include "text/char_class.h"

#include "base/banned.h"

/* The file being read, and what its parts ask for. */
typedef struct reading {
    const char *name;
    qn_error *err;
    const char *expression; /* of the split; borrowed from the JSON */
    bool has_byte_level, normalizes;
} reading;

static qn_status refuse(const reading *r, const char *where, const char *what) {
    return qn_fail(r->err, QN_E_UNSUPPORTED, "%s: %s \"%.100s\" is not supported", r->name, where, what);
}

/* Refuses keys that are not listed: what they ask for would be ignored silently. ALLOWED ends with NULL. */
static qn_status check_keys(const reading *r, const json_t *object, const char *where,
                            const char *const *allowed) {
    const char *key;
    json_t *value;
    if (!json_is_object(object)) {
        return qn_fail(r->err, QN_E_FORMAT, "%s: %s is %s, expected an object", r->name, where,
                       qni_json_type_name(object));
    }
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        size_t i = 0;
        while (allowed[i] && strcmp(allowed[i], key) != 0) i++;
        if (!allowed[i])
            return qn_fail(r->err, QN_E_UNSUPPORTED, "%s: %s: key \"%.100s\" is not supported", r->name,
                           where, key);
    }
    return QN_OK;
}

#define KEYS(...) ((const char *const[]){__VA_ARGS__, NULL})

static qn_status get_type(const reading *r, const json_t *object, const char **type) {
    return qni_json_get_string(object, "type", true, r->name, type, r->err);
}

/* Refuses KEY of OBJECT unless it is absent, null, false, zero or "". */
static qn_status check_neutral(const reading *r, const json_t *object, const char *where, const char *key) {
    const json_t *value = json_object_get(object, key);
    bool is_neutral = !value || json_is_null(value) || json_is_false(value) ||
                      (json_is_number(value) && json_number_value(value) == 0) ||
                      (json_is_string(value) && json_string_length(value) == 0);
    if (is_neutral) return QN_OK;
    return qn_fail(r->err, QN_E_UNSUPPORTED, "%s: %s: \"%s\" is set, which is not supported", r->name, where,
                   key);
}

typedef qn_status (*read_part)(reading *r, const json_t *part);

/* Reads each part of a Sequence. */
static qn_status read_sequence(reading *r, const json_t *sequence, const char *where, const char *key,
                               read_part read) {
    QN_TRY(check_keys(r, sequence, where, KEYS("type", key)));
    const json_t *parts = json_object_get(sequence, key);
    if (!json_is_array(parts)) {
        return qn_fail(r->err, QN_E_FORMAT, "%s: %s: key \"%s\" is %s, expected an array", r->name, where,
                       key, qni_json_type_name(parts));
    }
    for (size_t i = 0; i < json_array_size(parts); i++) QN_TRY(read(r, json_array_get(parts, i)));
    return QN_OK;
}

/* ---- normalizer ---- */

static qn_status read_normalizer(reading *r, const json_t *part) {
    const char *type = NULL;
    if (!part || json_is_null(part)) return QN_OK;
    QN_TRY(get_type(r, part, &type));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(r, part, "normalizer", "normalizers", read_normalizer);
    if (strcmp(type, "NFC") != 0) return refuse(r, "normalizer", type);
    r->normalizes = true;
    return check_keys(r, part, "normalizer NFC", KEYS("type"));
}

/* ---- pre_tokenizer ---- */

static qn_status read_split(reading *r, const json_t *part) {
    const char *behavior = NULL;
    if (r->expression) return refuse(r, "pre_tokenizer", "Split after another");
    QN_TRY(check_keys(r, part, "pre_tokenizer Split", KEYS("type", "pattern", "behavior", "invert")));
    QN_TRY(qni_json_get_string(part, "behavior", true, r->name, &behavior, r->err));
    if (strcmp(behavior, "Isolated") != 0) return refuse(r, "pre_tokenizer Split: behavior", behavior);
    QN_TRY(check_neutral(r, part, "pre_tokenizer Split", "invert"));
    const json_t *pattern = json_object_get(part, "pattern");
    QN_TRY(check_keys(r, pattern, "pre_tokenizer Split: pattern", KEYS("Regex")));
    return qni_json_get_string(pattern, "Regex", true, r->name, &r->expression, r->err);
}

static qn_status read_byte_level(reading *r, const json_t *part) {
    bool uses_regex = true;
    QN_TRY(check_keys(r, part, "pre_tokenizer ByteLevel",
                      KEYS("type", "add_prefix_space", "trim_offsets", "use_regex")));
    QN_TRY(check_neutral(r, part, "pre_tokenizer ByteLevel", "add_prefix_space"));
    QN_TRY(qni_json_get_bool(part, "use_regex", false, r->name, &uses_regex, r->err));
    if (uses_regex && r->expression) return refuse(r, "pre_tokenizer", "Split with ByteLevel's use_regex");
    if (uses_regex) r->expression = QNI_GPT2_EXPRESSION;
    r->has_byte_level = true;
    return QN_OK;
}

static qn_status read_pre_tokenizer(reading *r, const json_t *part) {
    const char *type = NULL;
    QN_TRY(get_type(r, part, &type));
    if (r->has_byte_level) return refuse(r, "pre_tokenizer after ByteLevel", type);
    if (strcmp(type, "Sequence") == 0) {
        return read_sequence(r, part, "pre_tokenizer", "pretokenizers", read_pre_tokenizer);
    }
    if (strcmp(type, "Split") == 0) return read_split(r, part);
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(r, part);
    return refuse(r, "pre_tokenizer", type);
}

/* ---- post_processor and decoder ---- */

/* A template is neutral when a single text stays what it is. */
static qn_status read_template(reading *r, const json_t *part) {
    const json_t *single = json_object_get(part, "single");
    const json_t *only = json_array_size(single) == 1 ? json_array_get(single, 0) : NULL;
    if (json_object_get(only, "Sequence")) return QN_OK;
    return refuse(r, "post_processor", "TemplateProcessing that adds tokens");
}

static qn_status read_post_processor(reading *r, const json_t *part) {
    const char *type = NULL;
    if (!part || json_is_null(part)) return QN_OK;
    QN_TRY(get_type(r, part, &type));
    if (strcmp(type, "Sequence") == 0) {
        return read_sequence(r, part, "post_processor", "processors", read_post_processor);
    }
    if (strcmp(type, "ByteLevel") == 0) return QN_OK; /* moves offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(r, part);
    return refuse(r, "post_processor", type);
}

static qn_status read_decoder(reading *r, const json_t *part) {
    const char *type = NULL;
    if (!part || json_is_null(part)) return refuse(r, "decoder", "null");
    QN_TRY(get_type(r, part, &type));
    return strcmp(type, "ByteLevel") == 0 ? QN_OK : refuse(r, "decoder", type);
}

/* ---- model and added tokens ---- */

static qn_status read_merge(qn_tokenizer *tokenizer, const reading *r, uint32_t rank, const json_t *merge) {
    if (json_is_string(merge)) {
        return qni_tokenizer_add_merge_line(tokenizer, rank, json_string_value(merge),
                                            json_string_length(merge), r->name, r->err);
    }
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right)) {
        return qn_fail(r->err, QN_E_FORMAT, "%s: merge %u is neither a string nor an array of two strings",
                       r->name, rank);
    }
    return qni_bpe_add_merge(&tokenizer->bpe, rank, json_string_value(left), json_string_length(left),
                             json_string_value(right), json_string_length(right), r->name, r->err);
}

static qn_status read_model(qn_tokenizer *tokenizer, const reading *r, const json_t *model) {
    static const char *const neutral[] = {"dropout", "unk_token", "continuing_subword_prefix",
                                          "end_of_word_suffix", "byte_fallback"};
    const char *type = NULL;
    bool ignore_merges = false;
    QN_TRY(get_type(r, model, &type));
    if (strcmp(type, "BPE") != 0) return refuse(r, "model", type);
    /* fuse_unk says how unknown tokens are joined: without an unk_token there are none. */
    QN_TRY(check_keys(r, model, "model",
                      KEYS("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                           "byte_fallback", "fuse_unk", "ignore_merges", "vocab", "merges")));
    for (size_t i = 0; i < sizeof neutral / sizeof neutral[0]; i++)
        QN_TRY(check_neutral(r, model, "model", neutral[i]));
    QN_TRY(qni_json_get_bool(model, "ignore_merges", false, r->name, &ignore_merges, r->err));
    QN_TRY(qni_tokenizer_load_vocab(tokenizer, json_object_get(model, "vocab"), r->name, r->err));
    tokenizer->n_base_tokens = tokenizer->vocabulary.n_tokens;

    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges)) {
        return qn_fail(r->err, QN_E_FORMAT, "%s: model: key \"merges\" is %s, expected an array", r->name,
                       qni_json_type_name(merges));
    }
    QN_TRY(qni_bpe_init(&tokenizer->bpe, &tokenizer->vocabulary, (int64_t)json_array_size(merges), r->err));
    tokenizer->bpe.ignore_merges = ignore_merges;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        QN_TRY(read_merge(tokenizer, r, (uint32_t)i, json_array_get(merges, i)));
    }
    return QN_OK;
}

static qn_status read_added_tokens(qn_tokenizer *tokenizer, const reading *r, const json_t *tokens) {
    if (!tokens || json_is_null(tokens)) return QN_OK;
    if (!json_is_array(tokens)) {
        return qn_fail(r->err, QN_E_FORMAT, "%s: key \"added_tokens\" is %s, expected an array", r->name,
                       qni_json_type_name(tokens));
    }
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *token = json_array_get(tokens, i);
        int64_t id = -1;
        QN_TRY(check_keys(r, token, "added_tokens",
                          KEYS("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")));
        QN_TRY(qni_json_get_i64(token, "id", true, r->name, &id, r->err));
        if (id < 0)
            return qn_fail(r->err, QN_E_FORMAT, "%s: an added token has the id %lld", r->name, (long long)id);
        QN_TRY(qni_tokenizer_add_token_object(tokenizer, token, id, r->name, r->err));
    }
    return QN_OK;
}

qn_status qni_tokenizer_load_json(qn_tokenizer *tokenizer, const json_t *root, const char *name,
                                  qn_error *err) {
    reading r = {.name = name, .err = err};
    QN_TRY(check_keys(&r, root, "tokenizer",
                      KEYS("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                           "post_processor", "decoder", "model")));
    QN_TRY(check_neutral(&r, root, "tokenizer", "truncation"));
    QN_TRY(check_neutral(&r, root, "tokenizer", "padding"));
    QN_TRY(read_normalizer(&r, json_object_get(root, "normalizer")));
    const json_t *pre_tokenizer = json_object_get(root, "pre_tokenizer");
    if (json_is_null(pre_tokenizer)) return refuse(&r, "pre_tokenizer", "null");
    QN_TRY(read_pre_tokenizer(&r, pre_tokenizer));
    if (!r.has_byte_level) return refuse(&r, "pre_tokenizer", "without ByteLevel");
    QN_TRY(read_post_processor(&r, json_object_get(root, "post_processor")));
    QN_TRY(read_decoder(&r, json_object_get(root, "decoder")));
    QN_TRY(read_model(tokenizer, &r, json_object_get(root, "model")));
    QN_TRY(read_added_tokens(tokenizer, &r, json_object_get(root, "added_tokens")));
    tokenizer->normalizes = r.normalizes;
    return qni_splitter_init(&tokenizer->splitter, tokenizer->classes, r.expression, true, name, err);
}
