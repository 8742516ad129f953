#include "quern/codec/codec.h"

#include "codec/code_ops.h"

#include <string.h>

#include "base/banned.h"

static const qni_code_ops *const code_table[QN_CODE_COUNT] = {
    [QN_CODE_SIGN] = &qni_code_sign,
    [QN_CODE_TERNARY] = &qni_code_ternary,
    [QN_CODE_Q4] = &qni_code_q4,
};

const qni_code_ops *qni_code_ops_of(qn_code code) {
    return code > QN_CODE_NONE && code < QN_CODE_COUNT ? code_table[code] : NULL;
}

const char *qn_code_name(qn_code code) {
    const qni_code_ops *ops = qni_code_ops_of(code);
    return ops ? ops->name : "none";
}

qn_code qn_code_from_name(const char *name) {
    for (int code = QN_CODE_NONE + 1; code < QN_CODE_COUNT; code++) {
        if (strcmp(name, code_table[code]->name) == 0) return (qn_code)code;
    }
    return QN_CODE_NONE;
}

int qn_code_max(qn_code code) {
    const qni_code_ops *ops = qni_code_ops_of(code);
    return ops ? ops->max : 0;
}

const char *qn_role_name(qn_role role) {
    static const char *const names[QN_ROLE_COUNT] = {
        [QN_ROLE_BINARY] = "binary",     [QN_ROLE_TERNARY] = "ternary", [QN_ROLE_RESCUE] = "rescue_q4",
        [QN_ROLE_RESIDUAL] = "residual", [QN_ROLE_SCALE] = "scale",     [QN_ROLE_SIDE] = "side",
        [QN_ROLE_METADATA] = "metadata",
    };
    return role >= 0 && role < QN_ROLE_COUNT ? names[role] : "?";
}

int64_t qn_codec_groups(qn_codec codec, int64_t cols) {
    if (codec.code == QN_CODE_NONE || cols <= 0) return 0;
    if (codec.group_size <= 0) return 1;
    return cols / codec.group_size + (cols % codec.group_size != 0);
}

int64_t qn_codec_code_bytes(qn_codec codec, int64_t cols) {
    const qni_code_ops *ops = qni_code_ops_of(codec.code);
    return ops ? ops->bytes(cols) : 0;
}

int64_t qn_codec_row_bytes(qn_codec codec, int64_t cols) {
    return qn_codec_code_bytes(codec, cols) + 2 * qn_codec_groups(codec, cols);
}

void qn_codec_pack_row(qn_codec codec, const int8_t *q, int64_t cols, uint8_t *out) {
    qni_code_ops_of(codec.code)->pack(q, cols, out);
}

qn_status qn_codec_unpack_row(qn_codec codec, const uint8_t *codes, int64_t cols, int8_t *q, qn_error *err) {
    const qni_code_ops *ops = qni_code_ops_of(codec.code);
    int64_t col = ops->find_illegal(codes, cols);
    if (col >= 0) {
        return qn_fail(err, QN_E_VALUE, "illegal %s code at column %lld of %lld: %s", ops->name,
                       (long long)col, (long long)cols, ops->rule);
    }
    ops->unpack(codes, cols, q);
    return QN_OK;
}
