#include "codec/code_ops.h"
#include "quern/checkpoint/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

void qn_packed_spec_format(const qn_encoded *e, char *buffer, size_t n_bytes) {
    snprintf(buffer, n_bytes, "%lldx%lld %s/%d %s/%d %lld", (long long)e->rows, (long long)e->cols,
             qn_code_name(e->native.code), (int)e->native.group_size, qn_code_name(e->rescue.code),
             (int)e->rescue.group_size, (long long)e->n_rescue_rows);
}

/* Reads a number and the character after it. Laxer than the format: the caller compares with the canonical
 * spelling. */
static int64_t take_number(const char **text, char end) {
    char *after = NULL;
    const long long value = strtoll(*text, &after, 10);
    *text = *after == end && end != '\0' ? after + 1 : after;
    return value;
}

static qn_codec take_codec(const char **text) {
    char word[16] = "";
    const char *slash = strchr(*text, '/');
    qn_codec codec = {QN_CODE_NONE, 0};
    if (!slash || (size_t)(slash - *text) >= sizeof word) return codec;
    memcpy(word, *text, (size_t)(slash - *text));
    *text = slash + 1;
    codec.code = qn_code_from_name(word);
    const int64_t group_size = take_number(text, ' ');
    codec.group_size = group_size > INT32_MAX ? -1 : (int32_t)group_size;
    return codec;
}

qn_status qn_packed_spec_parse(const char *text, const char *name, qn_encoded *out, qn_error *err) {
    const char *at = text;
    qn_encoded e = {0};
    e.rows = take_number(&at, 'x');
    e.cols = take_number(&at, ' ');
    e.native = take_codec(&at);
    e.rescue = take_codec(&at);
    e.n_rescue_rows = take_number(&at, '\0');

    char canonical[QN_PACKED_SPEC_BYTES];
    qn_packed_spec_format(&e, canonical, sizeof canonical);
    if (strcmp(text, canonical) != 0)
        return qn_fail(
            err, QN_E_FORMAT,
            "%s: '%.100s' describes no packed matrix, expected 'RxC native/group rescue/group n' with codes "
            "sign, ternary, q4 (rescue: q4 or none)",
            name, text);
    QN_TRY(qni_encoded_check_shape(&e, name, err));
    if (e.n_rescue_rows > 0 && e.rescue.code != QN_CODE_Q4)
        return qn_fail(err, QN_E_UNSUPPORTED, "%s: rescue code %s, supported is q4", name,
                       qn_code_name(e.rescue.code));
    *out = e;
    return QN_OK;
}
