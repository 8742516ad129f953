#include "quern/checkpoint/config.h"

#include "base/alloc.h"
#include "base/json.h"
#include "checkpoint/config_read.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

typedef struct family {
    qn_architecture architecture;
    const char *model_type;
    const char *class_name; /* in `architectures` */
    qni_config_reader read;
} family;

static const family k_families[] = {
    {QN_ARCH_QWEN2, "qwen2", "Qwen2ForCausalLM", qni_config_read_qwen2},
    {QN_ARCH_QWEN3, "qwen3", "Qwen3ForCausalLM", qni_config_read_qwen3},
};
enum { N_FAMILIES = sizeof k_families / sizeof *k_families };

const char *qn_architecture_name(qn_architecture architecture) {
    for (int i = 0; i < N_FAMILIES; i++)
        if (k_families[i].architecture == architecture) return k_families[i].model_type;
    return "none";
}

static qn_status find_family(const json_t *root, const char *name, const family **out, qn_error *err) {
    const char *model_type = NULL;
    QN_TRY(qni_json_get_string(root, "model_type", true, name, &model_type, err));
    for (int i = 0; i < N_FAMILIES; i++) {
        if (strcmp(k_families[i].model_type, model_type) != 0) continue;
        *out = &k_families[i];
        return QN_OK;
    }
    return qn_fail(
        err, QN_E_UNSUPPORTED,
        "%s: model_type is '%.100s', supported are 'qwen2' and 'qwen3': use a checkpoint of one of these",
        name, model_type);
}

/* A sequence classifier or a bare body has other tensors and another head than the language model. */
static qn_status check_class(const json_t *root, const family *f, const char *name, qn_error *err) {
    const json_t *classes = json_object_get(root, "architectures");
    if (!classes || json_is_null(classes)) return QN_OK;
    const char *found = json_string_value(json_array_get(classes, 0));
    if (json_array_size(classes) == 1 && found && strcmp(found, f->class_name) == 0) return QN_OK;
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "%s: architectures is [%.100s], expected ['%s'] for model_type '%s'", name,
                   found ? found : qni_json_type_name(classes), f->class_name, f->model_type);
}

static qn_status check_unquantized(const json_t *root, const char *name, qn_error *err) {
    const json_t *quantization = json_object_get(root, "quantization_config");
    if (!quantization || json_is_null(quantization)) return QN_OK;
    const char *method = json_string_value(json_object_get(quantization, "quant_method"));
    return qn_fail(
        err, QN_E_UNSUPPORTED,
        "%s: the weights are quantised (quantization_config, method '%.100s'), expected F32, F16 or BF16 "
        "weights: dequantise the checkpoint first, or use the original one",
        name, method ? method : "unknown");
}

static qn_status read_object(const json_t *root, const char *name, qn_config *out, qn_error *err) {
    if (!json_is_object(root))
        return qn_fail(err, QN_E_FORMAT, "%s: expected a JSON object, got %s", name,
                       qni_json_type_name(root));
    const family *f = NULL;
    QN_TRY(find_family(root, name, &f, err));
    QN_TRY(check_class(root, f, name, err));
    QN_TRY(check_unquantized(root, name, err));
    out->architecture = f->architecture;
    return f->read(root, name, out, err);
}

qn_status qn_config_parse(const void *text, size_t n_bytes, const char *name, qn_config *out, qn_error *err) {
    json_t *root = NULL;
    QN_TRY(qni_json_parse(text, n_bytes, name, &root, err));
    qn_config config = {0};
    qn_status status = read_object(root, name, &config, err);
    json_decref(root);
    if (status == QN_OK) {
        config.json = qni_alloc_array((int64_t)n_bytes + 1, 1);
        if (config.json)
            memcpy(config.json, text, n_bytes);
        else
            status = qni_fail_nomem(err, name);
    }
    if (status == QN_OK)
        *out = config;
    else
        qn_config_release(&config);
    return status;
}

qn_status qn_config_copy(const qn_config *config, qn_config *out, qn_error *err) {
    qn_config copy = *config;
    copy.json = qni_copy_string(config->json ? config->json : "");
    copy.layer_slides = qni_alloc_array(config->n_layers, sizeof *copy.layer_slides);
    if (!copy.json || !copy.layer_slides) {
        qn_config_release(&copy);
        return qni_fail_nomem(err, "a copy of the config");
    }
    if (config->n_layers > 0)
        memcpy(copy.layer_slides, config->layer_slides, (size_t)config->n_layers * sizeof *copy.layer_slides);
    *out = copy;
    return QN_OK;
}

void qn_config_release(qn_config *config) {
    if (!config) return;
    free(config->layer_slides);
    free(config->json);
    *config = (qn_config){0};
}
