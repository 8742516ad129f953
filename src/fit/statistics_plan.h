/* Which statistics a calibration writes, in the order in which they become known. */
#ifndef QUERN_SRC_FIT_STATISTICS_PLAN_H
#define QUERN_SRC_FIT_STATISTICS_PLAN_H

#include "fit/statistics_file.h"

/* The entry whose input and output are the head's. */
int64_t qni_head_entry(const qn_layout *layout);

/* Whether layout entry ENTRY has an input of its own, which others may share: a linear layer of a block or the head. */
bool qni_has_own_input(const qn_layout *layout, int64_t entry);

/* The next entry after AFTER (-1: the first) that takes the input of ENTRY, itself included; -1 behind the last. */
int64_t qni_next_sharer(const qn_layout *layout, int64_t entry, int64_t after);

/* `NAME.statistic`; the name is owned by the caller, NULL when memory is short. */
char *qni_statistic_tensor(const qn_layout *layout, int64_t entry, qn_statistic statistic);

/* First what belongs to inputs: of each distinct input, layer by layer and the head's last, the Hessian (unless DIAGONAL)
 * and the second moments of all who share it. Then token_frequency; with FISHER lookup_gradient and the output_fisher of
 * each linear layer and the head in layout order. */
typedef struct qni_statistics_plan {
    qn_safetensors_item *items; /* owned; without data */
    char **names;               /* owned [n], each owned */
    size_t n;
} qni_statistics_plan;

QN_NODISCARD qn_status qni_statistics_plan_make(const qn_layout *layout, bool diagonal, bool fisher,
                                                qni_statistics_plan *out, qn_error *err);
void qni_statistics_plan_release(qni_statistics_plan *plan);

#endif
