#include "text/buffer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#include "base/banned.h"

enum { LEAST_CAPACITY = 64 };

qn_status qni_buffer_reserve(qni_buffer *buffer, size_t n_more, qn_error *err) {
    if (n_more <= buffer->capacity - buffer->n) return QN_OK;
    if (n_more > PTRDIFF_MAX - buffer->n) return qni_fail_nomem(err, "text buffer");
    size_t capacity = buffer->n + n_more;
    if (capacity < LEAST_CAPACITY) capacity = LEAST_CAPACITY;
    if (capacity < PTRDIFF_MAX / 2 && capacity < 2 * buffer->capacity) capacity = 2 * buffer->capacity;
    void *data = buffer->data;
    QN_TRY(qni_grow_array(&data, (int64_t)capacity, 1, err));
    buffer->data = data;
    buffer->capacity = capacity;
    return QN_OK;
}

qn_status qni_buffer_append(qni_buffer *buffer, const void *data, size_t n_bytes, qn_error *err) {
    QN_TRY(qni_buffer_reserve(buffer, n_bytes, err));
    if (n_bytes > 0) memcpy(buffer->data + buffer->n, data, n_bytes);
    buffer->n += n_bytes;
    return QN_OK;
}

void qni_buffer_release(qni_buffer *buffer) {
    free(buffer->data);
    *buffer = (qni_buffer){0};
}
