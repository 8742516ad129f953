/* Normalisation form C as the reference normaliser does it: Unicode 9.0, later characters left as they are.
 */
#ifndef QUERN_SRC_TEXT_NFC_H
#define QUERN_SRC_TEXT_NFC_H

#include "quern/base/status.h"
#include "text/buffer.h"

#include <stddef.h>
#include <stdint.h>

/* *out becomes TEXT itself when it is in NFC already, else a pointer into SCRATCH, which is overwritten. TEXT
 * is valid UTF-8; CLASSES is a table of char_class.h. Linear time. */
QN_NODISCARD qn_status qni_nfc(const uint8_t *classes, const uint8_t *text, size_t n_bytes,
                               qni_buffer *scratch, const uint8_t **out, size_t *n_out, qn_error *err);

#endif
