#include "quern/tensor/dtype.h"

#include "base/alloc.h"
#include "base/clones.h"

#include <string.h>

#include "base/banned.h"

static const struct {
    const char *name;
    size_t n_bytes;
} DTYPES[QN_DTYPE_COUNT] = {[QN_DTYPE_NONE] = {"?", 0},
#define QN_DTYPE_ROW_(id, name, bytes) [id] = {name, bytes},
                            QN_DTYPE_MAP(QN_DTYPE_ROW_)
#undef QN_DTYPE_ROW_
};

static qn_dtype known(qn_dtype dtype) {
    return (unsigned)dtype < QN_DTYPE_COUNT ? dtype : QN_DTYPE_NONE;
}

const char *qn_dtype_name(qn_dtype dtype) {
    return DTYPES[known(dtype)].name;
}

size_t qn_dtype_bytes(qn_dtype dtype) {
    return DTYPES[known(dtype)].n_bytes;
}

qn_dtype qn_dtype_from_name(const char *name) {
    for (int i = QN_DTYPE_NONE + 1; i < QN_DTYPE_COUNT; i++) {
        if (strcmp(DTYPES[i].name, name) == 0) return (qn_dtype)i;
    }
    return QN_DTYPE_NONE;
}

int64_t qn_view_elements(const qn_view *view) {
    int64_t n = 1;
    for (int i = 0; i < view->n_dims; i++) {
        if (!qni_multiply_i64(n, view->shape[i], &n)) return -1;
    }
    return n;
}

static inline float f32_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t f32_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Chosen by a mask, not by a condition: gcc would skip the conversion in a branch and give up vector code. */
static inline float widen_f16(uint16_t half) {
    const uint32_t magnitude = half & 0x7fffu;
    const uint32_t rebias = (127u - 15u) << 23;
    const uint32_t is_special =
        -(uint32_t)(magnitude >= 0x7c00u); /* infinity, NaN: the exponent becomes 255 */
    const uint32_t is_subnormal = -(uint32_t)(magnitude < 0x400u);
    const uint32_t normal = (magnitude << 13) + rebias + (rebias & is_special);
    const uint32_t subnormal = f32_bits((float)(int32_t)magnitude * 0x1p-24f);
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    return f32_from_bits((normal & ~is_subnormal) | (subnormal & is_subnormal) | sign);
}

static inline float widen_bf16(uint16_t bits) {
    return f32_from_bits((uint32_t)bits << 16);
}

float qn_f16_to_f32(uint16_t half) {
    return widen_f16(half);
}

float qn_bf16_to_f32(uint16_t bits) {
    return widen_bf16(bits);
}

uint16_t qn_f32_to_f16(float value) {
    const uint32_t bits = f32_bits(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;

    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x47800000u) return sign | 0x7c00u; /* 2^16 and above */
    if (magnitude < 0x38800000u) {
        /* Below 2^-14: at 0.5 the spacing of f32 is that of the half subnormals, so the addition rounds for
         * us. */
        return (uint16_t)(sign | (f32_bits(f32_from_bits(magnitude) + 0.5f) - f32_bits(0.5f)));
    }
    magnitude -= (127u - 15u) << 23;
    magnitude +=
        0xfffu + (magnitude >> 13 & 1u); /* to nearest even; a carry may reach infinity, as it should */
    return (uint16_t)(sign | magnitude >> 13);
}

