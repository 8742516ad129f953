#include "fit/train_run.h"

#include "base/alloc.h"
#include "base/mapping.h"
#include "fit/packed_text.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/banned.h"

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* ---- config and starting weights ---- */

static qn_status read_config(const char *path, qn_config *out, qn_error *err) {
    char *file = NULL;
    qni_mapping mapping = {0};
    if (asprintf(&file, is_folder(path) ? "%s/config.json" : "%s", path) < 0)
        return qni_fail_nomem(err, path);
    qn_status status = qni_mapping_open(file, &mapping, err);
    if (status == QN_OK) status = qn_config_parse(mapping.data, mapping.n_bytes, file, out, err);
    qni_mapping_release(&mapping);
    free(file);
    return status;
}

/* Every tensor the config implies must be there with its shape, and none besides. */
static qn_status check_fit(const qn_train_options *options, const qn_layout *wanted, const qn_layout *given,
                           qn_error *err) {
    for (int64_t i = 0; i < wanted->n && i < given->n; i++) {
        const qn_layout_entry *a = &wanted->entries[i], *b = &given->entries[i];
        if (strcmp(a->name, b->name) == 0 && a->rows == b->rows && a->cols == b->cols) continue;
        return qn_fail(err, QN_E_ARGUMENT,
                       "%s does not fit the weights of %s: it implies %s [%lld, %lld] where they have %s "
                       "[%lld, %lld]",
                       options->config, options->init_from, a->name, (long long)a->rows, (long long)a->cols,
                       b->name, (long long)b->rows, (long long)b->cols);
    }
    if (wanted->n == given->n) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "%s does not fit the weights of %s: it implies %lld tensors, they have %lld",
                   options->config, options->init_from, (long long)wanted->n, (long long)given->n);
}

static qn_status open_start(const qn_train_options *options, qni_train_inputs *in, qn_error *err) {
    if (options->init_from) QN_TRY(qn_checkpoint_open(options->init_from, &in->start, err));
    if (options->config)
        QN_TRY(read_config(options->config, &in->config, err));
    else
        QN_TRY(qn_config_copy(qn_checkpoint_config(in->start), &in->config, err));
    QN_TRY(qn_layout_make(&in->config, &in->layout, err));
    return in->start ? check_fit(options, &in->layout, qn_checkpoint_layout(in->start), err) : QN_OK;
}

/* ---- tokenizer ---- */

/* The folder that holds the config; *out is owned. */
static qn_status folder_of(const char *config, char **out, qn_error *err) {
    const char *slash = is_folder(config) ? NULL : strrchr(config, '/');
    char *folder = NULL;
    if (is_folder(config))
        folder = qni_copy_string(config);
    else if (!slash)
        folder = qni_copy_string(".");
    else if (asprintf(&folder, "%.*s", slash > config ? (int)(slash - config) : 1, config) < 0)
        folder = NULL;
    if (!folder) return qni_fail_nomem(err, config);
    *out = folder;
    return QN_OK;
}

static bool is_model_folder(const char *path) {
    const size_t n = strlen(path);
    return strcmp(path, "byte") != 0 && !(n > 5 && strcmp(path + n - 5, ".json") == 0);
}

static qn_status open_tokenizer(const qn_train_options *options, qni_train_inputs *in, qn_error *err) {
    const char *path = options->tokenizer ? options->tokenizer : options->init_from;
    char *beside = NULL;
    if (!path) {
        QN_TRY(folder_of(options->config, &beside, err));
        path = beside;
    }
    qn_status status = qn_tokenizer_open(path, &in->tokenizer, err);
    if (status == QN_OK && is_model_folder(path)) status = qn_store_open(path, &in->companions, err);
    free(beside);
    return status;
}

/* ---- text ---- */

static qn_status pack_text(const char *path, int64_t context, const qni_train_inputs *in, qn_packing *out,
                           char sha256[QN_SHA256_HEX], qn_error *err) {
    qn_documents documents = {0};
    QN_TRY(qn_documents_open(path, &documents, err));
    const qn_status status =
        qni_pack_documents(&documents, path, in->tokenizer, &in->config, in->separator, context, out, err);
    if (sha256) memcpy(sha256, documents.sha256, sizeof documents.sha256);
    qn_documents_release(&documents);
    return status;
}

static qn_status open_all(const qn_train_options *options, qni_train_inputs *in, qn_error *err) {
    QN_TRY(open_start(options, in, err));
    QN_TRY(open_tokenizer(options, in, err));
    QN_TRY(qni_find_separator(options->separator, in->tokenizer, &in->config, &in->separator, err));
    QN_TRY(pack_text(options->text, options->context, in, &in->text, in->text_sha256, err));
    return options->dev ? pack_text(options->dev, options->context, in, &in->dev, NULL, err) : QN_OK;
}

qn_status qni_train_inputs_open(const qn_train_options *options, qni_train_inputs *out, qn_error *err) {
    qni_train_inputs in = {0};
    const qn_status status = open_all(options, &in, err);
    if (status == QN_OK)
        *out = in;
    else
        qni_train_inputs_release(&in);
    return status;
}

void qni_train_inputs_release(qni_train_inputs *in) {
    qn_packing_release(&in->text);
    qn_packing_release(&in->dev);
    qn_store_close(in->companions);
    qn_tokenizer_free(in->tokenizer);
    qn_checkpoint_close(in->start);
    qn_layout_release(&in->layout);
    qn_config_release(&in->config);
    *in = (qni_train_inputs){0};
}
