#include "quern/text/windows.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "text/buffer.h"
#include "text/tokenizer_private.h"

#include "base/banned.h"

enum { LLAMA_FIRST_TARGET = 257 };

/* A set of windows while it grows. */
typedef struct cutting {
    const qn_documents *documents; /* borrowed */
    const qn_protocol *protocol;   /* borrowed */
    int32_t join_id;               /* -1: none */
    qni_encoder encoder;
    qn_ids ids;
    int64_t *document_ends; /* owned; with a join token: where each document's own ids end in `ids` */
    int64_t n_encoded;      /* documents in `ids` */
    qn_windows made;
    int64_t window_capacity;
} cutting;

static void release(cutting *c) {
    qni_encoder_release(&c->encoder);
    qn_ids_release(&c->ids);
    free(c->document_ends);
    qn_windows_release(&c->made);
}

static qn_status add_window(cutting *c, qn_window window, qn_error *err) {
    if (c->made.n_windows == c->window_capacity) {
        int64_t capacity = 2 * c->window_capacity + 16;
        void *windows = c->made.windows;
        QN_TRY(qni_grow_array(&windows, capacity, sizeof *c->made.windows, err));
        c->made.windows = windows;
        c->window_capacity = capacity;
    }
    c->made.windows[c->made.n_windows++] = window;
    c->made.n_targets += window.n_ids - window.first_target;
    return QN_OK;
}

static int64_t token_bytes(const cutting *c, int64_t first, int64_t end) {
    int64_t total = 0;
    for (int64_t i = first; i < end; i++) {
        const uint8_t *bytes;
        size_t n_bytes = 0;
        (void)qn_tokenizer_token_bytes(c->encoder.tokenizer, c->ids.ids[i], &bytes, &n_bytes);
        total += (int64_t)n_bytes;
    }
    return total;
}

/* ---- each document alone ---- */

static qn_status cut_alone(cutting *c, qn_error *err) {
    int64_t max_tokens = c->protocol->max_tokens;
    for (int64_t d = 0; d < c->documents->n; d++) {
        const qn_document *document = &c->documents->documents[d];
        int64_t first = c->ids.n;
        QN_TRY(qni_encoder_encode(&c->encoder, document->text, document->n_bytes, &c->ids, err));
        if (c->ids.n - first > max_tokens) c->ids.n = first + max_tokens;
        if (c->ids.n - first < 2) {
            c->ids.n = first;
            c->made.docs_skipped++;
            continue;
        }
        QN_TRY(add_window(c, (qn_window){first, c->ids.n - first, 1}, err));
        c->made.target_bytes += token_bytes(c, first + 1, c->ids.n);
        c->made.docs_scored++;
    }
    return QN_OK;
}

/* ---- documents joined ---- */

static int64_t n_ids_wanted(const qn_protocol *p) {
    if (p->max_windows <= 0 || p->max_windows > INT64_MAX / p->window - 1) return INT64_MAX;
    return (p->max_windows - 1) * p->stride + p->window;
}

/* Each document by itself, then the join token; stops when there are enough ids. */
static qn_status encode_with_join(cutting *c, qn_error *err) {
    int64_t wanted = n_ids_wanted(c->protocol);
    c->document_ends = qni_alloc_array(c->documents->n, sizeof *c->document_ends);
    if (!c->document_ends) return qni_fail_nomem(err, "windows");
    for (int64_t d = 0; d < c->documents->n && c->ids.n < wanted; d++) {
        const qn_document *document = &c->documents->documents[d];
        QN_TRY(qni_encoder_encode(&c->encoder, document->text, document->n_bytes, &c->ids, err));
        QN_TRY(qni_ids_reserve(&c->ids, 1, err));
        c->document_ends[c->n_encoded++] = c->ids.n;
        c->ids.ids[c->ids.n++] = c->join_id;
    }
    return QN_OK;
}

static qn_status encode_as_one(cutting *c, qn_error *err) {
    qni_buffer text = {0};
    qn_status status = QN_OK;
    for (int64_t d = 0; d < c->documents->n && status == QN_OK; d++) {
        status = qni_buffer_append(&text, c->documents->documents[d].text, c->documents->documents[d].n_bytes,
                                   err);
    }
    if (status == QN_OK)
        status = qni_encoder_encode(&c->encoder, (const char *)text.data, text.n, &c->ids, err);
    qni_buffer_release(&text);
    return status;
}

static qn_status cut_disjoint(cutting *c, qn_error *err) {
    const qn_protocol *p = c->protocol;
    int64_t n = c->ids.n / p->window;
    int64_t first_target = p->kind == QN_PROTOCOL_LLAMA_512 ? LLAMA_FIRST_TARGET : 1;
    if (p->max_windows > 0 && n > p->max_windows) n = p->max_windows;
    for (int64_t w = 0; w < n; w++)
        QN_TRY(add_window(c, (qn_window){w * p->window, p->window, first_target}, err));
    return QN_OK;
}

static qn_status cut_strided(cutting *c, qn_error *err) {
    const qn_protocol *p = c->protocol;
    int64_t scored = 1; /* ids before this one are scored already; the first has no context */
    for (int64_t first = 0; scored < c->ids.n; first += p->stride) {
        int64_t n_ids = c->ids.n - first < p->window ? c->ids.n - first : p->window;
        int64_t first_target = scored > first ? scored - first : 1;
        if (p->max_windows > 0 && c->made.n_windows == p->max_windows) break;
        if (first_target < n_ids) QN_TRY(add_window(c, (qn_window){first, n_ids, first_target}, err));
        scored = first + n_ids;
    }
    return QN_OK;
}

