#include "tensor/packed.h"

#include "tensor/ops_cpu.h"

#include "base/banned.h"

enum {
    CACHED_BYTES =
        1 << 20, /* of a block of A: half a level-2 cache of the processors that have a matrix unit */
    DEPTH_F32 = 1024,
    DEPTH_BF16 = 2048
};

int64_t qni_packed_row_bytes(int64_t depth, int parts) {
    return qni_ceil_div(depth, QNI_PACKED_STEP) * QNI_PACKED_STEP * parts * (int64_t)sizeof(uint16_t);
}

int64_t qni_packing_tasks(const qni_packing *p) {
    return p->across ? qni_ceil_div(p->depth, QNI_PACKED_STEP) : qni_ceil_div(p->rows, QNI_PACKED_ROWS);
}

int64_t qni_packed_depth(int parts) {
    return parts == QNI_PARTS_BF16 ? DEPTH_BF16 : DEPTH_F32;
}

int64_t qni_packed_block_rows(int64_t depth, int parts) {
    const int64_t row_bytes = qni_packed_row_bytes(qni_min(depth, qni_packed_depth(parts)), parts);
    const int64_t panels = row_bytes > 0 ? QNI_PACKED_SCRATCH_BYTES / row_bytes / QNI_PACKED_ROWS : 1;
    return panels * QNI_PACKED_ROWS; /* the deepest panel takes a fifth of the scratch */
}
