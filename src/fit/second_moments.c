#include "quern/fit/second_moments.h"

#include "base/alloc.h"
#include "quern/fit/statistics.h"

#include <stdlib.h>
#include <string.h>

#include "base/banned.h"

const float *qn_second_moments_of(const qn_second_moments *moments, int64_t entry) {
    return moments && moments->per_entry && entry < moments->n ? moments->per_entry[entry] : NULL;
}

void qn_second_moments_release(qn_second_moments *moments) {
    for (int64_t i = 0; moments->per_entry && i < moments->n; i++) free(moments->per_entry[i]);
    free(moments->per_entry);
    *moments = (qn_second_moments){0};
}

static qn_status copy_all(const qn_statistics *statistics, const qn_layout *layout, qn_second_moments *out,
                          qn_error *err) {
    out->per_entry = qni_alloc_array(layout->n, sizeof *out->per_entry);
    if (!out->per_entry) return qni_fail_nomem(err, "second moments");
    out->n = layout->n;
    for (int64_t i = 0; i < layout->n; i++) {
        const float *values = qn_statistics_vector(statistics, QN_STATISTIC_SECOND_MOMENT, i);
        const int64_t cols = layout->entries[i].cols;
        if (!values) continue;
        QN_TRY(QNI_ALLOC(out->per_entry[i], cols, "second moments", err));
        memcpy(out->per_entry[i], values, (size_t)cols * sizeof *values);
    }
    return QN_OK;
}

qn_status qn_second_moments_load(const char *path, const qn_checkpoint *checkpoint, const qn_context *ctx,
                                 qn_second_moments *out, qn_error *err) {
    qn_statistics *statistics = NULL;
    qn_second_moments moments = {0};
    const qn_layout *layout = qn_checkpoint_layout(checkpoint);
    qn_status status = qn_statistics_open(path, layout, &statistics, err);
    if (status == QN_OK) status = qn_statistics_check_model(statistics, checkpoint, ctx, err);
    if (status == QN_OK) status = copy_all(statistics, layout, &moments, err);
    if (status == QN_OK)
        *out = moments;
    else
        qn_second_moments_release(&moments);
    qn_statistics_close(statistics);
    return status;
}
