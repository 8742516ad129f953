#include "text/split.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "text/char_class.h"

#include "base/banned.h"

/* One pass over an expression. Everything that the two dialects could read differently is refused. */
typedef struct translation {
    const char *expression, *next, *name;
    qni_buffer *out;
    qn_error *err;
    int depth, caseless_depth; /* of groups; caseless_depth 0: case counts */
} translation;

static qn_status refuse(const translation *t, const char *what, size_t n_bytes) {
    return qn_fail(t->err, QN_E_UNSUPPORTED,
                   "%s: pre_tokenizer: \"%.*s\" at byte %zu of the expression \"%.300s\" is not supported",
                   t->name, (int)n_bytes, what, (size_t)(t->next - t->expression), t->expression);
}

/* Copies n characters of the expression. */
static qn_status copy(translation *t, size_t n) {
    const char *from = t->next;
    t->next += n;
    return qni_buffer_append(t->out, from, n, t->err);
}

static qn_status put(translation *t, const char *text) {
    return qni_buffer_append(t->out, text, strlen(text), t->err);
}

static qn_status put_ranges(translation *t, unsigned char_class) {
    size_t n;
    const qni_code_range *ranges = qni_char_class_ranges(char_class, &n);
    for (size_t i = 0; i < n; i++) {
        char item[40];
        (void)snprintf(item, sizeof item, "\\x{%X}-\\x{%X}", ranges[i].first, ranges[i].last);
        QN_TRY(put(t, item));
    }
    return QN_OK;
}

/* The class an escape names (\s, \p{L} ...), its length, and whether it is the complement; false when it
 * names none. */
static bool read_class_escape(const char *text, unsigned *char_class, size_t *n_bytes, bool *complement) {
    *complement = text[1] == 'S' || text[1] == 'P';
    if (text[1] == 's' || text[1] == 'S') {
        *char_class = QNI_SPACE;
        *n_bytes = 2;
        return true;
    }
    if ((text[1] != 'p' && text[1] != 'P') || text[2] != '{' || !text[3] || text[4] != '}') return false;
    *char_class = text[3] == 'L' ? QNI_LETTER : text[3] == 'M' ? QNI_MARK : text[3] == 'N' ? QNI_NUMBER : 0;
    *n_bytes = 5;
    return *char_class != 0;
}

static size_t escape_bytes(const char *text) { /* how much of an escape to show in a message */
    const char *end = (text[1] == 'p' || text[1] == 'P') && text[2] == '{' ? strchr(text, '}') : NULL;
    return end ? (size_t)(end - text) + 1 : text[1] ? 2 : 1;
}

static qn_status translate_escape(translation *t, bool in_set) {
    unsigned char_class;
    size_t n_bytes;
    bool complement;
    if (read_class_escape(t->next, &char_class, &n_bytes, &complement)) {
        if (t->caseless_depth > 0 || (complement && in_set)) return refuse(t, t->next, n_bytes);
        t->next += n_bytes;
        if (!in_set) QN_TRY(put(t, complement ? "[^" : "["));
        QN_TRY(put_ranges(t, char_class));
        return in_set ? QN_OK : put(t, "]");
    }
    char c = t->next[1];
    bool is_punctuation = (unsigned char)c < 0x80 && ispunct((unsigned char)c);
    if (c == 'r' || c == 'n' || c == 't' || is_punctuation) return copy(t, 2);
    return refuse(t, t->next, escape_bytes(t->next));
}

static qn_status translate_set(translation *t) {
    if (t->caseless_depth > 0) return refuse(t, "[ within (?i:", 13);
    QN_TRY(copy(t, t->next[1] == '^' ? 2 : 1));
    if (*t->next == ']') return refuse(t, t->next, 1);
    while (*t->next && *t->next != ']') {
        if (*t->next == '\\') {
            QN_TRY(translate_escape(t, true));
        } else if (*t->next == '[' || (t->next[0] == '&' && t->next[1] == '&')) {
            return refuse(t, t->next, *t->next == '[' ? 1 : 2);
        } else {
            QN_TRY(copy(t, 1));
        }
    }
    return *t->next ? copy(t, 1) : refuse(t, "[ without ]", 11);
}

static qn_status translate_group(translation *t) {
    t->depth++;
    if (strncmp(t->next, "(?i:", 4) == 0) {
        if (t->caseless_depth == 0) t->caseless_depth = t->depth;
        return copy(t, 4);
    }
    if (strncmp(t->next, "(?:", 3) == 0 || strncmp(t->next, "(?=", 3) == 0 ||
        strncmp(t->next, "(?!", 3) == 0) {
        return copy(t, 3);
    }
    return t->next[1] == '?' || t->next[1] == '*' ? refuse(t, t->next, strnlen(t->next, 4)) : copy(t, 1);
}

static qn_status translate_one(translation *t) {
    switch (*t->next) {
    case '\\':
        return translate_escape(t, false);
    case '[':
        return translate_set(t);
    case '(':
        return translate_group(t);
    case ')':
        if (t->depth == t->caseless_depth) t->caseless_depth = 0;
        t->depth--;
        return copy(t, 1);
    case '.':
    case '^':
    case '$':
        return refuse(t, t->next, 1);
    case '{':
        return isdigit((unsigned char)t->next[1]) ? copy(t, 1) : refuse(t, t->next, 1);
    case '}':
        return t->next[1] == '+' ? refuse(t, t->next, 2) : copy(t, 1);
    default:
        break;
    }
    bool is_ascii = (unsigned char)*t->next < 0x80;
    return is_ascii || t->caseless_depth == 0 ? copy(t, 1) : refuse(t, "a non-ASCII letter within (?i:", 30);
}

qn_status qni_expression_translate(const char *expression, qni_buffer *out, const char *name, qn_error *err) {
    qni_buffer made = {0};
    translation t = {.expression = expression, .next = expression, .name = name, .out = &made, .err = err};
    qn_status status = QN_OK;
    while (status == QN_OK && *t.next) status = translate_one(&t);
    if (status == QN_OK) status = qni_buffer_append(&made, "", 1, err);
    if (status != QN_OK) {
        qni_buffer_release(&made);
        return status;
    }
    *out = made;
    return QN_OK;
}
