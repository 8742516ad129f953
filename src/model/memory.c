#include "model/memory.h"

#include "base/alloc.h"

#include <stdlib.h>

#include "base/banned.h"

qn_status qni_memory_take(qn_gradient_memory *memory, qni_memory_use use, int64_t n_floats, const char *what,
                          float **out, qn_error *err) {
    float **block = &memory->blocks[use];
    if (!*block || memory->sizes[use] < n_floats) {
        free(*block); /* first: the two need not exist together */
        QN_TRY(QNI_ALLOC(*block, n_floats, what, err));
        memory->sizes[use] = n_floats;
    }
    *out = *block;
    return QN_OK;
}

void qni_memory_lend(qn_gradient_memory *memory, qn_ops *ops) {
    ops->work = memory->ops_work;
    ops->work_bytes = memory->ops_work_bytes;
    memory->ops_work = NULL;
    memory->ops_work_bytes = 0;
}

void qni_memory_take_back(qn_gradient_memory *memory, qn_ops *ops) {
    memory->ops_work = ops->work;
    memory->ops_work_bytes = ops->work_bytes;
    ops->work = NULL;
    ops->work_bytes = 0;
}

void qni_memory_release(qn_gradient_memory *memory) {
    for (int i = 0; i < QNI_MEMORY_USES; i++) free(memory->blocks[i]);
    free(memory->ops_work);
    *memory = (qn_gradient_memory){0};
}
