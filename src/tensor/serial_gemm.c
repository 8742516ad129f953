#include "tensor/serial_gemm.h"

#include "tensor/operand.h"

#include "base/banned.h"

static size_t packed_bytes(int64_t n, int64_t k, int parts) {
    return (size_t)(qni_ceil_div(n, QNI_PACKED_ROWS) * QNI_PACKED_ROWS * qni_packed_row_bytes(k, parts));
}

size_t qni_serial_gemm_bytes(const qni_kernels *kernels, int64_t n, int64_t k) {
    return kernels->packed ? packed_bytes(n, k, QNI_PARTS_F32) + QNI_PACKED_SCRATCH_BYTES : 0;
}

int qni_serial_gemm(const qni_kernels *kernels, const qni_gemm_args *g, void *scratch) {
    const int parts = qni_precision_parts(qni_precision_of(kernels, g->bf16, g->m, g->n, g->k));
    if (parts == 0)
        return kernels->gemm_f32(g->trans_a, g->trans_b, g->m, g->n, g->k, g->a, g->lda, g->b, g->ldb,
                                 g->accumulate, g->c, g->ldc);
    const qni_packing b = {.values = g->b,
                           .ld = g->ldb,
                           .rows = g->n,
                           .depth = g->k,
                           .across = !g->trans_b,
                           .right = true,
                           .parts = parts};
    const qni_packed_product product = {
        .a =
            {.values = g->a, .ld = g->lda, .rows = g->m, .depth = g->k, .across = g->trans_a, .parts = parts},
        .b = scratch,
        .n = g->n,
        .accumulate = g->accumulate,
        .c = g->c,
        .ldc = g->ldc,
        .scratch = (char *)scratch + packed_bytes(g->n, g->k, parts)};
    for (int64_t t = 0; t < qni_packing_tasks(&b); t++) kernels->packed->pack(&b, t, scratch);
    kernels->packed->multiply(&product);
    return 0;
}
