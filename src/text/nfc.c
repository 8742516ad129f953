#include "text/nfc.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/alloc.h"
#include "text/char_class.h"
#include "text/utf8.h"

#include "base/banned.h"

/* Only stretches that can change go through utf8proc: a leader, if there is one, and the followers after it.
 * All their characters are older than Unicode 9.0 and their data is frozen by the stability policy, so the
 * newer tables of utf8proc give what the reference gives; every other character is copied. */

enum {
    FIRST_FOLLOWER_LEAD_BYTE = 0xCC, /* of U+0300 */
    MAX_EXPANSION = 18,              /* code points one can decompose to, with room */
    SHORT_RUN = 24                   /* marks sorted by insertion */
};

typedef struct code_points {
    utf8proc_int32_t *items; /* owned */
    int64_t n, capacity;
} code_points;

static qn_status append_decomposed(code_points *points, uint32_t c, qn_error *err) {
    if (points->capacity - points->n < MAX_EXPANSION) {
        int64_t capacity = 2 * points->capacity + MAX_EXPANSION;
        void *items = points->items;
        QN_TRY(qni_grow_array(&items, capacity, sizeof *points->items, err));
        points->items = items;
        points->capacity = capacity;
    }
    int boundary = UTF8PROC_BOUNDCLASS_START;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)c, points->items + points->n, MAX_EXPANSION,
                                UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
    if (n < 0 || n > MAX_EXPANSION) return qn_fail(err, QN_E_INTERNAL, "NFC: U+%04X does not decompose", c);
    points->n += n;
    return QN_OK;
}

static int combining_class(utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
}

static void sort_short_run(utf8proc_int32_t *run, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        utf8proc_int32_t c = run[i];
        int64_t j = i;
        for (; j > 0 && combining_class(run[j - 1]) > combining_class(c); j--) run[j] = run[j - 1];
        run[j] = c;
    }
}

/* Counting sort: a megabyte of marks must not take quadratic time. */
static qn_status sort_long_run(utf8proc_int32_t *run, int64_t n, qn_error *err) {
    int64_t start[257] = {0};
    utf8proc_int32_t *sorted = qni_alloc_array(n, sizeof *sorted);
    if (!sorted) return qni_fail_nomem(err, "canonical ordering");
    for (int64_t i = 0; i < n; i++) start[combining_class(run[i]) + 1]++;
    for (int c = 1; c < 257; c++) start[c] += start[c - 1];
    for (int64_t i = 0; i < n; i++) sorted[start[combining_class(run[i])]++] = run[i];
    memcpy(run, sorted, (size_t)n * sizeof *run);
    free(sorted);
    return QN_OK;
}

/* Canonical ordering: every run of characters with a combining class is sorted by it, keeping the order of
 * equals. */
static qn_status order_marks(code_points *points, qn_error *err) {
    for (int64_t i = 0; i < points->n;) {
        int64_t first = i;
        while (i < points->n && combining_class(points->items[i]) != 0) i++;
        int64_t n = i - first;
        if (n > SHORT_RUN) {
            QN_TRY(sort_long_run(points->items + first, n, err));
        } else {
            sort_short_run(points->items + first, n);
        }
        if (n == 0) i++;
    }
    return QN_OK;
}

static qn_status append_composed(code_points *points, const uint8_t *text, size_t n_bytes, qni_buffer *out,
                                 qn_error *err) {
    points->n = 0;
    if (n_bytes == 0) return QN_OK;
    for (size_t i = 0; i < n_bytes;) {
        uint32_t c;
        i += qni_utf8_read(text + i, &c);
        QN_TRY(append_decomposed(points, c, err));
    }
    QN_TRY(order_marks(points, err));
    utf8proc_ssize_t n =
        utf8proc_normalize_utf32(points->items, points->n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0) return qn_fail(err, QN_E_INTERNAL, "NFC: %s", utf8proc_errmsg(n));
    QN_TRY(qni_buffer_reserve(out, (size_t)n * QNI_UTF8_MAX_BYTES, err));
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        out->n += qni_utf8_write((uint32_t)points->items[i], out->data + out->n);
    }
    return QN_OK;
}

/* The next stretch that can change at or after *first: [*first, *last); false when there is none. */
static bool find_stretch(const uint8_t *classes, const uint8_t *text, size_t n_bytes, size_t *first,
                         size_t *last) {
    size_t leader = *first, i = *first;
    bool has_leader = false;
    while (i < n_bytes) {
        if (text[i] < 0x80) { /* the last ASCII character before other text may lead it */
            while (i + 1 < n_bytes && text[i + 1] < 0x80) i++;
        }
        uint32_t c;
        size_t length = qni_utf8_read(text + i, &c);
        if (classes[c] & QNI_NFC_FOLLOWER) break;
        has_leader = classes[c] & QNI_NFC_LEADER;
        leader = i;
        i += length;
    }
    if (i >= n_bytes) return false;
    *first = has_leader ? leader : i;
    while (i < n_bytes) {
        uint32_t c;
        size_t length = qni_utf8_read(text + i, &c);
        if (!(classes[c] & QNI_NFC_FOLLOWER)) break;
        i += length;
    }
    *last = i;
    return true;
}

static bool is_below_followers(const uint8_t *text, size_t n_bytes) {
    uint8_t highest = 0;
    for (size_t i = 0; i < n_bytes; i++) highest = text[i] > highest ? text[i] : highest;
    return highest < FIRST_FOLLOWER_LEAD_BYTE;
}

qn_status qni_nfc(const uint8_t *classes, const uint8_t *text, size_t n_bytes, qni_buffer *scratch,
                  const uint8_t **out, size_t *n_out, qn_error *err) {
    size_t copied = 0, first = 0, last = 0;
    code_points points = {0};
    qn_status status = QN_OK;
    scratch->n = 0;
    if (!is_below_followers(text, n_bytes)) {
        while (status == QN_OK && find_stretch(classes, text, n_bytes, &first, &last)) {
            status = qni_buffer_append(scratch, text + copied, first - copied, err);
            if (status == QN_OK) status = append_composed(&points, text + first, last - first, scratch, err);
            copied = first = last;
        }
    }
    if (status == QN_OK && copied > 0)
        status = qni_buffer_append(scratch, text + copied, n_bytes - copied, err);
    free(points.items);
    if (status != QN_OK) return status;
    *out = copied > 0 ? scratch->data : text;
    *n_out = copied > 0 ? scratch->n : n_bytes;
    return QN_OK;
}
