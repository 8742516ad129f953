/* Scales as stored: fp16 bits, or 6-bit numbers on a geometric grid. */
#include "quern/codec/codec.h"

#include "codec/code_ops.h"

#include <math.h>
#include <string.h>

#include "base/banned.h"

static const char *const scale_names[QN_SCALE_COUNT] = {[QN_SCALE_F16] = "f16", [QN_SCALE_LOG6] = "log6"};

const char *qn_scale_code_name(qn_scale_code scale) {
    return (int)scale >= 0 && scale < QN_SCALE_COUNT ? scale_names[scale] : "?";
}

qn_scale_code qn_scale_code_from_name(const char *name) {
    int scale = 0;
    while (scale < QN_SCALE_COUNT && strcmp(name, scale_names[scale]) != 0) scale++;
    return (qn_scale_code)scale;
}

int64_t qn_scales_bytes(qn_scale_code scale, int64_t n) {
    if (scale == QN_SCALE_F16) return 2 * n;
    return n / 4 * 3 + (6 * (n % 4) + 7) / 8;
}

static void pack_log6(const uint16_t *values, int64_t n, uint8_t *out) {
    memset(out, 0, (size_t)qn_scales_bytes(QN_SCALE_LOG6, n));
    for (int64_t i = 0; i < n; i++) {
        uint8_t *at = out + 6 * i / 8;
        const unsigned bits = (unsigned)(values[i] & 63) << (6 * i % 8);
        at[0] |= (uint8_t)bits;
        if (bits > 255) at[1] |= (uint8_t)(bits >> 8);
    }
}

void qn_scales_pack(qn_scale_code scale, const uint16_t *values, int64_t n, uint8_t *out) {
    if (scale == QN_SCALE_F16)
        memcpy(out, values, 2 * (size_t)n);
    else
        pack_log6(values, n, out);
}

void qn_scales_unpack(qn_scale_code scale, const uint8_t *scales, int64_t n, uint16_t *values) {
    if (scale == QN_SCALE_F16) {
        memcpy(values, scales, 2 * (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++) values[i] = (uint16_t)qni_log6_get(scales, i);
}

bool qn_log6_table(float base, float ratio, float out[QN_LOG6_VALUES]) {
    if (!isfinite(base) || !isfinite(ratio) || !(base > 0) || !(ratio >= 1)) return false;
    double t = (double)base;
    for (int k = 0; k < QN_LOG6_VALUES; k++) {
        if (t > QN_F16_MAX) return false;
        out[k] = qn_f16_to_f32(qn_f32_to_f16((float)t));
        if (!(out[k] > 0)) return false;
        t *= (double)ratio;
    }
    return true;
}

void qn_log6_grid_pack(float base, float ratio, uint8_t out[QN_LOG6_GRID_BYTES]) {
    memcpy(out, &base, sizeof base);
    memcpy(out + sizeof base, &ratio, sizeof ratio);
}
