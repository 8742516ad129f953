/* Timing one case: warm-up, repeats, a digest of every result, peak memory. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double k_least_sample_s = 0.05; /* thousands of times what reading the clock costs */

/* Linux keeps the peak of a process since it was last reset; elsewhere the peak is that of the whole run. */
static void reset_peak_rss(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    (void)fputs("5", file);
    (void)fclose(file);
}

static int64_t peak_rss_since_reset(void) {
    char line[256];
    long long kib = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && kib < 0 && fgets(line, sizeof line, file))
        if (strncmp(line, "VmHWM:", 6) == 0) kib = strtoll(line + 6, NULL, 10);
    if (file) (void)fclose(file);
    return kib >= 0 ? (int64_t)kib * 1024 : cli_peak_rss();
}

static double processor_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

typedef struct sample {
    double seconds, processor_s; /* of one run */
} sample;

static int compare_samples(const void *a, const void *b) {
    const double x = ((const sample *)a)->seconds, y = ((const sample *)b)->seconds;
    return (x > y) - (x < y);
}

/* The digest of the last run, which must be EXPECTED unless that is empty. */
static qn_status check_digest(const bench_case *c, char expected[QN_SHA256_HEX], qn_error *err) {
    char hex[QN_SHA256_HEX];
    if (!c->digest) return QN_OK;
    QN_TRY(c->digest(c->user, hex, err));
    if (expected[0] && strcmp(hex, expected) != 0)
        return qn_fail(
            err, QN_E_INTERNAL,
            "bench: two runs of %s %s on the same input gave different results (sha256 %.16s and %.16s)",
            c->suite, c->name, expected, hex);
    memcpy(expected, hex, sizeof hex);
    return QN_OK;
}

static qn_status time_runs(const bench_case *c, int64_t n_runs, sample *out, qn_error *err) {
    const double began = cli_seconds(), processor_began = processor_seconds();
    for (int64_t i = 0; i < n_runs; i++) QN_TRY(c->run(c->user, err));
    out->seconds = (cli_seconds() - began) / (double)n_runs;
    out->processor_s = (processor_seconds() - processor_began) / (double)n_runs;
    return QN_OK;
}

qn_status bench_time(const bench *b, const bench_case *c, bench_times *out, qn_error *err) {
    sample samples[BENCH_MAX_REPEATS], warm_up;
    bench_times times = {0};
    QN_TRY(time_runs(c, 1, &warm_up, err));
    QN_TRY(check_digest(c, times.digest, err));
    const int64_t n_runs =
        warm_up.seconds < k_least_sample_s ? (int64_t)(k_least_sample_s / (warm_up.seconds + 1e-9)) + 1 : 1;
    for (int i = 0; i < b->n_repeats; i++) {
        QN_TRY(qn_check_cancelled(b->ctx, err));
        QN_TRY(time_runs(c, n_runs, &samples[i], err));
        QN_TRY(check_digest(c, times.digest, err));
    }
    qsort(samples, (size_t)b->n_repeats, sizeof *samples, compare_samples);
    times.best = samples[0].seconds;
    times.cores = samples[0].processor_s / samples[0].seconds;
    times.median = (samples[(b->n_repeats - 1) / 2].seconds + samples[b->n_repeats / 2].seconds) / 2;
    *out = times;
    return QN_OK;
}

static qn_status add_row(bench *b, const bench_row *row, qn_error *err) {
    if (b->n_rows == BENCH_MAX_ROWS)
        return qn_fail(err, QN_E_INTERNAL, "bench: more than %d cases", BENCH_MAX_ROWS);
    b->rows[b->n_rows++] = *row;
    return QN_OK;
}

qn_status bench_add_fact(bench *b, const char *suite, const char *name, const char *unit, double value,
                         qn_error *err) {
    bench_row row = {.suite = suite, .unit = unit, .best = value, .median = value, .limit = BENCH_NO_LIMIT};
    snprintf(row.name, sizeof row.name, "%s", name);
    return add_row(b, &row, err);
}

qn_status bench_measure(bench *b, const bench_case *c, qn_error *err) {
    bench_times times;
    bench_row row = {.suite = c->suite, .unit = c->unit, .work = c->work, .limit = c->limit};
    snprintf(row.name, sizeof row.name, "%s", c->name);
    if (c->limit != BENCH_NO_LIMIT) {
        double rate;
        QN_TRY(bench_limit_rate(b, c->limit, &rate, err));
        row.limit_rate = c->work * rate / c->limit_work;
    }
    reset_peak_rss();
    QN_TRY(bench_time(b, c, &times, err));
    row.peak_rss_bytes = peak_rss_since_reset();
    row.best = c->work / times.best;
    row.median = c->work / times.median;
    row.cores = times.cores;
    memcpy(row.digest, times.digest, sizeof row.digest);
    return add_row(b, &row, err);
}
