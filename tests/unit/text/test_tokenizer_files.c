/* What a tokenizer's files may ask for, and what is refused by name. */
#include "small_tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* A change of the small tokenizer.json: VALUE (JSON) is put at PATH ("a.b.0.c"), and the error must be CODE
 * and hold MESSAGE. */
static const struct refusal {
    const char *path, *value;
    qn_status code;
    const char *message;
} REFUSALS[] = {
    {"normalizer", "{\"type\":\"NFKC\"}", QN_E_UNSUPPORTED, "normalizer \"NFKC\""},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"}]}",
     QN_E_UNSUPPORTED, "normalizer \"Lowercase\""},
    {"normalizer", "7", QN_E_FORMAT, "type"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\"}", QN_E_UNSUPPORTED, "pre_tokenizer \"Metaspace\""},
    {"pre_tokenizer", "null", QN_E_UNSUPPORTED, "pre_tokenizer \"null\""},
    {"pre_tokenizer.pretokenizers.0.behavior", "\"Removed\"", QN_E_UNSUPPORTED, "\"Removed\""},
    {"pre_tokenizer.pretokenizers.0.invert", "true", QN_E_UNSUPPORTED, "invert"},
    {"pre_tokenizer.pretokenizers.0.pattern", "{\"String\":\" \"}", QN_E_UNSUPPORTED, "\"String\""},
    {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"\\\\p{Han}+\"", QN_E_UNSUPPORTED, "\\p{Han}"},
    {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"(a\"", QN_E_FORMAT, "expression"},
    {"pre_tokenizer.pretokenizers.0.pattern.Regex", "\"a*\"", QN_E_UNSUPPORTED, "empty"},
    {"pre_tokenizer.pretokenizers.1.add_prefix_space", "true", QN_E_UNSUPPORTED, "add_prefix_space"},
    {"pre_tokenizer.pretokenizers.1.use_regex", "true", QN_E_UNSUPPORTED, "use_regex"},
    {"pre_tokenizer.pretokenizers.1.novelty", "1", QN_E_UNSUPPORTED, "\"novelty\""},
    {"pre_tokenizer.pretokenizers.1", "{\"type\":\"Digits\"}", QN_E_UNSUPPORTED, "\"Digits\""},
    {"pre_tokenizer.pretokenizers", "[]", QN_E_UNSUPPORTED, "without ByteLevel"},
    {"post_processor", "{\"type\":\"BertProcessing\"}", QN_E_UNSUPPORTED, "\"BertProcessing\""},
    {"post_processor",
     "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
     "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}",
     QN_E_UNSUPPORTED, "TemplateProcessing"},
    {"decoder", "{\"type\":\"WordPiece\"}", QN_E_UNSUPPORTED, "decoder \"WordPiece\""},
    {"decoder", "null", QN_E_UNSUPPORTED, "decoder"},
    {"truncation", "{\"max_length\":512}", QN_E_UNSUPPORTED, "truncation"},
    {"padding", "{\"strategy\":\"Fixed\"}", QN_E_UNSUPPORTED, "padding"},
    {"novelty", "1", QN_E_UNSUPPORTED, "\"novelty\""},
    {"model.type", "\"Unigram\"", QN_E_UNSUPPORTED, "model \"Unigram\""},
    {"model.dropout", "0.1", QN_E_UNSUPPORTED, "dropout"},
    {"model.unk_token", "\"<unk>\"", QN_E_UNSUPPORTED, "unk_token"},
    {"model.byte_fallback", "true", QN_E_UNSUPPORTED, "byte_fallback"},
    {"model.continuing_subword_prefix", "\"##\"", QN_E_UNSUPPORTED, "continuing_subword_prefix"},
    {"model.end_of_word_suffix", "\"</w>\"", QN_E_UNSUPPORTED, "end_of_word_suffix"},
    {"model.vocab", "{}", QN_E_FORMAT, "empty"},
    {"model.vocab", "[1]", QN_E_FORMAT, "an array"},
    {"model.vocab.a", "-1", QN_E_FORMAT, "\"a\""},
    {"model.vocab.a", "2147483648", QN_E_FORMAT, "\"a\""},
    {"model.vocab.a", "1.5", QN_E_FORMAT, "\"a\""},
    {"model.vocab.a", "\"3\"", QN_E_FORMAT, "\"a\""},
    {"model.vocab.a", "98", QN_E_FORMAT, "two tokens have the id 98"},
    {"model.merges", "null", QN_E_FORMAT, "merges"},
    {"model.merges.0", "\"l q q\"", QN_E_FORMAT, "one space"},
    {"model.merges.0", "\"lq\"", QN_E_FORMAT, "one space"},
    {"model.merges.0", "\"l q\"", QN_E_FORMAT, "not in the vocabulary"},
    {"model.merges.0", "[\"l\"]", QN_E_FORMAT, "merge 0"},
    {"model.merges.0", "[\"l\",7]", QN_E_FORMAT, "merge 0"},
    {"model.merges.0", "[\"中\",\"o\"]", QN_E_FORMAT, "not in the vocabulary"},
    {"added_tokens", "3", QN_E_FORMAT, "added_tokens"},
    {"added_tokens.0.content", "\"\"", QN_E_FORMAT, "empty"},
    {"added_tokens.0.id", "300", QN_E_FORMAT, "300"},
    {"added_tokens.0.id", "-5", QN_E_FORMAT, "-5"},
    {"added_tokens.0.lstrip", "true", QN_E_UNSUPPORTED, "lstrip"},
    {"added_tokens.1.rstrip", "true", QN_E_UNSUPPORTED, "rstrip"},
    {"added_tokens.1.single_word", "true", QN_E_UNSUPPORTED, "single_word"},
    {"added_tokens.1.normalized", "true", QN_E_UNSUPPORTED, "normalized"},
    {"added_tokens.1.novelty", "true", QN_E_UNSUPPORTED, "\"novelty\""},
};