/* Bytes of text of the ids in [first, end): join tokens stand for none. */
static int64_t text_bytes(const cutting *c, int64_t first, int64_t end, int64_t *next_document) {
    int64_t total = token_bytes(c, first, end), d = *next_document;
    while (d < c->n_encoded && c->document_ends[d] < first) d++;
    for (; d < c->n_encoded && c->document_ends[d] < end; d++) {
        total -= token_bytes(c, c->document_ends[d], c->document_ends[d] + 1);
    }
    *next_document = d;
    return total;
}

static void count_targets(cutting *c) {
    int64_t next_document = 0;
    for (int64_t w = 0; w < c->made.n_windows; w++) {
        const qn_window *window = &c->made.windows[w];
        c->made.target_bytes += text_bytes(c, window->first + window->first_target,
                                           window->first + window->n_ids, &next_document);
    }
}

/* A document counts as scored when its text begins before the end of the last window. */
static void count_documents(cutting *c) {
    const qn_window *last = &c->made.windows[c->made.n_windows - 1];
    int64_t next_document = 0, begin = 0;
    int64_t covered = text_bytes(c, 0, last->first + last->n_ids, &next_document);
    for (int64_t d = 0; d < c->documents->n && begin < covered; d++) {
        begin += (int64_t)c->documents->documents[d].n_bytes;
        c->made.docs_scored++;
    }
    c->made.docs_skipped = c->documents->n - c->made.docs_scored;
}

static qn_status cut_joined(cutting *c, qn_error *err) {
    QN_TRY(c->join_id >= 0 ? encode_with_join(c, err) : encode_as_one(c, err));
    QN_TRY(c->protocol->kind == QN_PROTOCOL_STRIDE ? cut_strided(c, err) : cut_disjoint(c, err));
    if (c->made.n_windows == 0) return QN_OK;
    count_targets(c);
    count_documents(c);
    return QN_OK;
}

/* ---- the whole ---- */

static qn_status check_protocol(const qn_protocol *p, qn_error *err) {
    bool is_joined = p->kind != QN_PROTOCOL_HELDOUT;
    bool is_valid =
        is_joined ? p->window >= 2 && p->stride >= 1 && p->stride <= p->window : p->max_tokens >= 2;
    if (p->kind == QN_PROTOCOL_LLAMA_512 && p->window <= LLAMA_FIRST_TARGET) is_valid = false;
    if (is_valid && p->max_windows >= 0) return QN_OK;
    return qn_fail(err, QN_E_ARGUMENT,
                   "scoring protocol: window %" PRId64 ", stride %" PRId64 ", at most %" PRId64
                   " tokens and %" PRId64 " windows: no target can be scored",
                   p->window, p->stride, p->max_tokens, p->max_windows);
}

static qn_status find_join(cutting *c, qn_error *err) {
    c->join_id = -1;
    if (c->protocol->kind == QN_PROTOCOL_HELDOUT || !c->protocol->join) return QN_OK;
    c->join_id = qn_tokenizer_token_id(c->encoder.tokenizer, c->protocol->join);
    if (c->join_id >= 0) return QN_OK;
    return qn_fail(err, QN_E_VALUE, "join token \"%.100s\" is no token of tokenizer %s", c->protocol->join,
                   qn_tokenizer_name(c->encoder.tokenizer));
}

static qn_status fail_empty(const cutting *c, qn_error *err) {
    char protocol[64];
    qn_protocol_format(c->protocol, protocol, sizeof protocol);
    if (c->protocol->kind == QN_PROTOCOL_HELDOUT) {
        return qn_fail(err, QN_E_VALUE,
                       "nothing to score: each of the %" PRId64 " documents has fewer than 2 tokens",
                       c->documents->n);
    }
    return qn_fail(err, QN_E_VALUE,
                   "nothing to score: the documents have %" PRId64 " tokens, too few for protocol %s",
                   c->ids.n, protocol);
}

static qn_status cut(cutting *c, qn_error *err) {
    QN_TRY(check_protocol(c->protocol, err));
    QN_TRY(find_join(c, err));
    QN_TRY(c->protocol->kind == QN_PROTOCOL_HELDOUT ? cut_alone(c, err) : cut_joined(c, err));
    return c->made.n_windows > 0 ? QN_OK : fail_empty(c, err);
}

qn_status qn_windows_make(const qn_documents *documents, const qn_tokenizer *tokenizer,
                          const qn_protocol *protocol, qn_windows *out, qn_error *err) {
    cutting c = {.documents = documents, .protocol = protocol, .encoder = {.tokenizer = tokenizer}};
    qn_status status = cut(&c, err);
    if (status == QN_OK) {
        c.made.ids = c.ids.ids;
        c.made.n_ids = c.ids.n;
        *out = c.made;
        c.ids = (qn_ids){0};
        c.made = (qn_windows){0};
    }
    release(&c);
    return status;
}

void qn_windows_release(qn_windows *windows) {
    free(windows->ids);
    free(windows->windows);
    *windows = (qn_windows){0};
}
