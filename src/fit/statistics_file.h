/* What the readers and writers of statistics share: the names in the file, and a writer that takes tensors one by one. */
#ifndef QUERN_SRC_FIT_STATISTICS_FILE_H
#define QUERN_SRC_FIT_STATISTICS_FILE_H

#include "quern/base/writer.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/fit/statistics.h"

#define QNI_STATISTICS_FORMAT  "quern-statistics"
#define QNI_STATISTICS_VERSION "1"

/* Splits a tensor's name into that of its matrix, of *n_name bytes, and the statistic; false when it has no such form. */
bool qni_statistic_parse(const char *tensor, size_t *n_name, qn_statistic *out);

/* The view of a tensor of the statistic without data: a vector of N values, or a Hessian [N, N]. */
qn_view qni_statistic_view(qn_statistic statistic, int64_t n);

/* Number of values behind a view made so. */
int64_t qni_statistic_floats(const qn_view *view);

/* QN_E_VALUE, naming file and tensor, unless all N values of TENSOR are finite and none is negative; of a Hessian N is the
 * width, and only the diagonal is not negative. */
QN_NODISCARD qn_status qni_statistic_check(qn_statistic statistic, const float *values, int64_t n,
                                           const char *path, const char *tensor, qn_error *err);

/* ---- statistics.c: the tensors of an open file ---- */

const char *qni_statistics_path(const qn_statistics *statistics);
const qn_safetensors *qni_statistics_file(const qn_statistics *statistics);

/* ---- statistics_write.c ---- */

/* A file whose tensors arrive in the order they were announced. Zeroed is closed. */
typedef struct qni_statistics_writer {
    qn_writer *file;                  /* owned */
    const qn_safetensors_item *items; /* borrowed; without data */
    size_t n_items, next;
} qni_statistics_writer;

/* INFO's strings must not be NULL. */
QN_NODISCARD qn_status qni_statistics_writer_open(const char *path, const qn_safetensors_item *items,
                                                  size_t n_items, const qn_statistics_info *info,
                                                  qni_statistics_writer *out, qn_error *err);

/* The next tensor, which must be TENSOR (QN_E_INTERNAL else). */
QN_NODISCARD qn_status qni_statistics_writer_put(qni_statistics_writer *writer, const char *tensor,
                                                 const float *values, qn_error *err);

/* Closes the writer whatever happens; the file stands only after a commit. */
QN_NODISCARD qn_status qni_statistics_writer_commit(qni_statistics_writer *writer, qn_error *err);
void qni_statistics_writer_abandon(qni_statistics_writer *writer);

#endif
