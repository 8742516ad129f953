/* The rows as a table, as comma-separated values or as JSON. */
#include "bench.h"

#include <stdio.h>

/* Share of the limit that the best run reached; 0 without a limit. */
static double share(const bench_row *row) {
    return row->limit_rate > 0 ? row->best / row->limit_rate : 0;
}

static int print_json(const bench *b) {
    json_t *rows = json_array();
    for (int i = 0; i < b->n_rows; i++) {
        const bench_row *r = &b->rows[i];
        json_t *row =
            json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:I}", "suite", r->suite, "case", r->name, "unit",
                      r->unit, "work", r->work, "best", r->best, "median", r->median, "cores", r->cores,
                      "peak_rss_bytes", (json_int_t)r->peak_rss_bytes);
        if (row && r->limit_rate > 0) {
            json_object_set_new(row, "limit", json_real(r->limit_rate));
            json_object_set_new(row, "limit_name", json_string(bench_limit_name(r->limit)));
            json_object_set_new(row, "share_of_limit", json_real(share(r)));
        }
        if (row && r->digest[0]) json_object_set_new(row, "output_sha256", json_string(r->digest));
        json_array_append_new(rows, row);
    }
    return cli_print_json(json_pack("{s:s, s:s, s:i, s:i, s:o}", "version", qn_version(), "isa",
                                    qn_isa_name(b->isa), "threads", qn_context_threads(b->ctx), "repeats",
                                    b->n_repeats, "rows", rows));
}

static int print_csv(const bench *b) {
    printf("suite,case,unit,best,median,cores,limit,limit_name,share_of_limit,peak_rss_bytes,output_sha256,"
           "version,"
           "isa,"
           "threads,repeats\n");
    for (int i = 0; i < b->n_rows; i++) {
        const bench_row *r = &b->rows[i];
        printf("%s,\"%s\",%s,%.6g,%.6g,%.3f,", r->suite, r->name, r->unit, r->best, r->median, r->cores);
        if (r->limit_rate > 0)
            printf("%.6g,\"%s\",%.4f,", r->limit_rate, bench_limit_name(r->limit), share(r));
        else
            printf(",,,");
        printf("%lld,%s,%s,%s,%d,%d\n", (long long)r->peak_rss_bytes, r->digest, qn_version(),
               qn_isa_name(b->isa), qn_context_threads(b->ctx), b->n_repeats);
    }
    return cli_finish();
}

static int print_text(const bench *b) {
    printf("quern %s, %s, %d threads, best and median of %d\n\n", qn_version(), qn_isa_name(b->isa),
           qn_context_threads(b->ctx), b->n_repeats);
    printf("%-10s %-30s %9s %9s %-8s %5s %9s %6s  %-23s %8s  %s\n", "suite", "case", "best", "median", "unit",
           "cores", "limit", "share", "limit is", "peak MB", "output");
    for (int i = 0; i < b->n_rows; i++) {
        const bench_row *r = &b->rows[i];
        printf("%-10s %-30s %9.4g %9.4g %-8s ", r->suite, r->name, r->best, r->median, r->unit);
        if (r->cores > 0)
            printf("%5.2f ", r->cores);
        else
            printf("%5s ", "-");
        if (r->limit_rate > 0)
            printf("%9.4g %5.1f%%  %-23s ", r->limit_rate, 100 * share(r), bench_limit_name(r->limit));
        else
            printf("%9s %6s  %-23s ", "-", "-", "-");
        printf("%8.1f  %.12s\n", (double)r->peak_rss_bytes / 1e6, r->digest[0] ? r->digest : "-");
    }
    return cli_finish();
}

int bench_print(const bench *b) {
    if (cli_flag(b->args, "json")) return print_json(b);
    return cli_flag(b->args, "csv") ? print_csv(b) : print_text(b);
}
