/* A growable run of bytes. Zeroed is valid and empty. */
#ifndef QUERN_SRC_TEXT_BUFFER_H
#define QUERN_SRC_TEXT_BUFFER_H

#include "quern/base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct qni_buffer {
    uint8_t *data; /* owned */
    size_t n, capacity;
} qni_buffer;

/* Makes room for n_more bytes after data[n]. */
QN_NODISCARD qn_status qni_buffer_reserve(qni_buffer *buffer, size_t n_more, qn_error *err);
QN_NODISCARD qn_status qni_buffer_append(qni_buffer *buffer, const void *data, size_t n_bytes, qn_error *err);
void qni_buffer_release(qni_buffer *buffer);

#endif
