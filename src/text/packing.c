#include "quern/text/packing.h"

#include "base/alloc.h"
#include "quern/base/rng.h"
#include "text/tokenizer_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

enum { RNG_PURPOSE = 0x7061636b }; /* "pack" */

static qn_status append_document(qni_encoder *encoder, const qn_document *document, int32_t separator,
                                 qn_ids *ids, qn_error *err) {
    QN_TRY(qni_encoder_encode(encoder, document->text, document->n_bytes, ids, err));
    QN_TRY(qni_ids_reserve(ids, 1, err));
    ids->ids[ids->n++] = separator;
    return QN_OK;
}

static qn_status append_all(const qn_documents *documents, const qn_tokenizer *tokenizer, int32_t separator,
                            int64_t *starts, qn_ids *ids, qn_error *err) {
    qni_encoder encoder = {.tokenizer = tokenizer};
    qn_status status = QN_OK;
    for (int64_t d = 0; d < documents->n && status == QN_OK; d++) {
        status = append_document(&encoder, &documents->documents[d], separator, ids, err);
        starts[d + 1] = ids->n;
    }
    qni_encoder_release(&encoder);
    return status;
}

static qn_status check_length(const qn_documents *documents, int64_t n_ids, int64_t context, qn_error *err) {
    if (n_ids >= context) return QN_OK;
    return qn_fail(err, QN_E_VALUE,
                   "the %lld documents have %lld tokens with their separators, fewer than one context of "
                   "%lld: use more text or a shorter context",
                   (long long)documents->n, (long long)n_ids, (long long)context);
}

static int32_t largest(const qn_ids *ids) {
    int32_t top = 0;
    for (int64_t i = 0; i < ids->n; i++) top = ids->ids[i] > top ? ids->ids[i] : top;
    return top;
}

qn_status qn_packing_make(const qn_documents *documents, const qn_tokenizer *tokenizer, int32_t separator,
                          int64_t context, qn_packing *out, qn_error *err) {
    qn_ids ids = {0};
    if (context < 2 || separator < 0)
        return qn_fail(err, QN_E_ARGUMENT,
                       "contexts of %lld tokens, separator %ld: expected at least 2 and an id",
                       (long long)context, (long)separator);
    int64_t *starts = qni_alloc_array(documents->n + 1, sizeof *starts);
    if (!starts) return qni_fail_nomem(err, "packed documents");
    qn_status status = append_all(documents, tokenizer, separator, starts, &ids, err);
    if (status == QN_OK) status = check_length(documents, ids.n, context, err);
    if (status != QN_OK) {
        qn_ids_release(&ids);
        free(starts);
        return status;
    }
    *out = (qn_packing){.ids = ids.ids,
                        .starts = starts,
                        .n_documents = documents->n,
                        .n_ids = ids.n,
                        .context = context,
                        .n_contexts = ids.n / context,
                        .largest_id = largest(&ids)};
    return QN_OK;
}

void qn_packing_release(qn_packing *packing) {
    free(packing->ids);
    free(packing->starts);
    *packing = (qn_packing){0};
}

void qn_packing_order_release(qn_packing_order *order) {
    free(order->documents);
    free(order->offsets);
    free(order->contexts);
    *order = (qn_packing_order){0};
}

static qn_status order_alloc(const qn_packing *packing, qn_packing_order *order, qn_error *err) {
    if (order->contexts) return QN_OK;
    qn_packing_order made = {
        .documents = qni_alloc_array(packing->n_documents, sizeof *made.documents),
        .offsets = qni_alloc_array(packing->n_documents + 1, sizeof *made.offsets),
        .contexts = qni_alloc_array(packing->n_contexts, sizeof *made.contexts),
    };
    if (made.documents && made.offsets && made.contexts) {
        *order = made;
        return QN_OK;
    }
    qn_packing_order_release(&made);
    return qni_fail_nomem(err, "the order of an epoch");
}

qn_status qn_packing_shuffle(const qn_packing *packing, uint64_t seed, int64_t epoch, qn_packing_order *out,
                             qn_error *err) {
    qn_rng rng;
    if (epoch < 0 || epoch > (int64_t)UINT32_MAX)
        return qn_fail(err, QN_E_ARGUMENT, "epoch %lld: expected 0 to 2^32 - 1", (long long)epoch);
    QN_TRY(order_alloc(packing, out, err));
    qn_rng_seed_stream(&rng, seed, RNG_PURPOSE, (uint32_t)epoch);
    qn_rng_permutation(&rng, packing->n_documents, out->documents);
    qn_rng_permutation(&rng, packing->n_contexts, out->contexts);
    for (int64_t i = 0; i < packing->n_documents; i++) {
        const int64_t d = out->documents[i];
        out->offsets[i + 1] = out->offsets[i] + packing->starts[d + 1] - packing->starts[d];
    }
    return QN_OK;
}

/* The place whose document covers POSITION of the stream: the last one that begins at or before it. */
static int64_t find_place(const qn_packing *packing, const qn_packing_order *order, int64_t position) {
    int64_t low = 0, high = packing->n_documents;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (order->offsets[middle] <= position)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void qn_packing_draw(const qn_packing *packing, const qn_packing_order *order, int64_t turn, int32_t *ids) {
    const int64_t first = order->contexts[turn] * packing->context, end = first + packing->context;
    int64_t place = find_place(packing, order, first);
    for (int64_t at = first; at < end; place++) {
        const int64_t stop = order->offsets[place + 1] < end ? order->offsets[place + 1] : end;
        const int32_t *document = packing->ids + packing->starts[order->documents[place]];
        memcpy(ids + (at - first), document + (at - order->offsets[place]),
               (size_t)(stop - at) * sizeof *ids);
        at = stop;
    }
}

void qn_packing_spread(const qn_packing *packing, int64_t n, int32_t *ids) {
    const int64_t context = packing->context, whole = packing->n_contexts / n, rest = packing->n_contexts % n;
    for (int64_t i = 0; i < n; i++) {
        const int64_t number =
            i * whole + i * rest / n; /* floor(i * n_contexts / n), which would overflow sooner */
        memcpy(ids + i * context, packing->ids + number * context, (size_t)context * sizeof *ids);
    }
}
