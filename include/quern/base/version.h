#ifndef QUERN_BASE_VERSION_H
#define QUERN_BASE_VERSION_H

#include "quern/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0" */
QN_API const char *qn_version(void);

#ifdef __cplusplus
}
#endif
#endif
