/* Operands of products as the tile kernels want them: activations rounded where asked, weights decoded in
 * panels. */
#ifndef QUERN_SRC_TENSOR_OPERAND_H
#define QUERN_SRC_TENSOR_OPERAND_H

#include "tensor/ops_cpu.h"

typedef enum qni_precision {
    QNI_F32,
    QNI_ROUNDED, /* f32 values rounded to bf16 */
    QNI_BF16     /* bf16 values */
} qni_precision;

qni_precision qni_precision_of(const qni_kernels *kernels, bool bf16);
size_t qni_precision_bytes(qni_precision precision);

/* n values of x in the wanted precision (not QNI_F32, which needs no copy). Called by every thread of a
 * parallel region, which share the work; ends with a barrier. */
void qni_round_values(const qni_kernels *kernels, const float *x, int64_t n, qni_precision precision,
                      void *out);

/* A run of rows of W, ready for products: in place where dtype and precision agree, else decoded by all
 * threads into a buffer once, for however many tokens meet it. */
typedef struct qni_panel {
    const qni_kernels *kernels;
    const qni_matrix *w;
    qni_precision precision;
    bool in_place;
    int64_t max_rows, row0;
    size_t buffer; /* offset in the work space */
} qni_panel;

/* Reserves the buffer. A panel holds a multiple of ROW_STEP rows, about 16 MiB. */
void qni_panel_plan(qni_panel *panel, const qni_kernels *kernels, const qni_matrix *w,
                    qni_precision precision, int64_t row_step, qni_work *work);

/* Bytes of a thread's slice that loading needs, from the slice's start. */
size_t qni_panel_slice_bytes(const qni_panel *panel);

/* Loads rows [row0, + max_rows), as far as there are. Called by every thread of a parallel region; ends with
 * a barrier. */
void qni_panel_load(qni_panel *panel, const qni_work *work, int64_t row0);

/* Row R (counted in W) of the loaded panel. */
const void *qni_panel_row(const qni_panel *panel, const qni_work *work, int64_t row);

#endif