/* Puts VALUE at PATH; array steps are numbers. */
static void put_at(json_t *root, const char *path, json_t *value) {
    char steps[128];
    snprintf(steps, sizeof steps, "%s", path);
    json_t *at = root;
    for (char *step = steps, *dot; step; step = dot) {
        dot = strchr(step, '.');
        if (dot) *dot++ = 0;
        bool is_index = json_is_array(at);
        size_t index = is_index ? strtoul(step, NULL, 10) : 0;
        if (!dot) {
            assert_int_equal(
                is_index ? json_array_set_new(at, index, value) : json_object_set_new(at, step, value), 0);
        } else {
            at = is_index ? json_array_get(at, index) : json_object_get(at, step);
            assert_non_null(at);
        }
    }
}

static void test_what_is_not_understood_is_refused_by_name(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof REFUSALS / sizeof REFUSALS[0]; i++) {
        const struct refusal *r = &REFUSALS[i];
        json_t *root = small_tokenizer_json();
        qn_tokenizer *tokenizer = NULL;
        qn_error err = {0};
        put_at(root, r->path, json_loads(r->value, JSON_DECODE_ANY, NULL));
        qn_status status = open_json(root, &tokenizer, &err);
        if (status != r->code || !strstr(err.message, r->message) || !strstr(err.message, "tokenizer.json")) {
            fail_msg("%s = %s: %s, \"%s\"", r->path, r->value, qn_status_name(status), err.message);
        }
        assert_null(tokenizer);
    }
}

/* Changes that leave the meaning as it was. */
static const struct {
    const char *path, *value;
} HARMLESS[] = {
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}"},
    {"post_processor",
     "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,\"use_regex\":true}"},
    {"post_processor",
     "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
     "\"special_tokens\":{}}"},
    {"post_processor", "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}]}"},
    {"model.continuing_subword_prefix", "\"\""},
    {"model.end_of_word_suffix", "\"\""},
    {"model.fuse_unk", "true"},
    {"model.dropout", "0.0"},
    {"model.vocab.中文", "264"}, /* not spelled in bytes: nothing encodes to it */
};

static void test_harmless_variants_open(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof HARMLESS / sizeof HARMLESS[0]; i++) {
        json_t *root = small_tokenizer_json();
        qn_tokenizer *tokenizer = NULL;
        qn_error err = {0};
        qn_ids ids = {0};
        if (strstr(HARMLESS[i].path, "vocab")) json_array_clear(json_object_get(root, "added_tokens"));
        put_at(root, HARMLESS[i].path, json_loads(HARMLESS[i].value, JSON_DECODE_ANY, NULL));
        if (open_json(root, &tokenizer, &err) != QN_OK) fail_msg("%s: %s", HARMLESS[i].path, err.message);
        assert_int_equal(qn_tokenizer_encode(tokenizer, " lower", 6, &ids, &err), QN_OK);
        assert_int_equal(ids.n, 2);
        assert_int_equal(ids.ids[0], SMALL_SPACE_LOW);
        qn_ids_release(&ids);
        qn_tokenizer_free(tokenizer);
    }
}

