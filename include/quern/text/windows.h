/* Protocols: how documents are cut into windows of ids, and which ids of a window are scored.
 *
 *   heldout          each document alone, its first max_tokens ids; fewer than 2 ids: skipped; targets 1 .. n-1
 *   llama-512        documents joined, disjoint windows of 512 from an empty context, the last 255 targets scored
 *                    (positions 256 .. 510 predict ids 257 .. 511); the tail is dropped
 *   window:N         joined, disjoint windows of N, targets 1 .. N-1; the tail is dropped
 *   stride:N:S       joined, windows of N every S ids (1 <= S <= N), each target scored once: all targets of the first
 *                    window, the last S of each later one; a shorter last window covers the tail
 * Joined: by default the texts are concatenated and encoded as one; with `join` each document is encoded by itself and
 * followed by that one token. */
#ifndef QUERN_TEXT_WINDOWS_H
#define QUERN_TEXT_WINDOWS_H

#include "quern/text/documents.h"
#include "quern/text/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_protocol_kind {
    QN_PROTOCOL_HELDOUT,
    QN_PROTOCOL_LLAMA_512,
    QN_PROTOCOL_WINDOW,
    QN_PROTOCOL_STRIDE
} qn_protocol_kind;

typedef struct qn_protocol {
    qn_protocol_kind kind;
    int64_t max_tokens; /* heldout */
    int64_t window, stride;
    int64_t max_windows; /* joined protocols; 0: all */
    const char *join;    /* borrowed token text, or NULL */
} qn_protocol;

/* heldout, 512 tokens. */
QN_API qn_protocol qn_protocol_default(void);

/* Parses "heldout", "llama-512", "window:N" or "stride:N:S" into *out, keeping its other fields. */
QN_NODISCARD QN_API qn_status qn_protocol_parse(const char *text, qn_protocol *out, qn_error *err);

/* Canonical spelling into buffer, for reports: "heldout:512", "llama-512", "window:128", "stride:512:256". */
QN_API void qn_protocol_format(const qn_protocol *protocol, char *buffer, size_t n_bytes);

typedef struct qn_window {
    int64_t first; /* index of its first id in qn_windows.ids */
    int64_t n_ids;
    int64_t first_target; /* window-relative index of the first scored id, >= 1; targets run to n_ids - 1 */
} qn_window;

typedef struct qn_windows {
    int32_t *ids; /* owned; windows may overlap in it (stride) */
    int64_t n_ids;
    qn_window *windows; /* owned */
    int64_t n_windows;
    int64_t n_targets;    /* sum of n_ids - first_target */
    int64_t target_bytes; /* bytes of text the scored ids stand for; join tokens stand for none */
    /* heldout: as listed above. Joined: documents whose text begins before the end of the last window, and the rest. */
    int64_t docs_scored, docs_skipped;
} qn_windows;

/* Cuts DOCUMENTS. QN_E_VALUE when nothing can be scored (all too short), saying why; QN_E_VALUE when `join` is no token.
 * Deterministic; independent of threads. */
QN_NODISCARD QN_API qn_status qn_windows_make(const qn_documents *documents, const qn_tokenizer *tokenizer,
                                              const qn_protocol *protocol, qn_windows *out, qn_error *err);
QN_API void qn_windows_release(qn_windows *windows);

#ifdef __cplusplus
}
#endif
#endif
