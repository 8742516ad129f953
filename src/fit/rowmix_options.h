#ifndef QUERN_SRC_FIT_ROWMIX_OPTIONS_H
#define QUERN_SRC_FIT_ROWMIX_OPTIONS_H

#include "quern/fit/rowmix.h"

/* Native and rescue code exist and their group sizes are not negative; else QN_E_ARGUMENT. */
QN_NODISCARD qn_status qni_rowmix_check_options(const qn_rowmix_options *options, qn_error *err);

#endif
