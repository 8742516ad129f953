/* The payload of an artifact whose config.json is fixed: what is accepted decodes row by row. make_corpus.py
 * writes payloads of this model. */
#include "fuzz.h"

#include "quern/checkpoint/checkpoint.h"

#include <stdlib.h>
#include <string.h>

static const char CONFIG[] =
    "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", \"vocab_size\": 9, "
    "\"hidden_size\": 8,"
    " \"intermediate_size\": 12, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
    "\"num_key_value_heads\": 1,"
    " \"head_dim\": 4, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,"
    " \"hidden_act\": \"silu\", \"attention_bias\": false, \"tie_word_embeddings\": true, \"torch_dtype\": "
    "\"float16\","
    " \"quern\": {\"format\": 2, \"payload\": [\"payload-00001-of-00001.safetensors\"]}}";

enum { MAX_COLS = 12 };

static void decode_all(const qn_checkpoint *checkpoint) {
    const qn_layout *layout = qn_checkpoint_layout(checkpoint);
    for (int64_t i = 0; i < layout->n; i++) {
        float row[MAX_COLS];
        const qn_weight *weight = qn_checkpoint_weight(checkpoint, i);
        fuzz_require(qn_weight_cols(weight) <= MAX_COLS, "the shape of the config");
        for (int64_t r = 0; r < qn_weight_rows(weight); r++) {
            qn_weight_decode_rows(weight, r, 1, row);
            fuzz_touch(row, (size_t)qn_weight_cols(weight) * sizeof *row);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    qn_error err = {0};
    const qn_context ctx = {.n_threads = 1};
    qn_checkpoint *checkpoint = NULL;
    (void)fuzz_write("config.json", CONFIG, sizeof CONFIG - 1);
    (void)fuzz_write("payload-00001-of-00001.safetensors", data, n_bytes);
    if (qn_checkpoint_open(fuzz_folder(), &checkpoint, &err) != QN_OK) {
        fuzz_require(checkpoint == NULL && err.code != QN_OK, "nothing published on failure");
        return 0;
    }
    fuzz_accept();
    decode_all(checkpoint);
    (void)!qn_checkpoint_check_finite(checkpoint, &ctx, &err);
    qn_checkpoint_close(checkpoint);
    return 0;
}
