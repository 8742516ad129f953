/* config.json: both generations of spelling, defaults, refusals, and the rewritten file. */
#include "checkpoint/config_write.h"
#include "quern/checkpoint/config.h"

#include "expect_error.h"
#include "tiny_model.h"

#include <math.h>
#include <stdlib.h>

/* A valid config of MODEL_TYPE with the JSON object CHANGES laid over it; a value "drop" removes its key. */
static char *config_text(const char *model_type, const char *changes) {
    tiny_model *model = tiny_model_make(&(tiny_options){.model_type = model_type, .layers = 4});
    json_t *edits = json_loads(changes, 0, NULL);
    assert_non_null(edits);
    const char *key;
    json_t *value;
    json_object_foreach(edits, key, value) {
        const char *text = json_string_value(value);
        if (text && strcmp(text, "drop") == 0)
            json_object_del(model->config, key);
        else
            json_object_set(model->config, key, value);
    }
    char *text = json_dumps(model->config, JSON_COMPACT);
    json_decref(edits);
    tiny_model_free(model);
    return text;
}

static qn_status read_changed(const char *model_type, const char *changes, qn_config *out, qn_error *err) {
    char *text = config_text(model_type, changes);
    const qn_status status = qn_config_parse(text, strlen(text), "config.json", out, err);
    free(text);
    return status;
}

static qn_config read_ok(const char *model_type, const char *changes) {
    qn_config config = {0};
    assert_ok(read_changed(model_type, changes, &config, err));
    return config;
}

static void test_dimensions(void **state) {
    (void)state;
    qn_config c = read_ok("qwen3", "{\"eos_token_id\": [7, 8]}");
    assert_int_equal(c.architecture, QN_ARCH_QWEN3);
    assert_int_equal(c.vocab_size, 257);
    assert_int_equal(c.hidden_size, 48);
    assert_int_equal(c.intermediate_size, 80);
    assert_int_equal(c.n_layers, 4);
    assert_int_equal(c.n_heads, 4);
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.max_positions, 1024);
    assert_true(c.rms_norm_eps == 1e-6);
    assert_false(c.tied || c.qkv_bias || c.o_bias);
    assert_int_equal(c.eos_token_id, 7);
    assert_int_equal(c.sliding_window, 0);
    qn_config_release(&c);
    qn_config_release(&c);
}

static void test_qwen2_differs(void **state) {
    (void)state;
    qn_config c =
        read_ok("qwen2", "{\"head_dim\": \"drop\", \"attention_bias\": false, \"eos_token_id\": null}");
    assert_int_equal(c.architecture, QN_ARCH_QWEN2);
    assert_int_equal(c.head_dim, 12);
    assert_true(c.qkv_bias);
    assert_false(c.o_bias);
    assert_int_equal(c.eos_token_id, -1);
    qn_config_release(&c);
    c = read_ok("qwen2", "{\"head_dim\": 20}");
    assert_int_equal(c.head_dim, 20);
    qn_config_release(&c);
}

static void test_qwen3_bias(void **state) {
    (void)state;
    qn_config c = read_ok("qwen3", "{\"attention_bias\": true, \"tie_word_embeddings\": true}");
    assert_true(c.qkv_bias && c.o_bias && c.tied);
    qn_config_release(&c);
}

/* Absent keys take the class default, null ones count as absent, but for the KV heads. */
static void test_defaults(void **state) {
    (void)state;
    qn_config c =
        read_ok("qwen3", "{\"num_key_value_heads\": null, \"head_dim\": null, \"rms_norm_eps\": \"drop\","
                         "\"max_position_embeddings\": \"drop\", \"architectures\": null,"
                         "\"quantization_config\": null, \"quern\": null, \"hidden_act\": \"drop\"}");
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.max_positions, 32768);
    assert_true(c.rms_norm_eps == 1e-6);
    qn_config_release(&c);
    c = read_ok("qwen3", "{\"num_key_value_heads\": \"drop\", \"num_attention_heads\": 64}");
    assert_int_equal(c.n_kv_heads, 32);
    qn_config_release(&c);
}

