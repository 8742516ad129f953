#include "fit/packed_text.h"

#include "base/banned.h"

qn_status qni_find_separator(const char *separator, const qn_tokenizer *tokenizer, const qn_config *config,
                             int32_t *out, qn_error *err) {
    const int64_t eos = config->eos_token_id;
    const int64_t id = separator ? qn_tokenizer_token_id(tokenizer, separator) : eos;
    if (id >= 0 && id < config->vocab_size) {
        *out = (int32_t)id;
        return QN_OK;
    }
    if (separator)
        return qn_fail(err, QN_E_VALUE,
                       "separator '%.100s' is no token of tokenizer %s and the model's %lld ids", separator,
                       qn_tokenizer_name(tokenizer), (long long)config->vocab_size);
    return qn_fail(
        err, QN_E_VALUE,
        "the config's eos_token_id (%lld) is no id of the model: name a separator between documents",
        (long long)eos);
}

qn_status qni_pack_documents(const qn_documents *documents, const char *name, const qn_tokenizer *tokenizer,
                             const qn_config *config, int32_t separator, int64_t context, qn_packing *out,
                             qn_error *err) {
    qn_error reason = {0};
    const qn_status status = qn_packing_make(documents, tokenizer, separator, context, out, &reason);
    if (status != QN_OK) return qn_fail(err, status, "%s: %s", name, reason.message);
    if (out->largest_id < config->vocab_size) return QN_OK;
    return qn_fail(err, QN_E_VALUE,
                   "%s: tokenizer %s gives id %ld, the model has %lld: the two do not belong together", name,
                   qn_tokenizer_name(tokenizer), (long)out->largest_id, (long long)config->vocab_size);
}
