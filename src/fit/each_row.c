#include "fit/each_row.h"

#include "base/alloc.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/banned.h"

/* About this many weights are widened at once: they stay in the second-level cache. */
enum { TILE_WEIGHTS = 32768 };

typedef struct row_pass {
    const qn_weight *weight;
    int64_t rows, cols, tile_rows;
    qni_visit_row *visit;
    void *user;
    int64_t first_bad; /* smallest element index that is not finite, or INT64_MAX */
    bool out_of_memory;
} row_pass;

typedef struct worker {
    float *rows; /* [tile_rows][cols] */
    qni_row_tools tools;
} worker;

static void worker_release(worker *w) {
    free(w->rows);
    free(w->tools.q);
    free(w->tools.scales);
    qn_fit_scratch_release(&w->tools.scratch);
}

static bool worker_init(const row_pass *pass, worker *w) {
    *w = (worker){.rows = qni_alloc_aligned(pass->tile_rows * pass->cols, sizeof *w->rows)};
    w->tools.q = qni_alloc_aligned(pass->cols, 1);
    w->tools.scales = qni_alloc_aligned(pass->cols, sizeof *w->tools.scales);
    return w->rows && w->tools.q && w->tools.scales &&
           qn_fit_scratch_init(&w->tools.scratch, pass->cols, NULL) == QN_OK;
}

static void note_bad(row_pass *pass, int64_t element) {
#pragma omp critical(qni_each_row)
    if (element < pass->first_bad) pass->first_bad = element;
}

static void visit_tile(row_pass *pass, int64_t row0, worker *w) {
    int64_t n_rows = pass->rows - row0 < pass->tile_rows ? pass->rows - row0 : pass->tile_rows;
    qn_weight_decode_rows(pass->weight, row0, n_rows, w->rows);
    const qn_view view = {w->rows, QN_DTYPE_F32, 1, {n_rows * pass->cols}};
    int64_t bad = qn_view_find_nonfinite(&view, 0, n_rows * pass->cols);
    if (bad >= 0) {
        note_bad(pass, row0 * pass->cols + bad);
        return;
    }
    for (int64_t i = 0; i < n_rows; i++) {
        pass->visit(pass->user, row0 + i, w->rows + i * pass->cols, &w->tools);
    }
}

static void visit_all(row_pass *pass, int n_threads) {
    bool out_of_memory = false;
#pragma omp parallel num_threads(n_threads) reduction(|| : out_of_memory)
    {
        worker w;
        bool ready = worker_init(pass, &w);
#pragma omp for schedule(dynamic)
        for (int64_t row0 = 0; row0 < pass->rows; row0 += pass->tile_rows) {
            if (ready) visit_tile(pass, row0, &w);
        }
        worker_release(&w);
        out_of_memory = out_of_memory || !ready;
    }
    pass->out_of_memory = out_of_memory;
}

static qn_status fail_nonfinite(const row_pass *pass, const char *name, qn_error *err) {
    int64_t row = pass->first_bad / pass->cols, col = pass->first_bad % pass->cols;
    float *w = qni_alloc_aligned(pass->cols, sizeof *w);
    if (!w) return qni_fail_nomem(err, "a row");
    qn_weight_decode_rows(pass->weight, row, 1, w);
    double value = (double)w[col];
    free(w);
    return qn_fail(err, QN_E_VALUE, "%s: weight [%lld, %lld] is %s; expected finite weights", name,
                   (long long)row, (long long)col, isnan(value) ? "NaN" : "infinite");
}

qn_status qni_each_row(const qn_weight *weight, const char *name, const qn_context *ctx, qni_visit_row *visit,
                       void *user, qn_error *err) {
    row_pass pass = {.weight = weight,
                     .rows = qn_weight_rows(weight),
                     .cols = qn_weight_cols(weight),
                     .visit = visit,
                     .user = user,
                     .first_bad = INT64_MAX};
    if (pass.rows <= 0 || pass.cols <= 0) return qn_fail(err, QN_E_SHAPE, "%s: not a matrix", name);
    pass.tile_rows = pass.cols < TILE_WEIGHTS ? TILE_WEIGHTS / pass.cols : 1;
    visit_all(&pass, qn_context_threads(ctx));
    if (pass.out_of_memory) return qni_fail_nomem(err, "the rows of a fit");
    return pass.first_bad == INT64_MAX ? QN_OK : fail_nonfinite(&pass, name, err);
}
