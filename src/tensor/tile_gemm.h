/* One tile of a matrix product on the calling thread.
 *
 * The caller cuts a product into tiles that depend on its shape only and runs each tile on one thread, so the bytes of a result do
 * not depend on how many threads there are. oneDNN has OpenMP threads of its own, and how it splits a product depends on their number:
 * every parallel region that runs tiles calls qni_one_thread_each first. */
#ifndef QUERN_SRC_TENSOR_TILE_GEMM_H
#define QUERN_SRC_TENSOR_TILE_GEMM_H

#include "tensor/kernels.h"

#include <stddef.h>

/* C [m, n] = op(A) op(B) (+ C), all in f32; where parts > 0, B is packed for the matrix unit. */
typedef struct qni_tile_gemm {
    const qni_kernels *kernels;
    int parts; /* QNI_PARTS_...; 0: not packed */
    bool trans_a, trans_b, accumulate;
    int64_t m, n, k;        /* of the whole product */
    int64_t tile_m, tile_n; /* of a tile; the last one of a row or column may be smaller */
    int64_t lda, ldb, ldc;  /* as stored */
} qni_tile_gemm;

enum { QNI_TILES_WANTED = 8 }; /* of a product: work for so many threads */

/* Sets the sides of the tiles, by the shape alone: as large as leaves tiles enough, but not so small that oneDNN would no longer
 * pack their operands, where the result allows that, and about equal on each side. Packed tiles are whole panels. */
void qni_tile_gemm_cut(qni_tile_gemm *gemm);

int64_t qni_tile_count(const qni_tile_gemm *gemm);

/* Of the scratch that the next two take, aligned to 64 bytes; 0 where B is not packed. */
size_t qni_tile_scratch_bytes(const qni_tile_gemm *gemm);

/* Tile TASK of the whole product of A, B and C. Returns 0, or oneDNN's error number. */
int qni_tile_gemm_task(const qni_tile_gemm *gemm, int64_t task, const float *a, const void *b, float *c,
                       void *scratch);

/* One tile from where its operands begin; m and n are the tile's own sizes. Returns 0, or oneDNN's error number. */
int qni_tile_gemm_run(const qni_tile_gemm *gemm, int64_t m, int64_t n, const float *a, const void *b,
                      float *c, void *scratch);

/* Reports an error number of qni_tile_gemm_run or of a gemm kernel. */
qn_status qni_fail_dnnl(qn_error *err, int error, const char *what);

/* First statement of a parallel region: makes oneDNN run on the thread that calls it. */
void qni_one_thread_each(void);

#endif
