/* Leak check: how much of the evaluation text stands in the calibration text.
 *
 * Both are encoded document by document. An n-gram of an evaluation document (n consecutive ids, inside one document) counts
 * as found when the same ids stand somewhere inside one calibration document; matches are compared id by id, so there are no
 * false ones. A document of fewer than n ids is taken as one n-gram of its own length, down to
 * QN_LEAK_SHORTEST_DOCUMENT ids; shorter ones are left out, since such phrases are found anywhere.
 *
 * Source of the 13-grams: Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C. */
#ifndef QUERN_TEXT_LEAK_CHECK_H
#define QUERN_TEXT_LEAK_CHECK_H

#include "quern/base/context.h"
#include "quern/text/documents.h"
#include "quern/text/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define QN_LEAK_NGRAM             13 /* the usual n */
#define QN_LEAK_SHORTEST_DOCUMENT 8

/* Shares above which a leak is worth a word, and is refused. Held-out pieces of the very works that the calibration pieces
 * come from share 0.5 to 1.5 % of their 13-grams (boilerplate, tables, refrains), unrelated texts 0.001 to 0.2 %; a copy
 * of every twentieth document is 5 %. */
#define QN_LEAK_WARN   0.01
#define QN_LEAK_REFUSE 0.05

typedef struct qn_leak_report {
    int64_t n;                  /* ids of an n-gram */
    int64_t n_documents;        /* evaluation documents that were checked */
    int64_t n_documents_left;   /* too short to be checked */
    int64_t n_documents_found;  /* with at least one n-gram found */
    int64_t n_documents_leaked; /* with at least half of their n-grams found */
    int64_t n_ngrams, n_found;  /* of all checked documents, each place counted */
    double share;               /* n_found / n_ngrams; 0 without any */
    int64_t
        worst_document; /* place in the evaluation set of the one with the largest share found; -1: none */
    double worst_share;
    char example[256]; /* the longest run found in it: its text, cut to fit; empty when nothing was found */
} qn_leak_report;

/* n >= QN_LEAK_SHORTEST_DOCUMENT. Memory: 4 bytes an id of both texts and about 40 an evaluation id. Time: linear in both,
 * once for n and once for each shorter document length that occurs. Deterministic. */
QN_NODISCARD QN_API qn_status qn_leak_check(const qn_documents *calibration, const qn_documents *evaluation,
                                            const qn_tokenizer *tokenizer, int64_t n, qn_leak_report *out,
                                            qn_error *err);

/* Refuses (QN_E_REJECTED) when more than QN_LEAK_REFUSE of the n-grams were found or of the documents leaked, unless ALLOW;
 * else warns through CTX when more than QN_LEAK_WARN of the n-grams were found or any document leaked. Both name the
 * overlap, the worst document and the example. */
QN_NODISCARD QN_API qn_status qn_leak_judge(const qn_leak_report *report, bool allow, const qn_context *ctx,
                                            qn_error *err);

#ifdef __cplusplus
}
#endif
#endif
