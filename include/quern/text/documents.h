/* Document sets: the texts that are scored or calibrated on. */
#ifndef QUERN_TEXT_DOCUMENTS_H
#define QUERN_TEXT_DOCUMENTS_H

#include "quern/base/sha256.h"
#include "quern/base/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_document {
    const char
        *text; /* borrowed from the set; valid UTF-8 (invalid input sequences became U+FFFD); may hold NUL */
    size_t n_bytes;
} qn_document;

typedef struct qn_documents {
    qn_document *documents; /* owned */
    int64_t n;
    char *storage; /* owned; what the documents point into */
    char sha256
        [QN_SHA256_HEX]; /* of the documents joined by a blank line (two LF), as the contract reports it */
} qn_documents;

/* Reads PATH: .jsonl/.ndjson with {"text": ...} objects or plain strings, one a line (blank lines skipped); .txt with documents
 * separated by a line holding only <|endoftext|> (a document keeps its own last newline; without such a line the whole
 * file is one; nothing after the last such line is no further document); or a folder of .txt files in bytewise name
 * order, each read as above. Any other file name is read as .txt. Only LF ends a line.
 * Errors name file and line. A set without any document is QN_E_VALUE. Cost: linear; one copy of the text. */
QN_NODISCARD QN_API qn_status qn_documents_open(const char *path, qn_documents *out, qn_error *err);
QN_API void qn_documents_release(qn_documents *documents);

#ifdef __cplusplus
}
#endif
#endif
