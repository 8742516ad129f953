#include "text/char_class.h"

#include "base/alloc.h"

#include "text/unicode_tables.inc"

#include "base/banned.h"

static const qni_code_range LINE_ENDS[] = {{'\n', '\n'}, {'\r', '\r'}};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct {
    unsigned flag;
    size_t n;
    const qni_code_range *ranges;
} CLASSES[] = {
    {QNI_LETTER, COUNT(LETTERS), LETTERS},
    {QNI_MARK, COUNT(MARKS), MARKS},
    {QNI_NUMBER, COUNT(NUMBERS), NUMBERS},
    {QNI_SPACE, COUNT(SPACES), SPACES},
    {QNI_LINE_END, COUNT(LINE_ENDS), LINE_ENDS},
    {QNI_NFC_FOLLOWER, COUNT(NFC_FOLLOWERS), NFC_FOLLOWERS},
    {QNI_NFC_LEADER, COUNT(NFC_LEADERS), NFC_LEADERS},
};

const qni_code_range *qni_char_class_ranges(unsigned char_class, size_t *n) {
    size_t i = 0;
    while (CLASSES[i].flag != char_class) i++;
    *n = CLASSES[i].n;
    return CLASSES[i].ranges;
}

uint8_t *qni_char_classes_new(void) {
    uint8_t *flags = qni_alloc_array(QNI_N_CODE_POINTS, 1);
    for (size_t i = 0; flags && i < COUNT(CLASSES); i++) {
        for (size_t r = 0; r < CLASSES[i].n; r++) {
            for (uint32_t c = CLASSES[i].ranges[r].first; c <= CLASSES[i].ranges[r].last; c++) {
                flags[c] |= (uint8_t)CLASSES[i].flag;
            }
        }
    }
    return flags;
}
