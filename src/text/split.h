/* Pre-tokenisation: text to pieces, none of which a token crosses.
 *
 * Two engines. The expressions of the Qwen families are matched by hand; any other expression is compiled by
 * PCRE2 with its character properties written out as code point ranges, since PCRE2 follows another Unicode
 * version than the reference. The second engine can also run the first one's expressions, and the tests
 * compare the two. */
#ifndef QUERN_SRC_TEXT_SPLIT_H
#define QUERN_SRC_TEXT_SPLIT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "quern/base/status.h"
#include "text/buffer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const char QNI_QWEN2_EXPRESSION[];   /* Qwen2, Qwen2.5, Qwen3 */
extern const char QNI_QWEN3_5_EXPRESSION[]; /* Qwen3.5, Qwen3.6: letters may carry marks */
extern const char QNI_GPT2_EXPRESSION[];    /* what ByteLevel uses by itself */

typedef struct qni_splitter {
    const uint8_t *classes; /* borrowed; table of char_class.h */
    unsigned letter_flags;  /* of the hand-written matcher; 0: use the expression */
    pcre2_code *expression; /* owned; NULL with letter_flags 0: the whole text is one piece */
} qni_splitter;

/* EXPRESSION (NULL: none) in the reference's dialect, limited to what qni_expression_translate understands.
 * `by_hand` false keeps PCRE2 even where the matcher by hand would do. NAME is the file for messages. */
QN_NODISCARD qn_status qni_splitter_init(qni_splitter *splitter, const uint8_t *classes,
                                         const char *expression, bool by_hand, const char *name,
                                         qn_error *err);
void qni_splitter_release(qni_splitter *splitter);

/* A pass over one text. */
typedef struct qni_split {
    const qni_splitter *splitter; /* borrowed */
    const uint8_t *text;          /* borrowed; valid UTF-8 */
    size_t n_bytes;
    size_t match_end;        /* end of a match whose start ended the last piece; 0: none */
    pcre2_match_data *match; /* owned; kept from text to text */
} qni_split;

QN_NODISCARD qn_status qni_split_start(qni_split *split, const qni_splitter *splitter, const uint8_t *text,
                                       size_t n_bytes, qn_error *err);
void qni_split_release(qni_split *split);

/* *end becomes the end of the piece that starts at FIRST (< n_bytes), which is 0 or the end before. */
QN_NODISCARD qn_status qni_split_next(qni_split *split, size_t first, size_t *end, qn_error *err);

/* The hand-written matcher: the end of the piece at text[first]. letter_flags: QNI_LETTER, or with QNI_MARK.
 */
size_t qni_qwen_piece_end(const uint8_t *classes, unsigned letter_flags, const uint8_t *text, size_t n_bytes,
                          size_t first);

/* Rewrites EXPRESSION from the reference's dialect to PCRE2's. Understood: literals, groups (?: ), (?i: ),
 * (?= ), (?! ), alternatives, quantifiers, character classes, \r \n \t, \s \S, \p{L} \p{M} \p{N} and their
 * \P. Anything else is QN_E_UNSUPPORTED with its name. *out is owned, NUL-terminated. */
QN_NODISCARD qn_status qni_expression_translate(const char *expression, qni_buffer *out, const char *name,
                                                qn_error *err);

#endif
