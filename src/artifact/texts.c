/* The members of an artifact that are text: config, loader, tokenizer and generation files. */
#include "artifact/plan.h"

#include "base/alloc.h"
#include "checkpoint/companions.h"
#include "checkpoint/config_write.h"
#include "checkpoint/format.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { MAX_TEXTS = QNI_N_COMPANIONS + 1 };

static qn_status config_object(const qn_artifact_plan *plan, const qni_sizing *sizing, json_t **out,
                               qn_error *err) {
    json_t *config = NULL;
    QN_TRY(qni_config_json(qn_checkpoint_config(plan->source), "float16", &config, err));
    json_t *payload = json_array();
    bool made = payload != NULL;
    for (int64_t k = 0; made && k < sizing->n_shards; k++) {
        made = json_array_append_new(payload, json_string(sizing->shards[k].name)) == 0;
    }
    json_t *map = json_pack("{s:s}", "AutoModelForCausalLM", "modeling_quern.QuernForCausalLM");
    json_t *quern = json_pack("{s:i,s:o}", "format", QNI_FORMAT, "payload", payload);
    made = made && json_object_set_new(config, "auto_map", map) == 0;
    made = json_object_set_new(config, "quern", quern) == 0 && made;
    if (!made) {
        json_decref(config);
        return qni_fail_nomem(err, "config.json");
    }
    *out = config;
    return QN_OK;
}

void qni_text_release(qni_text *text) {
    free(text->name);
    free(text->owned);
    *text = (qni_text){0};
}

qni_zip_member qni_text_member(const qni_text *text) {
    return (qni_zip_member){.name = text->name,
                            .data = text->data,
                            .raw_bytes = text->n_bytes,
                            .packed_bytes = text->deflated_bytes};
}

/* Fills *text, which owns OWNED from here on; it is to be released, on failure too. */
static qn_status text_init(qni_text *text, const char *name, const void *data, void *owned, size_t n_bytes,
                           bool deflate, qn_error *err) {
    *text =
        (qni_text){.name = qni_copy_string(name), .data = data, .owned = owned, .n_bytes = (int64_t)n_bytes};
    if (!text->name || !data) return qni_fail_nomem(err, name);
    if (!deflate) return QN_OK;
    return qni_deflated_bytes(data, text->n_bytes, &text->deflated_bytes, err);
}

qn_status qni_size_config(const qn_artifact_plan *plan, qni_sizing *sizing, qn_error *err) {
    json_t *config = NULL;
    QN_TRY(config_object(plan, sizing, &config, err));
    char *text = json_dumps(config, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(config);
    return text_init(&sizing->config, "config.json", text, text, text ? strlen(text) : 0, plan->as_archive,
                     err);
}

/* The source's file NAME, where it has one. */
static qn_status add_copy(const qn_artifact_plan *plan, const char *name, qni_texts *texts, qn_error *err) {
    qn_store *store = qn_checkpoint_store(plan->source);
    const uint8_t *data = NULL;
    size_t index, n_bytes = 0;

    if (!qn_store_find(store, name, &index)) return QN_OK;
    QN_TRY(qn_store_map(store, name, &data, &n_bytes, err));
    const void *bytes = n_bytes ? (const void *)data : "";
    return text_init(&texts->items[texts->n++], name, bytes, NULL, n_bytes, plan->as_archive, err);
}

static qn_status add_all(const qn_artifact_plan *plan, bool with_tokenizer, qni_texts *texts, qn_error *err) {
    size_t index;
    const bool is_complete = qn_store_find(qn_checkpoint_store(plan->source), "tokenizer.json", &index);

    QN_TRY(text_init(&texts->items[texts->n++], "modeling_quern.py", qni_loader_source, NULL,
                     qni_loader_source_bytes, plan->as_archive, err));
    for (size_t i = 0; i < QNI_N_COMPANIONS; i++) {
        const qni_companion *c = &qni_companions[i];
        if (c->kind == QNI_COMPANION_TOKENIZER && !with_tokenizer) continue;
        if (c->kind == QNI_COMPANION_VOCABULARY && (!with_tokenizer || is_complete)) continue;
        QN_TRY(add_copy(plan, c->name, texts, err));
    }
    return QN_OK;
}

qn_status qni_texts_collect(const qn_artifact_plan *plan, bool with_tokenizer, qni_texts *out,
                            qn_error *err) {
    qni_texts texts = {.items = qni_alloc_array(MAX_TEXTS, sizeof *texts.items)};
    if (!texts.items) return qni_fail_nomem(err, "artifact members");
    qn_status status = add_all(plan, with_tokenizer, &texts, err);
    if (status != QN_OK) {
        qni_texts_release(&texts);
        return status;
    }
    *out = texts;
    return QN_OK;
}

void qni_texts_release(qni_texts *texts) {
    for (size_t i = 0; i < texts->n; i++) qni_text_release(&texts->items[i]);
    free(texts->items);
    *texts = (qni_texts){0};
}