static void test_rope_spellings(void **state) {
    (void)state;
    static const struct {
        const char *changes;
        double theta;
    } cases[] = {
        {"{}", 10000.0},
        {"{\"rope_theta\": \"drop\"}", 10000.0},
        {"{\"rope_theta\": 5e5}", 5e5},
        {"{\"rope_theta\": \"drop\", \"rope_parameters\": {\"rope_theta\": 1000000, \"rope_type\": "
         "\"default\"}}",
         1e6},
        {"{\"rope_theta\": 3e5, \"rope_parameters\": {\"rope_type\": \"default\"}}", 3e5},
        {"{\"rope_theta\": 3e5, \"rope_scaling\": {}, \"rope_parameters\": {\"rope_theta\": 4e5}}", 4e5},
        {"{\"rope_theta\": 3e5, \"rope_scaling\": {\"type\": \"default\"}, \"rope_parameters\": "
         "{\"rope_theta\": 4e5}}",
         3e5},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qn_config c = read_ok("qwen3", cases[i].changes);
        assert_int_equal(c.rope.kind, QN_ROPE_DEFAULT);
        assert_true(c.rope.theta == cases[i].theta);
        assert_true(c.rope.attention_factor == 1.0);
        qn_config_release(&c);
    }
}

static void test_yarn(void **state) {
    (void)state;
    qn_config c = read_ok("qwen3", "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4,"
                                   "\"original_max_position_embeddings\": 256}}");
    assert_int_equal(c.rope.kind, QN_ROPE_YARN);
    assert_true(c.rope.factor == 4.0);
    assert_true(c.rope.original_positions == 256.0);
    assert_true(c.rope.beta_fast == 32.0 && c.rope.beta_slow == 1.0 && c.rope.truncate);
    assert_true(c.rope.attention_factor == 0.1 * log(4.0) + 1.0);
    qn_config_release(&c);

    c = read_ok("qwen3",
                "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 2e4, \"factor\": 2.0,"
                "\"beta_fast\": 16, \"beta_slow\": 2, \"truncate\": false,"
                "\"mscale\": 1.0, \"mscale_all_dim\": 0.5}}");
    assert_true(c.rope.theta == 2e4);
    assert_true(c.rope.original_positions == 1024.0); /* max_position_embeddings */
    assert_true(c.rope.beta_fast == 16.0 && c.rope.beta_slow == 2.0 && !c.rope.truncate);
    assert_true(c.rope.attention_factor == (0.1 * log(2.0) + 1.0) / (0.1 * 0.5 * log(2.0) + 1.0));
    qn_config_release(&c);

    c = read_ok("qwen3",
                "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 1.0, \"attention_factor\": 1.5}}");
    assert_true(c.rope.attention_factor == 1.5);
    qn_config_release(&c);
    c = read_ok("qwen3", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 1.0}}");
    assert_true(c.rope.attention_factor == 1.0);
    qn_config_release(&c);
}

static void assert_slides(const char *changes, const char *pattern, int64_t window) {
    qn_config c = read_ok("qwen3", changes);
    for (int64_t i = 0; i < 4; i++) assert_int_equal(c.layer_slides[i], pattern[i] == 's');
    assert_int_equal(c.sliding_window, window);
    qn_config_release(&c);
}

