/* Entropy coding of a run's matrices: how long their streams are is known when all codes are there. */
#include "base/alloc.h"
#include "recipe/compress_job.h"

#include <math.h>
#include <stdlib.h>

#include "base/banned.h"

qn_status qni_entropy_provide(void *user, int64_t entry, qn_encoded *out, qn_error *err) {
    qni_job *job = user;
    QN_TRY(job->way->provide(job, entry, out, err));
    if (job->stream_bytes) out->stream_bytes = job->stream_bytes[entry];
    return QN_OK;
}

/* The shape of one matrix, with its stream where that is smaller. */
static qn_status measure(qni_job *job, int64_t entry, qn_encoded *shape, qn_error *err) {
    qn_encoded e = {0};
    uint8_t *stream = NULL;
    QN_TRY(job->way->provide(job, entry, &e, err));
    *shape = qn_encoded_shape(&e);
    const qn_status status = qn_encoded_deflate(&e, &stream, &shape->stream_bytes, err);
    free(stream);
    qn_encoded_release(&e);
    return status;
}

static qn_status measure_all(qni_job *job, qn_encoded *shapes, qn_error *err) {
    for (int64_t i = 0; i < job->layout->n; i++) {
        if (!job->layout->entries[i].is_matrix) continue;
        QN_TRY(qn_check_cancelled(job->ctx, err));
        QN_TRY(measure(job, i, &shapes[i], err));
        job->stream_bytes[i] = shapes[i].stream_bytes;
        qn_report_progress(job->ctx, "deflate", (uint64_t)i, (uint64_t)job->layout->n);
    }
    return QN_OK;
}

/* Streams that save less than the plan counted on. */
static qn_status fail_overbooked(const qni_job *job, int64_t need, qn_error *err) {
    const double most = (double)job->result.bytes / (double)need - 1;
    return qn_fail(err, QN_E_BUDGET,
                   "recipe '%s': the file takes %lld bytes of %lld allowed: entropy coding saves less than "
                   "plan.overbook "
                   "%g counts on; give %.3f or less",
                   job->options->recipe->name, (long long)need, (long long)job->result.budget_bytes,
                   job->options->recipe->overbook, most > 0 ? floor(1e3 * most) / 1e3 : 0.0);
}

qn_status qni_entropy_fix(qni_job *job, qn_error *err) {
    if (!job->options->recipe->entropy_coding) return QN_OK;
    qn_encoded *shapes = qni_alloc_array(job->layout->n, sizeof *shapes);
    int64_t *streams = qni_alloc_array(job->layout->n, sizeof *streams), need = 0;
    job->stream_bytes = streams;
    qn_status status = shapes && streams ? QN_OK : qni_fail_nomem(err, "the streams of matrices");
    if (status == QN_OK) status = measure_all(job, shapes, err);
    if (status == QN_OK) status = qn_artifact_plan_need(job->plan, shapes, &need, err);
    if (status == QN_OK && need > job->result.budget_bytes) status = fail_overbooked(job, need, err);
    if (status == QN_OK) status = qn_artifact_plan_fix(job->plan, shapes, need, err);
    free(shapes);
    return status;
}
