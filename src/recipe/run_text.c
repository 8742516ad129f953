#include "recipe/run_text.h"

#include "quern/text/leak_check.h"

#include "base/banned.h"

static const char *tokenizer_of(const qn_compress_options *o) {
    return o->tokenizer ? o->tokenizer : o->model;
}

/* Text that holds the evaluation documents would make every figure a lie. */
static qn_status check_leak(const qn_compress_options *o, const qn_documents *text,
                            const qn_tokenizer *tokenizer, const qn_context *ctx, qn_error *err) {
    qn_documents evaluation = {0};
    qn_leak_report report;
    if (!o->documents) return QN_OK;
    QN_TRY(qn_documents_open(o->documents, &evaluation, err));
    qn_status status = qn_leak_check(text, &evaluation, tokenizer, QN_LEAK_NGRAM, &report, err);
    if (status == QN_OK) status = qn_leak_judge(&report, o->allow_leak, ctx, err);
    qn_documents_release(&evaluation);
    return status;
}

qn_status qni_run_text(const qn_compress_options *o, const qn_config *config, int64_t n_tokens,
                       const qn_context *ctx, qn_calibration_text *out, qn_error *err) {
    qn_tokenizer *tokenizer = NULL;
    qn_documents documents = {0};
    if (!o->text)
        return qn_fail(err, QN_E_ARGUMENT,
                       "recipe '%s' calibrates: give calibration text (--text FILE), or the data-free recipe "
                       "(--recipe fast)",
                       o->recipe->name);
    qn_status status = qn_tokenizer_open(tokenizer_of(o), &tokenizer, err);
    if (status == QN_OK) status = qn_documents_open(o->text, &documents, err);
    if (status == QN_OK) status = check_leak(o, &documents, tokenizer, ctx, err);
    if (status == QN_OK)
        status = qn_calibration_text_make(&documents, o->text, tokenizer, config, o->recipe->context,
                                          n_tokens, ctx, out, err);
    qn_documents_release(&documents);
    qn_tokenizer_free(tokenizer);
    return status;
}

qn_status qni_run_windows(const qn_compress_options *o, qn_windows *out, qn_error *err) {
    qn_tokenizer *tokenizer = NULL;
    qn_documents documents = {0};
    const qn_protocol protocol = qn_protocol_default();
    qn_status status = qn_tokenizer_open(tokenizer_of(o), &tokenizer, err);
    if (status == QN_OK) status = qn_documents_open(o->documents, &documents, err);
    if (status == QN_OK) status = qn_windows_make(&documents, tokenizer, &protocol, out, err);
    qn_documents_release(&documents);
    qn_tokenizer_free(tokenizer);
    return status;
}