static qn_tokenizer *open_folder(const char *folder, qn_status expected, const char *message) {
    qn_tokenizer *tokenizer = NULL;
    qn_error err = {0};
    qn_status status = qn_tokenizer_open(folder, &tokenizer, &err);
    if (status != expected || (message && !strstr(err.message, message))) {
        fail_msg("%s: %s, \"%s\"", folder, qn_status_name(status), err.message);
    }
    return tokenizer;
}

static const char MERGES[] = "#version: 0.2\nl o\r\nlo w\nĠ low\ne r\nlow er\nn e";

/* A folder with the small tokenizer as vocab.json and merges.txt. */
static char *make_vocab_folder(void) {
    char *folder = make_temporary_folder();
    json_t *root = small_tokenizer_json();
    write_json(folder, "vocab.json", json_object_get(json_object_get(root, "model"), "vocab"));
    write_text(folder, "merges.txt", MERGES, sizeof MERGES - 1);
    json_decref(root);
    return folder;
}

static void remove_folder(char *folder) {
    remove_tree(folder);
    free(folder);
}

static void test_vocab_and_merges_without_configuration(void **state) {
    (void)state;
    char *folder = make_vocab_folder();
    qn_tokenizer *t = open_folder(folder, QN_OK, NULL);
    qn_ids ids = {0};
    assert_int_equal(qn_tokenizer_vocab_size(t), 263);
    assert_int_equal(qn_tokenizer_token_id(t, "<|endoftext|>"), 262);
    assert_int_equal(qn_tokenizer_encode(t, " lower<|endoftext|>", 19, &ids, NULL), QN_OK);
    assert_int_equal(ids.n, 3);
    assert_int_equal(ids.ids[1], SMALL_ER);
    assert_int_equal(ids.ids[2], 262);
    qn_ids_release(&ids);
    qn_tokenizer_free(t);
    remove_folder(folder);
}

static void write_config(const char *folder, const char *json) {
    write_text(folder, "tokenizer_config.json", json, strlen(json));
}

static void test_configuration_adds_tokens(void **state) {
    (void)state;
    char *folder = make_vocab_folder();
    write_config(folder, "{\"added_tokens_decoder\": {\"263\": {\"content\": \"<b>\", \"normalized\": false},"
                         "\"262\": {\"content\": \"<a>\", \"special\": true}}, \"eos_token\": \"<b>\","
                         "\"pad_token\": {\"content\": \"<c>\"}, \"unk_token\": null,"
                         "\"additional_special_tokens\": [\"<a>\", \"<d>\"]}");
    qn_tokenizer *t = open_folder(folder, QN_OK, NULL);
    assert_int_equal(qn_tokenizer_token_id(t, "<a>"), 262);
    assert_int_equal(qn_tokenizer_token_id(t, "<b>"), 263);
    assert_int_equal(qn_tokenizer_token_id(t, "<c>"), 264);
    assert_int_equal(qn_tokenizer_token_id(t, "<d>"), 265);
    assert_int_equal(qn_tokenizer_token_id(t, "<|endoftext|>"), -1);
    char *text = NULL;
    size_t n_bytes;
    assert_int_equal(qn_tokenizer_decode(t, (const int32_t[]){'x', 263, 264}, 3, true, &text, &n_bytes, NULL),
                     QN_OK);
    assert_string_equal(text, "x"); /* <b> became special by its name */
    free(text);
    qn_tokenizer_free(t);
    remove_folder(folder);
}

