/* Work space of the walk backwards that outlives a call. A step of training would else ask the system for the same gigabyte
 * each time, and get it zeroed, which costs a tenth of the step. */
#ifndef QUERN_SRC_MODEL_MEMORY_H
#define QUERN_SRC_MODEL_MEMORY_H

#include "tensor/ops.h"

typedef enum qni_memory_use {
    QNI_MEMORY_STREAMS,
    QNI_MEMORY_INSIDES,
    QNI_MEMORY_LOGITS,
    QNI_MEMORY_USES
} qni_memory_use;

typedef struct qn_gradient_memory {
    float *blocks[QNI_MEMORY_USES]; /* owned */
    int64_t sizes[QNI_MEMORY_USES]; /* floats */
    void *ops_work;                 /* owned; of an operation table that is closed */
    size_t ops_work_bytes;
} qn_gradient_memory;

/* *out: at least N_FLOATS, not zeroed, until the next call for the same USE. WHAT is for the message. */
QN_NODISCARD qn_status qni_memory_take(qn_gradient_memory *memory, qni_memory_use use, int64_t n_floats,
                                       const char *what, float **out, qn_error *err);

/* Hands the work space of earlier operations to OPS, and takes it back before OPS is closed. */
void qni_memory_lend(qn_gradient_memory *memory, qn_ops *ops);
void qni_memory_take_back(qn_gradient_memory *memory, qn_ops *ops);

void qni_memory_release(qn_gradient_memory *memory);

#endif
