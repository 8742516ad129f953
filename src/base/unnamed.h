/* Temporary files without a name, in $TMPDIR or else /tmp: nothing is left behind however the process ends. */
#ifndef QUERN_SRC_BASE_UNNAMED_H
#define QUERN_SRC_BASE_UNNAMED_H

#include "quern/base/status.h"

#include <stddef.h>
#include <stdint.h>

/* Opens one for reading and writing; the caller closes *fd. */
QN_NODISCARD qn_status qni_unnamed_open(int *fd, qn_error *err);

/* All N_BYTES at OFFSET, or a failure; WHAT is for the message. */
QN_NODISCARD qn_status qni_unnamed_write(int fd, int64_t offset, const void *data, size_t n_bytes,
                                         const char *what, qn_error *err);
QN_NODISCARD qn_status qni_unnamed_read(int fd, int64_t offset, void *data, size_t n_bytes, const char *what,
                                        qn_error *err);

#endif
