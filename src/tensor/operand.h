/* Operands of products as the tile kernels want them: rounded or packed where asked, weights decoded in panels. */
#ifndef QUERN_SRC_TENSOR_OPERAND_H
#define QUERN_SRC_TENSOR_OPERAND_H

#include "tensor/ops_cpu.h"

typedef enum qni_precision {
    QNI_F32,
    QNI_ROUNDED,     /* f32 values rounded to bf16 */
    QNI_PACKED_BF16, /* packed for the matrix unit, in one part */
    QNI_PACKED_F32   /* in three */
} qni_precision;

/* For a product of that shape. Packed only where there is a matrix unit, and where packing pays. */
qni_precision qni_precision_of(const qni_kernels *kernels, bool bf16, int64_t m, int64_t n, int64_t k);

int qni_precision_parts(qni_precision precision); /* QNI_PARTS_...; 0: not packed */

/* One side of a product: where it lies, or a copy. A rounded copy is laid out as what it was made of; only right sides are
 * packed, as a left side is in the course of a product. */
typedef struct qni_operand {
    const qni_kernels *kernels;
    qni_precision precision;
    qni_packing stored;
    size_t copy;      /* offset in the work space */
    const void *data; /* what the tiles read, once loaded */
} qni_operand;

/* Reserves a copy where one is needed. STORED says what lies where; its parts are set here. */
void qni_operand_plan(qni_operand *operand, const qni_kernels *kernels, qni_precision precision,
                      const qni_packing *stored, qni_work *work);

/* Makes the copy, if there is one. Called by every thread of a parallel region, which share the work; ends with a barrier then. */
void qni_operand_load(qni_operand *operand, const qni_work *work);

/* A run of rows of W, ready for products as their right side: in place where dtype and precision agree, else decoded by all
 * threads into a buffer once, for however many tokens meet it. */
typedef struct qni_panel {
    const qni_kernels *kernels;
    const qni_matrix *w;
    qni_precision precision;
    bool in_place;
    int64_t max_rows, row0;
    size_t buffer; /* offset in the work space */
} qni_panel;

/* Reserves the buffer. A panel holds a multiple of ROW_STEP rows, about 16 MiB of f32 values. */
void qni_panel_plan(qni_panel *panel, const qni_kernels *kernels, const qni_matrix *w,
                    qni_precision precision, int64_t row_step, qni_work *work);

/* Bytes of a thread's slice that loading needs, from the slice's start. */
size_t qni_panel_slice_bytes(const qni_panel *panel);

/* Loads rows [row0, + max_rows), as far as there are. Called by every thread of a parallel region; ends with
 * a barrier. */
void qni_panel_load(qni_panel *panel, const qni_work *work, int64_t row0);

/* Row ROW (counted in W) of the loaded panel; a whole number of QNI_PACKED_ROWS from its first where it is packed. */
const void *qni_panel_row(const qni_panel *panel, const qni_work *work, int64_t row);

#endif