static void test_configuration_is_checked(void **state) {
    static const struct {
        const char *json;
        qn_status code;
        const char *message;
    } cases[] = {
        {"{\"tokenizer_class\": \"LlamaTokenizer\"}", QN_E_UNSUPPORTED, "LlamaTokenizer"},
        {"{\"add_prefix_space\": true}", QN_E_UNSUPPORTED, "add_prefix_space"},
        {"{\"add_bos_token\": true, \"bos_token\": \"<s>\"}", QN_E_UNSUPPORTED, "add_bos_token"},
        {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"<a>\"}}}", QN_E_FORMAT, "\"x\""},
        {"{\"added_tokens_decoder\": {\"99999999999\": {\"content\": \"<a>\"}}}", QN_E_FORMAT, "99999999999"},
        {"{\"added_tokens_decoder\": {\"270\": {\"content\": \"<a>\", \"special\": true}}}", QN_E_FORMAT,
         "270"},
        {"{\"added_tokens_decoder\": {\"262\": {\"content\": \"<a>\"}}}", QN_E_UNSUPPORTED, "normalized"},
        {"{\"eos_token\": 7}", QN_E_FORMAT, "special token"},
        {"{\"eos_token\": ", QN_E_FORMAT, "tokenizer_config.json"},
        {"[]", QN_E_FORMAT, "tokenizer_config.json"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *folder = make_vocab_folder();
        write_config(folder, cases[i].json);
        assert_null(open_folder(folder, cases[i].code, cases[i].message));
        remove_folder(folder);
    }
}

static void test_configuration_beside_tokenizer_json_must_agree(void **state) {
    (void)state;
    char *folder = make_temporary_folder();
    json_t *root = small_tokenizer_json();
    write_json(folder, "tokenizer.json", root);
    json_decref(root);
    write_config(folder,
                 "{\"added_tokens_decoder\": {\"262\": {\"content\": \"<|end|>\", \"special\": true}},"
                 "\"eos_token\": \"<|end|>\", \"pad_token\": null}");
    qn_tokenizer *t = open_folder(folder, QN_OK, NULL);
    assert_int_equal(qn_tokenizer_vocab_size(t), SMALL_N);
    qn_tokenizer_free(t);
    write_config(folder,
                 "{\"added_tokens_decoder\": {\"263\": {\"content\": \"<|end|>\", \"special\": true}}}");
    assert_null(open_folder(folder, QN_E_FORMAT, "<|end|>"));
    remove_folder(folder);
}

static void test_missing_and_broken_files(void **state) {
    (void)state;
    char *folder = make_temporary_folder();
    assert_null(open_folder(folder, QN_E_IO, "no tokenizer"));
    write_text(folder, "vocab.json", "{\"a\":0}", 7);
    assert_null(open_folder(folder, QN_E_IO, "merges.txt"));
    write_text(folder, "merges.txt", "a b\n", 4);
    assert_null(open_folder(folder, QN_E_FORMAT, "merges.txt"));
    write_text(folder, "merges.txt", "\n", 1);
    assert_null(open_folder(folder, QN_E_FORMAT, "merges.txt"));
    write_text(folder, "tokenizer.json", "{\"version\":", 11);
    assert_null(open_folder(folder, QN_E_FORMAT, "tokenizer.json"));
    write_text(folder, "tokenizer.json", "\xFF\xFE", 2);
    assert_null(open_folder(folder, QN_E_FORMAT, "tokenizer.json"));
    write_text(folder, "tokenizer.json", "[]", 2);
    assert_null(open_folder(folder, QN_E_FORMAT, "tokenizer.json"));
    remove_tree(folder);
    assert_null(open_folder(folder, QN_E_IO, folder));
    free(folder);
}

static void test_a_tokenizer_json_opens_by_itself_under_any_name(void **state) {
    (void)state;
    char *folder = make_temporary_folder();
    json_t *root = small_tokenizer_json();
    char path[512];
    write_json(folder, "mine.json", root);
    write_json(folder, "tokenizer.json", root);
    json_decref(root);
    snprintf(path, sizeof path, "%s/mine.json", folder);
    qn_tokenizer *by_file = open_folder(path, QN_OK, NULL), *by_folder = open_folder(folder, QN_OK, NULL);
    qn_store *store = NULL;
    qn_tokenizer *by_store = NULL;
    assert_int_equal(qn_store_open(folder, &store, NULL), QN_OK);
    assert_int_equal(qn_tokenizer_from_store(store, &by_store, NULL), QN_OK);
    qn_store_close(store);
    assert_string_equal(qn_tokenizer_name(by_file), qn_tokenizer_name(by_folder));
    assert_string_equal(qn_tokenizer_name(by_file), qn_tokenizer_name(by_store));
    assert_int_equal(qn_tokenizer_token_id(by_store, "<|end|>"), SMALL_END);
    qn_tokenizer_free(by_file);
    qn_tokenizer_free(by_folder);
    qn_tokenizer_free(by_store);
    remove_folder(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_not_understood_is_refused_by_name),
        cmocka_unit_test(test_harmless_variants_open),
        cmocka_unit_test(test_vocab_and_merges_without_configuration),
        cmocka_unit_test(test_configuration_adds_tokens),
        cmocka_unit_test(test_configuration_is_checked),
        cmocka_unit_test(test_configuration_beside_tokenizer_json_must_agree),
        cmocka_unit_test(test_missing_and_broken_files),
        cmocka_unit_test(test_a_tokenizer_json_opens_by_itself_under_any_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