static void test_sliding_layers(void **state) {
    (void)state;
    assert_slides("{}", "ffff", 0);
    assert_slides("{\"sliding_window\": 8}", "ffff", 0); /* ignored unless switched on */
    assert_slides("{\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 3}", "fffs",
                  8);
    assert_slides("{\"use_sliding_window\": true, \"sliding_window\": 8}", "ffff", 0); /* from layer 28 on */
    assert_slides("{\"use_sliding_window\": true, \"sliding_window\": null, \"max_window_layers\": 0}",
                  "ffff", 0);
    assert_slides("{\"use_sliding_window\": true, \"sliding_window\": \"drop\", \"max_window_layers\": 0}",
                  "ssss", 4096);
    assert_slides(
        "{\"use_sliding_window\": true, \"sliding_window\": 5, \"max_window_layers\": 0, \"layer_types\":"
        "[\"full_attention\", \"sliding_attention\", \"full_attention\", \"sliding_attention\"]}",
        "fsfs", 5);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *changes;
        qn_status code;
        const char *words;
    } cases[] = {
        {"{\"model_type\": \"llama\"}", QN_E_UNSUPPORTED, "'llama'|'qwen2' and 'qwen3'"},
        {"{\"model_type\": \"drop\"}", QN_E_FORMAT, "model_type|missing"},
        {"{\"architectures\": [\"Qwen3ForSequenceClassification\"]}", QN_E_UNSUPPORTED,
         "Qwen3ForSequenceClassification|Qwen3ForCausalLM"},
        {"{\"architectures\": \"Qwen3ForCausalLM\"}", QN_E_UNSUPPORTED, "a string|Qwen3ForCausalLM"},
        {"{\"quantization_config\": {\"quant_method\": \"gptq\"}}", QN_E_UNSUPPORTED, "gptq|dequantise"},
        {"{\"hidden_act\": \"gelu\"}", QN_E_UNSUPPORTED, "'gelu'|'silu'"},
        {"{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}}", QN_E_UNSUPPORTED,
         "'llama3'|'yarn'"},
        {"{\"rope_scaling\": \"yarn\"}", QN_E_FORMAT, "rope_scaling: expected an object, got a string"},
        {"{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1}}}", QN_E_UNSUPPORTED,
         "differs by layer"},
        {"{\"rope_scaling\": {\"rope_type\": \"yarn\"}}", QN_E_FORMAT, "\"factor\" is missing"},
        {"{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 0.5}}", QN_E_VALUE, "factor is 0.5"},
        {"{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2, \"beta_fast\": -1}}", QN_E_VALUE,
         "beta_fast is -1"},
        {"{\"rope_theta\": 0}", QN_E_VALUE, "rope_theta is 0"},
        {"{\"rope_theta\": 1, \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2}}", QN_E_VALUE,
         "above 1"},
        {"{\"partial_rotary_factor\": 0.5}", QN_E_UNSUPPORTED, "partial_rotary_factor is 0.5"},
        {"{\"rope_parameters\": {\"partial_rotary_factor\": 0.25}}", QN_E_UNSUPPORTED,
         "partial_rotary_factor is 0.25"},
        {"{\"hidden_size\": 0}", QN_E_VALUE, "hidden_size is 0, expected 1 to"},
        {"{\"hidden_size\": -48}", QN_E_VALUE, "hidden_size is -48"},
        {"{\"hidden_size\": 48.5}", QN_E_FORMAT, "hidden_size|a real number|an integer"},
        {"{\"hidden_size\": null}", QN_E_FORMAT, "hidden_size|null"},
        {"{\"vocab_size\": 9223372036854775807}", QN_E_VALUE, "vocab_size is 9223372036854775807"},
        {"{\"num_hidden_layers\": 1000000}", QN_E_VALUE, "num_hidden_layers is 1000000"},
        {"{\"intermediate_size\": \"drop\"}", QN_E_FORMAT, "intermediate_size|missing"},
        {"{\"num_key_value_heads\": 3}", QN_E_VALUE, "num_attention_heads 4|num_key_value_heads 3"},
        {"{\"num_key_value_heads\": \"drop\"}", QN_E_VALUE, "num_key_value_heads 32|absent key"},
        {"{\"head_dim\": 15}", QN_E_VALUE, "head_dim is 15|even"},
        {"{\"rms_norm_eps\": 0}", QN_E_VALUE, "rms_norm_eps is 0"},
        {"{\"rms_norm_eps\": -1e-6}", QN_E_VALUE, "rms_norm_eps is -1e-06"},
        {"{\"layer_types\": [\"full_attention\"]}", QN_E_FORMAT, "layer_types has 1 entries|4"},
        {"{\"layer_types\": [\"full_attention\", \"linear_attention\", \"full_attention\", "
         "\"full_attention\"]}",
         QN_E_UNSUPPORTED, "layer_types[1] is 'linear_attention'"},
        {"{\"layer_types\": [1, 2, 3, 4]}", QN_E_UNSUPPORTED, "layer_types[0] is 'not a string'"},
        {"{\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\", "
         "\"sliding_attention\"]}",
         QN_E_VALUE, "layer_types[3]|use_sliding_window"},
        {"{\"use_sliding_window\": true, \"sliding_window\": 0}", QN_E_VALUE, "sliding_window is 0"},
        {"{\"eos_token_id\": \"x\"}", QN_E_FORMAT, "eos_token_id|a string"},
        {"{\"tie_word_embeddings\": 1}", QN_E_FORMAT, "tie_word_embeddings|an integer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qn_config config = {0};
        assert_error(read_changed("qwen3", cases[i].changes, &config, err), cases[i].code, cases[i].words);
        assert_null(config.json);
    }
}

