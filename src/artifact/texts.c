/* The members of an artifact that are text: config, loader, tokenizer and generation files. */
#include "artifact/archive.h"
#include "artifact/plan.h"

#include "base/alloc.h"
#include "checkpoint/config_write.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* Copied from the source as they are, where it has them. */
static const char *const tokenizer_files[] = {"added_tokens.json", "chat_template.jinja",
                                              "special_tokens_map.json", "tokenizer.json",
                                              "tokenizer_config.json"};
/* Only without tokenizer.json, which says the same in one file. */
static const char *const vocabulary_files[] = {"merges.txt", "vocab.json"};
static const char *const other_files[] = {"generation_config.json"};

enum { MAX_TEXTS = 16 };

static qn_status config_object(const qn_artifact_plan *plan, json_t **out, qn_error *err) {
    json_t *config = NULL;
    QN_TRY(qni_config_json(qn_checkpoint_config(plan->source), "float16", &config, err));
    json_t *payload = json_array();
    bool made = payload != NULL;
    for (int64_t k = 0; made && k < plan->n_shards; k++) {
        made = json_array_append_new(payload, json_string(plan->shards[k].name)) == 0;
    }
    json_t *map = json_pack("{s:s}", "AutoModelForCausalLM", "modeling_quern.QuernForCausalLM");
    json_t *quern = json_pack("{s:i,s:o}", "format", 1, "payload", payload);
    made = made && json_object_set_new(config, "auto_map", map) == 0;
    made = json_object_set_new(config, "quern", quern) == 0 && made;
    if (!made) {
        json_decref(config);
        return qni_fail_nomem(err, "config.json");
    }
    *out = config;
    return QN_OK;
}

static qn_status text_add(qni_texts *texts, const char *name, const void *data, void *owned, size_t n_bytes,
                          bool deflate, qn_error *err) {
    qni_text *text = &texts->items[texts->n++];
    *text =
        (qni_text){.name = qni_copy_string(name), .data = data, .owned = owned, .n_bytes = (int64_t)n_bytes};
    if (!text->name || !data) return qni_fail_nomem(err, name);
    if (!deflate) return QN_OK;
    return qni_deflated_bytes(data, text->n_bytes, &text->deflated_bytes, err);
}

static qn_status add_config(const qn_artifact_plan *plan, qni_texts *texts, qn_error *err) {
    json_t *config = NULL;
    QN_TRY(config_object(plan, &config, err));
    char *text = json_dumps(config, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(config);
    return text_add(texts, "config.json", text, text, text ? strlen(text) : 0, plan->as_archive, err);
}

static qn_status add_copies(const qn_artifact_plan *plan, const char *const *names, size_t n,
                            qni_texts *texts, qn_error *err) {
    qn_store *store = qn_checkpoint_store(plan->source);

    for (size_t i = 0; i < n; i++) {
        const uint8_t *data = NULL;
        size_t index, n_bytes = 0;
        if (!qn_store_find(store, names[i], &index)) continue;
        QN_TRY(qn_store_map(store, names[i], &data, &n_bytes, err));
        const void *bytes = n_bytes ? (const void *)data : "";
        QN_TRY(text_add(texts, names[i], bytes, NULL, n_bytes, plan->as_archive, err));
    }
    return QN_OK;
}

static qn_status add_tokenizer(const qn_artifact_plan *plan, qni_texts *texts, qn_error *err) {
    size_t index;
    QN_TRY(add_copies(plan, tokenizer_files, sizeof tokenizer_files / sizeof tokenizer_files[0], texts, err));
    if (qn_store_find(qn_checkpoint_store(plan->source), "tokenizer.json", &index)) return QN_OK;
    return add_copies(plan, vocabulary_files, sizeof vocabulary_files / sizeof vocabulary_files[0], texts,
                      err);
}

qn_status qni_texts_collect(const qn_artifact_plan *plan, bool with_tokenizer, qni_texts *out,
                            qn_error *err) {
    qni_texts texts = {.items = qni_alloc_array(MAX_TEXTS, sizeof *texts.items)};
    if (!texts.items) return qni_fail_nomem(err, "artifact members");

    qn_status status = add_config(plan, &texts, err);
    if (status == QN_OK) {
        status = text_add(&texts, "modeling_quern.py", qni_loader_source, NULL, qni_loader_source_bytes,
                          plan->as_archive, err);
    }
    if (status == QN_OK) {
        status = add_copies(plan, other_files, sizeof other_files / sizeof other_files[0], &texts, err);
    }
    if (status == QN_OK && with_tokenizer) status = add_tokenizer(plan, &texts, err);
    if (status == QN_OK) {
        *out = texts;
        texts = (qni_texts){0};
    }
    qni_texts_release(&texts);
    return status;
}

void qni_texts_release(qni_texts *texts) {
    for (size_t i = 0; i < texts->n; i++) {
        free(texts->items[i].name);
        free(texts->items[i].owned);
    }
    free(texts->items);
    *texts = (qni_texts){0};
}
