/* Products of tokens with a matrix of signs (signs.h), both ways; tiles of tokens are shared out between threads. */
#ifndef QUERN_SRC_TENSOR_SIGN_PRODUCT_H
#define QUERN_SRC_TENSOR_SIGN_PRODUCT_H

#include "tensor/ops_cpu.h"

typedef struct qni_sign_product {
    const qni_sign_kernels *kernels;
    const qni_signs *signs;
    bool backward; /* y = x W instead of x W^T */
    bool add;      /* to y */
    int64_t m;
    const float *x; /* [m, columns of W, or its rows] */
    float *y;       /* [m, rows of W, or its columns] */
} qni_sign_product;

/* True: there are signs, kernels for them, and tokens enough to make tables for. */
bool qni_sign_product_pays(const qni_kernels *kernels, const qni_signs *signs, bool bf16, int64_t m);

/* Bytes of a thread's slice. */
size_t qni_sign_slice_bytes(const qni_sign_product *product);

int64_t qni_sign_tiles(const qni_sign_product *product);

/* One tile, by one thread with its slice, aligned to 64 bytes. */
void qni_sign_tile(const qni_sign_product *product, int64_t tile, void *slice);

#endif