static void test_text_that_is_no_object(void **state) {
    (void)state;
    qn_config config = {0};
    assert_error(qn_config_parse("{", 1, "c.json", &config, err), QN_E_FORMAT, "c.json|JSON");
    assert_error(qn_config_parse("", 0, "c.json", &config, err), QN_E_FORMAT, "c.json|JSON");
    assert_error(qn_config_parse("[]", 2, "c.json", &config, err), QN_E_FORMAT, "c.json|an array");
}

static void test_copy(void **state) {
    (void)state;
    qn_config a =
        read_ok("qwen3", "{\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 3}");
    qn_config b = {0};
    assert_ok(qn_config_copy(&a, &b, err));
    assert_string_equal(a.json, b.json);
    qn_config_release(&a);
    assert_true(b.layer_slides[3] && !b.layer_slides[2]);
    assert_int_equal(b.sliding_window, 8);
    qn_config_release(&b);
}

/* The rewritten config says the same to Quern, and all its spellings agree. */
static json_t *rewrite(const char *changes) {
    qn_config before = read_ok("qwen3", changes), after = {0};
    json_t *root = NULL;
    assert_ok(qni_config_json(&before, "float16", &root, err));
    char *text = json_dumps(root, JSON_INDENT(2));
    assert_ok(qn_config_parse(text, strlen(text), "rewritten", &after, err));
    assert_int_equal(before.rope.kind, after.rope.kind);
    assert_true(before.rope.theta == after.rope.theta);
    assert_true(before.rope.attention_factor == after.rope.attention_factor);
    assert_true(before.rope.original_positions == after.rope.original_positions);
    assert_true(before.rms_norm_eps == after.rms_norm_eps);
    assert_string_equal(json_string_value(json_object_get(root, "dtype")), "float16");
    assert_string_equal(json_string_value(json_object_get(root, "torch_dtype")), "float16");
    const json_t *parameters = json_object_get(root, "rope_parameters");
    assert_true(json_number_value(json_object_get(parameters, "rope_theta")) == before.rope.theta);
    assert_true(json_number_value(json_object_get(root, "rope_theta")) == before.rope.theta);
    free(text);
    qn_config_release(&before);
    qn_config_release(&after);
    return root;
}

static void test_rewrite_spells_rope_both_ways(void **state) {
    (void)state;
    json_t *root = rewrite(
        "{\"rope_theta\": 1e6, \"auto_map\": {}, \"quern\": {\"format\": 1}, \"my_key\": [1, \"x\"]}");
    assert_null(json_object_get(root, "auto_map"));
    assert_null(json_object_get(root, "quern"));
    assert_int_equal(json_array_size(json_object_get(root, "my_key")), 2);
    assert_true(json_is_null(json_object_get(root, "rope_scaling")));
    assert_string_equal(json_object_iter_key(json_object_iter(root)),
                        "architectures"); /* the source's order */
    assert_string_equal(json_string_value(json_object_get(root, "transformers_version")), "4.57.6");
    json_decref(root);

    root = rewrite(
        "{\"rope_theta\": \"drop\", \"rope_parameters\": {\"rope_theta\": 5e5, \"rope_type\": \"yarn\","
        "\"factor\": 4.0, \"original_max_position_embeddings\": 64}}");
    const json_t *scaling = json_object_get(root, "rope_scaling");
    assert_string_equal(json_string_value(json_object_get(scaling, "rope_type")), "yarn");
    assert_true(json_number_value(json_object_get(scaling, "factor")) == 4.0);
    json_decref(root);

    root = rewrite("{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0}}");
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(root, "rope_parameters"), "rope_type")), "yarn");
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dimensions),
        cmocka_unit_test(test_qwen2_differs),
        cmocka_unit_test(test_qwen3_bias),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_rope_spellings),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_sliding_layers),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_text_that_is_no_object),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_rewrite_spells_rope_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
