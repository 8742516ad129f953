#include "text/char_class.h"
#include "text/split.h"
#include "text/utf8.h"

#include "base/banned.h"

/* The alternatives in their order:
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n L N]? L+ | N | ?[^\s L N]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+
 * where L is the letters, for Qwen3.5 the letters and marks. They cover every character. */

const char QNI_QWEN2_EXPRESSION[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                                    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char QNI_QWEN3_5_EXPRESSION[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
    "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char QNI_GPT2_EXPRESSION[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct subject {
    const uint8_t *classes, *text;
    size_t n_bytes;
} subject;

/* Flags of the character at i, and where it ends; 0 at the end of the text. */
static inline unsigned flags_at(const subject *s, size_t i, size_t *next) {
    if (i >= s->n_bytes) return 0;
    uint32_t c;
    *next = i + qni_utf8_read(s->text + i, &c);
    return s->classes[c];
}

/* The end of the run of characters at i with one of FLAGS. */
static inline size_t run_of(const subject *s, size_t i, unsigned flags) {
    size_t next = i;
    while (flags_at(s, i, &next) & flags) i = next;
    return i;
}

/* The same for characters with none of FLAGS. */
static inline size_t run_without(const subject *s, size_t i, unsigned flags) {
    size_t next = i;
    while (i < s->n_bytes && !(flags_at(s, i, &next) & flags)) i = next;
    return i;
}

static size_t contraction_end(const subject *s, size_t i) {
    size_t left = s->n_bytes - i;
    uint8_t second = left > 1 ? s->text[i + 1] | 0x20 : 0, third = left > 2 ? s->text[i + 2] | 0x20 : 0;
    switch (second) {
    case 's':
    case 't':
    case 'm':
    case 'd':
        return i + 2;
    case 'r':
    case 'v':
        return third == 'e' ? i + 3 : i;
    case 'l':
        return third == 'l' ? i + 3 : i;
    default:
        break;
    }
    /* U+017F, the long s, is an s when the case is ignored. */
    if (left > 2 && s->text[i + 1] == 0xC5 && s->text[i + 2] == 0xBF) return i + 3;
    return i;
}

static size_t space_end(const subject *s, size_t first) {
    size_t last_line_end = first, before_last = first, next = first;
    unsigned flags;
    size_t i = first;
    for (; (flags = flags_at(s, i, &next)) & QNI_SPACE; i = next) {
        if (flags & QNI_LINE_END) last_line_end = next;
        before_last = i;
    }
    if (last_line_end > first) return last_line_end;
    return i == s->n_bytes || before_last == first ? i : before_last;
}

size_t qni_qwen_piece_end(const uint8_t *classes, unsigned letter_flags, const uint8_t *text, size_t n_bytes,
                          size_t first) {
    const subject s = {classes, text, n_bytes};
    if (text[first] == '\'') {
        size_t end = contraction_end(&s, first);
        if (end > first) return end;
    }
    size_t second = first, third = first;
    unsigned flags = flags_at(&s, first, &second);
    if (flags & letter_flags) return run_of(&s, second, letter_flags);
    if (flags & QNI_NUMBER) return second;
    if (!(flags & QNI_LINE_END) && flags_at(&s, second, &third) & letter_flags)
        return run_of(&s, third, letter_flags);

    const unsigned other = QNI_SPACE | QNI_NUMBER | letter_flags;
    size_t start = text[first] == ' ' ? second : first;
    size_t end = run_without(&s, start, other);
    if (end > start) return run_of(&s, end, QNI_LINE_END);
    return space_end(&s, first);
}
