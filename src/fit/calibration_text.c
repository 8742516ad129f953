#include "base/alloc.h"
#include "fit/packed_text.h"
#include "quern/fit/calibrate.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* N contexts of PACKING, with room for them in *out. */
static qn_status take(const qn_packing *packing, int64_t n, qn_calibration_text *out, qn_error *err) {
    qn_calibration_text text = {.n = n, .context = packing->context};
    text.starts = qni_alloc_array(n + 1, sizeof *text.starts);
    text.ids = qni_alloc_array(n * packing->context, sizeof *text.ids); /* no more than the packing has */
    if (!text.starts || !text.ids) {
        qn_calibration_text_release(&text);
        return qni_fail_nomem(err, "calibration text");
    }
    for (int64_t i = 0; i <= n; i++) text.starts[i] = i * packing->context;
    qn_packing_spread(packing, n, text.ids);
    *out = text;
    return QN_OK;
}

qn_status qn_calibration_text_make(const qn_documents *documents, const char *name,
                                   const qn_tokenizer *tokenizer, const qn_config *config, int64_t context,
                                   int64_t n_tokens, const qn_context *ctx, qn_calibration_text *out,
                                   qn_error *err) {
    qn_packing packing = {0};
    qn_calibration_text text = {0};
    int32_t separator;
    if (context < 2 || n_tokens < context)
        return qn_fail(err, QN_E_ARGUMENT,
                       "%lld tokens of calibration in contexts of %lld: expected at least one context",
                       (long long)n_tokens, (long long)context);
    QN_TRY(qni_find_separator(NULL, tokenizer, config, &separator, err));
    const int64_t wanted = n_tokens / context;
    qn_status status =
        qni_pack_documents(documents, name, tokenizer, config, separator, context, &packing, err);
    const int64_t n = packing.n_contexts < wanted ? packing.n_contexts : wanted;
    if (status == QN_OK && n < wanted)
        qn_log(ctx, QN_LOG_WARNING,
               "%s: %lld tokens in whole contexts, fewer than the %lld wanted; all are used", name,
               (long long)(n * context), (long long)n_tokens);
    if (status == QN_OK) status = take(&packing, n, &text, err);
    qn_packing_release(&packing);
    if (status != QN_OK) return status;
    memcpy(text.sha256, documents->sha256, sizeof text.sha256);
    *out = text;
    return QN_OK;
}

qn_status qn_calibration_text_part(const qn_calibration_text *text, int64_t n_tokens,
                                   qn_calibration_text *out, qn_error *err) {
    const qn_packing packing = {.ids = text->ids, .context = text->context, .n_contexts = text->n};
    const int64_t wanted = n_tokens / text->context;
    QN_TRY(take(&packing, wanted < 1 ? 1 : wanted > text->n ? text->n : wanted, out, err));
    memcpy(out->sha256, text->sha256, sizeof out->sha256);
    return QN_OK;
}

qn_sequences qn_calibration_sequences(const qn_calibration_text *text) {
    return (qn_sequences){.ids = text->ids, .starts = text->starts, .n = text->n};
}

void qn_calibration_text_release(qn_calibration_text *text) {
    free(text->ids);
    free(text->starts);
    *text = (qn_calibration_text){0};
}
