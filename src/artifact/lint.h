/* What must not be in a published artifact. */
#ifndef QUERN_SRC_ARTIFACT_LINT_H
#define QUERN_SRC_ARTIFACT_LINT_H

#include "quern/base/store.h"

/* Growable list of findings, `NAME: reason`; zeroed is valid and empty. */
typedef struct qni_findings {
    char **items; /* owned */
    int64_t n;
} qni_findings;

void qni_findings_release(qni_findings *findings);
QN_NODISCARD qn_status qni_findings_add(qni_findings *findings, qn_error *err, const char *format, ...)
    QN_PRINTF(3, 4);

/* Adds every member of STORE that a model folder must not hold, by name and (of text files) by content:
 * notebooks, caches, secrets, home paths, data sets, links, names that do not travel. At most one finding a
 * member. */
QN_NODISCARD qn_status qni_lint(qn_store *store, qni_findings *findings, qn_error *err);

#endif
