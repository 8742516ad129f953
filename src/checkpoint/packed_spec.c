#include "quern/checkpoint/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

static const char *const axis_names[] = {[QN_AXIS_ROWS] = "rows", [QN_AXIS_COLUMNS] = "columns"};

void qn_packed_spec_format(const qn_encoded *e, char buffer[QN_PACKED_SPEC_BYTES]) {
    const size_t size = QN_PACKED_SPEC_BYTES;
    int n =
        snprintf(buffer, size, "%lldx%lld %s", (long long)e->rows, (long long)e->cols, axis_names[e->axis]);
    for (int b = 0; b < e->n_bands; b++) {
        const qn_band *band = &e->bands[b];
        const char *code = qn_code_name(band->codec.code), *scale = qn_scale_code_name(band->codec.scale);
        n += snprintf(buffer + n, size - (size_t)n, " %lld %s%s%s/%d/%s", (long long)band->n_lines, code,
                      band->n_planes == 2 ? "+" : "", band->n_planes == 2 ? code : "",
                      (int)band->codec.group_size, scale);
    }
    if (e->column_scaled) n += snprintf(buffer + n, size - (size_t)n, " column-scales");
    if (e->hadamard) n += snprintf(buffer + n, size - (size_t)n, " hadamard/%d", (int)e->hadamard);
    if (e->stream_bytes) snprintf(buffer + n, size - (size_t)n, " zlib/%lld", (long long)e->stream_bytes);
}

/* The readers below are laxer than the format: the caller compares with the canonical spelling. Each takes what it
 * reads and the character END after it, where that is there. */
static int64_t take_number(const char **text, char end) {
    char *after = NULL;
    const long long value = strtoll(*text, &after, 10);
    *text = *after == end && end != '\0' ? after + 1 : after;
    return value;
}

enum { WORD_BYTES = 16 };

static void take_word(const char **text, const char *ends, char word[WORD_BYTES]) {
    size_t n = strcspn(*text, ends);
    if (n >= WORD_BYTES) n = WORD_BYTES - 1;
    memcpy(word, *text, n);
    word[n] = '\0';
    *text += n;
    if (**text != '\0' && **text != '+') (*text)++;
}

static int32_t take_i32(const char **text, char end) {
    const int64_t value = take_number(text, end);
    return value >= 0 && value <= INT32_MAX ? (int32_t)value : -1;
}

static qn_band take_band(const char **text) {
    qn_band band = {.n_lines = take_number(text, ' '), .n_planes = 1};
    char code[WORD_BYTES], scale[WORD_BYTES];

    take_word(text, "+/ ", code);
    if (**text == '+') {
        (*text)++;
        take_word(text, "/ ", code);
        band.n_planes = 2;
    }
    band.codec.code = qn_code_from_name(code);
    band.codec.group_size = take_i32(text, '/');
    take_word(text, " ", scale);
    band.codec.scale = qn_scale_code_from_name(scale);
    return band;
}

static qn_encoded take_spec(const char *at) {
    qn_encoded e = {0};
    char axis[WORD_BYTES];

    e.rows = take_number(&at, 'x');
    e.cols = take_number(&at, ' ');
    take_word(&at, " ", axis);
    e.axis = strcmp(axis, axis_names[QN_AXIS_COLUMNS]) == 0 ? QN_AXIS_COLUMNS : QN_AXIS_ROWS;
    while (e.n_bands < QN_MAX_BANDS && *at >= '0' && *at <= '9') e.bands[e.n_bands++] = take_band(&at);
    if (strncmp(at, "column-scales", 13) == 0) {
        e.column_scaled = true;
        at += at[13] == ' ' ? 14 : 13;
    }
    if (strncmp(at, "hadamard/", 9) == 0) {
        at += 9;
        e.hadamard = take_i32(&at, ' ');
    }
    if (strncmp(at, "zlib/", 5) == 0) {
        at += 5;
        e.stream_bytes = take_number(&at, '\0');
    }
    return e;
}

qn_status qn_packed_spec_parse(const char *text, const char *name, qn_encoded *out, qn_error *err) {
    const qn_encoded e = take_spec(text);
    char canonical[QN_PACKED_SPEC_BYTES];

    qn_packed_spec_format(&e, canonical);
    if (strcmp(text, canonical) != 0)
        return qn_fail(
            err, QN_E_FORMAT,
            "%s: '%.150s' describes no packed matrix, expected 'RxC rows|columns', one to three bands "
            "'N code/group/scale' (sign, ternary, q4, or twice the same with +; f16, log6) and possibly "
            "'column-scales', 'hadamard/B' and 'zlib/N'",
            name, text);
    QN_TRY(qn_encoded_check_shape(&e, name, err));
    *out = e;
    return QN_OK;
}
