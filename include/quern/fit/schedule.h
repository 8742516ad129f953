/* The learning rate of each step.
 *
 *   warm-up    step s < W:  peak * (s + 1) / W
 *   constant   peak
 *   cosine     peak * (r + (1 - r) * (1 + cos(pi * x)) / 2),  x = (s - W) / (S - 1 - W), so that the last
 * step has exactly peak * r
 *
 * with s the step from 0, W warmup_steps, S total_steps, r min_ratio. Source: Loshchilov and Hutter, "SGDR",
 * 2017; linear warm-up as usual for transformers. A pure function of the step: a resumed run needs no state
 * of it. */
#ifndef QUERN_FIT_SCHEDULE_H
#define QUERN_FIT_SCHEDULE_H

#include "quern/base/status.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum qn_schedule_kind { QN_SCHEDULE_CONSTANT, QN_SCHEDULE_COSINE } qn_schedule_kind;

typedef struct qn_schedule {
    qn_schedule_kind kind;
    double peak;
    double min_ratio; /* cosine: the last rate as a share of the peak, in [0, 1] */
    int64_t warmup_steps, total_steps;
} qn_schedule;

/* "constant" or "cosine". */
QN_API const char *qn_schedule_name(qn_schedule_kind kind);
QN_NODISCARD QN_API qn_status qn_schedule_from_name(const char *name, qn_schedule_kind *out, qn_error *err);

/* QN_E_ARGUMENT naming the field that makes no sense. */
QN_NODISCARD QN_API qn_status qn_schedule_check(const qn_schedule *schedule, qn_error *err);

/* The rate of STEP in [0, total_steps) of a checked schedule. */
QN_API double qn_schedule_rate(const qn_schedule *schedule, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
