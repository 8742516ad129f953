/* Second moments of the inputs of the linear layers: h[c] = E[x_c^2] over calibration tokens, the diagonal weight of the
 * fits (closed_form.h).
 *
 * They come from a file of statistics (statistics.h), of which nothing else is needed here; a matrix without a moment is
 * fitted plainly. Of a tied model the embedding's moments are those of the head's input. */
#ifndef QUERN_FIT_SECOND_MOMENTS_H
#define QUERN_FIT_SECOND_MOMENTS_H

#include "quern/base/context.h"
#include "quern/checkpoint/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Zeroed: no moments at all. */
typedef struct qn_second_moments {
    float **per_entry; /* [n] owned; entry i of the layout: owned [cols], or NULL */
    int64_t n;         /* layout entries */
} qn_second_moments;

/* Reads the moments in the statistics at PATH for CHECKPOINT; refused as qn_statistics_open and
 * qn_statistics_check_model do, with *out unchanged. */
QN_NODISCARD QN_API qn_status qn_second_moments_load(const char *path, const qn_checkpoint *checkpoint,
                                                     const qn_context *ctx, qn_second_moments *out,
                                                     qn_error *err);

/* Idempotent; a zeroed struct is fine. */
QN_API void qn_second_moments_release(qn_second_moments *moments);

/* The moments [cols] of layout entry ENTRY; NULL where there are none or MOMENTS is NULL. Borrowed. */
QN_API const float *qn_second_moments_of(const qn_second_moments *moments, int64_t entry);

#ifdef __cplusplus
}
#endif
#endif