uint16_t qn_f32_to_bf16(float value) {
    const uint32_t bits = f32_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* Loads go through memcpy: views may be unaligned. */
#define DEFINE_WIDEN(name, type, convert)                                                                    \
    QNI_CLONES static void name(const unsigned char *data, int64_t n, float *restrict out) {                 \
        for (int64_t i = 0; i < n; i++) {                                                                    \
            type element;                                                                                    \
            memcpy(&element, data + (size_t)i * sizeof element, sizeof element);                             \
            out[i] = convert(element);                                                                       \
        }                                                                                                    \
    }

DEFINE_WIDEN(widen_f16_run, uint16_t, widen_f16)
DEFINE_WIDEN(widen_bf16_run, uint16_t, widen_bf16)
DEFINE_WIDEN(narrow_f64_run, double, (float))

static bool in_range(const qn_view *view, int64_t first, int64_t n) {
    int64_t total = qn_view_elements(view);
    return first >= 0 && n >= 0 && first <= total && n <= total - first;
}

qn_status qn_view_to_f32(const qn_view *view, int64_t first, int64_t n, float *out, qn_error *err) {
    if (!in_range(view, first, n)) {
        return qn_fail(err, QN_E_ARGUMENT, "%lld elements from %lld on are not all inside a tensor of %lld",
                       (long long)n, (long long)first, (long long)qn_view_elements(view));
    }
    if (n == 0) return QN_OK;
    const unsigned char *data =
        (const unsigned char *)view->data + (size_t)first * qn_dtype_bytes(view->dtype);
    switch (view->dtype) {
    case QN_DTYPE_F32:
        memcpy(out, data, (size_t)n * sizeof *out);
        return QN_OK;
    case QN_DTYPE_F16:
        widen_f16_run(data, n, out);
        return QN_OK;
    case QN_DTYPE_BF16:
        widen_bf16_run(data, n, out);
        return QN_OK;
    case QN_DTYPE_F64:
        narrow_f64_run(data, n, out);
        return QN_OK;
    default:
        return qn_fail(err, QN_E_UNSUPPORTED, "dtype %s does not convert to F32 (F64, F32, F16 and BF16 do)",
                       qn_dtype_name(view->dtype));
    }
}

/* An element is infinite or NaN exactly when all its exponent bits are set. */
#define DEFINE_ANY_NONFINITE(name, type, exponent)                                                           \
    QNI_CLONES static bool name(const unsigned char *data, int64_t n) {                                      \
        unsigned found = 0;                                                                                  \
        for (int64_t i = 0; i < n; i++) {                                                                    \
            type element;                                                                                    \
            memcpy(&element, data + (size_t)i * sizeof element, sizeof element);                             \
            found |= (element & (exponent)) == (exponent);                                                   \
        }                                                                                                    \
        return found != 0;                                                                                   \
    }

DEFINE_ANY_NONFINITE(any_nonfinite_f16, uint16_t, 0x7c00u)
DEFINE_ANY_NONFINITE(any_nonfinite_bf16, uint16_t, 0x7f80u)
DEFINE_ANY_NONFINITE(any_nonfinite_f32, uint32_t, 0x7f800000u)
DEFINE_ANY_NONFINITE(any_nonfinite_f64, uint64_t, UINT64_C(0x7ff0000000000000))

static bool any_nonfinite(qn_dtype dtype, const unsigned char *data, int64_t n) {
    switch (dtype) {
    case QN_DTYPE_F16:
        return any_nonfinite_f16(data, n);
    case QN_DTYPE_BF16:
        return any_nonfinite_bf16(data, n);
    case QN_DTYPE_F32:
        return any_nonfinite_f32(data, n);
    case QN_DTYPE_F64:
        return any_nonfinite_f64(data, n);
    default:
        return false;
    }
}

int64_t qn_view_find_nonfinite(const qn_view *view, int64_t first, int64_t n) {
    enum { RUN = 4096 };
    const size_t size = qn_dtype_bytes(view->dtype);
    const unsigned char *data = view->data;

    if (!in_range(view, first, n)) return -1;
    for (int64_t end = first + n; first < end;) {
        int64_t run = end - first < RUN ? end - first : RUN;
        if (!any_nonfinite(view->dtype, data + (size_t)first * size, run)) {
            first += run;
            continue;
        }
        while (!any_nonfinite(view->dtype, data + (size_t)first * size, 1)) first++;
        return first;
    }
    return -1;
}
