/* Gates that open the model and compute with it. */
#include "artifact/gates.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

/* What is scored when nothing else is given: enough to see whether the logits are finite. */
static const char sentence[] =
    "A model that was pressed into very few bits should still say that two and two make four, "
    "that water runs downhill, and that def add(a, b): return a + b adds two numbers.\n";
enum { DEFAULT_MAX_TOKENS = 512 };

static const qn_config *config_of(const qni_verification *v) {
    return qn_model_config(v->model);
}

static bool is_artifact(const qni_verification *v) {
    return qn_checkpoint_is_artifact(qn_model_checkpoint(v->model));
}

qn_status qni_gate_load(qni_verification *v, qn_error *err) {
    qn_error inner;
    size_t index;
    const qn_status status = qn_model_open(v->path, &v->model, &inner);

    if (status == QN_E_NOMEM || status == QN_E_CANCELLED) return qn_fail(err, status, "%s", inner.message);
    if (status != QN_OK) {
        return qni_reject(v, err, "error=%s message=%.400s", qn_status_name(status), inner.message);
    }
    if (is_artifact(v) && !qn_store_find(v->store, "modeling_quern.py", &index)) {
        return qni_reject(v, err, "error=QN_E_IO message=no modeling_quern.py to load the payload with");
    }
    v->report->parameters = qn_checkpoint_layout(qn_model_checkpoint(v->model))->n_parameters;
    v->report->bits_per_parameter = 8.0 * (double)v->file_bytes / (double)v->report->parameters;
    return QN_OK;
}

qn_status qni_gate_parameter_count(qni_verification *v, qn_error *err) {
    const int64_t limit = v->options->profile->max_parameter_factor * v->reference_parameters;
    if (v->report->parameters > 0 && v->report->parameters <= limit) return QN_OK;
    return qni_reject(v, err, "parameters=%lld limit=%lld", (long long)v->report->parameters,
                      (long long)limit);
}

qn_status qni_gate_quantized_size(qni_verification *v, qn_error *err) {
    const qn_profile *p = v->options->profile;
    const int64_t parameters = v->report->parameters;
    const int64_t allowed = qn_profile_budget_bytes(p, parameters);

    if (v->file_bytes <= allowed) return QN_OK;
    return qni_reject(
        v, err, "file_bytes=%lld bits=%lld allowed_bits=%lld allowed_bytes=%lld parameters=%lld",
        (long long)v->file_bytes, (long long)(8 * v->file_bytes),
        (long long)ceil((double)parameters * p->budget_bits), (long long)allowed, (long long)parameters);
}

/* ------------------------------------------------------------------------------------------- scoring */

static qn_status open_tokenizer(const qni_verification *v, qn_tokenizer **out, qn_error *err) {
    const qn_verify_options *o = v->options;
    if (o->tokenizer) return qn_tokenizer_open(o->tokenizer, out, err);
    const qn_status status = qn_tokenizer_from_store(v->store, out, err);
    if (status != QN_E_IO || o->documents) return status;
    return qn_tokenizer_open("byte", out, err);
}

static qn_status cut(const qni_verification *v, const qn_tokenizer *tokenizer, qn_windows *windows,
                     qn_error *err) {
    qn_document own = {.text = sentence, .n_bytes = sizeof sentence - 1};
    qn_documents documents = {.documents = &own, .n = 1};
    qn_protocol protocol = qn_protocol_default();

    protocol.max_tokens = v->options->max_tokens > 0 ? v->options->max_tokens : DEFAULT_MAX_TOKENS;
    if (!v->options->documents) return qn_windows_make(&documents, tokenizer, &protocol, windows, err);
    QN_TRY(qn_documents_open(v->options->documents, &documents, err));
    const qn_status status = qn_windows_make(&documents, tokenizer, &protocol, windows, err);
    qn_documents_release(&documents);
    return status;
}

static qn_status check_width(qni_verification *v, const qn_windows *windows, qn_error *err) {
    const int64_t width = config_of(v)->vocab_size;
    for (int64_t w = 0; w < windows->n_windows; w++) {
        const int32_t *ids = windows->ids + windows->windows[w].first;
        int32_t largest = 0;
        for (int64_t i = 0; i < windows->windows[w].n_ids; i++) {
            if (ids[i] > largest) largest = ids[i];
        }
        if (largest < width) continue;
        return qni_reject(v, err, "reason=too_narrow width=%lld largest_id=%d document=%lld",
                          (long long)width, largest, (long long)w);
    }
    return QN_OK;
}

static qn_status score(qni_verification *v, const qn_windows *windows, qn_error *err) {
    qn_score_result *result = &v->report->score;
    qn_error inner;

    QN_TRY(check_width(v, windows, err));
    const qn_status status = qn_score(v->model, windows, QN_COMPUTE_F32, v->ctx, NULL, result, &inner);
    if (status == QN_E_VALUE) return qni_reject(v, err, "reason=not_finite message=%.400s", inner.message);
    if (status != QN_OK) return qn_fail(err, status, "%s", inner.message);
    if (!isfinite(result->total_nats)) return qni_reject(v, err, "reason=not_finite");
    v->report->scored = v->options->documents != NULL;
    if (result->stats.largest_activation <= QN_F16_MAX) return QN_OK;
    return qni_findings_add(&v->lint, err, "activation %g (%s) is above %g: a scorer in fp16 would overflow",
                            result->stats.largest_activation, result->stats.largest_where, QN_F16_MAX);
}

qn_status qni_gate_logits(qni_verification *v, qn_error *err) {
    qn_tokenizer *tokenizer = NULL;
    qn_windows windows = {0};

    QN_TRY(open_tokenizer(v, &tokenizer, err));
    qn_status status = cut(v, tokenizer, &windows, err);
    /* Without any text a model whose vocabulary fits no known tokenizer is not at fault. */
    const bool no_ids = strcmp(qn_tokenizer_name(tokenizer), "byte") == 0 && !v->options->tokenizer &&
                        qn_tokenizer_vocab_size(tokenizer) > config_of(v)->vocab_size;
    if (status == QN_OK) {
        status = no_ids ? qni_skip(v, "no tokenizer that fits; give documents and a tokenizer")
                        : score(v, &windows, err);
    }
    qn_windows_release(&windows);
    qn_tokenizer_free(tokenizer);
    return status;
}

qn_status qni_gate_heldout(qni_verification *v, qn_error *err) {
    const qn_score_result *result = &v->report->score;
    char value[QNI_REAL_BYTES], mean[QNI_REAL_BYTES];

    if (!v->report->scored) return qni_skip(v, "no documents were given");
    if (isfinite(result->perplexity) && result->perplexity > 0) return QN_OK;
    qni_real_text(result->perplexity, value);
    qni_real_text(result->nats, mean);
    return qni_reject(v, err, "value=%s mean=%s", value, mean);
}
