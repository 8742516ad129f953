/* How much memory a caller may count on. */
#ifndef QUERN_SRC_BASE_MEMORY_H
#define QUERN_SRC_BASE_MEMORY_H

#include <stdint.h>

/* Bytes that new allocations can have without swapping: what Linux calls available, at most the limit of the process's
 * control group; elsewhere the pages that are free. 0 when nobody says. */
int64_t qni_available_bytes(void);

#endif
