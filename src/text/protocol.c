#include "quern/text/windows.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/banned.h"

enum { DEFAULT_MAX_TOKENS = 512, LLAMA_WINDOW = 512 };

qn_protocol qn_protocol_default(void) {
    return (qn_protocol){.kind = QN_PROTOCOL_HELDOUT, .max_tokens = DEFAULT_MAX_TOKENS};
}

/* Reads digits at *text as a number in 1 .. INT32_MAX and moves behind them. */
static bool read_number(const char **text, int64_t *out) {
    int64_t value = 0;
    const char *c = *text;
    for (; *c >= '0' && *c <= '9'; c++) {
        value = 10 * value + (*c - '0');
        if (value > INT32_MAX) return false;
    }
    if (c == *text || value == 0) return false;
    *text = c;
    *out = value;
    return true;
}

static bool skip_prefix(const char **text, const char *prefix) {
    size_t n = strlen(prefix);
    if (strncmp(*text, prefix, n) != 0) return false;
    *text += n;
    return true;
}

static bool parse(const char *text, qn_protocol *p) {
    if (strcmp(text, "heldout") == 0) {
        p->kind = QN_PROTOCOL_HELDOUT;
        return true;
    }
    if (strcmp(text, "llama-512") == 0) {
        p->kind = QN_PROTOCOL_LLAMA_512;
        p->window = p->stride = LLAMA_WINDOW;
        return true;
    }
    if (skip_prefix(&text, "window:")) {
        p->kind = QN_PROTOCOL_WINDOW;
        if (!read_number(&text, &p->window) || *text || p->window < 2) return false;
        p->stride = p->window;
        return true;
    }
    if (!skip_prefix(&text, "stride:")) return false;
    p->kind = QN_PROTOCOL_STRIDE;
    return read_number(&text, &p->window) && skip_prefix(&text, ":") && read_number(&text, &p->stride) &&
           !*text && p->window >= 2 && p->stride <= p->window;
}

qn_status qn_protocol_parse(const char *text, qn_protocol *out, qn_error *err) {
    qn_protocol parsed = *out;
    if (!parse(text, &parsed)) {
        return qn_fail(
            err, QN_E_ARGUMENT,
            "\"%.100s\" is no protocol: expected heldout, llama-512, window:N (N >= 2) or stride:N:S "
            "(1 <= S <= N, N >= 2)",
            text);
    }
    *out = parsed;
    return QN_OK;
}

void qn_protocol_format(const qn_protocol *protocol, char *buffer, size_t n_bytes) {
    const qn_protocol *p = protocol;
    switch (p->kind) {
    case QN_PROTOCOL_HELDOUT:
        (void)snprintf(buffer, n_bytes, "heldout:%" PRId64, p->max_tokens);
        break;
    case QN_PROTOCOL_LLAMA_512:
        (void)snprintf(buffer, n_bytes, "llama-512");
        break;
    case QN_PROTOCOL_WINDOW:
        (void)snprintf(buffer, n_bytes, "window:%" PRId64, p->window);
        break;
    case QN_PROTOCOL_STRIDE:
        (void)snprintf(buffer, n_bytes, "stride:%" PRId64 ":%" PRId64, p->window, p->stride);
        break;
    }
}
