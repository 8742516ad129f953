/* Element types and borrowed views of tensors. */
#ifndef QUERN_TENSOR_DTYPE_H
#define QUERN_TENSOR_DTYPE_H

#include "quern/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(id, name in safetensors, bytes of one element) */
#define QN_DTYPE_MAP(X)                                                                                      \
    X(QN_DTYPE_F64, "F64", 8)                                                                                \
    X(QN_DTYPE_F32, "F32", 4)                                                                                \
    X(QN_DTYPE_F16, "F16", 2)                                                                                \
    X(QN_DTYPE_BF16, "BF16", 2)                                                                              \
    X(QN_DTYPE_F8_E4M3, "F8_E4M3", 1)                                                                        \
    X(QN_DTYPE_F8_E5M2, "F8_E5M2", 1)                                                                        \
    X(QN_DTYPE_I64, "I64", 8)                                                                                \
    X(QN_DTYPE_U64, "U64", 8)                                                                                \
    X(QN_DTYPE_I32, "I32", 4)                                                                                \
    X(QN_DTYPE_U32, "U32", 4)                                                                                \
    X(QN_DTYPE_I16, "I16", 2)                                                                                \
    X(QN_DTYPE_U16, "U16", 2)                                                                                \
    X(QN_DTYPE_I8, "I8", 1)                                                                                  \
    X(QN_DTYPE_U8, "U8", 1)                                                                                  \
    X(QN_DTYPE_BOOL, "BOOL", 1)

#define QN_DTYPE_ENUM_(id, name, bytes) id,
typedef enum qn_dtype { QN_DTYPE_NONE, QN_DTYPE_MAP(QN_DTYPE_ENUM_) QN_DTYPE_COUNT } qn_dtype;
#undef QN_DTYPE_ENUM_

QN_API const char *qn_dtype_name(qn_dtype dtype);     /* "BF16"; "?" for an unknown value */
QN_API size_t qn_dtype_bytes(qn_dtype dtype);         /* 0 for an unknown value */
QN_API qn_dtype qn_dtype_from_name(const char *name); /* QN_DTYPE_NONE when unknown */

enum { QN_MAX_DIMS = 8 };

/* A borrowed row-major tensor. `data` may be unaligned (it often lies in a mapped file). */
typedef struct qn_view {
    const void *data;
    qn_dtype dtype;
    int n_dims;
    int64_t shape[QN_MAX_DIMS];
} qn_view;

QN_API int64_t
qn_view_elements(const qn_view *view); /* product of the shape; 1 for a scalar, -1 if it overflows */

/* Scalar conversions, round to nearest even; NaN stays NaN, overflow becomes infinity. */
QN_API float qn_f16_to_f32(uint16_t half);
QN_API uint16_t qn_f32_to_f16(float value);
QN_API float qn_bf16_to_f32(uint16_t bits);
QN_API uint16_t qn_f32_to_bf16(float value);

#define QN_F16_MAX 65504.0 /* the largest finite fp16 value */

/* Widens elements [first, first + n) of VIEW to f32. F32, F16, BF16 and F64 only (QN_E_UNSUPPORTED
 * otherwise). Exact but for F64. Deterministic; cost O(n). */
QN_NODISCARD QN_API qn_status qn_view_to_f32(const qn_view *view, int64_t first, int64_t n, float *out,
                                             qn_error *err);

/* The index of the first NaN or infinity among elements [first, first + n), or -1. F32, F16, BF16, F64; other
 * dtypes cannot hold one here and give -1, as does a range outside the view. Cost O(n), at memory speed. */
QN_API int64_t qn_view_find_nonfinite(const qn_view *view, int64_t first, int64_t n);

#ifdef __cplusplus
}
#endif
#endif
