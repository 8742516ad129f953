#include "artifact/lint.h"

#include "base/alloc.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

/* A pattern and what it means. The first that fits decides. */
typedef struct rule {
    const char *pattern, *reason;
} rule;

static const rule name_rules[] = {
    {"[^\\x20-\\x7e]|[\\\\:*?\"<>|]", "the name does not travel to every system"},
    {"(^|/)\\.git(/|$)", "a repository's inside"},
    {"(^|/)(__pycache__|\\.ipynb_checkpoints|\\.cache|\\.(mypy|pytest|ruff)_cache)/|\\.py[co]$", "a cache"},
    {"(^|/)\\.env|\\.(pem|key|p12|pfx|jks)$|(^|/)id_(rsa|ed25519|ecdsa)", "secrets"},
    {"\\.ipynb$", "a notebook"},
    {"(^|/)\\.", "a hidden file"},
    {"\\.(bin|pt|pth|ckpt|pkl|pickle|h5|npz)$", "weights that run code when loaded; use safetensors"},
    {"\\.(zip|tar|gz|tgz|bz2|xz|zst|7z)$", "an archive inside an artifact"},
};

/* What a model folder is made of; all else is refused. */
static const char known_names[] =
    "(^|/)([^/]+\\.(json|safetensors|py|jinja|md|model)|merges\\.txt|(LICENSE|LICENCE|NOTICE|COPYING|README)"
    "(\\.txt)?)$";

static const rule content_rules[] = {
    {"\\bhf_[A-Za-z0-9]{30,}\\b|\\bsk-[A-Za-z0-9_-]{20,}|\\bgh[pousr]_[A-Za-z0-9]{36}\\b|\\bAKIA[0-9A-Z]{16}"
     "\\b",
     "an access token"},
    {"-----BEGIN [A-Z ]*PRIVATE KEY-----", "a private key"},
    {"(?<![A-Za-z0-9_.~/-])(/home/|/Users/|/root/)[A-Za-z0-9_.-]|\\b[A-Za-z]:\\\\+Users\\\\",
     "a path of somebody's machine"},
};

/* Text that people write; vocabularies are data, in which any string may occur. */
static const char text_names[] = "\\.(json|py|jinja|md|txt)$|(^|/)[A-Z]+$";
static const char data_names[] = "(^|/)(tokenizer\\.json|vocab\\.json|merges\\.txt)$";

void qni_findings_release(qni_findings *findings) {
    for (int64_t i = 0; i < findings->n; i++) free(findings->items[i]);
    free(findings->items);
    *findings = (qni_findings){0};
}

qn_status qni_findings_add(qni_findings *findings, qn_error *err, const char *format, ...) {
    char *text = NULL;
    va_list arguments;

    va_start(arguments, format);
    const int n = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (n < 0) return qni_fail_nomem(err, "a finding");
    qn_status status =
        qni_grow_array((void **)&findings->items, findings->n + 1, sizeof *findings->items, err);
    if (status != QN_OK) {
        free(text);
        return status;
    }
    findings->items[findings->n++] = text;
    return QN_OK;
}

/* Where PATTERN first occurs in TEXT; -1: nowhere; -2: out of memory. The patterns are constants of this
 * file. */
static int64_t find(const char *pattern, const void *text, size_t n_bytes) {
    int code;
    PCRE2_SIZE at = 0;
    int64_t found = -2;
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_NEVER_UTF, &code, &at, NULL);
    pcre2_match_data *match = compiled ? pcre2_match_data_create(1, NULL) : NULL;

    if (match) {
        code = pcre2_match(compiled, text, n_bytes, 0, 0, match, NULL);
        if (code >= 0)
            found = (int64_t)pcre2_get_ovector_pointer(match)[0];
        else if (code == PCRE2_ERROR_NOMATCH)
            found = -1;
    }
    pcre2_match_data_free(match);
    pcre2_code_free(compiled);
    return found;
}

static bool fits(const char *pattern, const char *text) {
    return find(pattern, text, strlen(text)) >= 0;
}

static const char *judge_name(const char *name) {
    for (size_t i = 0; i < sizeof name_rules / sizeof name_rules[0]; i++) {
        if (fits(name_rules[i].pattern, name)) return name_rules[i].reason;
    }
    return fits(known_names, name) ? NULL : "not part of a model folder";
}

static int64_t line_of(const uint8_t *data, int64_t offset) {
    int64_t line = 1;
    for (int64_t i = 0; i < offset; i++) line += data[i] == '\n';
    return line;
}

static qn_status lint_content(qn_store *store, const char *name, qni_findings *findings, qn_error *err) {
    const uint8_t *data;
    size_t n_bytes;

    if (!fits(text_names, name) || fits(data_names, name)) return QN_OK;
    QN_TRY(qn_store_map(store, name, &data, &n_bytes, err));
    for (size_t i = 0; n_bytes && i < sizeof content_rules / sizeof content_rules[0]; i++) {
        const int64_t at = find(content_rules[i].pattern, data, n_bytes);
        if (at == -2) return qni_fail_nomem(err, "a search");
        if (at < 0) continue;
        return qni_findings_add(findings, err, "%s: %s in line %lld", name, content_rules[i].reason,
                                (long long)line_of(data, at));
    }
    return QN_OK;
}

qn_status qni_lint(qn_store *store, qni_findings *findings, qn_error *err) {
    const char *link = NULL;

    if (qn_store_has_symlink(store, &link))
        QN_TRY(qni_findings_add(findings, err, "%s: a symbolic link", link));
    for (size_t i = 0; i < qn_store_count(store); i++) {
        const char *name = qn_store_name(store, i);
        const char *reason = judge_name(name);
        if (reason)
            QN_TRY(qni_findings_add(findings, err, "%s: %s", name, reason));
        else
            QN_TRY(lint_content(store, name, findings, err));
    }
    return QN_OK;
}
