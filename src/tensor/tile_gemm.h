/* One tile of a matrix product on the calling thread.
 *
 * oneDNN has its own OpenMP threads, and how it splits a product depends on their number. Here the caller
 * cuts a product into tiles that depend on its shape only and runs each tile on one thread, so the bytes of a
 * result do not depend on how many threads there are. Every parallel region that runs tiles calls
 * qni_one_thread_each first. */
#ifndef QUERN_SRC_TENSOR_TILE_GEMM_H
#define QUERN_SRC_TENSOR_TILE_GEMM_H

#include "tensor/kernels.h"

#include <oneapi/dnnl/dnnl.h>
#include <stddef.h>

/* C [m, n] = op(A) op(B) (+ C); A and B are f32, or (where kernels->bf16_gemm) bf16 with f32 sums. */
typedef struct qni_tile_shape {
    bool bf16, trans_a, trans_b, accumulate;
    int64_t m, n, k;        /* of the whole product */
    int64_t tile_m, tile_n; /* of a tile; the last one of a row or column may be smaller */
    int64_t lda, ldb, ldc;  /* as stored */
} qni_tile_shape;

typedef struct qni_tile_gemm {
    const qni_kernels *kernels;
    qni_tile_shape shape;
    /* bf16: one primitive for each of (full, edge) rows x (full, edge) columns. */
    dnnl_engine_t engine;
    dnnl_primitive_t primitives[2][2];
    dnnl_memory_desc_t a[2], b[2], c[2][2], scratch[2][2];
    size_t staged_bytes;  /* of a tile that leaves gaps in C: made dense in scratch, then placed */
    size_t scratch_bytes; /* each thread brings that much, 64-byte aligned */
} qni_tile_gemm;

QN_NODISCARD qn_status qni_tile_gemm_init(qni_tile_gemm *out, const qni_kernels *kernels,
                                          const qni_tile_shape *shape, qn_error *err);
void qni_tile_gemm_release(qni_tile_gemm *gemm);

enum { QNI_TILES_WANTED = 8 }; /* of a product: work for so many threads */

/* Sets the sides of the tiles, by the shape alone: as large as leaves tiles enough, but not so small that oneDNN would no
 * longer pack their operands, where the result allows that, and about equal on each side. In bf16 they are whole rows where those give
 * tiles enough. */
void qni_tile_shape_cut(qni_tile_shape *shape);

int64_t qni_tile_count(const qni_tile_shape *shape);

/* Tile TASK of the whole product of A, B and C. Returns 0, or oneDNN's error number. */
int qni_tile_gemm_task(const qni_tile_gemm *gemm, int64_t task, const void *a, const void *b, float *c,
                       void *scratch);

/* One tile from where its operands begin; m and n are the tile's own sizes. Returns 0, or oneDNN's error number. */
int qni_tile_gemm_run(const qni_tile_gemm *gemm, int64_t m, int64_t n, const void *a, const void *b, float *c,
                      void *scratch);

/* Reports an error number of qni_tile_gemm_run or of a gemm kernel. */
qn_status qni_fail_dnnl(qn_error *err, int error, const char *what);

/* First statement of a parallel region: makes oneDNN run on the thread that calls it. */
void qni_one_thread_each(void);

#endif
