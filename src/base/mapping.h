/* Read-only file mappings. */
#ifndef QUERN_SRC_BASE_MAPPING_H
#define QUERN_SRC_BASE_MAPPING_H

#include "quern/base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct qni_mapping {
    const uint8_t *data; /* NULL for an empty file */
    size_t n_bytes;
} qni_mapping;

/* Maps a regular file; a directory, a fifo or a missing file is an error that names PATH. */
QN_NODISCARD qn_status qni_mapping_open(const char *path, qni_mapping *out, qn_error *err);

/* Maps an open descriptor (kept open by the caller or closed, as it likes). NAME is for messages. */
QN_NODISCARD qn_status qni_mapping_from_fd(int fd, const char *name, qni_mapping *out, qn_error *err);

void qni_mapping_release(qni_mapping *mapping);

/* Says that these bytes of a mapping will not be read soon: their pages leave the process, and come back from the system's cache or
 * the file when they are read again. For walks through weights that are larger than the memory should be. DATA lies in a
 * mapping: other memory would lose what it holds. */
void qni_mapping_forget(const uint8_t *data, size_t n_bytes);

#endif
