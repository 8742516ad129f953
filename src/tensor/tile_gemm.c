#include "tensor/tile_gemm.h"

#include "tensor/ops_cpu.h"

#include <math.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "base/banned.h"

void qni_one_thread_each(void) {
    omp_set_num_threads(
        1); /* of this implicit task only: the caller's own setting returns with the region's end */
}

int qni_gemm_f32_dnnl(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
                      int64_t lda, const float *b, int64_t ldb, bool accumulate, float *c, int64_t ldc) {
    return (int)dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb,
                           accumulate ? 1.0f : 0.0f, c, ldc);
}

qn_status qni_fail_dnnl(qn_error *err, int error, const char *what) {
    return qn_fail(err, error == dnnl_out_of_memory ? QN_E_NOMEM : QN_E_INTERNAL,
                   "oneDNN failed in %s (error %d)", what, error);
}

/* What oneDNN does not pack it reads where it lies: at two fifths of the rate where A is transposed and its rows are long
 * (BENCHMARKS.md). It packs tiles whose 1/m + 1/n is below a threshold of the instruction set, 0.0038 with AVX2 and 0.00196 with
 * AVX-512, if n is at least 378 (gemm_driver.cpp, version 2.6). */
static const double k_dnnl_packs_below = 0.0038;
enum {
    LARGEST_SIDE = 1024,
    SMALLEST_SIDE = 256,
    DNNL_PACKED_WIDTH = 384,
    MARGIN = 16,
    ALIGNED = 16,
    WIDEST_PACKED = 4096,
    LOWEST_PACKED = 128
};

static int64_t round_up(int64_t n, int64_t step) {
    return qni_ceil_div(n, step) * step;
}

/* The lowest tile of that width that is packed, and a little more; INT64_MAX: none is. */
static int64_t dnnl_packed_height(int64_t width) {
    if (width < DNNL_PACKED_WIDTH) return INT64_MAX;
    return (int64_t)ceil(1.0 / (k_dnnl_packs_below - 1.0 / (double)width)) + MARGIN;
}

/* Blocks of A, so that each is packed once: lower ones where there are too few, then narrower ones, within reason. */
static void cut_for_packed(qni_tile_gemm *g) {
    const int64_t fewest = qni_ceil_div(g->m, qni_packed_block_rows(g->k, g->parts));
    const int64_t low = qni_min(QNI_TILES_WANTED, g->m / LOWEST_PACKED), down = low > fewest ? low : fewest;
    const int64_t least = qni_ceil_div(g->n, WIDEST_PACKED), most = qni_ceil_div(g->n, SMALLEST_SIDE);
    const int64_t wanted = qni_ceil_div(QNI_TILES_WANTED, down);
    const int64_t across = wanted > least ? qni_min(wanted, most) : least;
    g->tile_m = round_up(qni_ceil_div(g->m, down), QNI_PACKED_ROWS);
    g->tile_n = round_up(qni_ceil_div(g->n, across), QNI_PACKED_ROWS);
}

void qni_tile_gemm_cut(qni_tile_gemm *g) {
    const int64_t down = qni_ceil_div(g->m, LARGEST_SIDE), across = qni_ceil_div(g->n, LARGEST_SIDE);
    g->tile_m = g->tile_n = SMALLEST_SIDE; /* of an empty result as well */
    if (g->m == 0 || g->n == 0) return;
    if (g->parts > 0) {
        cut_for_packed(g);
        return;
    }
    const int64_t width = qni_min(g->n, round_up(qni_ceil_div(g->n, across), ALIGNED));
    const int64_t height = dnnl_packed_height(g->n - (across - 1) * width);
    if (down * across >= QNI_TILES_WANTED) {
        g->tile_m = qni_ceil_div(g->m, down);
        g->tile_n = width;
    } else if (g->m >= height) {
        g->tile_m = qni_ceil_div(g->m, qni_min(g->m / height, qni_ceil_div(QNI_TILES_WANTED, across)));
        g->tile_n = width;
    }
}

int64_t qni_tile_count(const qni_tile_gemm *g) {
    return qni_ceil_div(g->m, g->tile_m) * qni_ceil_div(g->n, g->tile_n);
}

size_t qni_tile_scratch_bytes(const qni_tile_gemm *g) {
    return g->parts > 0 ? QNI_PACKED_SCRATCH_BYTES : 0;
}

int qni_tile_gemm_run(const qni_tile_gemm *g, int64_t m, int64_t n, const float *a, const void *b, float *c,
                      void *scratch) {
    if (g->parts == 0) {
        return g->kernels->gemm_f32(g->trans_a, g->trans_b, m, n, g->k, a, g->lda, b, g->ldb, g->accumulate,
                                    c, g->ldc);
    }
    const qni_packed_product product = {
        .a = {.values = a, .ld = g->lda, .rows = m, .depth = g->k, .across = g->trans_a, .parts = g->parts},
        .b = b,
        .n = n,
        .accumulate = g->accumulate,
        .c = c,
        .ldc = g->ldc,
        .scratch = scratch,
    };
    g->kernels->packed->multiply(&product);
    return 0;
}

/* Between two columns of op(B). */
static int64_t column_bytes(const qni_tile_gemm *g) {
    if (g->parts > 0) return qni_packed_row_bytes(g->k, g->parts);
    return (g->trans_b ? g->ldb : 1) * (int64_t)sizeof(float);
}

int qni_tile_gemm_task(const qni_tile_gemm *g, int64_t task, const float *a, const void *b, float *c,
                       void *scratch) {
    const int64_t across = qni_ceil_div(g->n, g->tile_n);
    const int64_t i = task / across * g->tile_m, j = task % across * g->tile_n;
    return qni_tile_gemm_run(g, qni_min(g->tile_m, g->m - i), qni_min(g->tile_n, g->n - j),
                             a + i * (g->trans_a ? 1 : g->lda), (const char *)b + j * column_bytes(g),
                             c + i * g->ldc + j, scratch);
}
