/* A config.json: what is accepted can be copied and laid out. */
#include "fuzz.h"

#include "quern/checkpoint/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    qn_error err = {0};
    qn_config config = {0}, copy = {0};
    if (qn_config_parse(data, n_bytes, "input", &config, &err) != QN_OK) {
        fuzz_require(config.json == NULL && err.code != QN_OK, "nothing published on failure");
        return 0;
    }
    fuzz_accept();
    fuzz_require(config.vocab_size > 0 && config.hidden_size > 0 && config.n_layers > 0 && config.n_heads > 0,
                 "positive sizes");
    fuzz_require(config.n_heads % config.n_kv_heads == 0, "whole groups of heads");
    if (qn_config_copy(&config, &copy, &err) == QN_OK) {
        fuzz_touch(copy.layer_slides, (size_t)copy.n_layers * sizeof *copy.layer_slides);
    }
    qn_config_release(&copy);
    qn_config_release(&config);
    return 0;
}
