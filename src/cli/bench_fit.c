/* Suite fit: fits with a full second-moment matrix (quern/fit/hessian_fit.h) of one 2048 x 2048 layer into trits, on one made-up
 * metric: inputs of sizes from 1/4 to 4 that share a few directions. */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 2048, DIRECTIONS = 32, GROUP = 64 };

typedef struct fit_bench {
    const bench *b;
    float *w, *metric; /* [SIZE, SIZE] owned */
    qn_hessian_fit_options options;
    qn_banded fitted; /* of the last run */
    qn_hessian_fit_report report;
} fit_bench;

static float symmetric_uniform(qn_rng *rng) {
    return (float)(2.0 * qn_rng_uniform(rng) - 1.0);
}

/* metric = diag(own) + D D^T with the rows of DIRECTIONS [SIZE, DIRECTIONS] for D. */
static void fill_metric(float *metric, const float *directions, const float *own, const qn_context *ctx) {
#pragma omp parallel for schedule(static) num_threads(qn_context_threads(ctx))
    for (int64_t i = 0; i < SIZE; i++) {
        for (int64_t j = 0; j < SIZE; j++) {
            float sum = i == j ? own[i] : 0;
            for (int k = 0; k < DIRECTIONS; k++)
                sum += directions[i * DIRECTIONS + k] * directions[j * DIRECTIONS + k];
            metric[i * SIZE + j] = sum;
        }
    }
}

static qn_status make_layer(fit_bench *f, qn_error *err) {
    float *directions = calloc(SIZE * DIRECTIONS, sizeof *directions), *own = calloc(SIZE, sizeof *own);
    qn_rng rng;
    qn_rng_seed(&rng, 4);
    f->w = calloc((size_t)SIZE * SIZE, sizeof *f->w);
    f->metric = calloc((size_t)SIZE * SIZE, sizeof *f->metric);
    const bool ready = directions && own && f->w && f->metric;
    if (ready) {
        for (int64_t i = 0; i < (int64_t)SIZE * SIZE; i++) f->w[i] = symmetric_uniform(&rng) / 16;
        for (int64_t i = 0; i < SIZE; i++) {
            const float size = exp2f(2 * symmetric_uniform(&rng));
            own[i] = size * size / 2;
            for (int k = 0; k < DIRECTIONS; k++)
                directions[i * DIRECTIONS + k] = size * symmetric_uniform(&rng) / 4;
        }
        fill_metric(f->metric, directions, own, f->b->ctx);
    }
    free(directions);
    free(own);
    return ready ? QN_OK : qn_fail(err, QN_E_NOMEM, "bench: no memory for a layer of %d inputs", SIZE);
}

static qn_status fit(void *user, qn_error *err) {
    fit_bench *f = user;
    const qn_band_shape shape = {.rows = SIZE,
                                 .cols = SIZE,
                                 .axis = QN_AXIS_ROWS,
                                 .n_bands = 1,
                                 .bands = {{.code = QN_CODE_TERNARY, .n_planes = 1, .group_size = GROUP}}};
    qn_banded_release(&f->fitted);
    return qn_hessian_fit(f->w, f->metric, &shape, &f->options, f->b->ctx, &f->fitted, &f->report, err);
}

static qn_status fit_digest(void *user, char hex[QN_SHA256_HEX], qn_error *err) {
    const fit_bench *f = user;
    const qn_banded_band *band = &f->fitted.bands[0];
    qn_sha256 *hash = NULL;
    QN_TRY(qn_sha256_new(&hash, err));
    qn_sha256_update(hash, band->planes[0].q, (size_t)(band->rows * band->cols));
    qn_sha256_update(hash, band->planes[0].scales, (size_t)(band->rows * band->groups) * sizeof(uint16_t));
    qn_sha256_hex(hash, hex);
    qn_sha256_free(hash);
    return QN_OK;
}

/* PASSES: multiply-adds of the method over R C^2, beside those of the factor. */
static qn_status measure(bench *b, fit_bench *f, const char *name, double passes, qn_error *err) {
    const double n = SIZE;
    const bench_case c = {.suite = "fit",
                          .name = name,
                          .unit = "Mweight/s",
                          .work = n * n / 1e6,
                          .limit = BENCH_FMA_ALL,
                          .limit_work = 2 * (passes + 1.0 / 3) * n * n * n,
                          .run = fit,
                          .digest = fit_digest,
                          .user = f};
    QN_TRY(bench_measure(b, &c, err));
    return bench_add_fact(b, "fit", name, "% error", 100 * f->report.relative_error, err);
}

qn_status bench_suite_fit(bench *b, qn_error *err) {
    fit_bench f = {.b = b, .options = qn_hessian_fit_defaults()};
    qn_status st = make_layer(&f, err);
    f.options.method = QN_HESSIAN_FEEDBACK;
    if (st == QN_OK) st = measure(b, &f, "feedback, 2048 x 2048", 0.5, err);
    f.options.method = QN_HESSIAN_DESCENT;
    if (st == QN_OK) st = measure(b, &f, "descent, 2048 x 2048", 2 + 1.5 * f.options.sweeps, err);
    qn_banded_release(&f.fitted);
    free(f.w);
    free(f.metric);
    return st;
}
