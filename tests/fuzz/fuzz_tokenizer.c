/* A tokenizer.json: what is accepted encodes any text to known ids and decodes them again. */
#include "fuzz.h"

#include "quern/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static const char *const TEXTS[] = {
    "",
    "It's 2024, isn't it?\n\n  def f(x):\treturn x+1\r\n",
    "<|endoftext|>ab<|im_start|>",
    "\xc3\xa9\xf0\x9f\x99\x82 e\xcc\x81",
    "\xff\xc3(\xed\xa0\x80",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

static void check_text(const qn_tokenizer *tokenizer, const char *text) {
    qn_error err = {0};
    qn_ids ids = {0};
    char *back = NULL;
    size_t n_bytes = 0;
    if (qn_tokenizer_encode(tokenizer, text, strlen(text), &ids, &err) == QN_OK) {
        const int64_t n_vocab = qn_tokenizer_vocab_size(tokenizer);
        for (int64_t i = 0; i < ids.n; i++)
            fuzz_require(ids.ids[i] >= 0 && ids.ids[i] < n_vocab, "a known id");
        if (qn_tokenizer_decode(tokenizer, ids.ids, ids.n, false, &back, &n_bytes, &err) == QN_OK) {
            fuzz_touch(back, n_bytes + 1);
        }
    }
    free(back);
    qn_ids_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes) {
    qn_error err = {0};
    qn_tokenizer *tokenizer = NULL;
    (void)fuzz_write("tokenizer.json", data, n_bytes);
    if (qn_tokenizer_open(fuzz_folder(), &tokenizer, &err) != QN_OK) {
        fuzz_require(tokenizer == NULL && err.code != QN_OK, "nothing published on failure");
        return 0;
    }
    fuzz_accept();
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) check_text(tokenizer, TEXTS[i]);
    qn_tokenizer_free(tokenizer);
    return 0;
}
