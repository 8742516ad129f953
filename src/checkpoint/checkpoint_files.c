/* Which files of a store hold its weights: an artifact's payload, one model.safetensors, or the shards of an
 * index. */
#include "checkpoint/checkpoint_files.h"

#include "base/alloc.h"
#include "base/json.h"
#include "checkpoint/format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

#define SINGLE_FILE "model.safetensors"
#define INDEX_FILE  "model.safetensors.index.json"

static int compare_strings(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A file beside config.json and nothing else: names come from files that may be hostile. */
static bool is_plain_name(const char *name) {
    return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strpbrk(name, "/\\:");
}

static qn_status check_member(const qn_checkpoint *c, const char *member, const char *named_in,
                              qn_error *err) {
    size_t index = 0;
    if (!is_plain_name(member))
        return qn_fail(err, QN_E_FORMAT, "%s/%s names '%.200s', expected the plain name of a file beside it",
                       qn_store_path(c->store), named_in, member);
    if (!qn_store_find(c->store, member, &index))
        return qn_fail(err, QN_E_FORMAT, "%s: file '%s' is named in %s but absent: download it again",
                       qn_store_path(c->store), member, named_in);
    return QN_OK;
}

char *qni_checkpoint_member_name(const qn_checkpoint *c, const char *member) {
    char *name = NULL;
    return asprintf(&name, "%s/%s", qn_store_path(c->store), member) < 0 ? NULL : name;
}

/* Opens one file as files[n_files]. */
static qn_status add_file(qn_checkpoint *c, const char *member, qn_error *err) {
    qni_weight_file *file = &c->files[c->n_files++];
    file->member = qni_copy_string(member);
    file->name = qni_checkpoint_member_name(c, member);
    if (!file->member || !file->name) return qni_fail_nomem(err, member);
    QN_TRY(qn_store_map(c->store, member, &file->data, &file->n_bytes, err));
    return qn_safetensors_parse(file->data, file->n_bytes, file->name, &file->tensors, err);
}

/* Opens the N (sorted, distinct after the call) members that NAMED_IN names. */
static qn_status add_files(qn_checkpoint *c, const char **members, size_t n, const char *named_in,
                           qn_error *err) {
    if (n == 0) return qn_fail(err, QN_E_FORMAT, "%s/%s names no file", qn_store_path(c->store), named_in);
    qsort(members, n, sizeof *members, compare_strings);
    c->files = qni_alloc_array((int64_t)n, sizeof *c->files);
    if (!c->files) return qni_fail_nomem(err, named_in);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(members[i], members[i - 1]) == 0) continue;
        QN_TRY(check_member(c, members[i], named_in, err));
        QN_TRY(add_file(c, members[i], err));
    }
    return QN_OK;
}

static qn_status open_payload(qn_checkpoint *c, const json_t *settings, const char *name, qn_error *err) {
    int64_t format = 0;
    QN_TRY(qni_json_get_i64(settings, "format", true, name, &format, err));
    if (format != QNI_FORMAT)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: artifact format %lld, supported is %d", name,
                       (long long)format, QNI_FORMAT);
    const json_t *payload = json_object_get(settings, "payload");
    const size_t n = json_array_size(payload);
    const char **members = qni_alloc_array((int64_t)n, sizeof *members);
    if (!members) return qni_fail_nomem(err, name);
    qn_status status = QN_OK;
    for (size_t i = 0; i < n && status == QN_OK; i++) {
        members[i] = json_string_value(json_array_get(payload, i));
        if (!members[i]) status = qn_fail(err, QN_E_FORMAT, "%s: payload[%zu] is not a string", name, i);
    }
    if (status == QN_OK) status = add_files(c, members, n, "config.json (quern.payload)", err);
    if (status == QN_OK && c->n_files != n)
        status = qn_fail(err, QN_E_FORMAT, "%s: a file stands twice in quern.payload", name);
    free(members);
    return status;
}

