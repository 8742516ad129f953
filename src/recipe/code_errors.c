#include "recipe/code_errors.h"

#include "base/alloc.h"

#include <stdlib.h>

#include "base/banned.h"

/* 1 - 2/pi for signs, the others measured within 5 % in groups of the recipes' sizes (tests/unit/recipe/test_calibrated.c). */
static const double k_error_of_planes[QN_CODE_TERNARY + 1][QN_MAX_PLANES] = {
    [QN_CODE_SIGN] = {0.3634, 0.1188}, [QN_CODE_TERNARY] = {0.1902, 0.0280}};
static const double k_q4_error = 0.0115;

enum { SAMPLE_ROWS = 32 };

void qni_code_errors_normal(const qni_band_codecs *codecs, double errors[QNI_BAND_KIND_COUNT]) {
    const double *of_planes = k_error_of_planes[codecs->of[QNI_BAND_SINGLE].code];
    errors[QNI_BAND_SINGLE] = of_planes[0];
    errors[QNI_BAND_DOUBLE] = of_planes[1];
    errors[QNI_BAND_Q4] = k_q4_error;
}

/* A scale of q4 on the column axis serves a group of rows: with fewer, it would fit them better than it will. */
static int64_t sample_rows(const qni_code_errors_job *job, const qn_codec *codec) {
    const int64_t rows = qn_weight_rows(job->weight);
    const bool shares_rows = codec->code == QN_CODE_Q4 && job->axis == QN_AXIS_COLUMNS;
    const int64_t n = shares_rows && codec->group_size > SAMPLE_ROWS ? codec->group_size : SAMPLE_ROWS;
    return n < rows ? n : rows;
}

/* Rows spread evenly over the matrix, rotated. */
static void take_sample(const qni_code_errors_job *job, int64_t n, float *w) {
    const int64_t rows = qn_weight_rows(job->weight), cols = qn_weight_cols(job->weight);
    for (int64_t k = 0; k < n; k++)
        qn_weight_decode_rows(job->weight, (2 * k + 1) * rows / (2 * n), 1, w + k * cols);
    if (job->hadamard) qn_hadamard_rows(w, n, cols, job->hadamard, false);
}

static double sensitivity_of(const qni_code_errors_job *job, const float *w, int64_t n) {
    const int64_t cols = qn_weight_cols(job->weight);
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < cols; j++)
            sum += job->d[j] * (double)w[i * cols + j] * (double)w[i * cols + j];
    return sum;
}

/* *error stays as it is where the sample is all zeros. */
static qn_status fit_sample(const qni_code_errors_job *job, qni_band_kind kind, int64_t n, float *w,
                            const qn_context *ctx, double *error, qn_error *err) {
    const qn_codec codec = job->codecs->of[kind];
    const qn_band_spec band = {codec.code, kind == QNI_BAND_DOUBLE ? 2 : 1, codec.group_size,
                               codec.scale == QN_SCALE_LOG6};
    const qn_band_shape shape = {
        .rows = n, .cols = qn_weight_cols(job->weight), .axis = job->axis, .n_bands = 1, .bands = {band}};
    qn_banded banded = {0};
    qn_hessian_fit_report report = {0};
    take_sample(job, n, w);
    const double whole = sensitivity_of(job, w, n);
    if (!(whole > 0.0)) return QN_OK;
    QN_TRY(qn_hessian_fit(w, job->hessian, &shape, job->fit, ctx, &banded, &report, err));
    qn_banded_release(&banded);
    *error = report.error / whole;
    return QN_OK;
}

qn_status qni_code_errors_measure(const qni_code_errors_job *job, const qn_context *ctx,
                                  double errors[QNI_BAND_KIND_COUNT], qn_error *err) {
    const int64_t cols = qn_weight_cols(job->weight);
    qni_code_errors_normal(job->codecs, errors);
    for (int k = 0; k < QNI_BAND_KIND_COUNT; k++) {
        const qn_codec *codec = &job->codecs->of[k];
        float *w = NULL;
        if (codec->code == QN_CODE_NONE) continue;
        const int64_t n = sample_rows(job, codec);
        QN_TRY(QNI_ALLOC(w, n * cols, job->name, err));
        const qn_status status = fit_sample(job, (qni_band_kind)k, n, w, ctx, &errors[k], err);
        free(w);
        QN_TRY(status);
    }
    return QN_OK;
}
