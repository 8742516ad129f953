#include "quern/text/documents.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include <jansson.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/mapping.h"
#include "text/buffer.h"
#include "text/utf8.h"

#include "base/banned.h"

#define SEPARATOR "<|endoftext|>"

/* The set while it grows: documents by their place in `text`, which moves. */
typedef struct extent {
    size_t first, n_bytes;
} extent;

typedef struct collection {
    qni_buffer text;
    extent *extents; /* owned */
    int64_t n, capacity;
} collection;

static void release(collection *c) {
    qni_buffer_release(&c->text);
    free(c->extents);
}

static qn_status add_document(collection *c, const void *text, size_t n_bytes, qn_error *err) {
    if (c->n == c->capacity) {
        int64_t capacity = 2 * c->capacity + 16;
        void *extents = c->extents;
        QN_TRY(qni_grow_array(&extents, capacity, sizeof *c->extents, err));
        c->extents = extents;
        c->capacity = capacity;
    }
    c->extents[c->n] = (extent){c->text.n, n_bytes};
    QN_TRY(qni_buffer_append(&c->text, text, n_bytes, err));
    c->n++;
    return QN_OK;
}

/* The length of the line at TEXT without its LF. */
static size_t line_bytes(const uint8_t *text, size_t n_bytes) {
    const uint8_t *end = memchr(text, '\n', n_bytes);
    return end ? (size_t)(end - text) : n_bytes;
}

/* ---- .txt ---- */

static bool is_separator(const uint8_t *line, size_t n_bytes) {
    return n_bytes == strlen(SEPARATOR) && memcmp(line, SEPARATOR, n_bytes) == 0;
}

/* A separator ends a document; what follows the last one is a document unless it is empty. */
static qn_status add_text(collection *c, const uint8_t *text, size_t n_bytes, qn_error *err) {
    size_t first = 0;
    for (size_t i = 0; i < n_bytes;) {
        size_t n_line = line_bytes(text + i, n_bytes - i);
        size_t next = i + n_line < n_bytes ? i + n_line + 1 : n_bytes;
        if (is_separator(text + i, n_line)) {
            QN_TRY(add_document(c, text + first, i - first, err));
            first = next;
        }
        i = next;
    }
    return first < n_bytes ? add_document(c, text + first, n_bytes - first, err) : QN_OK;
}

/* ---- .jsonl ---- */