static const qni_weight_file *file_called(const qn_checkpoint *c, const char *member) {
    for (size_t i = 0; i < c->n_files; i++)
        if (strcmp(c->files[i].member, member) == 0) return &c->files[i];
    return NULL;
}

/* Every tensor must lie in the shard that the index names. */
static qn_status check_weight_map(const qn_checkpoint *c, json_t *map, qn_error *err) {
    const char *tensor;
    json_t *shard;
    json_object_foreach(map, tensor, shard) {
        size_t index = 0;
        const qni_weight_file *file = file_called(c, json_string_value(shard));
        if (!file || !qn_safetensors_find(file->tensors, tensor, &index))
            return qn_fail(
                err, QN_E_FORMAT,
                "%s: tensor '%.300s' is absent, %s says that it lies there: the files do not belong together",
                file ? file->name : INDEX_FILE, tensor, INDEX_FILE);
    }
    return QN_OK;
}

static qn_status open_mapped_shards(qn_checkpoint *c, json_t *map, const char *name, qn_error *err) {
    if (!json_is_object(map))
        return qn_fail(err, QN_E_FORMAT, "%s: weight_map is %s, expected an object", name,
                       qni_json_type_name(map));
    const char **members = qni_alloc_array((int64_t)json_object_size(map), sizeof *members);
    if (!members) return qni_fail_nomem(err, name);
    qn_status status = QN_OK;
    size_t n = 0;
    const char *tensor;
    json_t *shard;
    json_object_foreach(map, tensor, shard) {
        status = qni_json_get_string(map, tensor, true, name, &members[n++], err);
        if (status != QN_OK) break;
    }
    if (status == QN_OK) status = add_files(c, members, n, INDEX_FILE, err);
    if (status == QN_OK) status = check_weight_map(c, map, err);
    free(members);
    return status;
}

static qn_status read_index(qn_checkpoint *c, const char *name, qn_error *err) {
    const uint8_t *text = NULL;
    size_t n_bytes = 0;
    json_t *index = NULL;
    QN_TRY(qn_store_map(c->store, INDEX_FILE, &text, &n_bytes, err));
    QN_TRY(qni_json_parse(text, n_bytes, name, &index, err));
    const qn_status status = open_mapped_shards(c, json_object_get(index, "weight_map"), name, err);
    json_decref(index);
    return status;
}

static qn_status open_shards(qn_checkpoint *c, qn_error *err) {
    char *name = qni_checkpoint_member_name(c, INDEX_FILE);
    const qn_status status = name ? read_index(c, name, err) : qni_fail_nomem(err, INDEX_FILE);
    free(name);
    return status;
}

static qn_status open_dense(qn_checkpoint *c, qn_error *err) {
    size_t index = 0;
    const char *single = SINGLE_FILE;
    if (qn_store_find(c->store, SINGLE_FILE, &index)) return add_files(c, &single, 1, "the checkpoint", err);
    if (qn_store_find(c->store, INDEX_FILE, &index)) return open_shards(c, err);
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "%s: found neither " SINGLE_FILE " nor " INDEX_FILE
                   " beside config.json: convert the weights to "
                   "safetensors first",
                   qn_store_path(c->store));
}

static qn_status open_by_config(qn_checkpoint *c, const char *name, qn_error *err) {
    json_t *root = NULL;
    QN_TRY(qni_json_parse(c->config.json, strlen(c->config.json), name, &root, err));
    const json_t *settings = json_object_get(root, "quern");
    c->is_artifact = settings && !json_is_null(settings);
    const qn_status status = c->is_artifact ? open_payload(c, settings, name, err) : open_dense(c, err);
    json_decref(root);
    return status;
}

qn_status qni_checkpoint_open_files(qn_checkpoint *c, qn_error *err) {
    char *name = qni_checkpoint_member_name(c, "config.json (quern)");
    const qn_status status = name ? open_by_config(c, name, err) : qni_fail_nomem(err, "config.json");
    free(name);
    return status;
}
