/* Character classes of the reference tokenizer stack, one byte of flags per code point.
 *
 * Letters, marks, numbers and spaces follow Unicode 16.0 (its regular expressions), the NFC classes
 * Unicode 9.0 (its normaliser). Source: tools/make-unicode-tables.py. */
#ifndef QUERN_SRC_TEXT_CHAR_CLASS_H
#define QUERN_SRC_TEXT_CHAR_CLASS_H

#include <stddef.h>
#include <stdint.h>

enum {
    QNI_LETTER = 1,        /* \p{L} */
    QNI_MARK = 2,          /* \p{M} */
    QNI_NUMBER = 4,        /* \p{N} */
    QNI_SPACE = 8,         /* \s */
    QNI_LINE_END = 16,     /* CR and LF */
    QNI_NFC_FOLLOWER = 32, /* a text without any is in NFC */
    QNI_NFC_LEADER = 64    /* a starter that may change together with a follower */
};

enum { QNI_N_CODE_POINTS = 0x110000 };

typedef struct qni_code_range {
    uint32_t first, last; /* inclusive */
} qni_code_range;

/* The ranges of one class, ascending. */
const qni_code_range *qni_char_class_ranges(unsigned char_class, size_t *n);

/* A table of QNI_N_CODE_POINTS flags; free(). NULL when memory is short. */
uint8_t *qni_char_classes_new(void);

#endif