static bool is_blank(const uint8_t *line, size_t n_bytes) {
    size_t i = 0;
    while (i < n_bytes && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r')) i++;
    return i == n_bytes;
}

static qn_status add_json_line(collection *c, const uint8_t *line, size_t n_bytes, const char *path,
                               long long number, qn_error *err) {
    /* As liberal as Python's parser about what is not the text: huge numbers, repeated keys. */
    const size_t flags = JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL;
    json_error_t error;
    json_t *value = json_loadb((const char *)line, n_bytes, flags, &error);
    if (!value) {
        return qn_fail(err, QN_E_FORMAT, "%s:%lld: not valid JSON at byte %d of the line: %s", path, number,
                       error.position, error.text);
    }
    const json_t *text = json_is_object(value) ? json_object_get(value, "text") : value;
    qn_status status;
    if (json_is_string(text)) {
        status = add_document(c, json_string_value(text), json_string_length(text), err);
    } else {
        status = qn_fail(err, QN_E_FORMAT, "%s:%lld: %s is %s, expected a string", path, number,
                         json_is_object(value) ? "\"text\"" : "the line", qni_json_type_name(text));
    }
    json_decref(value);
    return status;
}

static qn_status add_json_lines(collection *c, const uint8_t *text, size_t n_bytes, const char *path,
                                qn_error *err) {
    long long number = 1;
    for (size_t i = 0; i < n_bytes; number++) {
        size_t n_line = line_bytes(text + i, n_bytes - i);
        if (!is_blank(text + i, n_line)) QN_TRY(add_json_line(c, text + i, n_line, path, number, err));
        i += n_line + 1;
        if (n_line == n_bytes || i > n_bytes) break;
    }
    return QN_OK;
}

/* ---- files and folders ---- */

static bool has_extension(const char *path, const char *extension) {
    size_t n = strlen(path), n_extension = strlen(extension);
    return n > n_extension && strcasecmp(path + n - n_extension, extension) == 0;
}

static qn_status add_valid_text(collection *c, const char *path, const uint8_t *text, size_t n_bytes,
                                qn_error *err) {
    if (has_extension(path, ".jsonl") || has_extension(path, ".ndjson")) {
        return add_json_lines(c, text, n_bytes, path, err);
    }
    return add_text(c, text, n_bytes, err);
}

static qn_status add_file(collection *c, const char *path, qn_error *err) {
    qni_mapping mapping = {0};
    qni_buffer repaired = {0};
    QN_TRY(qni_mapping_open(path, &mapping, err));
    const uint8_t *text = mapping.data;
    size_t n_bytes = mapping.n_bytes;
    qn_status status = QN_OK;
    if (qni_utf8_valid_prefix(text, n_bytes) < n_bytes) {
        status = qni_utf8_append_repaired(&repaired, text, n_bytes, err);
        text = repaired.data;
        n_bytes = repaired.n;
    }
    if (status == QN_OK) status = add_valid_text(c, path, text, n_bytes, err);
    qni_buffer_release(&repaired);
    qni_mapping_release(&mapping);
    return status;
}

static int is_text_file(const struct dirent *entry) {
    return has_extension(entry->d_name, ".txt");
}

static int compare_names(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static qn_status add_folder(collection *c, const char *path, qn_error *err) {
    struct dirent **entries = NULL;
    int n = scandir(path, &entries, is_text_file, compare_names);
    qn_status status = n < 0 ? qn_fail_errno(err, "%s: cannot be listed", path) : QN_OK;
    for (int i = 0; i < n; i++) {
        qni_buffer name = {0};
        if (status == QN_OK) status = qni_buffer_append(&name, path, strlen(path), err);
        if (status == QN_OK) status = qni_buffer_append(&name, "/", 1, err);
        if (status == QN_OK)
            status = qni_buffer_append(&name, entries[i]->d_name, strlen(entries[i]->d_name) + 1, err);
        if (status == QN_OK) status = add_file(c, (const char *)name.data, err);
        qni_buffer_release(&name);
        free(entries[i]);
    }
    free(entries);
    return status;
}

static qn_status add_path(collection *c, const char *path, qn_error *err) {
    struct stat info;
    if (stat(path, &info) != 0) return qn_fail_errno(err, "%s: cannot be read", path);
    QN_TRY(S_ISDIR(info.st_mode) ? add_folder(c, path, err) : add_file(c, path, err));
    if (c->n > 0) return QN_OK;
    return qn_fail(err, QN_E_VALUE, "%s: holds no document (%s)", path,
                   S_ISDIR(info.st_mode) ? "no .txt file with text" : "the file is empty");
}

/* ---- the finished set ---- */

static qn_status hash_documents(const qn_documents *set, char hex[QN_SHA256_HEX], qn_error *err) {
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    for (int64_t i = 0; i < set->n; i++) {
        if (i > 0) qn_sha256_update(hash, "\n\n", 2);
        if (set->documents[i].n_bytes > 0)
            qn_sha256_update(hash, set->documents[i].text, set->documents[i].n_bytes);
    }
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

static qn_status finish(collection *c, qn_documents *out, qn_error *err) {
    QN_TRY(qni_buffer_reserve(&c->text, 1, err)); /* so that empty documents have an address */
    qn_documents made = {.n = c->n};
    made.documents = qni_alloc_array(c->n, sizeof *made.documents);
    if (!made.documents) return qni_fail_nomem(err, "documents");
    for (int64_t i = 0; i < c->n; i++) {
        made.documents[i].text = (const char *)c->text.data + c->extents[i].first;
        made.documents[i].n_bytes = c->extents[i].n_bytes;
    }
    qn_status status = hash_documents(&made, made.sha256, err);
    if (status != QN_OK) {
        qn_documents_release(&made);
        return status;
    }
    made.storage = (char *)c->text.data;
    c->text = (qni_buffer){0};
    *out = made;
    return QN_OK;
}

qn_status qn_documents_open(const char *path, qn_documents *out, qn_error *err) {
    collection c = {0};
    qn_status status = add_path(&c, path, err);
    if (status == QN_OK) status = finish(&c, out, err);
    release(&c);
    return status;
}

void qn_documents_release(qn_documents *documents) {
    free(documents->documents);
    free(documents->storage);
    *documents = (qn_documents){0};
}
