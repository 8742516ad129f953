#include "small_tokenizer.h"

#include <stdlib.h>
#include <string.h>

static const char EXPRESSION[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                                 "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

void spell_byte(int byte, char out[5]) {
    int c = byte, next = 0x100;
    for (int b = 0; b <= byte; b++) {
        bool is_printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
        c = is_printable ? b : next++;
    }
    if (c < 0x80) {
        snprintf(out, 5, "%c", c);
    } else {
        snprintf(out, 5, "%c%c", 0xC0 | c >> 6, 0x80 | (c & 0x3F));
    }
}

static json_t *added_token(int id, const char *content, bool special) {
    return json_pack("{si ss sb sb sb sb sb}", "id", id, "content", content, "single_word", 0, "lstrip", 0,
                     "rstrip", 0, "normalized", 0, "special", (int)special);
}

static json_t *small_model(void) {
    json_t *vocab = json_object();
    for (int b = 0; b < 256; b++) {
        char spelling[5];
        spell_byte(b, spelling);
        json_object_set_new(vocab, spelling, json_integer(b));
    }
    static const char *const merged[] = {"lo", "low", "Ġlow", "er", "lower", "ne"};
    for (int i = 0; i < 6; i++) json_object_set_new(vocab, merged[i], json_integer(SMALL_LO + i));
    return json_pack("{ss sn sn sn sn sb sb sb so s[s,s,s,s,s,[s,s]]}", "type", "BPE", "dropout", "unk_token",
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                     "ignore_merges", 0, "vocab", vocab, "merges", "l o", "lo w", "Ġ low", "e r", "low er",
                     "n", "e");
}

json_t *small_tokenizer_json(void) {
    json_t *split = json_pack("{ss s{ss} ss sb}", "type", "Split", "pattern", "Regex", EXPRESSION, "behavior",
                              "Isolated", "invert", 0);
    json_t *byte_level = json_pack("{ss sb sb sb}", "type", "ByteLevel", "add_prefix_space", 0,
                                   "trim_offsets", 0, "use_regex", 0);
    json_t *root = json_pack("{ss sn sn s[o,o] s{ss} s{ss s[o,o]} sn s{ss} so}", "version", "1.0",
                             "truncation", "padding", "added_tokens", added_token(SMALL_END, "<|end|>", true),
                             added_token(SMALL_TOOL, "<tool>", false), "normalizer", "type", "NFC",
                             "pre_tokenizer", "type", "Sequence", "pretokenizers", split, byte_level,
                             "post_processor", "decoder", "type", "ByteLevel", "model", small_model());
    assert_non_null(root);
    return root;
}

void write_text(const char *folder, const char *name, const void *text, size_t n_bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

void write_json(const char *folder, const char *name, const json_t *value) {
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    assert_non_null(text);
    write_text(folder, name, text, strlen(text));
    free(text);
}

qn_status open_json(json_t *root, qn_tokenizer **out, qn_error *err) {
    char *folder = make_temporary_folder();
    *out = NULL;
    write_json(folder, "tokenizer.json", root);
    json_decref(root);
    qn_status status = qn_tokenizer_open(folder, out, err);
    remove_tree(folder);
    free(folder);
    return status;
}

qn_tokenizer *open_small_tokenizer(void) {
    qn_error err = {0};
    qn_tokenizer *tokenizer = NULL;
    if (open_json(small_tokenizer_json(), &tokenizer, &err) != QN_OK) fail_msg("%s", err.message);
    return tokenizer;
}
