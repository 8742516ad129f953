#include "text/split.h"

#include <stdio.h>
#include <string.h>

#include "text/char_class.h"

#include "base/banned.h"

qn_status qni_splitter_init(qni_splitter *splitter, const uint8_t *classes, const char *expression,
                            bool by_hand, const char *name, qn_error *err) {
    qni_splitter made = {.classes = classes};
    if (!expression) {
        *splitter = made;
        return QN_OK;
    }
    if (by_hand && strcmp(expression, QNI_QWEN2_EXPRESSION) == 0) made.letter_flags = QNI_LETTER;
    if (by_hand && strcmp(expression, QNI_QWEN3_5_EXPRESSION) == 0) made.letter_flags = QNI_LETTER | QNI_MARK;
    if (made.letter_flags) {
        *splitter = made;
        return QN_OK;
    }
    qni_buffer translated = {0};
    QN_TRY(qni_expression_translate(expression, &translated, name, err));
    int code = 0;
    PCRE2_SIZE position = 0;
    uint32_t matches_empty = 0;
    made.expression =
        pcre2_compile(translated.data, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &position, NULL);
    qni_buffer_release(&translated);
    if (!made.expression) {
        PCRE2_UCHAR reason[128] = {0};
        (void)pcre2_get_error_message(code, reason, sizeof reason);
        return qn_fail(err, QN_E_FORMAT, "%s: the expression \"%.300s\" of pre_tokenizer is wrong: %s", name,
                       expression, (const char *)reason);
    }
    (void)pcre2_jit_compile(made.expression,
                            PCRE2_JIT_COMPLETE); /* where there is no JIT the interpreter does it */
    (void)pcre2_pattern_info(made.expression, PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty) {
        qni_splitter_release(&made);
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: the expression \"%.300s\" of pre_tokenizer can match an empty string", name,
                       expression);
    }
    *splitter = made;
    return QN_OK;
}

void qni_splitter_release(qni_splitter *splitter) {
    pcre2_code_free(splitter->expression);
    *splitter = (qni_splitter){0};
}

qn_status qni_split_start(qni_split *split, const qni_splitter *splitter, const uint8_t *text, size_t n_bytes,
                          qn_error *err) {
    if (splitter->expression && !split->match) {
        split->match = pcre2_match_data_create(1, NULL);
        if (!split->match) return qn_fail(err, QN_E_NOMEM, "out of memory: pre-tokenizer");
    }
    split->splitter = splitter;
    split->text = text;
    split->n_bytes = n_bytes;
    split->match_end = 0;
    return QN_OK;
}

void qni_split_release(qni_split *split) {
    pcre2_match_data_free(split->match);
    *split = (qni_split){0};
}

/* Matches are pieces, and so is the text between two matches. */
static qn_status next_by_expression(qni_split *split, size_t first, size_t *end, qn_error *err) {
    if (split->match_end > first) {
        *end = split->match_end;
        return QN_OK;
    }
    const pcre2_code *expression = split->splitter->expression;
    int n =
        pcre2_match(expression, split->text, split->n_bytes, first, PCRE2_NO_UTF_CHECK, split->match, NULL);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) { /* the interpreter keeps its stack on the heap */
        n = pcre2_match(expression, split->text, split->n_bytes, first, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        split->match, NULL);
    }
    if (n == PCRE2_ERROR_NOMATCH) {
        *end = split->n_bytes;
        return QN_OK;
    }
    if (n < 0) {
        PCRE2_UCHAR reason[128] = {0};
        (void)pcre2_get_error_message(n, reason, sizeof reason);
        return qn_fail(err, QN_E_VALUE, "the pre-tokenizer's expression fails on the text: %s",
                       (const char *)reason);
    }
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(split->match);
    split->match_end = bounds[1];
    *end = bounds[0] > first ? bounds[0] : bounds[1];
    return QN_OK;
}

qn_status qni_split_next(qni_split *split, size_t first, size_t *end, qn_error *err) {
    const qni_splitter *splitter = split->splitter;
    if (splitter->letter_flags) {
        *end =
            qni_qwen_piece_end(splitter->classes, splitter->letter_flags, split->text, split->n_bytes, first);
        return QN_OK;
    }
    if (splitter->expression) return next_by_expression(split, first, end, err);
    *end = split->n_bytes;
    return QN_OK;
}
