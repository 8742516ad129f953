/* Packing: documents as contexts of equal length to train on.
 *
 * Each document is encoded by itself and followed by one separator id. In every epoch the documents are put
 * into a new order and joined, the stream is cut into disjoint contexts of N ids (an incomplete last one is
 * dropped, another text each epoch), and the contexts are put into a new order too. A context of N ids
 * predicts its ids 2 .. N; attention is not masked between documents.
 *
 * The order is a pure function of (seed, epoch): a run that stops needs to remember nothing but how many
 * contexts it has seen. Deterministic on every machine; independent of threads. */
#ifndef QUERN_TEXT_PACKING_H
#define QUERN_TEXT_PACKING_H

#include "quern/text/documents.h"
#include "quern/text/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_packing {
    int32_t *ids;    /* [n_ids] owned; each document and its separator, in the set's order */
    int64_t *starts; /* [n_documents + 1] owned; where each document begins in ids */
    int64_t n_documents, n_ids;
    int64_t context;    /* N */
    int64_t n_contexts; /* of an epoch */
    int32_t largest_id;
} qn_packing;

/* Encodes DOCUMENTS. context >= 2. QN_E_VALUE when they are shorter than one context. Cost: linear in the
 * text, 4 bytes an id. */
QN_NODISCARD QN_API qn_status qn_packing_make(const qn_documents *documents, const qn_tokenizer *tokenizer,
                                              int32_t separator, int64_t context, qn_packing *out,
                                              qn_error *err);
QN_API void qn_packing_release(qn_packing *packing);

/* One epoch's order. Zeroed is valid and empty. */
typedef struct qn_packing_order {
    int64_t *documents; /* [n_documents] owned; which document comes at each place */
    int64_t *offsets;   /* [n_documents + 1] owned; where each place begins in the epoch's stream */
    int64_t *contexts;  /* [n_contexts] owned; which context of the stream is drawn at each turn */
} qn_packing_order;

/* Makes the order of EPOCH (from 0); an order that *out holds already is overwritten in place. Cost:
 * O(documents + contexts). QN_E_ARGUMENT beyond 2^32 epochs. */
QN_NODISCARD QN_API qn_status qn_packing_shuffle(const qn_packing *packing, uint64_t seed, int64_t epoch,
                                                 qn_packing_order *out, qn_error *err);
QN_API void qn_packing_order_release(qn_packing_order *order);

/* ids[N] = the context drawn at TURN in [0, n_contexts). */
QN_API void qn_packing_draw(const qn_packing *packing, const qn_packing_order *order, int64_t turn,
                            int32_t *ids);

/* ids [n, N] = n contexts of the documents in the set's own order, spread evenly over all of them: context i is number
 * floor(i * n_contexts / n). n <= n_contexts. */
QN_API void qn_packing_spread(const qn_packing *packing, int64_t n, int32_t *ids);

#ifdef __cplusplus
}
#endif
#endif
